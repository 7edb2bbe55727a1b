//! The bootstrap that a proxy is started with: who it is, where its control plane and its certificates are.
//!
//! It is an Envoy v3 bootstrap in protobuf's JSON without anything secret, and the same for our proxy and for a stock Envoy: ours
//! takes the secrets `default` and `ROOTCA` from the agent in its own process and never dials `sds-grpc`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use base::Locality;
use serde_json::{Map, Value, json};

/// Where our own SDS socket is, unless told otherwise; Istio's path.
pub const SDS_SOCKET: &str = "./var/run/secrets/workload-spiffe-uds/socket";

/// The cluster of the control plane for streams, and the one for polls: so the control plane calls the latter too, where
/// resources refer to others.
const STREAMED: &str = "xds-grpc";
const POLLED: &str = "xds-rest";

/// Between two polls; Envoy adds a random part up to the same again.
const REFRESH: &str = "0.300s";

/// Who the proxy is, as its control plane sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// `sidecar~<ip>~<name>.<namespace>~<namespace>.svc.cluster.local`.
    pub id: String,
    /// `<app>.<namespace>`: the name under which an Envoy groups itself.
    pub cluster: String,
    /// What istiod reads: `NAMESPACE`, `SERVICE_ACCOUNT`, `LABELS`, `INSTANCE_IPS` and so on.
    pub metadata: Map<String, Value>,
    pub locality: Locality,
}

/// What is wrong with who a proxy says it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error(
        "--node-id {0:?} is not <kind>~<ip>~<name>.<namespace>~<namespace>.svc.<domain>, where <kind> is sidecar or router"
    )]
    Id(String),
    #[error("metadata {field} is {found}, but {wanted} was expected")]
    Metadata { field: &'static str, found: String, wanted: &'static str },
    #[error("metadata NAMESPACE is {metadata}, but the node id says {id}: they must agree")]
    Namespace { metadata: String, id: String },
}

impl Node {
    /// Checks that id and metadata are sound and agree, and fills in what follows from the id.
    pub fn new(id: &str, mut metadata: Map<String, Value>, locality: Locality) -> Result<Self, NodeError> {
        let wrong = || NodeError::Id(id.to_owned());
        let parts: Vec<&str> = id.split('~').collect();
        let [kind, ip, name, _domain] = parts.as_slice() else { return Err(wrong()) };
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let (pod, namespace) = name.rsplit_once('.').ok_or_else(wrong)?;
        if !matches!(*kind, "sidecar" | "router") || pod.is_empty() || namespace.is_empty() {
            return Err(wrong());
        }
        let told = text(&metadata, "NAMESPACE")?;
        if told.is_some_and(|told| told != namespace) {
            let metadata = told.unwrap_or_default().to_owned();
            return Err(NodeError::Namespace { metadata, id: namespace.to_owned() });
        }
        text(&metadata, "SERVICE_ACCOUNT")?;
        let app = metadata.get("LABELS").and_then(|l| l.get("app")).and_then(Value::as_str).unwrap_or(pod);
        let cluster = format!("{app}.{namespace}");
        let mut fill = |key: &str, value: Value| {
            metadata.entry(key).or_insert(value);
        };
        fill("NAMESPACE", json!(namespace));
        fill("NAME", json!(pod));
        fill("INSTANCE_IPS", json!(ip.to_string()));
        Ok(Self { id: id.to_owned(), cluster, metadata, locality })
    }

    pub fn namespace(&self) -> &str {
        self.metadata.get("NAMESPACE").and_then(Value::as_str).unwrap_or("default")
    }

    pub fn service_account(&self) -> &str {
        self.metadata.get("SERVICE_ACCOUNT").and_then(Value::as_str).unwrap_or("default")
    }

    pub fn cluster_id(&self) -> &str {
        self.metadata.get("CLUSTER_ID").and_then(Value::as_str).unwrap_or("Kubernetes")
    }
}

fn text<'a>(metadata: &'a Map<String, Value>, field: &'static str) -> Result<Option<&'a str>, NodeError> {
    match metadata.get(field) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        Some(other) => {
            Err(NodeError::Metadata { field, found: other.to_string(), wanted: "a text that is not empty" })
        }
    }
}

/// How a proxy asks its control plane for configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Discovery {
    /// One stream, on which only what changed is said.
    #[default]
    Delta,
    /// One stream, state of the world.
    Sotw,
    /// Polling over HTTP/1.1: a stock Envoy only.
    Rest,
}

impl FromStr for Discovery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "delta" => Ok(Self::Delta),
            "sotw" => Ok(Self::Sotw),
            "rest" => Ok(Self::Rest),
            _ => Err(format!("{text:?} is none of delta, sotw and rest")),
        }
    }
}

impl std::fmt::Display for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Delta => "delta",
            Self::Sotw => "sotw",
            Self::Rest => "rest",
        })
    }
}

/// Everything else that a bootstrap says.
#[derive(Debug, Clone, PartialEq)]
pub struct BootstrapOptions {
    pub node: Node,
    /// Host and port of the control plane's xDS over TLS.
    pub control_plane: (String, u16),
    /// The DNS names of which its certificate must bear one; the first is sent as SNI.
    pub server_names: Vec<String>,
    pub sds_socket: PathBuf,
    /// Loopback.
    pub admin_port: u16,
    pub status: SocketAddr,
    pub health_port: u16,
    pub metrics_port: u16,
    pub discovery: Discovery,
    /// The packet mark that exempts from capture what the proxy sends; needed where it has no user id of its own.
    pub mark: Option<u32>,
    /// Where a stock Envoy looks up names; absent: as the machine does.
    pub resolver: Option<SocketAddr>,
    /// Whether it is for a stock Envoy.
    pub stock: bool,
}

/// Writes the bootstrap.
pub fn bootstrap(options: &BootstrapOptions) -> Value {
    let Node { id, cluster, metadata, locality } = &options.node;
    let mut bootstrap = json!({
        "node": {
            "id": id,
            "cluster": cluster,
            "metadata": metadata,
            "locality": { "region": locality.region, "zone": locality.zone, "subZone": locality.subzone },
        },
        "admin": { "address": socket_address("127.0.0.1", options.admin_port) },
        "dynamicResources": dynamic_resources(options.discovery),
        "staticResources": {
            "clusters": [
                control_plane_cluster(options),
                sds_cluster(options),
                plain_cluster("prometheus_stats", "127.0.0.1", options.admin_port),
                plain_cluster("agent", &options.status.ip().to_string(), options.status.port()),
            ],
            "listeners": [
                forwarding_listener("metrics", options.metrics_port, "/stats/prometheus", "prometheus_stats"),
                forwarding_listener("health", options.health_port, "/healthz/ready", "agent"),
            ],
        },
    });
    if options.stock {
        // Envoy's own limit on regular expressions is 100, which people's are beyond; Istio's agents write this one.
        bootstrap["layeredRuntime"] = json!({ "layers": [{
            "name": "static",
            "staticLayer": { "re2.max_program_size.error_level": 32768 },
        }]});
    }
    if let Some(mark) = options.mark {
        // SOL_SOCKET, SO_MARK.
        bootstrap["clusterManager"] = json!({ "upstreamBindConfig": {
            "socketOptions": [{ "level": "1", "name": "36", "intValue": mark.to_string(), "state": "STATE_PREBIND" }],
        }});
    }
    if let Some(resolver) = options.resolver {
        bootstrap["typedDnsResolverConfig"] = json!({
            "name": "envoy.network.dns_resolver.cares",
            "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "resolvers": [socket_address(&resolver.ip().to_string(), resolver.port())],
                "dnsResolverOptions": { "noDefaultSearchDomain": true },
            },
        });
    }
    bootstrap
}

fn dynamic_resources(discovery: Discovery) -> Value {
    let api_type = match discovery {
        Discovery::Delta => "DELTA_GRPC",
        Discovery::Sotw => "GRPC",
        Discovery::Rest => {
            let polled = json!({
                "apiConfigSource": {
                    "apiType": "REST",
                    "transportApiVersion": "V3",
                    "clusterNames": [POLLED],
                    "refreshDelay": REFRESH,
                },
                "initialFetchTimeout": "0s",
                "resourceApiVersion": "V3",
            });
            return json!({ "ldsConfig": polled, "cdsConfig": polled });
        }
    };
    let ads = json!({ "ads": {}, "initialFetchTimeout": "0s", "resourceApiVersion": "V3" });
    json!({
        "ldsConfig": ads,
        "cdsConfig": ads,
        "adsConfig": {
            "apiType": api_type,
            "setNodeOnFirstMessageOnly": true,
            "transportApiVersion": "V3",
            "grpcServices": [{ "envoyGrpc": { "clusterName": STREAMED } }],
        },
    })
}

fn socket_address(address: &str, port: u16) -> Value {
    json!({ "socketAddress": { "address": address, "portValue": port } })
}

fn endpoints(name: &str, address: &Value) -> Value {
    json!({ "clusterName": name, "endpoints": [{ "lbEndpoints": [{ "endpoint": { "address": address } }] }] })
}

fn http2() -> Value {
    json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicitHttpConfig": { "http2ProtocolOptions": {} },
    }})
}

fn control_plane_cluster(options: &BootstrapOptions) -> Value {
    let (host, port) = &options.control_plane;
    let names: Vec<Value> = options
        .server_names
        .iter()
        .map(|name| json!({ "sanType": "DNS", "matcher": { "exact": name } }))
        .collect();
    let sds = json!({
        "apiConfigSource": {
            "apiType": "GRPC",
            "transportApiVersion": "V3",
            "setNodeOnFirstMessageOnly": true,
            "grpcServices": [{ "envoyGrpc": { "clusterName": "sds-grpc" } }],
        },
        "initialFetchTimeout": "0s",
        "resourceApiVersion": "V3",
    });
    let is_address = host.parse::<IpAddr>().is_ok();
    let (name, protocol, alpn) = match options.discovery {
        Discovery::Rest => (POLLED, json!({}), json!([])),
        Discovery::Delta | Discovery::Sotw => (STREAMED, http2(), json!(["h2"])),
    };
    json!({
        "name": name,
        "type": if is_address { "STATIC" } else { "STRICT_DNS" },
        "connectTimeout": "5s",
        "loadAssignment": endpoints(name, &socket_address(host, *port)),
        "typedExtensionProtocolOptions": protocol,
        "upstreamConnectionOptions": { "tcpKeepalive": { "keepaliveTime": 60 } },
        "transportSocket": {
            "name": "envoy.transport_sockets.tls",
            "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": options.server_names.first(),
                "commonTlsContext": {
                    "alpnProtocols": alpn,
                    "tlsCertificateSdsSecretConfigs": [{ "name": "default", "sdsConfig": sds }],
                    "combinedValidationContext": {
                        "defaultValidationContext": { "matchTypedSubjectAltNames": names },
                        "validationContextSdsSecretConfig": { "name": "ROOTCA", "sdsConfig": sds },
                    },
                },
            },
        },
    })
}

fn sds_cluster(options: &BootstrapOptions) -> Value {
    let pipe = json!({ "pipe": { "path": options.sds_socket } });
    json!({
        "name": "sds-grpc",
        "type": "STATIC",
        "connectTimeout": "1s",
        "loadAssignment": endpoints("sds-grpc", &pipe),
        "typedExtensionProtocolOptions": http2(),
    })
}

fn plain_cluster(name: &str, address: &str, port: u16) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connectTimeout": "1s",
        "loadAssignment": endpoints(name, &socket_address(address, port)),
    })
}

/// Serves one path on all addresses by handing it on to a cluster of this machine.
fn forwarding_listener(name: &str, port: u16, path: &str, cluster: &str) -> Value {
    json!({
        "name": name,
        "address": socket_address("0.0.0.0", port),
        "filterChains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "statPrefix": name,
                "routeConfig": { "virtualHosts": [{
                    "name": name,
                    "domains": ["*"],
                    "routes": [{ "match": { "path": path }, "route": { "cluster": cluster } }],
                }]},
                "httpFilters": [{
                    "name": "envoy.filters.http.router",
                    "typedConfig": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                    },
                }],
            },
        }]}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "sidecar~10.44.0.7~reviews-v1.default~default.svc.cluster.local";

    fn metadata(value: &Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn a_node_says_who_it_is_once() {
        let told =
            metadata(&json!({ "LABELS": { "app": "reviews" }, "SERVICE_ACCOUNT": "bookinfo-reviews" }));
        let node = Node::new(ID, told, Locality::default()).unwrap();
        assert_eq!(
            (node.cluster.as_str(), node.namespace(), node.service_account()),
            ("reviews.default", "default", "bookinfo-reviews")
        );
        assert_eq!(node.metadata["INSTANCE_IPS"], "10.44.0.7");
        for bad in [
            "",
            "sidecar",
            "sidecar~x~a.b~c",
            "proxy~1.1.1.1~a.b~c",
            "sidecar~1.1.1.1~ab~c",
            "sidecar~1.1.1.1~.b~c",
        ] {
            assert!(
                matches!(Node::new(bad, Map::new(), Locality::default()), Err(NodeError::Id(_))),
                "{bad}"
            );
        }
        let foreign = metadata(&json!({ "NAMESPACE": "other" }));
        assert!(matches!(Node::new(ID, foreign, Locality::default()), Err(NodeError::Namespace { .. })));
        let odd = metadata(&json!({ "SERVICE_ACCOUNT": 7 }));
        assert!(matches!(Node::new(ID, odd, Locality::default()), Err(NodeError::Metadata { .. })));
    }

    #[test]
    fn a_stock_envoy_accepts_the_bootstrap() {
        let Some(envoy) = testkit::peers::need("envoy") else { return };
        let node =
            Node::new(ID, metadata(&json!({ "LABELS": { "app": "reviews" } })), Locality::parse("r/z"))
                .unwrap();
        for (discovery, mark, host) in [
            (Discovery::Delta, Some(0x539), "10.44.0.1"),
            (Discovery::Sotw, None, "istiod.istio-system.svc"),
            (Discovery::Rest, Some(0x539), "10.44.0.1"),
        ] {
            let options = BootstrapOptions {
                node: node.clone(),
                control_plane: (host.into(), 15012),
                server_names: vec!["istiod.istio-system.svc".into(), "istio-pilot.istio-system.svc".into()],
                sds_socket: "/tmp/sds".into(),
                admin_port: 15000,
                status: "127.0.0.1:15020".parse().unwrap(),
                health_port: 15021,
                metrics_port: 15090,
                discovery,
                mark,
                resolver: mark.map(|_| "127.0.0.1:15053".parse().unwrap()),
                stock: true,
            };
            let text = bootstrap(&options).to_string();
            let output = std::process::Command::new(&envoy)
                .args(["--mode", "validate", "--log-level", "error", "--config-yaml", &text])
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
