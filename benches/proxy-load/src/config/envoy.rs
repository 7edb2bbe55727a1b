//! Envoy v3 bootstraps: the same file for Envoy and for mizzen-proxy.

use std::path::Path;

use serde_json::{Value, json};

use super::chain;
use crate::keys::Leaf;

const TYPE: &str = "type.googleapis.com/";

/// An extension's typed configuration.
pub(crate) fn typed(of: &str, mut config: Value) -> Value {
    config["@type"] = format!("{TYPE}{of}").into();
    config
}

pub(crate) fn extension(name: &str, of: &str, config: Value) -> Value {
    json!({"name": name, "typed_config": typed(of, config)})
}

/// What a bootstrap consists of.
#[derive(Default)]
pub(crate) struct Bootstrap {
    pub(crate) listeners: Vec<Value>,
    pub(crate) clusters: Vec<Value>,
    pub(crate) secrets: Vec<Value>,
    /// Where clusters come from by delta ADS, if they do.
    pub(crate) ads: Option<u16>,
}

impl Bootstrap {
    pub(crate) fn text(&self) -> String {
        let mut bootstrap = json!({
            "node": {"id": "sidecar~127.0.0.1~bench.default~default.svc.cluster.local", "cluster": "bench.default"},
            "static_resources":
                {"listeners": self.listeners, "clusters": self.clusters, "secrets": self.secrets},
        });
        if self.ads.is_some() {
            let service = json!({"envoy_grpc": {"cluster_name": "ads"}});
            bootstrap["dynamic_resources"] = json!({
                "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [service]},
                "cds_config": {"ads": {}, "resource_api_version": "V3"},
            });
        }
        bootstrap.to_string()
    }

    /// Routing to one cluster, and nothing else; with an identity, TLS ends here.
    pub(crate) fn plain(port: u16, upstream: u16, tls: Option<&Leaf>) -> Self {
        let everything = json!({"match": {"prefix": "/"}, "route": {"cluster": "answer"}});
        let manager = json!({
            "stat_prefix": "plain",
            "route_config": {"name": "plain", "virtual_hosts":
                [{"name": "all", "domains": ["*"], "routes": [everything]}]},
            "http_filters": [chain::router()],
        });
        Self {
            listeners: vec![listener(port, chain::manager(manager), tls.map(|_| server_tls()))],
            clusters: vec![cluster("answer", upstream, Hop::default())],
            secrets: tls.map(identity).into_iter().collect(),
            ads: None,
        }
    }

    /// Bytes, looked at by nobody; with an identity, TLS ends here.
    pub(crate) fn tcp(port: u16, upstream: u16, tls: Option<&Leaf>) -> Self {
        let proxy = json!({"stat_prefix": "tcp", "cluster": "answer"});
        let of = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
        Self {
            listeners: vec![listener(
                port,
                extension("envoy.filters.network.tcp_proxy", of, proxy),
                tls.map(|_| server_tls()),
            )],
            clusters: vec![cluster("answer", upstream, Hop::default())],
            secrets: tls.map(identity).into_iter().collect(),
            ads: None,
        }
    }

    /// An identity and the roots, under the names that Istio's agents give them.
    pub(crate) fn with_secrets(mut self, leaf: &Leaf, root: &Path) -> Self {
        self.secrets.push(identity(leaf));
        self.secrets
            .push(json!({"name": "ROOTCA", "validation_context": {"trusted_ca": {"filename": root}}}));
        self
    }

    /// Clusters come by delta ADS as well, from this port.
    pub(crate) fn with_ads(mut self, port: u16) -> Self {
        self.clusters.push(cluster("ads", port, Hop { http2: true, peer: None }));
        self.ads = Some(port);
        self
    }

    /// As many clusters of ten endpoints with mutual TLS, each with a virtual host; nobody asks them.
    pub(crate) fn with_others(mut self, count: usize, peer: &str) -> Self {
        let hop = Hop { http2: false, peer: Some(peer) };
        self.clusters.extend((0..count).map(|number| other(number, hop).1));
        let hosts = (0..count).map(|number| {
            let name = other_host(number);
            let short = format!("other-{number}");
            let route =
                json!({"match": {"prefix": "/"}, "route": {"cluster": format!("outbound|80||{name}")}});
            json!({"name": name, "domains": [name, short], "routes": [route]})
        });
        let manager =
            &mut self.listeners[0]["filter_chains"][0]["filters"][0]["typed_config"]["route_config"];
        if let Some(all) = manager["virtual_hosts"].as_array_mut() {
            all.extend(hosts);
        }
        self
    }
}

fn other_host(number: usize) -> String {
    format!("other-{number}.default.svc.cluster.local")
}

/// A cluster of ten endpoints, by its name.
pub(crate) fn other(number: usize, hop: Hop<'_>) -> (String, Value) {
    let name = format!("outbound|80||{}", other_host(number));
    let mut other = cluster(&name, 80, hop);
    let endpoint = |n: usize| {
        let [_, high, middle, low] = u32::to_be_bytes((number * 10 + n) as u32);
        address(&format!("10.{high}.{middle}.{low}"), 8080)
    };
    let endpoints: Vec<Value> = (0..10).map(|n| json!({"endpoint": endpoint(n)})).collect();
    other["load_assignment"]["endpoints"] = json!([{"lb_endpoints": endpoints}]);
    (name, other)
}

/// How an upstream is spoken to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hop<'a> {
    pub(crate) http2: bool,
    /// By mutual TLS, with a peer of this identity.
    pub(crate) peer: Option<&'a str>,
}

pub(crate) fn address(ip: &str, port: u16) -> Value {
    json!({"address": {"socket_address": {"address": ip, "port_value": port}}})
}

pub(crate) fn listener(port: u16, filter: Value, tls: Option<Value>) -> Value {
    let mut chain = json!({"filters": [filter]});
    if let Some(tls) = tls {
        chain["transport_socket"] = tls;
    }
    let mut listener = address("127.0.0.1", port);
    listener["name"] = format!("in_{port}").into();
    listener["filter_chains"] = json!([chain]);
    listener
}

pub(crate) fn cluster(name: &str, port: u16, hop: Hop<'_>) -> Value {
    // As Istio sets them: Envoy's own would refuse what is measured.
    let most = u32::MAX;
    let limits = json!({"max_connections": most, "max_pending_requests": most, "max_requests": most,
        "max_retries": most});
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": name, "endpoints":
            [{"lb_endpoints": [{"endpoint": address("127.0.0.1", port)}]}]},
    });
    if hop.http2 {
        let of = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        let options = typed(of, json!({"explicit_http_config": {"http2_protocol_options": {}}}));
        cluster["typed_extension_protocol_options"] = json!({of: options});
    }
    if let Some(peer) = hop.peer {
        let mut common = common_tls();
        common["alpn_protocols"] = if hop.http2 { json!(["h2"]) } else { json!(["http/1.1"]) };
        common["tls_certificate_sds_secret_configs"] = json!([{"name": "default"}]);
        let names = json!([{"san_type": "URI", "matcher": {"exact": peer}}]);
        common["combined_validation_context"] = json!({
            "default_validation_context": {"match_typed_subject_alt_names": names},
            "validation_context_sds_secret_config": {"name": "ROOTCA"},
        });
        let config =
            json!({"sni": format!("outbound_.80_._.{}", crate::keys::HOST), "common_tls_context": common});
        let of = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
        cluster["transport_socket"] = extension("envoy.transport_sockets.tls", of, config);
    }
    cluster
}

/// As Istio's sidecars are told: TLS 1.3 where both can.
fn common_tls() -> Value {
    json!({"tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"}})
}

fn identity(leaf: &Leaf) -> Value {
    json!({"name": "default", "tls_certificate":
        {"certificate_chain": {"filename": leaf.chain}, "private_key": {"filename": leaf.key}}})
}

/// TLS that ends here, with nothing asked of anybody.
fn server_tls() -> Value {
    let mut common = common_tls();
    common["tls_certificate_sds_secret_configs"] = json!([{"name": "default"}]);
    downstream_tls(json!({"common_tls_context": common}))
}

/// TLS that ends here, with a certificate asked of everybody.
pub(crate) fn mutual_tls() -> Value {
    let mut common = common_tls();
    common["alpn_protocols"] = json!(["h2", "http/1.1"]);
    common["tls_certificate_sds_secret_configs"] = json!([{"name": "default"}]);
    common["validation_context_sds_secret_config"] = json!({"name": "ROOTCA"});
    downstream_tls(json!({"require_client_certificate": true, "common_tls_context": common}))
}

fn downstream_tls(config: Value) -> Value {
    let of = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
    extension("envoy.transport_sockets.tls", of, config)
}
