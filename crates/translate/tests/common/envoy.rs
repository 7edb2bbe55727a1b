//! Whether a real Envoy takes what is made: many meshes in one bootstrap, so that Envoy starts once for all of them.

use std::collections::{BTreeMap, HashSet};
use std::process::Command;

use prost::Message;
use proto::ResourceType;
use proto::pb::envoy::config::bootstrap::v3::{Bootstrap, bootstrap};
use proto::pb::envoy::config::cluster::v3::Cluster;
use proto::pb::envoy::config::core::v3::{Address, SocketAddress, address, socket_address};
use proto::pb::envoy::config::listener::v3::Listener;
use proto::pb::envoy::config::route::v3::RouteConfiguration;
use serde_json::{Value, json};
use translate::{Facets, Scope, Translator};

use super::Look;

fn decode<M: Message + prost::Name + Default>(json: &Value) -> M {
    proto::json::decode(json).unwrap_or_else(|error| panic!("{error:?}: {json:#}"))
}

/// The first of each name keeps it; another of that name that says something else gets a name of its own.
#[derive(Default)]
struct Names {
    known: BTreeMap<String, usize>,
    bodies: HashSet<Vec<u8>>,
}

impl Names {
    /// The name to write, and whether it is another; `None` for what is there already.
    fn enter(&mut self, name: &str, body: &[u8]) -> Option<(String, bool)> {
        if !self.bodies.insert(body.to_vec()) {
            return None;
        }
        let count = self.known.entry(name.to_owned()).or_default();
        *count += 1;
        if *count == 1 { Some((name.to_owned(), false)) } else { Some((format!("{name} #{count}"), true)) }
    }
}

struct Merged {
    clusters: Vec<Cluster>,
    listeners: Vec<Listener>,
    names: [Names; 3],
    ports: u32,
}

impl Merged {
    fn new() -> Self {
        let mut merged =
            Self { clusters: Vec::new(), listeners: Vec::new(), names: Default::default(), ports: 0 };
        for name in ["sds-grpc", "xds-grpc"] {
            merged.clusters.push(decode(&json!({
                "name": name, "type": "STATIC", "connectTimeout": "1s",
                "typedExtensionProtocolOptions": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicitHttpConfig": {"http2ProtocolOptions": {}}}},
                "loadAssignment": {"clusterName": name, "endpoints": [{"lbEndpoints": [{"endpoint": {"address":
                    {"socketAddress": {"address": "127.0.0.1", "portValue": 1}}}}]}]}
            })));
        }
        merged
    }

    /// An address that no other listener has.
    fn address(&mut self) -> Address {
        self.ports += 1;
        let port = socket_address::PortSpecifier::PortValue(1024 + self.ports % 60_000);
        Address {
            address: Some(address::Address::SocketAddress(SocketAddress {
                address: format!("127.1.0.{}", 1 + self.ports / 60_000),
                port_specifier: Some(port),
                ..Default::default()
            })),
        }
    }

    fn add(&mut self, look: &Look) {
        let (snapshot, scope) = look;
        let scope = Scope::new(Facets { extensions: false, ..scope.facets().clone() });
        let translator = Translator::new();
        let bodies = |of| {
            let set = translator.set(snapshot, &scope, of);
            set.iter().map(|resource| (resource.name.to_string(), resource.body.clone())).collect::<Vec<_>>()
        };
        for (name, body) in bodies(ResourceType::Cluster) {
            let Some((name, _)) = self.names[0].enter(&name, &body) else { continue };
            self.clusters.push(Cluster { name, ..Cluster::decode(&*body).unwrap() });
        }
        for (name, body) in bodies(ResourceType::Listener) {
            let Some((name, other)) = self.names[1].enter(&name, &body) else { continue };
            let mut listener = Listener { name, ..Listener::decode(&*body).unwrap() };
            if other {
                listener.address = Some(self.address());
                listener.additional_addresses.clear();
            }
            self.listeners.push(listener);
        }
        for (name, body) in bodies(ResourceType::Route) {
            let Some((name, _)) = self.names[2].enter(&name, &body) else { continue };
            RouteConfiguration::decode(&*body).unwrap();
            let routes = proto::json::to_value(ResourceType::Route.url(), &body).unwrap();
            self.routes(&name, &routes);
        }
    }

    /// Routes, which are fetched by name, stand in listeners of their own.
    fn routes(&mut self, name: &str, routes: &Value) {
        let mut listener: Listener = decode(&json!({
            "name": format!("routes of {name}"),
            "filterChains": [{"filters": [{"name": "http", "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "statPrefix": "x", "routeConfig": routes,
                "httpFilters": [{"name": "envoy.filters.http.router", "typedConfig": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]
        }));
        listener.address = Some(self.address());
        self.listeners.push(listener);
    }

    fn bootstrap(self) -> Bootstrap {
        let ads = json!({"apiType": "GRPC", "transportApiVersion": "V3",
            "grpcServices": [{"envoyGrpc": {"clusterName": "xds-grpc"}}]});
        let mut made: Bootstrap =
            decode(&json!({"node": {"id": "a", "cluster": "b"}, "dynamicResources": {"adsConfig": ads},
                // As in the bootstrap that our agent writes.
                "layeredRuntime": {"layers": [{"name": "static",
                    "staticLayer": {"re2.max_program_size.error_level": 32768}}]}}));
        let Self { clusters, listeners, .. } = self;
        made.static_resources =
            Some(bootstrap::StaticResources { listeners, clusters, ..Default::default() });
        made
    }
}

/// What a real Envoy says against it.
pub fn refused(looks: &[Look]) -> Option<String> {
    let envoy = testkit::peers::envoy()?;
    let mut merged = Merged::new();
    looks.iter().for_each(|look| merged.add(look));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bootstrap.pb");
    std::fs::write(&file, merged.bootstrap().encode_to_vec()).unwrap();
    let run = Command::new(&envoy)
        .args(["--mode", "validate", "-l", "error", "-c"])
        .arg(&file)
        .output()
        .expect("envoy runs");
    (!run.status.success()).then(|| String::from_utf8_lossy(&run.stderr).into_owned())
}

/// A real Envoy takes all of it, and so does our own proxy, which is sent more.
#[track_caller]
pub fn taken(looks: &[Look]) {
    for (snapshot, scope) in looks {
        let own = Scope::new(Facets { extensions: true, ..scope.facets().clone() });
        let translator = Translator::new();
        for of in [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route]
        {
            let changed = translator.set(snapshot, &own, of).iter().cloned().collect();
            let delta = proto::Delta { resource_type: of, changed, removed: Vec::new() };
            let rejections = decide::Plan::new().apply(&delta).1;
            assert!(rejections.is_empty(), "{rejections:#?}");
        }
    }
    if let Some(said) = refused(looks) {
        panic!("{said}");
    }
}
