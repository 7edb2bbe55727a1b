//! Nothing that is accepted is ignored in silence: every field of MeshConfig that is called honoured changes what a
//! proxy is told, or is read in a place that is named here; so does everything that a policy may ask about.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::support::{Row, Support, table};
use common::{Mesh, facets, ingress, labels, pod, service, sidecar, slice, stock, upsert};
use model::{Change, Namespace, Object};
use proto::ResourceType;
use serde_json::{Value, json};
use translate::{Facets, ResourceSet, Scope};

const TYPES: [ResourceType; 6] = [
    ResourceType::Cluster,
    ResourceType::Endpoint,
    ResourceType::Listener,
    ResourceType::Route,
    ResourceType::Secret,
    ResourceType::NameTable,
];

/// What is there whichever field is tried: something for each of them to act on.
const RESOURCES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: default}
spec: {hosts: [api.example.com], resolution: DNS, location: MESH_EXTERNAL, ports: [{number: 443, name: tls, protocol: TLS}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: outside, namespace: default}
spec: {host: api.example.com, trafficPolicy: {tls: {mode: SIMPLE}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: zipkin, namespace: tracing}
spec: {host: zipkin.tracing.svc.cluster.local, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: zipkin, namespace: tracing}
spec: {hosts: [zipkin.tracing.svc.cluster.local], http: [{timeout: 3s, route: [{destination: {host: zipkin}}]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: tracing}
spec: {mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: cert}}]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: named, namespace: tracing}
spec: {tracing: [{providers: [{name: named}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: asked, namespace: default}
spec:
  selector: {matchLabels: {app: reviews}}
  action: CUSTOM
  provider: {name: authz}
  rules: [{to: [{operation: {paths: [/asked]}}]}]
";

fn world() -> Vec<Change> {
    let mut changes = common::bookinfo();
    let mut add = |object| changes.push(upsert(object));
    add(Object::Service(service("tracing", "otel", "10.96.30.31", &[("grpc", 4317, 4317)])));
    add(Object::Service(service("tracing", "job", "10.96.30.32", &[("grpc", 7000, 7000)])));
    for (name, team) in [("default", "a"), ("istio-system", "a"), ("tracing", "b")] {
        let labels = Arc::new(labels(&[("team", team)]));
        add(Object::Namespace(Namespace { name: name.into(), labels }));
    }
    // One more region, and one more cluster.
    let far =
        [("ratings-v1", "10.244.1.14"), ("ratings-v1.b", "10.244.1.15"), ("ratings-far", "10.244.1.25")];
    add(Object::Pod(pod("default", "ratings-far", far[2].1, "ratings", "v1", "r3/z3")));
    add(Object::Slice(slice("default", "ratings", &far, &[("http", 9080)])));
    let other = [("details-other", "10.245.0.1")];
    let elsewhere = [
        Object::Service(service("default", "details", "10.97.0.1", &[("http", 9080, 9080)])),
        Object::Pod(pod("default", "details-other", other[0].1, "details", "v1", "r2/z2")),
        Object::Slice(slice("default", "details", &other, &[("http", 9080)])),
    ];
    changes.extend(elsewhere.map(|object| Change::upsert("other", object)));
    changes.extend(common::resources(RESOURCES));
    changes
}

fn scopes() -> Vec<Scope> {
    let tracing = Facets { namespace: "tracing".into(), ..facets("job", "v1") };
    vec![sidecar("reviews"), stock("mysqldb"), ingress(), Scope::new(tracing)]
}

/// Everything that those scopes are told in a mesh with these settings.
fn told(world: &[Change], config: &str) -> Vec<Arc<ResourceSet>> {
    let mut mesh = Mesh::empty();
    mesh.world.apply(world.to_vec());
    mesh.world.apply(vec![common::mesh(config)]);
    let mut all = Vec::new();
    for scope in scopes() {
        for of in TYPES {
            let set = mesh.set(&scope, of);
            if scope.facets().extensions && of != ResourceType::NameTable {
                // Our own proxy takes all of it.
                let changed = set.iter().cloned().collect();
                let delta = proto::Delta { resource_type: of, changed, removed: Vec::new() };
                let (_, rejections) = decide::Plan::new().apply(&delta);
                assert!(rejections.is_empty(), "{config}: {rejections:#?}");
            }
            all.push(set);
        }
    }
    all
}

fn leaves() -> Vec<String> {
    let rows: Vec<Row> = table().into_iter().filter(|row| row.kind == "MeshConfig").collect();
    let is_leaf = |path: &str| {
        let below =
            |other: &str| other.strip_prefix(path).is_some_and(|rest| rest.starts_with(['.', '[', '{']));
        !rows.iter().any(|row| below(&row.path))
    };
    let honoured = rows.iter().filter(|row| row.support == Support::Honoured);
    honoured.map(|row| row.path.clone()).filter(|path| is_leaf(path)).collect()
}

/// Read elsewhere than in translation, each with the place.
const READ_ELSEWHERE: [(&str, &str); 4] = [
    ("defaultConfig.concurrency", "cli::workload::settings"),
    ("defaultConfig.terminationDrainDuration", "cli::workload::settings"),
    // What every workload does; false is refused.
    ("defaultConfig.holdApplicationUntilProxyStarts", "cli::workload::Running::prepare"),
    // What every workload does; other values are refused.
    ("defaultConfig.interceptionMode", "agent::capture"),
];

const ZIPKIN: &str = "extensionProviders: [{name: z, zipkin: {service: zipkin.tracing.svc.cluster.local, port: 9411%}}], \
                      defaultProviders: {tracing: [z]}";
const OTLP: &str = "extensionProviders: [{name: o, opentelemetry: {service: otel.tracing.svc.cluster.local, port: 4317%}}], \
                    defaultProviders: {tracing: [o]}";
const OWN_ZIPKIN: &str = "defaultConfig: {tracing: {zipkin: {address: 'zipkin.tracing:9411'}%}}";
const AUTHZ_HTTP: &str = "extensionProviders: [{name: authz, envoyExtAuthzHttp: {service: otel.tracing.svc.cluster.local, port: 4317%}}]";
const AUTHZ_GRPC: &str = "extensionProviders: [{name: authz, envoyExtAuthzGrpc: {service: otel.tracing.svc.cluster.local, port: 4317%}}]";
const LOG: &str = "extensionProviders: [{name: f, envoyFileAccessLog: {path: /dev/stdout%}}], \
                   defaultProviders: {accessLogging: [f]}";
const HTTP_ALS: &str = "extensionProviders: [{name: l, envoyHttpAls: {service: otel.tracing.svc.cluster.local, port: 4317%}}], \
                        defaultProviders: {accessLogging: [l]}";
const TCP_ALS: &str = "extensionProviders: [{name: l, envoyTcpAls: {service: otel.tracing.svc.cluster.local, port: 4317%}}], \
                       defaultProviders: {accessLogging: [l]}";
const OTEL_ALS: &str = "extensionProviders: [{name: l, envoyOtelAls: {service: otel.tracing.svc.cluster.local, port: 4317%}}], \
                        defaultProviders: {accessLogging: [l]}";
const POOL_TCP: &str = "defaultTrafficPolicy: {connectionPool: {tcp: {%}}}";
const POOL_HTTP: &str = "defaultTrafficPolicy: {connectionPool: {http: {%}}}";
const OUTLIERS: &str = "defaultTrafficPolicy: {outlierDetection: {splitExternalLocalOriginErrors: true%}}";
const EXPRESSION: &str = "discoverySelectors: [{matchExpressions: [{%}]}]";

/// The field, what stands around it, and what stands in the place of `%` without and with it.
const CASES: &[(&str, &str, &str, &str)] = &[
    ("connectTimeout", "%", "", "connectTimeout: 3s"),
    ("protocolDetectionTimeout", "%", "", "protocolDetectionTimeout: 5s"),
    ("tcpKeepalive.probes", "tcpKeepalive: {%}", "", "probes: 3"),
    ("tcpKeepalive.time", "tcpKeepalive: {%}", "", "time: 10s"),
    ("tcpKeepalive.interval", "tcpKeepalive: {%}", "", "interval: 10s"),
    (
        "enableTracing",
        "defaultConfig: {tracing: {zipkin: {address: 'zipkin.tracing:9411'}}}%",
        "",
        ", enableTracing: false",
    ),
    ("accessLogFile", "%", "", "accessLogFile: /dev/stdout"),
    ("accessLogFormat", "accessLogFile: /dev/stdout%", "", ", accessLogFormat: '%PROTOCOL%'"),
    ("accessLogEncoding", "accessLogFile: /dev/stdout%", "", ", accessLogEncoding: JSON"),
    (
        "defaultConfig.tracingServiceName",
        "defaultConfig: {%}, extensionProviders: [{name: o, opentelemetry: {service: otel.tracing.svc.cluster.local, \
         port: 4317}}], defaultProviders: {tracing: [o]}",
        "",
        "tracingServiceName: CANONICAL_NAME_ONLY",
    ),
    (
        "defaultConfig.tracing.zipkin.address",
        "%",
        "",
        "defaultConfig: {tracing: {zipkin: {address: 'zipkin.tracing:9411'}}}",
    ),
    (
        "defaultConfig.tracing.customTags{}.literal.value",
        OWN_ZIPKIN,
        "",
        ", customTags: {x: {literal: {value: a}}}",
    ),
    (
        "defaultConfig.tracing.customTags{}.environment.name",
        OWN_ZIPKIN,
        "",
        ", customTags: {x: {environment: {name: A}}}",
    ),
    (
        "defaultConfig.tracing.customTags{}.environment.defaultValue",
        OWN_ZIPKIN,
        ", customTags: {x: {environment: {name: A}}}",
        ", customTags: {x: {environment: {name: A, defaultValue: b}}}",
    ),
    (
        "defaultConfig.tracing.customTags{}.header.name",
        OWN_ZIPKIN,
        "",
        ", customTags: {x: {header: {name: a}}}",
    ),
    (
        "defaultConfig.tracing.customTags{}.header.defaultValue",
        OWN_ZIPKIN,
        ", customTags: {x: {header: {name: a}}}",
        ", customTags: {x: {header: {name: a, defaultValue: b}}}",
    ),
    (
        "defaultConfig.tracing.customTags{}.formatter.value",
        OWN_ZIPKIN,
        "",
        ", customTags: {x: {formatter: {value: '%PROTOCOL%'}}}",
    ),
    ("defaultConfig.tracing.maxPathTagLength", OWN_ZIPKIN, "", ", maxPathTagLength: 100"),
    ("defaultConfig.tracing.sampling", OWN_ZIPKIN, "", ", sampling: 50"),
    ("defaultConfig.tracing.enableIstioTags", OWN_ZIPKIN, "", ", enableIstioTags: false"),
    (
        "defaultConfig.gatewayTopology.numTrustedProxies",
        "%",
        "",
        "defaultConfig: {gatewayTopology: {numTrustedProxies: 2}}",
    ),
    (
        "defaultConfig.gatewayTopology.forwardClientCertDetails",
        "%",
        "",
        "defaultConfig: {gatewayTopology: {forwardClientCertDetails: SANITIZE}}",
    ),
    (
        "defaultConfig.meshId",
        "defaultConfig: {tracing: {zipkin: {address: 'zipkin.tracing:9411'}}%}",
        "",
        ", meshId: own",
    ),
    ("outboundTrafficPolicy.mode", "%", "", "outboundTrafficPolicy: {mode: REGISTRY_ONLY}"),
    ("inboundTrafficPolicy.mode", "%", "", "inboundTrafficPolicy: {mode: LOCALHOST}"),
    ("enableAutoMtls", "%", "", "enableAutoMtls: false"),
    ("trustDomain", "%", "", "trustDomain: example.org"),
    ("trustDomainAliases", "%", "", "trustDomainAliases: [old.example.org]"),
    ("defaultServiceExportTo", "%", "", "defaultServiceExportTo: ['.']"),
    ("defaultVirtualServiceExportTo", "%", "", "defaultVirtualServiceExportTo: ['.']"),
    ("defaultDestinationRuleExportTo", "%", "", "defaultDestinationRuleExportTo: ['.']"),
    ("rootNamespace", "%", "", "rootNamespace: tracing"),
    (
        "localityLbSetting.distribute[].from",
        "localityLbSetting: {distribute: [{from: %, to: {'r1/*': 100}}]}",
        "r1/*",
        "r2/*",
    ),
    (
        "localityLbSetting.distribute[].to",
        "localityLbSetting: {distribute: [{from: r2/*, to: {%: 100}}]}",
        "'r1/*'",
        "'r3/*'",
    ),
    ("localityLbSetting.failover[].from", "localityLbSetting: {failover: [{from: %, to: r3}]}", "r9", "r2"),
    ("localityLbSetting.failover[].to", "localityLbSetting: {failover: [{from: r2, to: %}]}", "r9", "r3"),
    ("localityLbSetting.failoverPriority", "%", "", "localityLbSetting: {failoverPriority: [version]}"),
    (
        "localityLbSetting.enabled",
        "localityLbSetting: {failover: [{from: r2, to: r1}]%}",
        "",
        ", enabled: false",
    ),
    ("dnsRefreshRate", "%", "", "dnsRefreshRate: 7s"),
    ("h2UpgradePolicy", "%", "", "h2UpgradePolicy: UPGRADE"),
    (
        "serviceSettings[].settings.clusterLocal",
        "serviceSettings: [{hosts: ['*.default.svc.cluster.local']%}]",
        "",
        ", settings: {clusterLocal: true}",
    ),
    (
        "serviceSettings[].hosts",
        "serviceSettings: [{settings: {clusterLocal: true}, hosts: [%]}]",
        "nothing.example.com",
        "details.default.svc.cluster.local",
    ),
    (
        "extensionProviders[].name",
        "extensionProviders: [{name: %, zipkin: {service: zipkin.tracing.svc.cluster.local, port: 9411}}]",
        "other",
        "named",
    ),
    (
        "extensionProviders[].zipkin.service",
        "extensionProviders: [{name: z, zipkin: {service: %, port: 9411}}], defaultProviders: {tracing: [z]}",
        "nothing.example.com",
        "zipkin.tracing.svc.cluster.local",
    ),
    (
        "extensionProviders[].zipkin.port",
        "extensionProviders: [{name: z, zipkin: {service: zipkin.tracing.svc.cluster.local, port: %}}], \
         defaultProviders: {tracing: [z]}",
        "1",
        "9411",
    ),
    ("extensionProviders[].zipkin.maxTagLength", ZIPKIN, "", ", maxTagLength: 100"),
    ("extensionProviders[].zipkin.enable64bitTraceId", ZIPKIN, "", ", enable64bitTraceId: true"),
    ("extensionProviders[].zipkin.path", ZIPKIN, "", ", path: /spans"),
    (
        "extensionProviders[].zipkin.traceContextOption",
        ZIPKIN,
        "",
        ", traceContextOption: USE_B3_WITH_W3C_PROPAGATION",
    ),
    ("extensionProviders[].zipkin.timeout", ZIPKIN, "", ", timeout: 3s"),
    ("extensionProviders[].zipkin.headers[].name", ZIPKIN, "", ", headers: [{name: a, value: b}]"),
    (
        "extensionProviders[].zipkin.headers[].value",
        ZIPKIN,
        ", headers: [{name: a, value: b}]",
        ", headers: [{name: a, value: c}]",
    ),
    (
        "extensionProviders[].opentelemetry.service",
        "extensionProviders: [{name: o, opentelemetry: {service: %, port: 4317}}], defaultProviders: {tracing: [o]}",
        "nothing.example.com",
        "otel.tracing.svc.cluster.local",
    ),
    (
        "extensionProviders[].opentelemetry.port",
        "extensionProviders: [{name: o, opentelemetry: {service: otel.tracing.svc.cluster.local, port: %}}], \
         defaultProviders: {tracing: [o]}",
        "1",
        "4317",
    ),
    ("extensionProviders[].opentelemetry.maxTagLength", OTLP, "", ", maxTagLength: 100"),
    ("extensionProviders[].opentelemetry.http.path", OTLP, ", http: {path: /a}", ", http: {path: /b}"),
    (
        "extensionProviders[].opentelemetry.http.timeout",
        OTLP,
        ", http: {path: /a}",
        ", http: {path: /a, timeout: 3s}",
    ),
    (
        "extensionProviders[].opentelemetry.http.headers[].name",
        OTLP,
        ", http: {path: /a}",
        ", http: {path: /a, headers: [{name: a, value: b}]}",
    ),
    (
        "extensionProviders[].opentelemetry.http.headers[].value",
        OTLP,
        ", http: {path: /a, headers: [{name: a, value: b}]}",
        ", http: {path: /a, headers: [{name: a, value: c}]}",
    ),
    ("extensionProviders[].opentelemetry.grpc.timeout", OTLP, "", ", grpc: {timeout: 3s}"),
    (
        "extensionProviders[].opentelemetry.grpc.initialMetadata[].name",
        OTLP,
        "",
        ", grpc: {initialMetadata: [{name: a, value: b}]}",
    ),
    (
        "extensionProviders[].opentelemetry.grpc.initialMetadata[].value",
        OTLP,
        ", grpc: {initialMetadata: [{name: a, value: b}]}",
        ", grpc: {initialMetadata: [{name: a, value: c}]}",
    ),
    (
        "extensionProviders[].prometheus",
        "extensionProviders: [{name: p, %}], defaultProviders: {metrics: [p]}",
        "envoyFileAccessLog: {path: /dev/stdout}",
        "prometheus: {}",
    ),
    (
        "extensionProviders[].envoyFileAccessLog.path",
        "extensionProviders: [{name: f, envoyFileAccessLog: {path: %}}], defaultProviders: {accessLogging: [f]}",
        "/dev/stdout",
        "/dev/stderr",
    ),
    ("extensionProviders[].envoyFileAccessLog.logFormat.text", LOG, "", ", logFormat: {text: '%PROTOCOL%'}"),
    (
        "extensionProviders[].envoyFileAccessLog.logFormat.labels",
        LOG,
        "",
        ", logFormat: {labels: {a: '%PROTOCOL%'}}",
    ),
    (
        "extensionProviders[].envoyHttpAls.service",
        "extensionProviders: [{name: l, envoyHttpAls: {service: %, port: 4317}}], defaultProviders: {accessLogging: [l]}",
        "nothing.example.com",
        "otel.tracing.svc.cluster.local",
    ),
    (
        "extensionProviders[].envoyHttpAls.port",
        "extensionProviders: [{name: l, envoyHttpAls: {service: otel.tracing.svc.cluster.local, port: %}}], \
         defaultProviders: {accessLogging: [l]}",
        "1",
        "4317",
    ),
    (
        "extensionProviders[].envoyTcpAls.service",
        "extensionProviders: [{name: l, envoyTcpAls: {service: %, port: 4317}}], defaultProviders: {accessLogging: [l]}",
        "nothing.example.com",
        "otel.tracing.svc.cluster.local",
    ),
    (
        "extensionProviders[].envoyTcpAls.port",
        "extensionProviders: [{name: l, envoyTcpAls: {service: otel.tracing.svc.cluster.local, port: %}}], \
         defaultProviders: {accessLogging: [l]}",
        "1",
        "4317",
    ),
    (
        "extensionProviders[].envoyOtelAls.service",
        "extensionProviders: [{name: l, envoyOtelAls: {service: %, port: 4317}}], defaultProviders: {accessLogging: [l]}",
        "nothing.example.com",
        "otel.tracing.svc.cluster.local",
    ),
    (
        "extensionProviders[].envoyOtelAls.port",
        "extensionProviders: [{name: l, envoyOtelAls: {service: otel.tracing.svc.cluster.local, port: %}}], \
         defaultProviders: {accessLogging: [l]}",
        "1",
        "4317",
    ),
    ("extensionProviders[].envoyHttpAls.logName", HTTP_ALS, "", ", logName: a"),
    (
        "extensionProviders[].envoyHttpAls.additionalRequestHeadersToLog",
        HTTP_ALS,
        "",
        ", additionalRequestHeadersToLog: [a]",
    ),
    (
        "extensionProviders[].envoyHttpAls.additionalResponseHeadersToLog",
        HTTP_ALS,
        "",
        ", additionalResponseHeadersToLog: [a]",
    ),
    (
        "extensionProviders[].envoyHttpAls.additionalResponseTrailersToLog",
        HTTP_ALS,
        "",
        ", additionalResponseTrailersToLog: [a]",
    ),
    ("extensionProviders[].envoyTcpAls.logName", TCP_ALS, "", ", logName: a"),
    ("extensionProviders[].envoyOtelAls.logName", OTEL_ALS, "", ", logName: a"),
    ("extensionProviders[].envoyOtelAls.logFormat.text", OTEL_ALS, "", ", logFormat: {text: '%PROTOCOL%'}"),
    (
        "extensionProviders[].envoyOtelAls.logFormat.labels",
        OTEL_ALS,
        "",
        ", logFormat: {labels: {a: '%PROTOCOL%'}}",
    ),
    (
        "extensionProviders[].envoyExtAuthzHttp.service",
        "extensionProviders: [{name: authz, envoyExtAuthzHttp: {service: %, port: 4317}}]",
        "otel.tracing.svc.cluster.local",
        "none.tracing.svc.cluster.local",
    ),
    (
        "extensionProviders[].envoyExtAuthzHttp.port",
        "extensionProviders: [{name: authz, envoyExtAuthzHttp: {service: otel.tracing.svc.cluster.local, port: %}}]",
        "4317",
        "1",
    ),
    ("extensionProviders[].envoyExtAuthzHttp.timeout", AUTHZ_HTTP, "", ", timeout: 3s"),
    ("extensionProviders[].envoyExtAuthzHttp.failOpen", AUTHZ_HTTP, "", ", failOpen: true"),
    ("extensionProviders[].envoyExtAuthzHttp.clearRouteCache", AUTHZ_HTTP, "", ", clearRouteCache: true"),
    ("extensionProviders[].envoyExtAuthzHttp.statusOnError", AUTHZ_HTTP, "", ", statusOnError: '503'"),
    (
        "extensionProviders[].envoyExtAuthzHttp.includeRequestBodyInCheck.maxRequestBytes",
        AUTHZ_HTTP,
        ", includeRequestBodyInCheck: {maxRequestBytes: 1}",
        ", includeRequestBodyInCheck: {maxRequestBytes: 2}",
    ),
    (
        "extensionProviders[].envoyExtAuthzHttp.includeRequestBodyInCheck.allowPartialMessage",
        AUTHZ_HTTP,
        ", includeRequestBodyInCheck: {maxRequestBytes: 1}",
        ", includeRequestBodyInCheck: {maxRequestBytes: 1, allowPartialMessage: true}",
    ),
    (
        "extensionProviders[].envoyExtAuthzHttp.includeRequestBodyInCheck.packAsBytes",
        AUTHZ_HTTP,
        ", includeRequestBodyInCheck: {maxRequestBytes: 1}",
        ", includeRequestBodyInCheck: {maxRequestBytes: 1, packAsBytes: true}",
    ),
    (
        "extensionProviders[].envoyExtAuthzGrpc.service",
        "extensionProviders: [{name: authz, envoyExtAuthzGrpc: {service: %, port: 4317}}]",
        "otel.tracing.svc.cluster.local",
        "none.tracing.svc.cluster.local",
    ),
    (
        "extensionProviders[].envoyExtAuthzGrpc.port",
        "extensionProviders: [{name: authz, envoyExtAuthzGrpc: {service: otel.tracing.svc.cluster.local, port: %}}]",
        "4317",
        "1",
    ),
    ("extensionProviders[].envoyExtAuthzGrpc.timeout", AUTHZ_GRPC, "", ", timeout: 3s"),
    ("extensionProviders[].envoyExtAuthzGrpc.failOpen", AUTHZ_GRPC, "", ", failOpen: true"),
    ("extensionProviders[].envoyExtAuthzGrpc.clearRouteCache", AUTHZ_GRPC, "", ", clearRouteCache: true"),
    ("extensionProviders[].envoyExtAuthzGrpc.statusOnError", AUTHZ_GRPC, "", ", statusOnError: '503'"),
    (
        "extensionProviders[].envoyExtAuthzGrpc.includeRequestBodyInCheck.maxRequestBytes",
        AUTHZ_GRPC,
        ", includeRequestBodyInCheck: {maxRequestBytes: 1}",
        ", includeRequestBodyInCheck: {maxRequestBytes: 2}",
    ),
    (
        "extensionProviders[].envoyExtAuthzGrpc.includeRequestBodyInCheck.allowPartialMessage",
        AUTHZ_GRPC,
        ", includeRequestBodyInCheck: {maxRequestBytes: 1}",
        ", includeRequestBodyInCheck: {maxRequestBytes: 1, allowPartialMessage: true}",
    ),
    (
        "extensionProviders[].envoyExtAuthzGrpc.includeRequestBodyInCheck.packAsBytes",
        AUTHZ_GRPC,
        ", includeRequestBodyInCheck: {maxRequestBytes: 1}",
        ", includeRequestBodyInCheck: {maxRequestBytes: 1, packAsBytes: true}",
    ),
    ("extensionProviders[].envoyExtAuthzHttp.pathPrefix", AUTHZ_HTTP, "", ", pathPrefix: /a"),
    (
        "extensionProviders[].envoyExtAuthzHttp.includeHeadersInCheck",
        AUTHZ_HTTP,
        "",
        ", includeHeadersInCheck: [x-a]",
    ),
    (
        "extensionProviders[].envoyExtAuthzHttp.includeRequestHeadersInCheck",
        AUTHZ_HTTP,
        "",
        ", includeRequestHeadersInCheck: [x-a]",
    ),
    (
        "extensionProviders[].envoyExtAuthzHttp.headersToUpstreamOnAllow",
        AUTHZ_HTTP,
        "",
        ", headersToUpstreamOnAllow: [x-a]",
    ),
    (
        "extensionProviders[].envoyExtAuthzHttp.headersToDownstreamOnDeny",
        AUTHZ_HTTP,
        "",
        ", headersToDownstreamOnDeny: [x-a]",
    ),
    (
        "extensionProviders[].envoyExtAuthzHttp.headersToDownstreamOnAllow",
        AUTHZ_HTTP,
        "",
        ", headersToDownstreamOnAllow: [x-a]",
    ),
    (
        "extensionProviders[].envoyExtAuthzHttp.includeAdditionalHeadersInCheck",
        AUTHZ_HTTP,
        "",
        ", includeAdditionalHeadersInCheck: {x-a: b}",
    ),
    ("extensionProviders[].envoyFileAccessLog.omitEmptyValues", LOG, "", ", omitEmptyValues: true"),
    (
        "defaultProviders.tracing",
        "extensionProviders: [{name: z, zipkin: {service: zipkin.tracing.svc.cluster.local, port: 9411}}]%",
        "",
        ", defaultProviders: {tracing: [z]}",
    ),
    (
        "defaultProviders.metrics",
        "extensionProviders: [{name: f, envoyFileAccessLog: {path: /dev/stdout}}], defaultProviders: {metrics: [%]}",
        "prometheus",
        "f",
    ),
    ("defaultProviders.accessLogging", "%", "", "defaultProviders: {accessLogging: [envoy]}"),
    ("discoverySelectors[].matchLabels", "discoverySelectors: [{%}]", "", "matchLabels: {team: a}"),
    (
        "discoverySelectors[].matchExpressions[].key",
        EXPRESSION,
        "key: other, operator: Exists",
        "key: team, operator: Exists",
    ),
    (
        "discoverySelectors[].matchExpressions[].operator",
        EXPRESSION,
        "key: team, operator: In, values: [a]",
        "key: team, operator: NotIn, values: [a]",
    ),
    (
        "discoverySelectors[].matchExpressions[].values",
        EXPRESSION,
        "key: team, operator: In, values: [a]",
        "key: team, operator: In, values: [a, b]",
    ),
    ("pathNormalization.normalization", "%", "", "pathNormalization: {normalization: MERGE_SLASHES}"),
    ("defaultHttpRetryPolicy.attempts", "%", "", "defaultHttpRetryPolicy: {attempts: 5}"),
    (
        "defaultHttpRetryPolicy.perTryTimeout",
        "defaultHttpRetryPolicy: {attempts: 5%}",
        "",
        ", perTryTimeout: 3s",
    ),
    ("defaultHttpRetryPolicy.retryOn", "defaultHttpRetryPolicy: {attempts: 5%}", "", ", retryOn: 5xx"),
    (
        "defaultHttpRetryPolicy.retryIgnorePreviousHosts",
        "defaultHttpRetryPolicy: {attempts: 5%}",
        "",
        ", retryIgnorePreviousHosts: false",
    ),
    ("defaultHttpRetryPolicy.backoff", "defaultHttpRetryPolicy: {attempts: 5%}", "", ", backoff: 1s"),
    ("meshMTLS.minProtocolVersion", "%", "", "meshMTLS: {minProtocolVersion: TLSV1_3}"),
    ("meshMTLS.cipherSuites", "%", "", "meshMTLS: {cipherSuites: [ECDHE-ECDSA-AES128-GCM-SHA256]}"),
    ("tlsDefaults.minProtocolVersion", "%", "", "tlsDefaults: {minProtocolVersion: TLSV1_3}"),
    ("tlsDefaults.ecdhCurves", "%", "", "tlsDefaults: {ecdhCurves: [P-256]}"),
    ("tlsDefaults.cipherSuites", "%", "", "tlsDefaults: {cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256]}"),
    ("defaultTrafficPolicy.connectionPool.tcp.maxConnections", POOL_TCP, "", "maxConnections: 7"),
    ("defaultTrafficPolicy.connectionPool.tcp.connectTimeout", POOL_TCP, "", "connectTimeout: 7s"),
    (
        "defaultTrafficPolicy.connectionPool.tcp.tcpKeepalive.probes",
        POOL_TCP,
        "",
        "tcpKeepalive: {probes: 3}",
    ),
    ("defaultTrafficPolicy.connectionPool.tcp.tcpKeepalive.time", POOL_TCP, "", "tcpKeepalive: {time: 3s}"),
    (
        "defaultTrafficPolicy.connectionPool.tcp.tcpKeepalive.interval",
        POOL_TCP,
        "",
        "tcpKeepalive: {interval: 3s}",
    ),
    (
        "defaultTrafficPolicy.connectionPool.tcp.maxConnectionDuration",
        POOL_TCP,
        "",
        "maxConnectionDuration: 7s",
    ),
    ("defaultTrafficPolicy.connectionPool.tcp.idleTimeout", POOL_TCP, "", "idleTimeout: 7s"),
    (
        "defaultTrafficPolicy.connectionPool.http.http1MaxPendingRequests",
        POOL_HTTP,
        "",
        "http1MaxPendingRequests: 7",
    ),
    ("defaultTrafficPolicy.connectionPool.http.http2MaxRequests", POOL_HTTP, "", "http2MaxRequests: 7"),
    (
        "defaultTrafficPolicy.connectionPool.http.maxRequestsPerConnection",
        POOL_HTTP,
        "",
        "maxRequestsPerConnection: 7",
    ),
    ("defaultTrafficPolicy.connectionPool.http.maxRetries", POOL_HTTP, "", "maxRetries: 7"),
    ("defaultTrafficPolicy.connectionPool.http.idleTimeout", POOL_HTTP, "", "idleTimeout: 7s"),
    ("defaultTrafficPolicy.connectionPool.http.h2UpgradePolicy", POOL_HTTP, "", "h2UpgradePolicy: UPGRADE"),
    ("defaultTrafficPolicy.connectionPool.http.useClientProtocol", POOL_HTTP, "", "useClientProtocol: true"),
    (
        "defaultTrafficPolicy.connectionPool.http.maxConcurrentStreams",
        POOL_HTTP,
        "",
        "maxConcurrentStreams: 7",
    ),
    (
        "defaultTrafficPolicy.connectionPool.http.http2KeepAlive.interval",
        POOL_HTTP,
        "",
        "http2KeepAlive: {interval: 7s, timeout: 1s}",
    ),
    (
        "defaultTrafficPolicy.connectionPool.http.http2KeepAlive.timeout",
        POOL_HTTP,
        "http2KeepAlive: {interval: 7s, timeout: 1s}",
        "http2KeepAlive: {interval: 7s, timeout: 3s}",
    ),
    (
        "defaultTrafficPolicy.outlierDetection.splitExternalLocalOriginErrors",
        "defaultTrafficPolicy: {outlierDetection: {%}}",
        "",
        "splitExternalLocalOriginErrors: true",
    ),
    (
        "defaultTrafficPolicy.outlierDetection.consecutiveLocalOriginFailures",
        OUTLIERS,
        "",
        ", consecutiveLocalOriginFailures: 3",
    ),
    (
        "defaultTrafficPolicy.outlierDetection.consecutiveGatewayErrors",
        OUTLIERS,
        "",
        ", consecutiveGatewayErrors: 3",
    ),
    ("defaultTrafficPolicy.outlierDetection.consecutive5xxErrors", OUTLIERS, "", ", consecutive5xxErrors: 3"),
    ("defaultTrafficPolicy.outlierDetection.interval", OUTLIERS, "", ", interval: 3s"),
    ("defaultTrafficPolicy.outlierDetection.baseEjectionTime", OUTLIERS, "", ", baseEjectionTime: 3s"),
    ("defaultTrafficPolicy.outlierDetection.maxEjectionPercent", OUTLIERS, "", ", maxEjectionPercent: 30"),
    ("defaultTrafficPolicy.outlierDetection.minHealthPercent", OUTLIERS, "", ", minHealthPercent: 30"),
];

#[test]
fn every_honoured_field_of_the_mesh_changes_what_proxies_are_told() {
    let world = world();
    let mut known: BTreeMap<String, Vec<Arc<ResourceSet>>> = BTreeMap::new();
    let mut ignored = Vec::new();
    for (field, around, without, with) in CASES {
        let mut of = |inside: &str| {
            let config = format!("{{{}}}", around.replacen('%', inside, 1));
            known.entry(config.clone()).or_insert_with(|| told(&world, &config)).clone()
        };
        if of(without) == of(with) {
            ignored.push(*field);
        }
    }
    assert!(ignored.is_empty(), "called honoured, and nothing follows: {ignored:#?}");
}

#[test]
fn every_honoured_field_of_the_mesh_has_a_case() {
    let tried = CASES.iter().map(|(field, ..)| *field);
    let all: BTreeSet<&str> = tried.chain(READ_ELSEWHERE.iter().map(|(field, _)| *field)).collect();
    let leaves = leaves();
    let leaves: BTreeSet<&str> = leaves.iter().map(String::as_str).collect();
    let missing: Vec<_> = leaves.difference(&all).collect();
    let unknown: Vec<_> = all.difference(&leaves).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "without a case: {missing:#?}; no such field: {unknown:#?}"
    );
}

/// The principals and permissions of a policy's only rule, as the filter of the workload says them.
fn rule(action: &str, rule: &Value) -> Value {
    let policy = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "x", "namespace": "default"},
        "spec": {"action": action, "rules": [rule]},
    });
    let judged = api::validate(api::Kind::AuthorizationPolicy, &policy);
    assert!(judged.errors.is_empty(), "{rule}: {:?}", judged.errors);
    let mesh = Mesh::bookinfo(&policy.to_string());
    let listener = mesh.listener(&sidecar("reviews"), "virtualInbound");
    let chains = listener["filterChains"].as_array().cloned().unwrap_or_default();
    let chain = chains.iter().find(|chain| chain["filterChainMatch"]["destinationPort"] == 9080);
    let mut rest = vec![chain.cloned().unwrap_or_default()];
    while let Some(value) = rest.pop() {
        if let Some(rules) = value.pointer("/rules/policies/ns[default]-policy[x]-rule[0]") {
            return rules.clone();
        }
        match value {
            Value::Object(map) => rest.extend(map.into_iter().map(|(_, value)| value)),
            Value::Array(list) => rest.extend(list),
            _ => {}
        }
    }
    panic!("{action} {rule}: no rule is told");
}

#[test]
fn every_key_that_a_condition_may_have_is_asked_about() {
    let cases = [
        ("request.headers[x-role]", "reader", "stringMatch"),
        ("source.ip", "10.0.0.0/8", "directRemoteIp"),
        ("remote.ip", "10.0.0.0/8", "remoteIp"),
        ("source.namespace", "shop", r".*/ns/shop/.*"),
        ("source.serviceAccount", "shop/cart", r"spiffe://.+/ns/shop/sa/cart"),
        ("source.trustDomain", "example.org", r"spiffe://example\\.org/.*"),
        ("source.principal", "cluster.local/ns/a/sa/b", "spiffe://cluster.local/ns/a/sa/b"),
        ("destination.ip", "10.0.0.1", "destinationIp"),
        ("destination.port", "9080", "destinationPort"),
        ("connection.sni", "a.example.com", "requestedServerName"),
        ("request.auth.principal", "me/jo", "payload"),
        ("request.auth.audiences", "a", "aud"),
        ("request.auth.presenter", "a", "azp"),
        ("request.auth.claims[group]", "a", "group"),
    ];
    let family = |key: &str| key.split_inclusive('[').next().unwrap_or_default().to_owned();
    let tried: BTreeSet<String> = cases.iter().map(|(key, ..)| family(key)).collect();
    assert_eq!(tried, api::security::CONDITION_KEYS.iter().map(|key| (*key).to_owned()).collect());
    for action in ["ALLOW", "DENY", "AUDIT"] {
        let everything = rule(action, &json!({}));
        for (key, value, told) in cases {
            for field in ["values", "notValues"] {
                let asked = rule(action, &json!({"when": [{"key": key, field: [value]}]}));
                assert_ne!(asked, everything, "{action} {key} {field}");
                let text = asked.to_string();
                assert!(text.contains(told), "{action} {key} {field}: {text}");
                assert_eq!(text.contains("not"), field == "notValues", "{action} {key} {field}: {text}");
            }
        }
    }
}

#[test]
fn every_honoured_field_of_a_policy_s_rules_is_asked_about() {
    let value = |field: &str| match field.trim_start_matches("not").to_ascii_lowercase().as_str() {
        "principals" => "cluster.local/ns/a/sa/b",
        "ipblocks" | "remoteipblocks" => "10.0.0.0/8",
        "ports" => "9080",
        "methods" => "GET",
        "paths" => "/a",
        _ => "a",
    };
    let mut tried = 0;
    for row in table() {
        if row.kind != "AuthorizationPolicy" || row.support != Support::Honoured {
            continue;
        }
        let of = |prefix: &str| row.path.strip_prefix(prefix).map(str::to_owned);
        let written = if let Some(field) = of("rules[].from[].source.") {
            json!({"from": [{"source": {&field: [value(&field)]}}]})
        } else if let Some(field) = of("rules[].to[].operation.") {
            json!({"to": [{"operation": {&field: [value(&field)]}}]})
        } else {
            continue;
        };
        for action in ["ALLOW", "DENY"] {
            assert_ne!(rule(action, &written), rule(action, &json!({})), "{action} {}", row.path);
        }
        tried += 1;
    }
    assert_eq!(tried, 22);
}

#[test]
fn every_honoured_field_of_a_rule_about_tokens_is_told() {
    let filter = |rule: &Value| {
        let spec = json!({"jwtRules": [rule]});
        let policy = json!({"apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
            "metadata": {"name": "x", "namespace": "default"}, "spec": spec});
        let listener = Mesh::bookinfo(&policy.to_string()).listener(&sidecar("reviews"), "virtualInbound");
        listener.to_string()
    };
    let usual = json!({"issuer": "me", "jwks": "{\"keys\": []}"});
    let told = filter(&usual);
    let mut tried = 0;
    for row in table() {
        if row.kind != "RequestAuthentication" || row.support != Support::Honoured {
            continue;
        }
        let Some(field) = row.path.strip_prefix("jwtRules[].") else { continue };
        // Told by way of the keys that are fetched, or with the list that they are in, or without effect.
        let elsewhere = ["jwksUri", "jwks_uri", "timeout", "presence"];
        if elsewhere.contains(&field) || field.contains('[') {
            continue;
        }
        let value = match field {
            "issuer" => json!("you"),
            "jwks" => json!(r#"{"keys": [{"kty": "oct", "k": "YQ"}]}"#),
            "fromHeaders" => json!([{"name": "x-token", "prefix": "T "}]),
            "outputPayloadToHeader" => json!("x-payload"),
            "forwardOriginalToken" => json!(true),
            "outputClaimToHeaders" => json!([{"header": "x-sub", "claim": "sub"}]),
            _ => json!(["a"]),
        };
        let mut rule = usual.clone();
        rule[field] = value;
        assert_ne!(filter(&rule), told, "{field}");
        tried += 1;
    }
    assert_eq!(tried, 10);
}
