//! AuthorizationPolicy and RequestAuthentication: what is written, what a proxy is told.

mod common;

use common::{Mesh, ingress, name, stock, upsert};
use model::Object;
use serde_json::{Value, json};

#[test]
fn a_policy_that_cannot_be_judged_on_tcp_refuses_there() {
    let policy = |action: &str| {
        Mesh::bookinfo(&format!(
            "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: db, namespace: default}}
spec: {{selector: {{matchLabels: {{app: mysqldb}}}}, action: {action}, rules: [{{to: [{{operation: {{methods: [GET]}}}}]}}]}}
"
        ))
    };
    let rules = |mesh: &Mesh| {
        let listener = mesh.listener(&stock("mysqldb"), "virtualInbound");
        let chains = listener["filterChains"].as_array().cloned().unwrap_or_default();
        let chain = chains.iter().find(|chain| chain["filterChainMatch"]["destinationPort"] == 3306).cloned();
        chain.unwrap_or_default()["filters"][0]["typedConfig"]["rules"].clone()
    };
    assert_eq!(rules(&policy("ALLOW")), json!({}), "no rule that could allow: everything is refused");
    let denied = rules(&policy("DENY"));
    let rule = &denied["policies"]["ns[default]-policy[db]-rule[0]"];
    assert_eq!(rule["permissions"], json!([{"andRules": {"rules": [{"any": true}]}}]));
}

/// On TCP: a provider over HTTP is silent, as in Istio; one over gRPC is asked about what the rules match; one that is not
/// there refuses.
#[test]
fn who_is_asked_by_others_is_refused_on_tcp_in_doubt() {
    let service = "service: ratings.default.svc.cluster.local, port: 9080";
    let providers = format!(
        "extensionProviders: [{{name: http, envoyExtAuthzHttp: {{{service}}}}}, {{name: grpc, envoyExtAuthzGrpc: {{{service}, failOpen: true, timeout: 2s}}}}]"
    );
    let (asked, refuses) = ("envoy.filters.network.ext_authz", "-deny-due-to-bad-CUSTOM-action");
    for (provider, expected) in [("http", (false, false)), ("grpc", (true, false)), ("gone", (false, true))] {
        let mut mesh = Mesh::bookinfo(&format!(
            "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: db, namespace: default}}
spec: {{action: CUSTOM, provider: {{name: {provider}}}, rules: [{{to: [{{operation: {{ports: ['3306']}}}}]}}]}}
"
        ));
        mesh.world.apply(vec![common::mesh(&providers)]);
        let listener = mesh.listener(&stock("mysqldb"), "virtualInbound");
        let chains = listener["filterChains"].as_array().cloned().unwrap_or_default();
        let chain = chains.iter().find(|chain| chain["filterChainMatch"]["destinationPort"] == 3306).cloned();
        let chain = chain.unwrap_or_default();
        let text = chain.to_string();
        assert_eq!((text.contains(asked), text.contains(refuses)), expected, "{provider}");
        if provider != "grpc" {
            continue;
        }
        let (rbac, authz) = (&chain["filters"][0]["typedConfig"], &chain["filters"][1]["typedConfig"]);
        assert_eq!(rbac["shadowRulesStatPrefix"], "istio_ext_authz_");
        assert!(
            rbac["shadowRules"]["policies"]["istio-ext-authz-grpc-ns[default]-policy[db]-rule[0]"]
                .is_object()
        );
        // As istiod says it.
        assert_eq!((&authz["statPrefix"], &authz["failureModeAllow"]), (&json!("tcp."), &json!(true)));
        assert_eq!(authz["grpcService"]["timeout"], "2s");
        assert_eq!(
            authz["filterEnabledMetadata"],
            json!({
                "filter": "envoy.filters.network.rbac",
                "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}],
                "value": {"stringMatch": {"prefix": "istio-ext-authz-grpc-ns["}},
            })
        );
    }
}

const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

/// The HTTP filters of the reviews' port.
fn http_filters(mesh: &Mesh) -> Vec<Value> {
    let listener = mesh.listener(&stock("reviews"), "virtualInbound");
    let chains = listener["filterChains"].as_array().cloned().unwrap_or_default();
    let chain = chains.iter().find(|chain| chain["filterChainMatch"]["destinationPort"] == 9080);
    let filters = &chain.expect("a chain")["filters"][0]["typedConfig"]["httpFilters"];
    filters.as_array().cloned().unwrap_or_default()
}

fn tokens(namespace: &str, name: &str, more: &str) -> String {
    format!(
        "
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: {name}, namespace: {namespace}}}
spec: {more}
"
    )
}

/// What a rule becomes when it says no more than who issues, with these keys.
fn provider(issuer: &str, keys: &str) -> Value {
    json!({
        "issuer": issuer, "localJwks": {"inlineString": keys}, "payloadInMetadata": "payload",
        "normalizePayloadInMetadata": {"spaceDelimitedClaims": ["permission", "scope"]},
    })
}

#[test]
fn tokens_are_verified_before_policies_ask_what_they_say() {
    let policy = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: x, namespace: default}
spec: {rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}
";
    let rule = format!("{{jwtRules: [{{issuer: me, jwks: '{KEYS}'}}]}}");
    let filters = http_filters(&Mesh::bookinfo(&format!("{policy}{}", tokens("default", "a", &rule))));
    let names: Vec<_> = filters.iter().take(2).map(|filter| filter["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["envoy.filters.http.jwt_authn", "envoy.filters.http.rbac"]);
    // As a real istiod says it.
    assert_eq!(
        filters[0]["typedConfig"],
        json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"origins-0": provider("me", KEYS)},
            "rules": [{"match": {"prefix": "/"}, "requires": {"requiresAny": {"requirements": [
                {"providerName": "origins-0"}, {"allowMissing": {}},
            ]}}}],
            "bypassCorsPreflight": true,
        })
    );
}

#[test]
fn rules_about_tokens_are_those_of_the_workload_ordered_by_issuer() {
    let rule = |issuer: &str| format!("jwtRules: [{{issuer: {issuer}, jwks: '{KEYS}'}}]");
    let mut yaml = tokens("istio-system", "all", &format!("{{{}}}", rule("c")));
    yaml += &tokens("default", "a", &format!("{{{}}}", rule("b")));
    yaml +=
        &tokens("default", "b", &format!("{{selector: {{matchLabels: {{app: reviews}}}}, {}}}", rule("a")));
    yaml += &tokens("default", "c", &format!("{{selector: {{matchLabels: {{app: other}}}}, {}}}", rule("d")));
    yaml += &tokens("tracing", "d", &format!("{{{}}}", rule("e")));
    let filters = http_filters(&Mesh::bookinfo(&yaml));
    let config = &filters[0]["typedConfig"];
    let issuers = (0..3).map(|i| config["providers"][format!("origins-{i}")]["issuer"].clone());
    assert_eq!(issuers.collect::<Vec<_>>(), ["a", "b", "c"]);
    let by = |i: usize| json!({"providerName": format!("origins-{i}")});
    let or_none = |i: usize| json!({"requiresAny": {"requirements": [by(i), {"allowMissing": {}}]}});
    let all = json!({"requiresAll": {"requirements": [or_none(0), or_none(1), or_none(2)]}});
    assert_eq!(
        config["rules"][0]["requires"],
        json!({"requiresAny": {"requirements": [by(0), by(1), by(2), all]}})
    );
    // What no proxy would take as keys is not told as such.
    for keys in ["", "{}", r#"{"keys":[]}"#] {
        let rule = format!("{{jwtRules: [{{issuer: b, jwks: '{keys}'}}, {{issuer: a, jwks: '{KEYS}'}}]}}");
        let told = http_filters(&Mesh::bookinfo(&tokens("default", "a", &rule)));
        let inline = &told[0]["typedConfig"]["providers"]["origins-1"]["localJwks"]["inlineString"];
        assert_eq!(inline, syntax::jwks::NOBODYS, "{keys}");
    }
    let empty = tokens("default", "a", "{selector: {matchLabels: {app: reviews}}}");
    assert_ne!(http_filters(&Mesh::bookinfo(&empty))[0]["name"], "envoy.filters.http.jwt_authn");
}

fn keys_told(mesh: &Mesh) -> [String; 2] {
    let of = &http_filters(mesh)[0]["typedConfig"]["providers"];
    [0, 1].map(|i| of[format!("origins-{i}")]["localJwks"]["inlineString"].as_str().unwrap().to_owned())
}

#[test]
fn tokens_whose_keys_are_not_there_are_refused() {
    let rules = "{jwtRules: [{issuer: a, jwksUri: 'https://a.example/keys'}, {issuer: 'https://b.example'}]}";
    let mut mesh = Mesh::bookinfo(&tokens("default", "a", rules));
    let none = syntax::jwks::NOBODYS;
    assert_eq!(keys_told(&mesh), [none, none]);
    let mut learn = |field: &str, at: &str, keys: Option<&str>| {
        let set = model::KeySet { name: name(field, at), keys: keys.map(Into::into), fault: None };
        mesh.world.apply(vec![upsert(Object::KeySet(set))]);
        keys_told(&mesh)
    };
    assert_eq!(learn("jwksUri", "https://a.example/keys", Some(KEYS)), [KEYS, none]);
    assert_eq!(learn("issuer", "https://b.example", Some(KEYS)), [KEYS, KEYS]);
    assert_eq!(learn("issuer", "https://b.example", None), [KEYS, none]);
}

#[test]
fn claims_are_words_or_lists_of_words() {
    let mesh = Mesh::bookinfo(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: x, namespace: default}
spec:
  rules:
  - when: [{key: 'request.auth.claims[realm][roles]', values: [admin]}]
  - when: [{key: 'request.auth.claims[me@a.example]', values: ['*']}]
  - from: [{source: {requestPrincipals: ['https://a.example/x/jo', 'https://a.example/*', '*o', 'a*']}}]
",
    );
    let policies = http_filters(&mesh)[0]["typedConfig"]["rules"]["policies"].clone();
    let asked = |rule: usize| policies[format!("ns[default]-policy[x]-rule[{rule}]")]["principals"].clone();
    let at = |path: &[&str], value: Value| {
        let path = path.iter().map(|key| json!({"key": key})).collect::<Vec<_>>();
        json!({"metadata": {"filter": "envoy.filters.http.jwt_authn", "path": path, "value": value}})
    };
    let word_or_list = |text: Value| {
        let word = json!({"stringMatch": text});
        json!({"orMatch": {"valueMatchers": [{"listMatch": {"oneOf": word}}, word]}})
    };
    let any_of = |ids: Value| json!([{"andIds": {"ids": [{"orIds": {"ids": ids}}]}}]);
    let roles = at(&["payload", "realm", "roles"], word_or_list(json!({"exact": "admin"})));
    assert_eq!(asked(0), any_of(json!([roles])));
    let any = json!({"safeRegex": {"regex": ".+"}});
    assert_eq!(asked(1), any_of(json!([at(&["payload", "me@a.example"], word_or_list(any.clone()))])));
    let principal = |issuer: Value, subject: Value| {
        let part = |claim, text| at(&["payload", claim], json!({"stringMatch": text}));
        json!({"andIds": {"ids": [part("iss", issuer), part("sub", subject)]}})
    };
    assert_eq!(
        asked(2),
        any_of(json!([
            principal(json!({"exact": "https://a.example/x"}), json!({"exact": "jo"})),
            principal(json!({"exact": "https://a.example"}), any.clone()),
            principal(any.clone(), json!({"suffix": "o"})),
            principal(json!({"prefix": "a"}), any),
        ]))
    );
}

#[test]
fn a_gateway_routes_by_what_a_token_says() {
    let yaml = format!(
        "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: door, namespace: default}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: [a.example]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: door, namespace: default}}
spec:
  hosts: [a.example]
  gateways: [door]
  http:
  - match: [{{headers: {{'@request.auth.claims[group][id]': {{exact: x}}, x-a: {{exact: b}}}}}}]
    route: [{{destination: {{host: reviews}}}}]
  - match: [{{withoutHeaders: {{'@Request.Auth.Claims.sub': {{regex: '*'}}}}}}]
    route: [{{destination: {{host: ratings}}}}]
  - route: [{{destination: {{host: details}}}}]
{}",
        tokens("istio-system", "a", &format!("{{jwtRules: [{{issuer: a, jwks: '{KEYS}'}}]}}"))
    );
    let mesh = Mesh::bookinfo(&yaml);
    let routes = mesh.routes(&ingress(), "http.8080", "a.example:80");
    let claim = |path: &[&str], text: Value| {
        let path = path.iter().map(|key| json!({"key": key})).collect::<Vec<_>>();
        let word = json!({"stringMatch": text});
        json!({"filter": "envoy.filters.http.jwt_authn", "path": path, "value":
            {"orMatch": {"valueMatchers": [{"listMatch": {"oneOf": word}}, word]}}})
    };
    assert_eq!(
        routes[0]["match"]["dynamicMetadata"],
        json!([claim(&["payload", "group", "id"], json!({"exact": "x"}))])
    );
    assert_eq!(routes[0]["match"]["headers"].as_array().map(Vec::len), Some(1));
    let mut none = claim(&["payload", "sub"], json!({"safeRegex": {"regex": ".*"}}));
    none["invert"] = json!(true);
    assert_eq!(routes[1]["match"]["dynamicMetadata"], json!([none]));
    assert_eq!(routes.len(), 3);
    let listener = mesh.listener(&ingress(), "0.0.0.0_8080").to_string();
    assert!(listener.contains(r#""clearRouteCache":true"#), "{listener}");
}

#[test]
fn names_in_policies_are_taken_literally() {
    let mesh = Mesh::bookinfo(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: x, namespace: default}
spec: {rules: [{from: [{source: {namespaces: [a.b]}}, {source: {principals: ['*/sa/x.y']}}]}]}
",
    );
    let listener = mesh.listener(&stock("reviews"), "virtualInbound").to_string();
    assert!(
        listener.contains(r#".*/ns/a\\.b/.*"#) && listener.contains(r#"spiffe://.*/sa/x\\.y"#),
        "{listener}"
    );
}

/// What the tables above lead to, and every other mesh that they look at.
#[test]
fn a_real_envoy_takes_it_all() {
    common::envoy::taken(&common::looks_of(&[
        a_policy_that_cannot_be_judged_on_tcp_refuses_there,
        who_is_asked_by_others_is_refused_on_tcp_in_doubt,
        names_in_policies_are_taken_literally,
        tokens_are_verified_before_policies_ask_what_they_say,
        rules_about_tokens_are_those_of_the_workload_ordered_by_issuer,
        tokens_whose_keys_are_not_there_are_refused,
        claims_are_words_or_lists_of_words,
        a_gateway_routes_by_what_a_token_says,
    ]));
}

/// Whether the reviews' policies let a peer's request through, as a proxy judges what it is told.
fn lets_in(policy: &str, account: &str) -> bool {
    let mesh = Mesh::bookinfo(&format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: x, namespace: default}}
spec: {policy}
"
    ));
    let of = |kind: &str| format!("type.googleapis.com/envoy.extensions.filters.{kind}");
    let mut filters = http_filters(&mesh);
    filters.retain(|filter| filter["name"] == "envoy.filters.http.rbac");
    assert!(!filters.is_empty(), "{policy}");
    filters.push(json!({"name": "router", "typedConfig": {"@type": of("http.router.v3.Router")}}));
    let listener = json!({"name": "l", "address": {"socketAddress": {"address": "127.0.0.1", "portValue": 80}},
        "filterChains": [{"filters": [{"name": "hcm", "typedConfig": {
            "@type": of("network.http_connection_manager.v3.HttpConnectionManager"), "statPrefix": "x",
            "routeConfig": {"virtualHosts": [{"name": "v", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "directResponse": {"status": 200}}]}]},
            "httpFilters": filters}}]}]});
    let kind = proto::ResourceType::Listener;
    let body = proto::json::from_value(kind.url(), &listener).unwrap();
    let resource = proto::Resource { name: "l".into(), version: 1, body: body.into() };
    let delta = proto::Delta { resource_type: kind, changed: vec![resource], removed: Vec::new() };
    let (plan, rejections) = decide::Plan::new().apply(&delta);
    assert!(rejections.is_empty(), "{rejections:?}");
    let mut connection =
        decide::Connection::new("10.0.0.9:1".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
    let tls = decide::TlsInfo {
        peer_verified: true,
        peer_presented: true,
        peer_uris: std::iter::once(format!("spiffe://{account}").into()).collect(),
        ..Default::default()
    };
    connection.tls = Some(std::sync::Arc::new(tls));
    let chain = plan.listener("l").unwrap().choose(&connection, &mut ()).unwrap().clone();
    let (mut rng, start) = (base::SeededRandom::new(1), std::time::SystemTime::UNIX_EPOCH);
    let decided = decide::decide_connection(&plan, &chain, &connection, start, &mut rng, &mut ());
    let decide::ConnectionOutcome::Http(hcm) = decided.outcome else { panic!("no HTTP") };
    let node = decide::NodeFacts::default();
    let cx = decide::Context {
        plan: &plan,
        hcm: &hcm,
        connection: &connection,
        direction: decide::Direction::Inbound,
        node: &node,
        start,
        now: std::time::Instant::now(),
    };
    let mut request = decide::Request::new(decide::Method::Get, "reviews:9080", "/a.b");
    let step = decide::Deciding::new(&connection).step(&cx, &mut request, &mut rng, &mut ());
    let decide::Step::Done(decision) = step else { panic!("asks") };
    let decide::Outcome::Reply(reply) = decision.outcome else { panic!("forwards") };
    reply.status == 200
}

/// CVE-2026-39350: what is written in a policy is a name, whatever the characters mean to a regular expression.
#[test]
fn names_are_no_expressions() {
    for (source, account, allowed) in [
        ("namespaces: [a.b]", "cluster.local/ns/a.b/sa/x", true),
        ("namespaces: [a.b]", "cluster.local/ns/axb/sa/x", false),
        ("namespaces: ['a.*']", "cluster.local/ns/a.b/sa/x", true),
        ("namespaces: ['a.*']", "cluster.local/ns/axb/sa/x", false),
        ("namespaces: ['a|b']", "cluster.local/ns/b/sa/x", false),
        ("serviceAccounts: [default/my.app]", "cluster.local/ns/default/sa/my.app", true),
        ("serviceAccounts: [default/my.app]", "cluster.local/ns/default/sa/my-app", false),
        ("serviceAccounts: [my.app]", "cluster.local/ns/default/sa/myxapp", false),
        ("principals: [cluster.local/ns/default/sa/my.app]", "cluster.local/ns/default/sa/myxapp", false),
        ("principals: [cluster.local/ns/default/sa/my.app]", "cluster1local/ns/default/sa/my.app", false),
    ] {
        let policy = format!("{{rules: [{{from: [{{source: {{{source}}}}}]}}]}}");
        assert_eq!(lets_in(&policy, account), allowed, "{source} and {account}");
    }
}

/// CVE-2020-16844: what is denied by a wildcard is denied.
#[test]
fn a_wildcard_denies_whom_it_stands_for() {
    let account = "cluster.local/ns/default/sa/bad";
    for (rule, allowed) in [
        ("from: [{source: {principals: ['*']}}]", false),
        ("from: [{source: {principals: ['*/sa/bad']}}]", false),
        ("from: [{source: {principals: ['cluster.local/ns/default/*']}}]", false),
        ("from: [{source: {principals: ['*/sa/good']}}]", true),
        ("from: [{source: {notPrincipals: ['*/sa/good']}}]", false),
        ("from: [{source: {notPrincipals: ['*']}}]", true),
        ("from: [{source: {namespaces: ['*']}}]", false),
        ("from: [{source: {namespaces: ['*fault']}}]", false),
        ("from: [{source: {namespaces: ['def*']}}]", false),
        ("to: [{operation: {paths: ['*']}}]", false),
        ("to: [{operation: {paths: ['/a*']}}]", false),
        ("to: [{operation: {paths: ['*b']}}]", false),
        ("to: [{operation: {hosts: ['*']}}]", false),
        ("to: [{operation: {methods: ['*']}}]", false),
        ("to: [{operation: {paths: ['/b*']}}]", true),
    ] {
        let policy = format!("{{action: DENY, rules: [{{{rule}}}]}}");
        assert_eq!(lets_in(&policy, account), allowed, "{rule}");
    }
}
