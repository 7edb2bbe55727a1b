//! Tokens: who issued them, what they say, and where the keys come from that they are verified by.

use std::time::Duration;

use anyhow::{bail, ensure};
use e2e::ask::{Answer, ask};
use e2e::issuer::{Issuer, Signer};
use e2e::stage::Scenario;
use e2e::{Mesh, until, yaml};
use serde_json::{Value, json};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("tokens_are_verified_and_policies_ask_what_they_say", at_a_sidecar),
    ("tokens_at_the_gateway_decide_about_entry_and_route", at_the_gateway),
    ("tokens_are_believed_by_the_keys_of_the_moment_or_the_last_that_were_told", rotation),
    ("tokens_without_keys_are_refused_and_the_resource_says_so", no_keys),
];

const URL: &str = "http://reviews:9080";
const DOOR: &str = "http://127.0.0.1:8081";
const PATIENCE: Duration = Duration::from_secs(20);

/// A bad token is refused, a good one taken, and none passes until a policy asks for one; policies ask for claims, lists
/// and nested ones too.
pub(crate) fn at_a_sidecar() -> anyhow::Result<()> {
    let issuer = Issuer::start()?;
    let (ours, foreign) = (Signer::new("1")?, Signer::new("1")?);
    issuer.publish(&[&ours]);
    let mesh = Mesh::start()?;
    let _reviews = mesh.serve("reviews", "v1", "one")?;
    mesh.until_answers(URL)?;
    mesh.steer(&authentication(
        "default",
        "app: reviews",
        &format!("jwksUri: {}", issuer.keys_at()),
        &issuer,
    ))?;
    let says = |more: Value| claims(&issuer, more);
    let good =
        ours.token(&says(json!({"sub": "jo", "groups": ["dev", "ops"], "realm": {"role": "boss"}})))?;
    let other = ours.token(&says(json!({"sub": "al", "groups": "dev", "realm": {"role": "clerk"}})))?;
    let expired = ours.token(&says(json!({"sub": "jo", "exp": 1})))?;
    let forged = foreign.token(&says(json!({"sub": "jo"})))?;
    answered(
        &mesh,
        &[
            ("/", None, 200),
            ("/", Some(&good), 200),
            ("/", Some("a.b.c"), 401),
            ("/", Some(&forged), 401),
            ("/", Some(&expired), 401),
        ],
    )?;
    let issued = issuer.name();
    mesh.steer(&policy(&format!(
        "
  - from: [{{source: {{requestPrincipals: ['{issued}/*']}}}}]
    to: [{{operation: {{paths: [/anybody]}}}}]
  - from: [{{source: {{requestPrincipals: ['{issued}/jo']}}}}]
    to: [{{operation: {{paths: [/jo]}}}}]
  - to: [{{operation: {{paths: [/ops]}}}}]
    when: [{{key: 'request.auth.claims[groups]', values: [ops]}}]
  - to: [{{operation: {{paths: [/dev]}}}}]
    when: [{{key: 'request.auth.claims[groups]', values: [dev]}}]
  - to: [{{operation: {{paths: [/boss]}}}}]
    when: [{{key: 'request.auth.claims[realm][role]', values: [bos*]}}]"
    )))?;
    answered(
        &mesh,
        &[
            ("/anybody", None, 403),
            ("/anybody", Some(&other), 200),
            ("/anybody", Some(&forged), 401),
            ("/jo", Some(&other), 403),
            ("/ops", Some(&good), 200),
            ("/ops", Some(&other), 403),
            // A claim that is a word.
            ("/dev", Some(&other), 200),
            ("/boss", Some(&good), 200),
            ("/boss", Some(&other), 403),
            ("/elsewhere", Some(&good), 403),
        ],
    )
}

/// Those who come from outside show their token at the door, which asks for keys where the issuer's own document says, and
/// leads them by what it says.
pub(crate) fn at_the_gateway() -> anyhow::Result<()> {
    let issuer = Issuer::start()?;
    let (ours, foreign) = (Signer::new("1")?, Signer::new("2")?);
    issuer.publish(&[&ours]);
    let mesh = Mesh::start()?;
    let _reviews = mesh.serve("reviews", "v1", "everybody's")?;
    let _ratings = mesh.serve("ratings", "v1", "the group's")?;
    let _gateway = mesh.gateway(&["--listen", "8081=8080"])?;
    mesh.apply(&yaml::door(8080))?;
    mesh.apply(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: door, namespace: default}
spec:
  hosts: ['*']
  gateways: [door]
  http:
  - match: [{headers: {'@request.auth.claims[groups]': {exact: dev}}}]
    route: [{destination: {host: ratings, port: {number: 9080}}}]
  - route: [{destination: {host: reviews, port: {number: 9080}}}]
",
    )?;
    until("the door leads to reviews", PATIENCE, || {
        enter("/", None).ok().filter(|a| a.status == 200 && a.body.contains("everybody's"))
    })?;
    mesh.steer(&authentication("istio-system", "istio: ingressgateway", "", &issuer))?;
    let dev = ours.token(&claims(&issuer, json!({"sub": "jo", "groups": ["ops", "dev"]})))?;
    let other = ours.token(&claims(&issuer, json!({"sub": "al"})))?;
    let forged = foreign.token(&claims(&issuer, json!({"sub": "jo", "groups": ["dev"]})))?;
    until("the group is led to ratings", PATIENCE, || {
        enter("/", Some(&dev)).ok().filter(|a| a.status == 200 && a.body.contains("the group's"))
    })?;
    for (token, status, body) in [
        (None, 200, "everybody's"),
        (Some(&other), 200, "everybody's"),
        (Some(&forged), 401, "Jwks doesn't have key to match kid or alg from Jwt"),
        (Some(&"hello".to_owned()), 401, "Jwt is not in the form of Header.Payload.Signature"),
    ] {
        let answer = enter("/", token.map(String::as_str))?;
        ensure!(answer.status == status && answer.body.contains(body), "{token:?}: {answer:?}");
    }
    mesh.steer(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: door, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  action: DENY
  rules: [{from: [{source: {notRequestPrincipals: ['*']}}], to: [{operation: {notPaths: [/public]}}]}]
",
    )?;
    until("nobody enters without a token", PATIENCE, || enter("/", None).ok().filter(|a| a.status == 403))?;
    for (path, token, status) in [("/public", None, 200), ("/", Some(&other), 200), ("/", Some(&forged), 401)]
    {
        let answer = enter(path, token.map(String::as_str))?;
        ensure!(answer.status == status, "{path}: {answer:?}");
    }
    Ok(())
}

/// New keys count and old ones do not, soon after the issuer says so; while it says nothing, its last word holds.
fn rotation() -> anyhow::Result<()> {
    let issuer = Issuer::start()?;
    let (first, second) = (Signer::new("1")?, Signer::new("2")?);
    issuer.publish(&[&first]);
    let mesh = Mesh::start_with(&["--jwks-refresh", "1s"])?;
    let _reviews = mesh.serve("reviews", "v1", "one")?;
    let _gateway = mesh.gateway(&["--listen", "8081=8080"])?;
    mesh.apply(&yaml::door_to(8080, "reviews", 9080))?;
    mesh.apply(&authentication(
        "default",
        "app: reviews",
        &format!("jwksUri: {}", issuer.keys_at()),
        &issuer,
    ))?;
    let [of_first, of_second] =
        [&first, &second].map(|key| key.token(&claims(&issuer, json!({"sub": "jo"}))));
    let (of_first, of_second) = (of_first?, of_second?);
    let becomes = |token: &str, status: u16| {
        let seen = || enter("/", Some(token)).ok().filter(|answer| answer.status == status);
        until(&format!("a token is answered {status}"), PATIENCE, seen).map(drop)
    };
    becomes(&of_second, 401)?;
    becomes(&of_first, 200)?;
    issuer.publish(&[&first, &second]);
    becomes(&of_second, 200)?;
    ensure!(enter("/", Some(&of_first))?.status == 200, "the old key does not count beside the new one");
    issuer.publish(&[&second]);
    becomes(&of_first, 401)?;
    issuer.fail();
    let before = issuer.asked();
    until("the keys are asked for in vain", PATIENCE, || (issuer.asked() > before + 1).then_some(()))?;
    ensure!(enter("/", Some(&of_second))?.status == 200, "the last keys do not hold");
    until("the resource says so", PATIENCE, || {
        findings(&mesh).ok().filter(|found| found.contains("those that were fetched before still count"))
    })?;
    issuer.publish(&[&first]);
    becomes(&of_first, 200)?;
    becomes(&of_second, 401)
}

/// Where no keys were ever found every token is refused, whoever signed it; the resource says why, and requests without a
/// token are none the worse.
fn no_keys() -> anyhow::Result<()> {
    let issuer = Issuer::start()?;
    let key = Signer::new("1")?;
    let mesh = Mesh::start()?;
    let _reviews = mesh.serve("reviews", "v1", "one")?;
    let _gateway = mesh.gateway(&["--listen", "8081=8080"])?;
    mesh.apply(&yaml::door_to(8080, "reviews", 9080))?;
    until("the door leads to reviews", PATIENCE, || enter("/", None).ok().filter(|a| a.status == 200))?;
    let rule = format!("jwksUri: {}", issuer.keys_at());
    mesh.steer(&authentication("default", "app: reviews", &rule, &issuer))?;
    let token = key.token(&claims(&issuer, json!({"sub": "jo"})))?;
    until("tokens are refused", PATIENCE, || enter("/", Some(&token)).ok().filter(|a| a.status == 401))?;
    ensure!(enter("/", None)?.status == 200, "requests without a token do not pass");
    mesh.kubectl_ok(&[
        "wait",
        "--for=condition=Reconciled=false",
        "requestauthentication/tokens",
        "--timeout=30s",
    ])?;
    let found = findings(&mesh)?;
    ensure!(found.contains("KeysNotFetched") && found.contains("500 Internal Server Error"), "{found}");
    let analyzed = mesh.mizzen(["analyze"]).output()?;
    let analyzed = String::from_utf8_lossy(&analyzed.stdout);
    ensure!(analyzed.contains("KeysNotFetched"), "{analyzed}");
    // It is tried again, soon.
    issuer.publish(&[&key]);
    until("the keys are found", PATIENCE, || enter("/", Some(&token)).ok().filter(|a| a.status == 200))?;
    mesh.kubectl_ok(&[
        "wait",
        "--for=condition=Reconciled",
        "requestauthentication/tokens",
        "--timeout=30s",
    ])?;
    let refused =
        mesh.apply(&authentication("default", "app: reviews", "jwksUri: http://169.254.169.254/", &issuer));
    let Err(refused) = refused else { bail!("keys may be fetched from a cloud's metadata service") };
    ensure!(refused.to_string().contains("spec.jwtRules[0].jwksUri"), "{refused}");
    Ok(())
}

fn claims(issuer: &Issuer, mut more: Value) -> Value {
    more["iss"] = issuer.name().into();
    more
}

fn authentication(namespace: &str, selector: &str, keys: &str, issuer: &Issuer) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{{selector}}}}}
  jwtRules:
  - issuer: {}
    {keys}
",
        issuer.name()
    )
}

fn policy(rules: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: reviews, namespace: default}}
spec:
  selector: {{matchLabels: {{app: reviews}}}}
  rules:{rules}
"
    )
}

/// Each path, called from inside of the mesh with that token, is answered so.
fn answered(mesh: &Mesh, table: &[(&str, Option<&str>, u16)]) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let all: Vec<_> = table
            .iter()
            .map(|(path, token, status)| {
                scope.spawn(move || -> anyhow::Result<()> {
                    let url = format!("{URL}{path}");
                    let header = token.map(|token| format!("authorization: Bearer {token}"));
                    let mut arguments = vec!["--url", &url, "--count", "1", "--connections", "1"];
                    arguments.extend(header.iter().flat_map(|header| ["--header", header.as_str()]));
                    let report = mesh.load(&arguments)?;
                    ensure!(report.status(*status) == 1, "{path} is not answered {status}: {report:?}");
                    Ok(())
                })
            })
            .collect();
        all.into_iter().try_for_each(|one| one.join().unwrap_or_else(|_| bail!("a load panicked")))
    })
}

/// From outside, by the gateway.
fn enter(path: &str, token: Option<&str>) -> anyhow::Result<Answer> {
    let header = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = header.iter().map(|header| ("authorization", header.as_str())).collect();
    ask(&format!("{DOOR}{path}"), &headers)
}

/// What is said in the resource's status.
fn findings(mesh: &Mesh) -> anyhow::Result<String> {
    let shown = mesh.kubectl_ok(&["get", "requestauthentication", "tokens", "-o", "json"])?;
    let shown: Value = serde_json::from_str(&shown)?;
    Ok(shown["status"].to_string())
}
