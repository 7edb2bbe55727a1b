use serde_json::{Value, json};

use super::*;
use crate::{Change, Config, KubeService, Object, Settings, Workload, World};

fn typed<T: serde::de::DeserializeOwned>(name: &str, spec: Value) -> Config<T> {
    Config::new(NamespacedName::new("default", name), 0, serde_json::from_value(spec).unwrap())
}

fn workload(name: &str, address: &str) -> Object {
    let entry = json!({"address": address, "labels": {"app": "reviews", "version": "v1",
        "security.istio.io/tlsMode": "istio"}});
    let name = NamespacedName::new("default", name);
    let entry: net::WorkloadEntry = serde_json::from_value(entry).unwrap();
    Object::WorkloadEntry(Workload::from_entry(name, &entry, &BTreeMap::new()))
}

fn service(port_name: &str) -> Object {
    let service = json!({"metadata": {"name": "reviews", "namespace": "default"},
        "spec": {"selector": {"app": "reviews"}, "ports": [{"name": port_name, "port": 9080}]}});
    Object::Service(KubeService::from_kube(&serde_json::from_value(service).unwrap()).unwrap())
}

/// The codes and fields of what is found, beside a service with three workloads.
fn found(more: Vec<Object>) -> Vec<(&'static str, String)> {
    let mut world = World::new(Settings::default());
    let mut objects = vec![service("http")];
    objects.extend([("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")].map(|(n, a)| workload(n, a)));
    objects.extend(more);
    let snapshot = world.apply(objects.into_iter().map(|o| Change::upsert("Kubernetes", o)).collect());
    snapshot.findings().into_iter().map(|finding| (finding.code, finding.field)).collect()
}

fn rule(spec: Value) -> Object {
    Object::DestinationRule(typed("reviews", spec))
}

#[test]
fn a_mesh_in_order_has_no_findings() {
    assert_eq!(found(vec![]), []);
}

#[test]
fn the_default_percentage_ejects_none_of_three_wherever_it_is_written() {
    let detection = json!({"outlierDetection": {"consecutive5xxErrors": 7}});
    let all = json!({"outlierDetection": {"consecutive5xxErrors": 7, "maxEjectionPercent": 100}});
    let of = |spec| found(vec![rule(spec)]);
    let expected =
        |field: &str| vec![("NothingEjected", format!("{field}.outlierDetection.maxEjectionPercent"))];
    assert_eq!(of(json!({"host": "reviews", "trafficPolicy": detection})), expected("spec.trafficPolicy"));
    assert_eq!(
        of(json!({"host": "reviews", "subsets": [
            {"name": "v1", "labels": {"version": "v1"}, "trafficPolicy": detection},
            {"name": "v2", "labels": {"version": "v2"}, "trafficPolicy": detection}]})),
        expected("spec.subsets[0].trafficPolicy")
    );
    assert_eq!(of(json!({"host": "reviews", "trafficPolicy": all})), []);
}

#[test]
fn a_secret_that_no_sidecar_reads_is_found() {
    let of = |selector: Value| {
        let tls = json!({"tls": {"mode": "MUTUAL", "credentialName": "client"}});
        found(vec![rule(
            json!({"host": "reviews", "workloadSelector": selector, "trafficPolicy": tls, "subsets": [
            {"name": "v1", "trafficPolicy": {"portLevelSettings": [{"port": {"number": 9080}, "tls": tls["tls"]}]}}]}),
        )])
    };
    let expected = |field: &str| ("CredentialUnread", format!("{field}.tls.credentialName"));
    let all =
        [expected("spec.subsets[0].trafficPolicy.portLevelSettings[0]"), expected("spec.trafficPolicy")];
    assert_eq!(of(json!({"matchLabels": {}})), all);
    assert_eq!(of(json!({"matchLabels": {"app": "caller"}})), []);
}

#[test]
fn tls_modes_at_odds_are_found() {
    let strict = Object::PeerAuthentication(typed("default", json!({"mtls": {"mode": "STRICT"}})));
    let off = rule(json!({"host": "reviews", "trafficPolicy": {"tls": {"mode": "DISABLE"}}}));
    let field = "spec.trafficPolicy.tls.mode".to_owned();
    assert_eq!(found(vec![strict.clone(), off.clone()]), [("PlaintextToStrict", field.clone())]);
    assert_eq!(found(vec![off]), []);
    let mutual = rule(json!({"host": "reviews", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}}));
    assert_eq!(found(vec![strict, mutual.clone()]), []);
    let entry: net::WorkloadEntry =
        serde_json::from_value(json!({"address": "10.0.0.9", "labels": {"app": "reviews"}})).unwrap();
    let bare = Workload::from_entry(NamespacedName::new("default", "d"), &entry, &BTreeMap::new());
    assert_eq!(found(vec![mutual, Object::WorkloadEntry(bare)]), [("MutualTlsToPlaintext", field)]);
}

#[test]
fn selectors_that_match_nothing_are_found() {
    let policy = |app: &str| {
        Object::AuthorizationPolicy(typed("p", json!({"selector": {"matchLabels": {"app": app}}})))
    };
    assert_eq!(found(vec![policy("reviews")]), []);
    let expected = ("SelectorMatchesNothing", "spec.selector.matchLabels".to_owned());
    assert_eq!(found(vec![policy("rewiews")]), [expected]);
    let gateway = Object::Gateway(typed("g", json!({"selector": {"istio": "none"}, "servers": []})));
    assert_eq!(found(vec![gateway]), [("SelectorMatchesNothing", "spec.selector".to_owned())]);
}

#[test]
fn routes_after_one_for_everything_are_never_reached() {
    let to = json!([{"destination": {"host": "reviews"}}]);
    let service =
        |routes: Value| Object::VirtualService(typed("r", json!({"hosts": ["reviews"], "http": routes})));
    let matched = json!({"match": [{"uri": {"prefix": "/a"}}], "route": to});
    assert_eq!(
        found(vec![service(json!([{"route": to}, matched]))]),
        [("UnreachableRoute", "spec.http[1]".to_owned())]
    );
    assert_eq!(found(vec![service(json!([matched, {"route": to}]))]), []);
}

#[test]
fn ports_without_a_protocol_are_named() {
    let named = found(vec![service("web")]);
    assert_eq!(named, [("PortWithoutProtocol", "spec.ports[0].name".to_owned())]);
}

fn mesh(yaml: &str) -> Object {
    Object::Mesh(Box::new(api::parse_mesh_config(yaml).unwrap().0))
}

#[test]
fn providers_that_lead_nowhere_are_named() {
    let telemetry = |spec| Object::Telemetry(typed("t", spec));
    let traces = |name: &str| telemetry(json!({"tracing": [{"providers": [{"name": name}]}]}));
    let logs = |name: &str| telemetry(json!({"accessLogging": [{"providers": [{"name": name}]}]}));
    let declared = "extensionProviders:\n- {name: z, zipkin: {service: reviews.default.svc.cluster.local, port: 9080}}\n\
                    - {name: gone, opentelemetry: {service: otel.example, port: 4317}}\n\
                    - {name: other, zipkin: {service: reviews.default.svc.cluster.local, port: 1}}\n\
                    - {name: file, envoyFileAccessLog: {path: /dev/stdout}}\n\
                    - {name: als, envoyHttpAls: {service: reviews.default.svc.cluster.local, port: 9080}}\n\
                    - {name: lost, envoyOtelAls: {service: otel.example, port: 4317}}\n";
    let tracing = vec![("DanglingProvider", "spec.tracing[0].providers[0].name".to_owned())];
    let logging = vec![("DanglingProvider", "spec.accessLogging[0].providers[0].name".to_owned())];
    for (object, expected) in [
        (traces("z"), vec![]),
        (traces("none"), tracing.clone()),
        (traces("gone"), tracing.clone()),
        (traces("other"), tracing.clone()),
        (traces("file"), tracing),
        (logs("file"), vec![]),
        (logs("als"), vec![]),
        (logs("lost"), logging.clone()),
        (logs("envoy"), vec![]),
        (logs("fil"), logging.clone()),
        (logs("z"), logging),
        (telemetry(json!({"metrics": [{"providers": [{"name": "prometheus"}]}]})), vec![]),
        (
            telemetry(json!({"metrics": [{}, {"providers": [{"name": "statsd"}]}]})),
            vec![("DanglingProvider", "spec.metrics[1].providers[0].name".to_owned())],
        ),
    ] {
        assert_eq!(found(vec![mesh(declared), object.clone()]), expected, "{object:?}");
    }
    let authorizers = "extensionProviders:\n- {name: z, zipkin: {service: reviews.default.svc.cluster.local, port: 9080}}\n\
                       - {name: a, envoyExtAuthzHttp: {service: reviews.default.svc.cluster.local, port: 9080}}\n\
                       - {name: gone, envoyExtAuthzGrpc: {service: authz.example, port: 9000}}\n";
    for (name, dangles) in [("a", false), ("z", true), ("gone", true), ("none", true)] {
        let spec = json!({"action": "CUSTOM", "provider": {"name": name}, "rules": [{}]});
        let policy = Object::AuthorizationPolicy(typed("p", spec));
        let expected =
            if dangles { vec![("DanglingProvider", "spec.provider.name".to_owned())] } else { vec![] };
        assert_eq!(found(vec![mesh(authorizers), policy]), expected, "{name}");
    }
    let by_default = format!("{declared}defaultProviders: {{tracing: [gone]}}");
    assert_eq!(
        found(vec![mesh(&by_default)]),
        [("DanglingProvider", "extensionProviders[1].opentelemetry.service".to_owned())]
    );
    let by_default = format!("{declared}defaultProviders: {{accessLogging: [file, lost]}}");
    assert_eq!(
        found(vec![mesh(&by_default)]),
        [("DanglingProvider", "extensionProviders[5].envoyOtelAls.service".to_owned())]
    );
    let address =
        "{enableTracing: true, defaultConfig: {tracing: {zipkin: {address: 'zipkin.istio-system:9411'}}}}";
    assert_eq!(
        found(vec![mesh(address)]),
        [("DanglingProvider", "defaultConfig.tracing.zipkin.address".to_owned())]
    );
    let snapshot = World::new(Settings::default()).snapshot();
    let [said] = snapshot.judge(&traces("zipkin")).try_into().unwrap();
    assert_eq!(
        said.to_string(),
        "Telemetry default/t: spec.tracing[0].providers[0].name: MeshConfig declares no provider \"zipkin\": there are \
         no traces until it does [DanglingProvider]; declare it in extensionProviders of the ConfigMap istio"
    );
}

#[test]
fn what_no_proxy_would_take_is_named() {
    let route = |value: &str| {
        let headers = json!({"request": {"set": {"x": value}}});
        let spec = json!({"hosts": ["reviews"], "http": [{"headers": headers,
            "route": [{"destination": {"host": "reviews"}}]}]});
        Object::VirtualService(typed("v", spec))
    };
    assert_eq!(found(vec![route("%PROTOCOL%")]), []);
    let field = "spec.http[0].headers.request.set[x]".to_owned();
    assert_eq!(found(vec![route("%NOPE%")]), [("Malformed", field)]);
    let filter = json!({"accessLogging": [{"filter": {"expression": "a +"}}]});
    let field = "spec.accessLogging[0].filter.expression".to_owned();
    assert_eq!(found(vec![Object::Telemetry(typed("t", filter))]), [("Malformed", field)]);
}

#[test]
fn keys_that_could_not_be_fetched_are_told_of() {
    let spec = json!({"jwtRules": [
        {"issuer": "a", "jwks": "{\"keys\": []}"},
        {"issuer": "b", "jwksUri": "https://b.example/keys"},
        {"issuer": "https://c.example"},
    ]});
    let set = |field: &str, at: &str, keys: Option<&str>, fault: Option<&str>| {
        let name = NamespacedName::new(field, at);
        Object::KeySet(crate::KeySet { name, keys: keys.map(Into::into), fault: fault.map(Into::into) })
    };
    let of = |sets: Vec<Object>| {
        let policy = Object::RequestAuthentication(typed("a", spec.clone()));
        found(std::iter::once(policy).chain(sets).collect())
    };
    let at = |field: &str| ("KeysNotFetched", field.to_owned());
    let (b, c) = ("https://b.example/keys", "https://c.example");
    assert_eq!(of(vec![]), []);
    assert_eq!(of(vec![set("jwksUri", b, Some("{}"), None), set("issuer", b, None, Some("x"))]), []);
    assert_eq!(
        of(vec![set("jwksUri", b, Some("{}"), Some("x")), set("issuer", c, None, Some("x"))]),
        [at("spec.jwtRules[1].jwksUri"), at("spec.jwtRules[2].issuer")]
    );
}
