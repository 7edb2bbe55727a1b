//! One table per feature: what is written, what a proxy is told.

mod common;

use std::sync::Arc;

use base::Locality;
use common::{Mesh, facets, ingress, name, pod, service, sidecar, stock, upsert};
use model::{Object, Sensitive, TlsSecret};
use proto::ResourceType;
use serde_json::{Value, json};
use translate::{Facets, Scope};

/// Every name of a filter anywhere in a listener.
fn filters(listener: &Value) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = vec![listener];
    while let Some(value) = rest.pop() {
        match value {
            Value::Object(map) => {
                if map.contains_key("typedConfig") {
                    names.extend(map.get("name").and_then(Value::as_str).map(str::to_owned));
                }
                rest.extend(map.values());
            }
            Value::Array(list) => rest.extend(list),
            _ => {}
        }
    }
    names
}

/// Every protocol that a TLS context offers or selects; what filter chains match on is another matter.
fn alpn_offered(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| match value.as_array() {
                Some(list) if key == "alpnProtocols" => {
                    list.iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect()
                }
                _ => alpn_offered(value),
            })
            .collect(),
        Value::Array(list) => list.iter().flat_map(alpn_offered).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn a_stock_proxy_is_sent_nothing_of_istio_s_own() {
    let mesh = Mesh::bookinfo(common::RESOURCES);
    let router = Scope::new(Facets { extensions: false, ..ingress().facets().clone() });
    for scope in [stock("reviews"), stock("mysqldb"), router] {
        for of in [ResourceType::Cluster, ResourceType::Listener] {
            for (name, value) in mesh.json(&scope, of) {
                let own: Vec<_> =
                    filters(&value).into_iter().filter(|name| name.starts_with("istio")).collect();
                assert!(own.is_empty(), "{name}: {own:?}");
                let offers = alpn_offered(&value);
                assert!(!offers.iter().any(|name| name == "istio-peer-exchange"), "{name} offers {offers:?}");
            }
        }
    }
    let known = filters(&mesh.listener(&sidecar("reviews"), "virtualInbound"));
    for wanted in ["istio.metadata_exchange", "istio.stats"] {
        assert!(known.iter().any(|name| name == wanted), "{wanted}");
    }
}

#[test]
fn routes_say_what_virtual_services_say() {
    let rule = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: details, namespace: default}
spec:
  hosts: [details]
  http:
";
    let default_route = "    route: [{destination: {host: details}}]\n";
    let cases: &[(&str, &str, Value)] = &[
        ("  - timeout: 3s\n", "/route/timeout", json!("3s")),
        ("  - timeout: 3s\n", "/route/maxGrpcTimeout", json!("3s")),
        ("  - retries: {attempts: 0}\n", "/route/retryPolicy", Value::Null),
        (
            "  - retries: {attempts: 1, retryOn: \"503\"}\n",
            "/route/retryPolicy/retriableStatusCodes/0",
            json!(503),
        ),
        ("  - retries: {attempts: 1, perTryTimeout: 2s}\n", "/route/retryPolicy/perTryTimeout", json!("2s")),
        ("  - rewrite: {uri: /x}\n", "/route/prefixRewrite", json!("/x")),
        ("  - rewrite: {authority: other}\n", "/route/hostRewriteLiteral", json!("other")),
        ("  - match: [{uri: {exact: /x}, ignoreUriCase: true}]\n", "/match/caseSensitive", json!(false)),
        ("  - match: [{withoutHeaders: {a: {}}}]\n", "/match/headers/0/invertMatch", json!(true)),
        (
            "  - match: [{headers: {a: {regex: \"*\"}}}]\n",
            "/match/headers/0",
            json!({"name": "a", "presentMatch": true}),
        ),
        ("  - match: [{method: {exact: PUT}}]\n", "/match/headers/0/name", json!(":method")),
        ("  - match: [{sourceLabels: {app: reviews}, uri: {prefix: /r}}]\n", "/match/prefix", json!("/r")),
        ("  - match: [{sourceLabels: {app: other}}]\n", "/name", json!("default")),
        ("  - match: [{gateways: [some]}]\n", "/name", json!("default")),
        ("  - match: [{port: 81}]\n", "/name", json!("default")),
        ("  - headers: {request: {set: {a: b}}}\n", "/requestHeadersToAdd/0/header/key", json!("a")),
        (
            "  - fault: {abort: {httpStatus: 500, percentage: {value: 1}}}\n",
            "/typedPerFilterConfig/envoy.filters.http.fault/abort/httpStatus",
            json!(500),
        ),
        (
            "  - mirror: {host: reviews}\n",
            "/route/requestMirrorPolicies/0/cluster",
            json!("outbound|9080||reviews.default.svc.cluster.local"),
        ),
    ];
    for (text, pointer, expected) in cases {
        let mesh = Mesh::bookinfo(&format!("{rule}{text}{default_route}"));
        let routes = mesh.routes(&sidecar("reviews"), "9080", "details.default.svc.cluster.local:9080");
        assert_eq!(
            routes[0].pointer(pointer).cloned().unwrap_or_default(),
            *expected,
            "{text} in {:#}",
            routes[0]
        );
    }
    let redirect = "  - redirect: {uri: /x, authority: y, redirectCode: 302}\n";
    let mesh = Mesh::bookinfo(&format!("{rule}{redirect}"));
    let routes = mesh.routes(&sidecar("reviews"), "9080", "details.default.svc.cluster.local:9080");
    assert_eq!(
        routes[0]["redirect"],
        json!({"pathRedirect": "/x", "hostRedirect": "y", "responseCode": "FOUND"})
    );
}

#[test]
fn all_traffic_to_one_of_two_is_a_route_to_that_one() {
    let mesh = Mesh::bookinfo(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews]
  http: [{route: [{destination: {host: reviews, subset: v2}, weight: 0}, {destination: {host: reviews, subset: v3}, weight: 100}]}]
",
    );
    let routes = mesh.routes(&sidecar("productpage"), "9080", "reviews.default.svc.cluster.local:9080");
    assert_eq!(routes[0]["route"]["cluster"], "outbound|9080|v3|reviews.default.svc.cluster.local");
}

#[test]
fn clusters_say_what_destination_rules_say() {
    let cases: &[(&str, &str, Value)] = &[
        ("loadBalancer: {simple: RANDOM}", "/lbPolicy", json!("RANDOM")),
        ("loadBalancer: {consistentHash: {useSourceIp: true}}", "/lbPolicy", json!("RING_HASH")),
        ("loadBalancer: {simple: PASSTHROUGH}", "/type", json!("ORIGINAL_DST")),
        (
            "connectionPool: {tcp: {maxConnections: 1}}",
            "/circuitBreakers/thresholds/0/maxConnections",
            json!(1),
        ),
        (
            "connectionPool: {tcp: {maxConnections: 1}}",
            "/circuitBreakers/thresholds/0/maxRetries",
            json!(u32::MAX),
        ),
        ("connectionPool: {tcp: {connectTimeout: 1s}}", "/connectTimeout", json!("1s")),
        (
            "outlierDetection: {consecutive5xxErrors: 0}",
            "/outlierDetection/enforcingConsecutive5xx",
            json!(0),
        ),
        (
            "outlierDetection: {minHealthPercent: 50}",
            "/commonLbConfig/healthyPanicThreshold/value",
            json!(50),
        ),
        ("outlierDetection: {}", "/commonLbConfig/healthyPanicThreshold", json!({})),
        ("tls: {mode: DISABLE}", "/transportSocketMatches", Value::Null),
        ("tls: {mode: ISTIO_MUTUAL}", "/transportSocket/name", json!("envoy.transport_sockets.tls")),
        (
            "retryBudget: {percent: 40, minRetryConcurrency: 7}",
            "/circuitBreakers/thresholds/0/retryBudget/minRetryConcurrency",
            json!(7),
        ),
        (
            "loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 9s}}",
            "/roundRobinLbConfig/slowStartConfig/slowStartWindow",
            json!("9s"),
        ),
    ];
    for (policy, pointer, expected) in cases {
        let mesh = Mesh::bookinfo(&format!(
            "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: mesh, namespace: istio-system}}
spec: {{host: '*.local', trafficPolicy: {{{policy}}}}}
"
        ));
        let cluster = mesh.cluster(&sidecar("reviews"), "outbound|9080||details.default.svc.cluster.local");
        let mut found = cluster.pointer(pointer).cloned().unwrap_or_default();
        if let Some(number) = found.as_f64().filter(|number| number.fract() == 0.0) {
            found = json!(number as u64);
        }
        assert_eq!(found, *expected, "{policy} in {cluster:#}");
    }
}

#[test]
fn callers_pin_the_accounts_of_the_service() {
    let mesh = Mesh::bookinfo("");
    let cluster = mesh.cluster(&sidecar("reviews"), "outbound|9080||ratings.default.svc.cluster.local");
    let context = &cluster["transportSocketMatches"][0]["transportSocket"]["typedConfig"]["commonTlsContext"];
    let sans = &context["combinedValidationContext"]["defaultValidationContext"]["matchSubjectAltNames"];
    assert_eq!(*sans, json!([{"exact": "spiffe://cluster.local/ns/default/sa/bookinfo-ratings"}]));
}

/// For each chain of a port: the transport, whether mutual TLS ends there, and its last filter.
fn chains(listener: &Value, port: u64) -> Vec<String> {
    let chains = listener["filterChains"].as_array().cloned().unwrap_or_default();
    chains
        .iter()
        .filter(|chain| chain["filterChainMatch"]["destinationPort"] == json!(port))
        .map(|chain| {
            let transport =
                chain["filterChainMatch"]["transportProtocol"].as_str().unwrap_or("any").to_owned();
            let ends = if chain.get("transportSocket").is_some() { " mtls" } else { "" };
            let last =
                chain["filters"].as_array().and_then(|filters| filters.last()).cloned().unwrap_or_default();
            let last =
                last["name"].as_str().unwrap_or_default().rsplit('.').next().unwrap_or_default().to_owned();
            format!("{transport}{ends} {last}")
        })
        .collect()
}

#[test]
fn peer_authentication_decides_what_a_port_takes() {
    let policy = |namespace: &str, selector: &str, mode: &str, ports: &str| {
        format!(
            "
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: p{}, namespace: {namespace}}}
spec: {{mtls: {{mode: {mode}}}{selector}{ports}}}
",
            selector.len()
        )
    };
    let own = ", selector: {matchLabels: {app: reviews}}";
    let (http, manager) = (9080, "http_connection_manager");
    let permissive = vec![format!("tls mtls {manager}"), format!("raw_buffer {manager}")];
    let strict = vec![format!("tls mtls {manager}")];
    let plain = vec![format!("any {manager}")];
    let cases = [
        (String::new(), &permissive),
        (policy("istio-system", "", "STRICT", ""), &strict),
        (policy("istio-system", "", "STRICT", "") + &policy("default", "", "PERMISSIVE", ""), &permissive),
        (policy("default", "", "STRICT", "") + &policy("default", own, "DISABLE", ""), &plain),
        (policy("default", own, "STRICT", ", portLevelMtls: {9080: {mode: PERMISSIVE}}"), &permissive),
        (policy("default", ", selector: {matchLabels: {app: other}}", "STRICT", ""), &permissive),
    ];
    for (text, expected) in cases {
        let mesh = Mesh::bookinfo(&text);
        assert_eq!(chains(&mesh.listener(&sidecar("reviews"), "virtualInbound"), http), *expected, "{text}");
    }
}

/// Names of listeners, and the hosts of the route configuration of a port.
fn egress(spec: &str) -> (Vec<String>, Vec<String>) {
    let mesh = Mesh::bookinfo(&format!(
        "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: default, namespace: default}}
spec: {{egress: {spec}}}
"
    ));
    let scope = sidecar("productpage");
    let listeners = mesh.json(&scope, ResourceType::Listener).into_keys();
    let listeners = listeners.filter(|name| !name.starts_with("virtual")).collect();
    let routes = mesh.json(&scope, ResourceType::Route);
    let of_port = routes.iter().filter(|(name, _)| name.starts_with("9080"));
    let hosts: Vec<_> =
        of_port.filter_map(|(_, routes)| routes["virtualHosts"].as_array()).flatten().collect();
    let names = hosts
        .iter()
        .filter_map(|host| host["name"].as_str()?.strip_suffix(".default.svc.cluster.local:9080"));
    (listeners, names.map(str::to_owned).collect())
}

#[test]
fn a_sidecar_s_listeners_have_their_own_address_protocol_and_hosts() {
    let reviews = "./reviews.default.svc.cluster.local";
    let mysql = "./mysqldb.default.svc.cluster.local";
    let own = |text: &[&str]| text.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let all = ["details", "productpage", "ratings", "reviews"];
    for (spec, listeners, hosts) in [
        // As the service says.
        (
            format!("[{{hosts: [{mysql}, {reviews}]}}]"),
            &["0.0.0.0_9080", "10.96.100.40_3306"][..],
            &["reviews"][..],
        ),
        (format!("[{{port: {{number: 9080}}, hosts: [{reviews}]}}]"), &["0.0.0.0_9080"], &["reviews"]),
        // At an address of the listener's own, with a port or for every port.
        (
            format!(
                "[{{port: {{number: 3306, protocol: MYSQL, name: db}}, bind: 10.96.100.41, hosts: [{mysql}]}}]"
            ),
            &["10.96.100.41_3306"],
            &[],
        ),
        (
            format!("[{{port: {{number: 9080}}, bind: 10.96.100.41, hosts: [{reviews}]}}]"),
            &["10.96.100.41_9080"],
            &["reviews"],
        ),
        (
            format!("[{{bind: 10.96.100.41, hosts: [{mysql}, {reviews}]}}]"),
            &["10.96.100.41_3306", "10.96.100.41_9080"],
            &["reviews"],
        ),
        (format!("[{{port: {{number: 3306}}, bind: 0.0.0.0, hosts: [{mysql}]}}]"), &["0.0.0.0_3306"], &[]),
        // Of an IP version that the workload does not have.
        (format!("[{{port: {{number: 9080}}, bind: 'fd00::1', hosts: [{reviews}]}}]"), &[], &[]),
        // Another protocol than the service says.
        (
            format!("[{{port: {{number: 9080, protocol: TCP}}, hosts: [{reviews}]}}]"),
            &["10.96.177.211_9080"],
            &[],
        ),
        (format!("[{{port: {{number: 3306, protocol: HTTP}}, hosts: [{mysql}]}}]"), &["0.0.0.0_3306"], &[]),
        // A port with a listener of its own takes nothing else.
        (
            format!("[{{port: {{number: 9080}}, hosts: [{reviews}]}}, {{hosts: ['default/*']}}]"),
            &[],
            &["reviews"],
        ),
        // One with an address of its own leaves the others as they are.
        (
            format!(
                "[{{port: {{number: 9080}}, bind: 10.96.100.41, hosts: [{reviews}]}}, {{hosts: ['default/*']}}]"
            ),
            &[],
            &["details", "productpage", "ratings", "reviews", "reviews"],
        ),
        // A port that the service does not have.
        (format!("[{{port: {{number: 1}}, hosts: [{reviews}]}}]"), &[], &[]),
    ] {
        let (found, routed) = egress(&spec);
        if spec.contains("default/*") {
            assert!(found.contains(&"10.96.100.40_3306".to_owned()), "{spec}: {found:?}");
        } else {
            assert_eq!(found, own(listeners), "{spec}");
        }
        assert_eq!(routed, own(hosts), "{spec}");
    }
    assert_eq!(egress("[{hosts: ['default/*']}]").1, own(&all));
    // Where the protocol is detected, the routes are those of the service that is found there.
    let mut mesh = Mesh::bookinfo(
        "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: default}
spec: {egress: [{bind: 10.96.100.41, hosts: [./plain.default.svc.cluster.local]}]}
",
    );
    mesh.world.apply(vec![upsert(Object::Service(service(
        "default",
        "plain",
        "10.96.100.9",
        &[("", 7000, 7000)],
    )))]);
    let scope = sidecar("productpage");
    let listener = mesh.listener(&scope, "10.96.100.41_7000").to_string();
    let routes = "plain.default.svc.cluster.local:7000";
    assert!(listener.contains(routes), "{listener}");
    assert_eq!(mesh.routes(&scope, routes, routes).len(), 1);
}

#[test]
fn what_comes_in_may_go_to_the_loopback_address() {
    let mut mesh = Mesh::bookinfo("");
    mesh.world.apply(vec![common::mesh("inboundTrafficPolicy: {mode: LOCALHOST}")]);
    let at = |mesh: &Mesh, scope: &Scope| {
        let cluster = mesh.cluster(scope, "inbound|9080||");
        let endpoint = "/loadAssignment/endpoints/0/lbEndpoints/0/endpoint/address/socketAddress";
        assert!(cluster.get("upstreamBindConfig").is_none(), "{cluster:#}");
        (cluster["type"].clone(), cluster.pointer(endpoint).cloned().unwrap_or_default()["address"].clone())
    };
    let six = Scope::new(Facets { ip: translate::IpMode::V6, ..facets("reviews", "v1") });
    assert_eq!(at(&mesh, &sidecar("reviews")), (json!("STATIC"), json!("127.0.0.1")));
    assert_eq!(at(&mesh, &six), (json!("STATIC"), json!("::1")));
    mesh.apply(
        "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: default}
spec: {ingress: [{port: {number: 9080, protocol: HTTP}, defaultEndpoint: '[::]:8080'}]}
",
    );
    assert_eq!(at(&mesh, &sidecar("reviews")), (json!("STATIC"), json!("::1")));
}

#[test]
fn a_gateway_s_server_has_the_mesh_s_tls_unless_it_says_otherwise() {
    for (server, oldest, ciphers) in [
        ("", json!("TLSv1_3"), json!(["ECDHE-RSA-AES128-GCM-SHA256"])),
        (", minProtocolVersion: TLSV1_2", json!("TLSv1_2"), json!(["ECDHE-RSA-AES128-GCM-SHA256"])),
        (", maxProtocolVersion: TLSV1_2", Value::Null, json!(["ECDHE-RSA-AES128-GCM-SHA256"])),
        (
            ", cipherSuites: [ECDHE-ECDSA-AES128-GCM-SHA256]",
            json!("TLSv1_3"),
            json!(["ECDHE-ECDSA-AES128-GCM-SHA256"]),
        ),
    ] {
        let mut mesh = Mesh::bookinfo(&format!(
            "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: g, namespace: istio-system}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: ['*'], tls: {{mode: SIMPLE, credentialName: c{server}}}}}]
"
        ));
        let defaults =
            "tlsDefaults: {minProtocolVersion: TLSV1_3, cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256]}";
        mesh.world.apply(vec![common::mesh(defaults)]);
        let listener = mesh.listener(&ingress(), "0.0.0.0_8443");
        let context = &listener["filterChains"][0]["transportSocket"]["typedConfig"]["commonTlsContext"];
        let parameters = &context["tlsParams"];
        assert_eq!(parameters["tlsMinimumProtocolVersion"], oldest, "{server}");
        assert_eq!(parameters["cipherSuites"], ciphers, "{server}");
    }
}

#[test]
fn a_gateway_s_secret_stays_in_its_namespace() {
    let gateway = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: g, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: SIMPLE, credentialName: cert}}
  - {port: {number: 444, name: other, protocol: HTTPS}, hosts: [b.example.com], tls: {mode: SIMPLE, credentialName: default/cert}}
";
    let mut mesh = Mesh::bookinfo(gateway);
    let secret = |namespace: &str| TlsSecret {
        name: name(namespace, "cert"),
        certificate: Some(Arc::from(*b"CERT")),
        private_key: Some(Sensitive::new(*b"KEY")),
        roots: None,
        revoked: None,
    };
    mesh.world.apply(vec![upsert(Object::Secret(secret("default")))]);
    assert!(mesh.set(&ingress(), ResourceType::Secret).is_empty(), "the gateway runs in istio-system");
    mesh.world.apply(vec![upsert(Object::Secret(secret("istio-system")))]);
    let names = Arc::clone(mesh.set(&ingress(), ResourceType::Secret).names());
    assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["kubernetes://cert"]);
    assert!(mesh.set(&sidecar("reviews"), ResourceType::Secret).is_empty(), "sidecars get none");
}

#[test]
fn a_sidecar_reads_the_secret_of_a_rule_that_chooses_it() {
    const CLUSTER: &str = "outbound|9080||details.default.svc.cluster.local";
    let rule = |mode: &str, selector: &str| {
        let mut mesh = Mesh::bookinfo(&format!(
            "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: details, namespace: default}}
spec:
  host: details
  workloadSelector: {{matchLabels: {{{selector}}}}}
  trafficPolicy: {{tls: {{mode: {mode}, credentialName: client}}}}
"
        ));
        mesh.world.apply(vec![upsert(Object::Secret(TlsSecret {
            name: name("default", "client"),
            certificate: Some(Arc::from(*b"CERT")),
            private_key: Some(Sensitive::new(*b"KEY")),
            roots: Some(Arc::from(*b"ROOTS")),
            revoked: None,
        }))]);
        let told = |app: &str| {
            let socket = mesh.cluster(&sidecar(app), CLUSTER)["transportSocket"]["typedConfig"].clone();
            let common = &socket["commonTlsContext"];
            let certificate = &common["tlsCertificateSdsSecretConfigs"][0]["name"];
            let roots = &common["combinedValidationContext"]["validationContextSdsSecretConfig"]["name"];
            let files = common["tlsCertificates"].is_array();
            let names = Arc::clone(mesh.set(&sidecar(app), ResourceType::Secret).names());
            let names = names.iter().map(|name| name.to_string()).collect::<Vec<_>>().join(" ");
            (certificate.clone(), roots.clone(), files, names)
        };
        (told("reviews"), told("ratings"))
    };
    let nothing = (Value::Null, Value::Null, false, String::new());
    let both = "kubernetes://client kubernetes://client-cacert".to_owned();
    let (certificate, roots) = (json!("kubernetes://client"), json!("kubernetes://client-cacert"));
    let (chosen, other) = rule("MUTUAL", "app: reviews");
    assert_eq!(chosen, (certificate, roots.clone(), false, both.clone()));
    assert_eq!(other, nothing, "no rule is for it");
    assert_eq!(rule("SIMPLE", "app: reviews").0, (Value::Null, roots, false, both));
    assert_eq!(rule("MUTUAL", "").0, nothing, "a rule for everybody gives nobody its key");
}

#[test]
fn locality_decides_priorities_where_a_rule_asks() {
    let rule = |policy: &str| {
        Mesh::bookinfo(&format!(
            "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: reviews, namespace: default}}
spec: {{host: reviews, trafficPolicy: {{{policy}}}}}
"
        ))
    };
    let at =
        |place: &str| Scope::new(Facets { locality: Locality::parse(place), ..facets("productpage", "v1") });
    let of = |mesh: &Mesh, scope: &Scope| -> Vec<(String, u64)> {
        let assignment = mesh.endpoints(scope, "outbound|9080||reviews.default.svc.cluster.local");
        let groups = assignment["endpoints"].as_array().cloned().unwrap_or_default();
        let one = |group: &Value| {
            let region = group["locality"]["region"].as_str().unwrap_or_default().to_owned();
            (region, group["priority"].as_u64().unwrap_or(0))
        };
        groups.iter().map(one).collect()
    };
    let pairs =
        |list: [(&str, u64); 2]| list.map(|(region, priority)| (region.to_owned(), priority)).to_vec();
    let nobody = rule("connectionPool: {}");
    assert_eq!(of(&nobody, &at("r2/z2")), pairs([("r1", 0), ("r2", 0)]));
    let outlier = rule("outlierDetection: {}");
    assert_eq!(of(&outlier, &at("r2/z2")), pairs([("r1", 1), ("r2", 0)]));
    assert_eq!(of(&outlier, &at("r1/z1")), pairs([("r1", 0), ("r2", 1)]));
    let failover = rule("loadBalancer: {localityLbSetting: {failover: [{from: r1, to: r2}]}}");
    assert_eq!(of(&failover, &at("r1/z1")), pairs([("r1", 0), ("r2", 1)]));
    // Nobody says how: the rule asks all the same, and readiness is enough.
    let asked = rule("loadBalancer: {localityLbSetting: {enabled: true}}");
    assert_eq!(of(&asked, &at("r1/z1")), pairs([("r1", 0), ("r2", 1)]));
    let declined = rule("outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: false}}");
    assert_eq!(of(&declined, &at("r1/z1")), pairs([("r1", 0), ("r2", 0)]));
    let elsewhere = rule(
        "outlierDetection: {}, loadBalancer: {localityLbSetting: {distribute: [{from: r9/*, to: {r1/*: 100}}]}}",
    );
    assert_eq!(of(&elsewhere, &at("r1/z1")), pairs([("r1", 0), ("r2", 0)]));
    let shares =
        rule("loadBalancer: {localityLbSetting: {distribute: [{from: r1/*, to: {r1/*: 80, r2/*: 20}}]}}");
    let assignment = shares.endpoints(&at("r1/z1"), "outbound|9080||reviews.default.svc.cluster.local");
    let weights: Vec<_> =
        (0..2).map(|at| assignment["endpoints"][at]["loadBalancingWeight"].clone()).collect();
    assert_eq!(weights, [json!(8000), json!(2000)]);
}

#[test]
fn a_service_for_its_machine_has_the_endpoints_there() {
    let mut mesh = Mesh::bookinfo("");
    let mut local = service("default", "reviews", "10.96.177.211", &[("http", 9080, 9080)]);
    local.node_local = true;
    let mut here = pod("default", "reviews-v1", "10.244.1.16", "reviews", "v1", "r1/z1");
    here.node = Some("machine-1".into());
    mesh.world.apply(vec![upsert(Object::Service(local)), upsert(Object::Pod(here))]);
    let on = |machine: &str| Scope::new(Facets { machine: machine.into(), ..facets("productpage", "v1") });
    let count = |machine: &str| {
        let assignment = mesh.endpoints(&on(machine), "outbound|9080||reviews.default.svc.cluster.local");
        let groups = assignment["endpoints"].as_array().cloned().unwrap_or_default();
        groups.iter().map(|group| group["lbEndpoints"].as_array().map_or(0, Vec::len)).sum::<usize>()
    };
    assert_eq!((count("machine-1"), count("machine-2")), (1, 0));
}

#[test]
fn servers_outside_must_be_who_they_are_asked_for() {
    let origin = |tls: &str| {
        let mesh = Mesh::bookinfo(&format!(
            "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: origin, namespace: default}}
spec:
  hosts: [origin.example.com, '*.wild.example.com']
  location: MESH_EXTERNAL
  resolution: NONE
  ports: [{{number: 80, name: http, protocol: HTTP}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: origin, namespace: default}}
spec: {{host: origin.example.com, trafficPolicy: {{tls: {tls}}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: wild, namespace: default}}
spec: {{host: '*.wild.example.com', trafficPolicy: {{tls: {tls}}}}}
"
        ));
        let of = |host: &str| mesh.cluster(&sidecar("reviews"), &format!("outbound|80||{host}"));
        [of("origin.example.com"), of("*.wild.example.com")]
    };
    let context = |cluster: &Value| cluster["transportSocket"]["typedConfig"].clone();
    let [named, wild] = origin("{mode: SIMPLE}");
    assert_eq!(context(&named)["autoSniSanValidation"], true);
    assert_eq!(context(&named)["sni"], "origin.example.com");
    // A wildcard is no name: the host of each request is.
    assert_eq!((&context(&wild)["autoSniSanValidation"], context(&wild).get("sni")), (&json!(true), None));
    assert!(wild.to_string().contains("\"autoSni\":true") && !named.to_string().contains("\"autoSni\":"));
    let [named, _] = origin("{mode: SIMPLE, subjectAltNames: [other.example.com]}");
    assert_eq!(context(&named).get("autoSniSanValidation"), None);
    let [named, _] = origin("{mode: SIMPLE, insecureSkipVerify: true}");
    assert_eq!(context(&named).get("autoSniSanValidation"), None);
}

#[test]
fn hosts_outside_are_reached_as_declared() {
    let mesh = Mesh::bookinfo(include_str!("bookinfo/more.yaml"));
    let scope = Scope::new(Facets { dns_capture: true, ..facets("reviews", "v1") });
    let origin = mesh.cluster(&scope, "outbound|80||origin.example.com");
    assert_eq!(origin["type"], "LOGICAL_DNS");
    assert_eq!(origin["transportSocket"]["typedConfig"]["sni"], "origin.example.com");
    let address = &origin["loadAssignment"]["endpoints"][0]["lbEndpoints"][0]["endpoint"]["address"];
    assert_eq!(address["socketAddress"], json!({"address": "origin.example.com", "portValue": 443}));
    let wild = mesh.cluster(&scope, "outbound|443||*.wild.example.com");
    assert_eq!((&wild["type"], wild.get("transportSocketMatches")), (&json!("ORIGINAL_DST"), None));
    let names = mesh.json(&scope, ResourceType::NameTable);
    let table = &names["NameTable"]["table"];
    assert_eq!(table["details.default.svc.cluster.local"]["ips"], json!(["10.96.130.117"]));
    assert!(table["origin.example.com"]["ips"][0].as_str().is_some_and(|ip| ip.starts_with("240.")));
}

#[test]
fn the_detected_protocol_of_an_address_has_routes_of_its_own() {
    let mut mesh = Mesh::bookinfo("");
    mesh.world.apply(vec![upsert(Object::Service(service(
        "default",
        "any",
        "10.96.7.7",
        &[("main", 8080, 8080)],
    )))]);
    let listener = mesh.listener(&sidecar("reviews"), "10.96.7.7_8080");
    assert!(filters(&listener).iter().any(|name| name == "envoy.filters.listener.http_inspector"));
    let routes = mesh.one(&sidecar("reviews"), ResourceType::Route, "any.default.svc.cluster.local:8080");
    assert_eq!(routes["virtualHosts"][0]["domains"], json!(["*"]));
}

#[test]
fn logs_follow_telemetry() {
    let telemetry = |text: &str| {
        Mesh::bookinfo(&format!(
            "
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {{name: t, namespace: default}}
spec: {{accessLogging: [{text}]}}
"
        ))
    };
    let logs = |mesh: &Mesh| {
        let text = mesh.listener(&sidecar("reviews"), "virtualInbound").to_string();
        text.contains("envoy.access_loggers.file")
    };
    assert!(logs(&Mesh::bookinfo("")));
    assert!(!logs(&telemetry("{disabled: true}")));
    assert!(logs(&telemetry("{match: {mode: CLIENT}, disabled: true}")));
    assert!(!logs(&telemetry("{match: {mode: SERVER}, disabled: true}")));
}

/// The first one anywhere in a listener.
fn log_format(value: &Value) -> Option<&Value> {
    match value {
        Value::Object(map) => map.get("logFormat").or_else(|| map.values().find_map(log_format)),
        Value::Array(list) => list.iter().find_map(log_format),
        _ => None,
    }
}

#[test]
fn lines_of_a_provider_are_istio_s() {
    let format = |provider: &str| {
        let mut mesh = Mesh::bookinfo("");
        mesh.world.apply(vec![common::mesh(&format!(
            "{{extensionProviders: [{{name: l, envoyFileAccessLog: {{path: /dev/stdout{provider}}}}}], \
             defaultProviders: {{accessLogging: [l]}}}}"
        ))]);
        log_format(&mesh.listener(&sidecar("reviews"), "virtualInbound")).cloned().unwrap_or_default()
    };
    let text =
        |provider: &str| format(provider)["textFormatSource"]["inlineString"].as_str().unwrap().to_owned();
    assert_eq!(
        text(", logFormat: {text: '%PROTOCOL%'}"),
        "%PROTOCOL%\n",
        "lines end, whatever the format says"
    );
    assert!(text("").starts_with("[%START_TIME%]") && text(", logFormat: {text: ''}") == text(""));
    assert_eq!(format(", logFormat: {labels: {a: '%PROTOCOL%'}}")["jsonFormat"], json!({"a": "%PROTOCOL%"}));
    assert_eq!(format(", logFormat: {labels: {}}")["jsonFormat"]["method"], "%REQ(:METHOD)%");
}

/// What the tables above lead to, and every other mesh that they look at.
#[test]
fn a_real_envoy_takes_it_all() {
    common::envoy::taken(&common::looks_of(&[
        routes_say_what_virtual_services_say,
        all_traffic_to_one_of_two_is_a_route_to_that_one,
        clusters_say_what_destination_rules_say,
        callers_pin_the_accounts_of_the_service,
        peer_authentication_decides_what_a_port_takes,
        a_gateway_s_secret_stays_in_its_namespace,
        a_sidecar_reads_the_secret_of_a_rule_that_chooses_it,
        locality_decides_priorities_where_a_rule_asks,
        a_service_for_its_machine_has_the_endpoints_there,
        servers_outside_must_be_who_they_are_asked_for,
        hosts_outside_are_reached_as_declared,
        the_detected_protocol_of_an_address_has_routes_of_its_own,
        logs_follow_telemetry,
        lines_of_a_provider_are_istio_s,
    ]));
}
