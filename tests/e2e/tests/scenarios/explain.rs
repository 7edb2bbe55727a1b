//! What a request would meet, and what requests met.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::mesh::Logged;
use e2e::stage::Scenario;
use e2e::{Mesh, until, yaml};
use serde_json::Value;

pub(crate) const SCENARIOS: &[Scenario] =
    &[("explain_names_what_the_access_log_recorded", explain_agrees_with_the_log)];

const PATIENCE: Duration = Duration::from_secs(30);

/// A request, told apart by its path.
struct Asked {
    method: &'static str,
    url: &'static str,
    header: Option<&'static str>,
    /// The route and the cluster that the caller's proxy is to choose.
    route: &'static str,
    cluster: Option<&'static str>,
    status: u16,
    /// The policy that is to decide at the callee's proxy, if one does.
    policy: Option<&'static str>,
}

const fn get(url: &'static str, route: &'static str, cluster: &'static str) -> Asked {
    Asked { method: "GET", url, header: None, route, cluster: Some(cluster), status: 200, policy: None }
}

const V1: &str = "outbound|9080|v1|reviews.default.svc.cluster.local";
const V2: &str = "outbound|9080|v2|reviews.default.svc.cluster.local";
const RATINGS: &str = "outbound|9080||ratings.default.svc.cluster.local";
const DETAILS: &str = "outbound|9080||details.default.svc.cluster.local";

/// By match on header, method, path and query; by default; a mirror of none; answered by the proxy itself; to nowhere;
/// faulty; allowed and denied by policy; and outside the mesh.
const REQUESTS: [Asked; 12] = [
    get("http://reviews:9080/reviews/0", "rest", V1),
    Asked { header: Some("end-user: jason"), ..get("http://reviews:9080/reviews/jason", "jason", V2) },
    Asked { method: "POST", ..get("http://reviews:9080/reviews/post", "posts", V2) },
    get("http://reviews:9080/reviews/query?beta=yes", "beta", V2),
    Asked { cluster: None, status: 301, ..get("http://reviews:9080/moved/away", "moved", "") },
    Asked { cluster: None, status: 503, ..get("http://reviews:9080/gone/0", "gone", "") },
    get("http://ratings.default.svc.cluster.local:9080/ratings/0", "default", RATINGS),
    Asked {
        header: Some("x-fault: yes"),
        status: 555,
        ..get("http://ratings:9080/ratings/faulty", "faulty", RATINGS)
    },
    Asked { policy: Some("readers"), ..get("http://details:9080/details/0", "default", DETAILS) },
    Asked { status: 403, policy: Some("secrets"), ..get("http://details:9080/secret/0", "default", DETAILS) },
    Asked { method: "DELETE", status: 403, ..get("http://details:9080/details/delete", "default", DETAILS) },
    Asked { status: 503, ..get("http://10.44.255.1:9080/outside", "allow_any", "PassthroughCluster") },
];

/// For each of these requests `mizzen explain` names the same route, policy and cluster that the proxies' logs recorded.
fn explain_agrees_with_the_log() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    mesh.log_requests()?;
    let _v1 = mesh.serve("reviews", "v1", "reviews-v1")?;
    let _v2 = mesh.serve("reviews", "v2", "reviews-v2")?;
    let _ratings = mesh.serve("ratings", "v1", "ratings-v1")?;
    let _details = mesh.serve("details", "v1", "details-v1")?;
    let mut shell = mesh.run("client", "shell", &[]);
    shell.args(["--", "sleep", "300"]);
    let _shell = mesh.spawn(shell, "shell", mesh.folder().join("none"))?;
    for host in ["reviews", "ratings", "details"] {
        mesh.until_answers(&format!("http://{host}:9080/"))?;
    }
    mesh.apply(&format!("{}---{RULES}", yaml::subsets("reviews", &["v1", "v2"])))?;
    mesh.mizzen_ok(&["wait", "authorizationpolicy", "readers"])?;
    mesh.mizzen_ok(&["wait"])?;

    for (number, asked) in REQUESTS.iter().enumerate() {
        let name = format!("client-{number}");
        agrees(&mesh, asked, &name)
            .with_context(|| format!("{} {} {:?}", asked.method, asked.url, asked.header))?;
    }
    Ok(())
}

fn agrees(mesh: &Mesh, asked: &Asked, name: &str) -> anyhow::Result<()> {
    let explained = explain(mesh, asked)?;
    let (outbound, inbound) = (&explained["outbound"], &explained["inbound"]);
    let mut load = vec!["--url", asked.url, "--method", asked.method, "--count", "1", "--connections", "1"];
    load.push("--metrics");
    load.extend(asked.header.iter().flat_map(|header| ["--header", header]));
    let report = mesh.load_as(name, &[], &load)?;
    ensure!(report.status(asked.status) == 1, "not {}: {report:?}", asked.status);

    // It is counted for the service that it was meant for, whoever answered.
    if let Some((_, service)) = asked.cluster.and_then(|cluster| cluster.rsplit_once('|')) {
        let code = asked.status.to_string();
        let labels = [("destination_service", service), ("response_code", &code)];
        ensure!(report.counted("istio_requests_total", &labels) == 1.0, "{service}: {}", report.metrics);
    }

    let client = logged(mesh, name, asked)?;
    let said = |field: &str| outbound[field].as_str();
    ensure!(client.route.as_deref() == said("route"), "route: {client:?}, explained {outbound:#}");
    ensure!(client.cluster.as_deref() == said("cluster"), "cluster: {client:?}, explained {outbound:#}");
    ensure!(
        said("route") == Some(asked.route) && said("cluster") == asked.cluster,
        "not as meant: {outbound:#}"
    );
    if asked.status == 403 || asked.policy.is_some() {
        let server = logged(mesh, "details-v1", asked)?;
        ensure!(server.route.as_deref() == inbound["route"].as_str(), "{server:?}, explained {inbound:#}");
        let recorded = server.details.clone().unwrap_or_default();
        ensure!(
            server.cluster.is_some() && server.cluster.as_deref() == inbound["cluster"].as_str(),
            "{server:?}, explained {inbound:#}"
        );
        ensure!(asked.status != 403 || recorded.contains("rbac_access_denied"), "{server:?}");
        let policies = inbound["policies"].as_array().context("no policies")?;
        let names = policies.iter().filter_map(Value::as_str);
        match (asked.policy, asked.status) {
            // A denial that a policy decided is recorded with its name.
            (Some(policy), 403) => {
                ensure!(recorded.contains(&format!("policy[{policy}]")), "{server:?}");
                let denied = names
                    .filter(|said| said.contains(&format!("policy[{policy}]")) && said.contains("denied"));
                ensure!(denied.count() == 1, "{inbound:#}");
            }
            (Some(policy), _) => {
                let allowed = names
                    .filter(|said| said.contains(&format!("policy[{policy}]")) && said.contains("allowed"));
                ensure!(allowed.count() == 1, "{inbound:#}");
            }
            // No rule allows it.
            (None, _) => {
                ensure!(recorded.contains("matched_policy[none]"), "{server:?}, explained {inbound:#}")
            }
        }
    }
    Ok(())
}

fn explain(mesh: &Mesh, asked: &Asked) -> anyhow::Result<Value> {
    let mut arguments = vec!["explain", "--from", "client", "-X", asked.method, "-o", "json"];
    arguments.extend(asked.header.iter().flat_map(|header| ["-H", header]));
    arguments.push(asked.url);
    Ok(serde_json::from_str(&mesh.mizzen_ok(&arguments)?)?)
}

/// The line of the request, once the proxy has written it.
fn logged(mesh: &Mesh, name: &str, asked: &Asked) -> anyhow::Result<Logged> {
    let path = asked.url.splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap_or_default();
    let line = until("the request is logged", PATIENCE, || {
        let lines = mesh.logged(name);
        lines.into_iter().find(|line| line.path.as_deref() == Some(&path))
    });
    line.with_context(|| format!("{name}: {:?}", mesh.logged(name)))
}

const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews]
  http:
  - name: jason
    match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - name: posts
    match: [{method: {exact: POST}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - name: beta
    match: [{uri: {regex: '/reviews/[a-z]+'}, queryParams: {beta: {exact: 'yes'}}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - name: moved
    match: [{uri: {prefix: /moved}}]
    redirect: {uri: /reviews/0}
  - name: gone
    match: [{uri: {prefix: /gone}}]
    route: [{destination: {host: reviews, subset: v9}}]
  - name: rest
    route:
    - {destination: {host: reviews, subset: v1}, weight: 100}
    - {destination: {host: reviews, subset: v2}, weight: 0}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings, namespace: default}
spec:
  hosts: [ratings]
  http:
  - name: faulty
    match: [{headers: {x-fault: {exact: 'yes'}}}]
    fault: {abort: {percentage: {value: 100}, httpStatus: 555}}
    route: [{destination: {host: ratings}}]
  - name: default
    route: [{destination: {host: ratings}}]
    timeout: 5s
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: secrets, namespace: default}
spec:
  selector: {matchLabels: {app: details}}
  action: DENY
  rules: [{to: [{operation: {paths: [/secret/*]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: default}
spec:
  selector: {matchLabels: {app: details}}
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]
    to: [{operation: {methods: [GET]}}]
";
