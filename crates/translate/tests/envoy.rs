//! A real Envoy takes everything that is made for a proxy without Istio's extensions.

mod common;

use common::envoy::{refused, taken};
use common::{Look, Mesh, RESOURCES, ingress, resources, service, stock, upsert};
use model::{Object, TlsSecret};
use serde_json::json;
use translate::{Facets, Scope};

#[test]
fn bookinfo_is_taken() {
    let mesh = Mesh::bookinfo(RESOURCES);
    let router = Scope::new(Facets { extensions: false, ..ingress().facets().clone() });
    let mut looks: Vec<_> =
        ["reviews", "ratings", "mysqldb", "productpage"].map(|app| mesh.look(&stock(app))).into();
    looks.push(mesh.look(&router));
    taken(&looks);
}

#[test]
fn everything_else_is_taken() {
    let mut mesh = Mesh::bookinfo(RESOURCES);
    let mut headless = service("default", "nosql", "", &[("tcp-x", 7000, 7000), ("http", 7001, 7001)]);
    headless.headless = true;
    mesh.world.apply(vec![
        upsert(Object::Service(service(
            "default",
            "plain",
            "10.96.9.9",
            &[("main", 8080, 8080), ("grpc", 8081, 8081)],
        ))),
        upsert(Object::Service(headless)),
        upsert(Object::Secret(TlsSecret {
            name: common::name("istio-system", "mutual"),
            certificate: None,
            private_key: None,
            roots: None,
            revoked: None,
        })),
    ]);
    mesh.world.apply(resources(include_str!("bookinfo/more.yaml")));
    let router = Scope::new(Facets { extensions: false, ..ingress().facets().clone() });
    let dual = Scope::new(Facets {
        ip: translate::IpMode::Dual,
        dns_capture: true,
        ..stock("plain").facets().clone()
    });
    taken(&[stock("plain"), dual, router].map(|scope| mesh.look(&scope)));
}

/// What `api` has of every kind.
#[test]
fn every_kind_is_taken() {
    let mut mesh = Mesh::bookinfo("");
    let everything = include_str!("../../api/tests/data/everything.yaml");
    mesh.world.apply(vec![common::mesh(common::MESH)]);
    // Envoy would read the files.
    let files = "serverCertificate: /etc/c.pem, privateKey: /etc/k.pem, caCertificates: /etc/ca.pem";
    assert!(everything.contains(files));
    mesh.world.apply(resources(&everything.replace(files, "credentialName: mutual")));
    let edge =
        Scope::new(Facets { namespace: "edge".into(), extensions: false, ..ingress().facets().clone() });
    let mut looks: Vec<_> =
        ["productpage", "reviews", "ratings", "mysqldb"].map(|app| mesh.look(&stock(app))).into();
    looks.push(mesh.look(&edge));
    taken(&looks);
}

/// Those that are there, and one that is not.
#[test]
fn external_authorizers_are_taken() {
    let service = "service: ratings.default.svc.cluster.local, port: 9080";
    let body = "{maxRequestBytes: 100, allowPartialMessage: true, packAsBytes: true}";
    let providers = format!(
        "extensionProviders:\n\
         - {{name: http, envoyExtAuthzHttp: {{{service}}}}}\n\
         - {{name: full, envoyExtAuthzHttp: {{{service}, timeout: 1s, pathPrefix: /a, failOpen: true, \
         clearRouteCache: true, statusOnError: '503', includeHeadersInCheck: [x-a], \
         includeRequestHeadersInCheck: ['x-*', '*-y'], includeAdditionalHeadersInCheck: {{x-b: '%PROTOCOL%'}}, \
         includeRequestBodyInCheck: {body}, headersToUpstreamOnAllow: [x-c], headersToDownstreamOnDeny: [x-d], \
         headersToDownstreamOnAllow: [x-e]}}}}\n\
         - {{name: grpc, envoyExtAuthzGrpc: {{{service}}}}}\n\
         - {{name: more, envoyExtAuthzGrpc: {{default/{service}, timeout: 1s, failOpen: true, clearRouteCache: true, \
         statusOnError: '503', includeRequestBodyInCheck: {body}}}}}\n"
    )
    .replace("{default/service: ", "{service: default/");
    let mut mesh = Mesh::bookinfo(RESOURCES);
    mesh.world.apply(vec![common::mesh(&providers)]);
    for provider in ["http", "full", "grpc", "more", "gone"] {
        mesh.apply(&format!(
            "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {provider}, namespace: istio-system}}
spec: {{action: CUSTOM, provider: {{name: {provider}}}, rules: [{{to: [{{operation: {{paths: [/a]}}}}]}}, {{to: [{{operation: {{ports: ['3306']}}}}]}}]}}
"
        ));
    }
    let router = Scope::new(Facets { extensions: false, ..ingress().facets().clone() });
    let looks = [stock("reviews"), stock("mysqldb"), router].map(|scope| mesh.look(&scope));
    let said = mesh.listener(&stock("reviews"), "virtualInbound").to_string();
    let pairs = said.matches("envoy.filters.http.ext_authz\"").count();
    assert!(
        pairs >= 4 && said.contains("istio-ext-authz-gone-ns[istio-system]-policy[gone]-rule[0]-deny"),
        "{said}"
    );
    taken(&looks);
}

/// Each beside a Telemetry that uses its providers.
#[test]
fn mesh_configs_are_taken() {
    let zipkin = "{name: z, zipkin: {service: zipkin.tracing.svc.cluster.local, port: 9411";
    let otlp = "{name: z, opentelemetry: {service: zipkin.tracing.svc.cluster.local, port: 9411";
    let file = "{name: l, envoyFileAccessLog: {path: /dev/stdout";
    let als = "{name: l, envoyHttpAls: {service: zipkin.tracing.svc.cluster.local, port: 9411";
    let tcp_als = "{name: l, envoyTcpAls: {service: zipkin.tracing.svc.cluster.local, port: 9411";
    let otel_als = "{name: l, envoyOtelAls: {service: zipkin.tracing.svc.cluster.local, port: 9411";
    let telemetry = "
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: t, namespace: istio-system}
spec:
  tracing: [{providers: [{name: z}], randomSamplingPercentage: 12.5, customTags: {a: {literal: {value: b}}, f: {formatter: {value: '%REQ(x-a?:PATH)%'}}, h: {header: {name: x-b}}, e: {environment: {name: HOME}}}}]
  accessLogging: [{providers: [{name: l}, {name: envoy}], filter: {expression: \"response.code >= 400 && !(request.headers['x'] in ['a', 'b'])\"}}]
";
    let cases = [
        "accessLogFile: /dev/stdout".to_owned(),
        "{accessLogFile: /dev/stdout, accessLogEncoding: JSON}".into(),
        "{accessLogFile: /dev/stderr, accessLogFormat: '%START_TIME(%s.%3f)% %REQ(:METHOD?x-a):4% 100%%'}".into(),
        json!({"accessLogFile": "/dev/stdout", "accessLogEncoding": "JSON",
            "accessLogFormat": r#"{"a": "%DURATION% ms", "b": {"c": ["%PROTOCOL%", 1, true]}, "d": "%REQ(X)%"}"#})
        .to_string(),
        format!("extensionProviders: [{file}}}}}]"),
        format!("extensionProviders: [{file}, logFormat: {{text: '%RESPONSE_FLAGS_LONG%'}}, omitEmptyValues: true}}}}]"),
        format!("extensionProviders: [{file}, logFormat: {{labels: {{a: '%GRPC_STATUS(NUMBER)%', b: {{c: x}}}}}}}}}}]"),
        format!(
            "extensionProviders: [{als}, additionalRequestHeadersToLog: [x-a], additionalResponseHeadersToLog: [x-b], \
             additionalResponseTrailersToLog: [x-c]}}}}]"
        ),
        format!("extensionProviders: [{tcp_als}, logName: own}}}}]"),
        format!("extensionProviders: [{otel_als}}}}}]"),
        format!(
            "extensionProviders: [{otel_als}, logName: own, logFormat: {{text: '%REQ_WITHOUT_QUERY(X?Y)%', labels: \
             {{a: '%PROTOCOL%', b: {{c: ['%DURATION% ms']}}}}}}}}}}]"
        ),
        format!("extensionProviders: [{zipkin}}}}}]"),
        format!(
            "extensionProviders: [{zipkin}, maxTagLength: 9, enable64bitTraceId: true, path: /x, timeout: 1s, \
             traceContextOption: USE_B3_WITH_W3C_PROPAGATION, headers: [{{name: x-a, value: '100%'}}]}}}}]"
        ),
        format!("extensionProviders: [{otlp}}}}}]"),
        format!("extensionProviders: [{otlp}, grpc: {{timeout: 2s, initialMetadata: [{{name: x-a, value: '5%'}}]}}}}}}]"),
        format!(
            "extensionProviders: [{otlp}, http: {{path: /v1/traces, timeout: 2s, headers: [{{name: x-a, value: b}}]}}}}}}]"
        ),
        format!("{{extensionProviders: [{zipkin}}}}}], defaultProviders: {{tracing: [z], metrics: [prometheus]}}}}"),
        "{enableTracing: true, defaultConfig: {tracing: {sampling: 5, maxPathTagLength: 64, zipkin: {address: \
         'zipkin.tracing:9411'}, customTags: {a: {literal: {value: b}}}}}}"
            .into(),
        "{outboundTrafficPolicy: {mode: REGISTRY_ONLY}, enableAutoMtls: false, h2UpgradePolicy: UPGRADE}".into(),
        "{connectTimeout: 3s, protocolDetectionTimeout: 100ms, tcpKeepalive: {probes: 2, time: 10s, interval: 1s}, \
         defaultHttpRetryPolicy: {attempts: 4, retryOn: '5xx,503'}, dnsRefreshRate: 9s}"
            .into(),
        "{meshMTLS: {minProtocolVersion: TLSV1_3}, pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}, \
         trustDomain: a.example, trustDomainAliases: [b.example], inboundTrafficPolicy: {mode: LOCALHOST}}"
            .into(),
        "{defaultTrafficPolicy: {connectionPool: {http: {http1MaxPendingRequests: 5}, tcp: {maxConnections: 6}}, \
         outlierDetection: {consecutive5xxErrors: 3}}, localityLbSetting: {enabled: true}}"
            .into(),
        "{defaultConfig: {gatewayTopology: {numTrustedProxies: 2, forwardClientCertDetails: APPEND_FORWARD}, \
         tracingServiceName: CANONICAL_NAME_ONLY, meshId: m}}"
            .into(),
    ];
    let mut looks = Vec::new();
    for case in cases {
        for text in ["", telemetry] {
            let mut mesh = Mesh::bookinfo(RESOURCES);
            mesh.world.apply(vec![common::mesh(&case)]);
            mesh.apply(text);
            let router = Scope::new(Facets { extensions: false, ..ingress().facets().clone() });
            looks.extend([stock("reviews"), stock("mysqldb"), router].map(|scope| mesh.look(&scope)));
        }
    }
    taken(&looks);
}

/// Lines of logs with a format, and headers and tags where it may stand there.
fn formatted(format: &str) -> Look {
    let zipkin =
        json!({"name": "z", "zipkin": {"service": "zipkin.tracing.svc.cluster.local", "port": 9411}});
    let config = json!({"accessLogFile": "/dev/stdout", "accessLogFormat": format,
        "extensionProviders": [zipkin], "defaultProviders": {"tracing": ["z"]}});
    let mut mesh = Mesh::bookinfo("");
    mesh.world.apply(vec![common::mesh(&config.to_string())]);
    if !syntax::format::is_for_logs(format) {
        let headers = json!({"request": {"set": {"x": format}}, "response": {"add": {"y": format}}});
        let object = |kind: api::Kind, spec: serde_json::Value| {
            let object = json!({"apiVersion": kind.info().api_version(), "kind": kind.info().name,
                "metadata": {"name": "x", "namespace": "default"}, "spec": spec});
            assert_eq!(api::validate(kind, &object).errors, []);
            object.to_string()
        };
        let route = json!({"headers": headers, "route": [{"destination": {"host": "details"}}]});
        mesh.apply(&object(api::Kind::VirtualService, json!({"hosts": ["details"], "http": [route]})));
        mesh.apply(&object(
            api::Kind::Telemetry,
            json!({"tracing": [{"customTags": {"x": {"formatter": {"value": format}}}}]}),
        ));
    }
    mesh.look(&stock("reviews"))
}

/// Every operator that is accepted here is one of Envoy's.
#[test]
fn every_operator_is_envoy_s() {
    let arguments = [
        ("REQ", "(x-a?:path):3"),
        ("RESP", "(x-a)"),
        ("TRAILER", "(x-a?x-b):3"),
        ("REQ_WITHOUT_QUERY", "(:path)"),
        ("PATH", "(NQ:ORIG)"),
        ("QUERY_PARAM", "(a)"),
        ("START_TIME", "(%F %T.%3f)"),
        ("START_TIME_LOCAL", "(%s)"),
        ("DOWNSTREAM_PEER_CERT_V_START", "(%Y)"),
        ("DOWNSTREAM_PEER_CERT_V_END", "(%Y)"),
        ("DYNAMIC_METADATA", "(a:b:c):5"),
        ("FILTER_STATE", "(a:PLAIN):5"),
        ("UPSTREAM_FILTER_STATE", "(a:TYPED)"),
        ("GRPC_STATUS", "(SNAKE_STRING)"),
        ("COMMON_DURATION", "(DS_RX_BEG:US_RX_END:us)"),
    ];
    let one = |name: &str| {
        let argument =
            arguments.iter().find(|(known, _)| *known == name).map_or("", |(_, argument)| argument);
        format!("%{name}{argument}%")
    };
    let all: Vec<String> = syntax::format::names().map(|name| one(&name)).collect();
    let (for_logs, others): (Vec<_>, Vec<_>) =
        all.iter().cloned().partition(|format| syntax::format::is_for_logs(format));
    let together = [formatted(&for_logs.concat()), formatted(&others.join(" "))];
    let Some(said) = refused(&together) else { return };
    let wrong: Vec<_> =
        all.iter().filter_map(|format| Some((format, refused(&[formatted(format)])?))).collect();
    panic!("{said}: {wrong:#?}");
}

/// Regular expressions that are accepted here are RE2's.
#[test]
fn regexes_are_envoy_s() {
    let all = [
        "/v[0-9]+/.*",
        "(a{9}|b){9}",
        "(?i)a(?:b)(?P<n>c)(?<m>d)(?s-i:.)",
        "a*?b+?c??d{2,3}?",
        "[]a-z[:digit:]-]",
        r"[\[\]&-]",
        r"\bword\b",
        "(a|b{2})?c",
        "a{0}",
        r"\d{3}-\d{4}",
        r"\p{Greek}",
        r"\A\z",
        r"\x{61}",
        "é",
        r"a\/\%\-b",
        "[^/]{90}",
    ];
    let routes: Vec<_> = all
        .iter()
        .map(|regex| {
            json!({"match": [{"uri": {"regex": regex}}, {"headers": {"x": {"regex": regex}}}],
            "rewrite": {"uriRegexRewrite": {"match": regex, "rewrite": r"\0\\"}},
            "route": [{"destination": {"host": "details"}}]})
        })
        .collect();
    let service = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "x", "namespace": "default"}, "spec": {"hosts": ["details"], "http": routes}});
    assert_eq!(api::validate(api::Kind::VirtualService, &service).errors, []);
    let mesh = Mesh::bookinfo(&service.to_string());
    taken(&[mesh.look(&stock("reviews"))]);
}
