//! A real Envoy takes everything that is made for a proxy without Istio's extensions.

mod common;

use std::process::Command;

use common::{Mesh, RESOURCES, ingress, resources, service, stock, upsert};
use model::{Object, TlsSecret};
use prost::Message;
use proto::ResourceType;
use proto::pb::envoy::config::bootstrap::v3::{Bootstrap, bootstrap};
use proto::pb::envoy::config::cluster::v3::Cluster;
use proto::pb::envoy::config::listener::v3::Listener;
use serde_json::{Value, json};
use translate::{Facets, Scope};

fn decode<M: Message + prost::Name + Default>(json: &Value) -> M {
    proto::json::decode(json).unwrap_or_else(|error| panic!("{error:?}: {json:#}"))
}

/// Everything as a static bootstrap. Routes, which are fetched by name, stand in listeners of their own.
fn bootstrap(mesh: &Mesh, scope: &Scope) -> Bootstrap {
    let bodies = |of| mesh.set(scope, of).iter().map(|resource| resource.body.clone()).collect::<Vec<_>>();
    let mut clusters: Vec<Cluster> =
        bodies(ResourceType::Cluster).iter().map(|body| Cluster::decode(&**body).unwrap()).collect();
    for name in ["sds-grpc", "xds-grpc"] {
        clusters.push(decode(&json!({
            "name": name, "type": "STATIC", "connectTimeout": "1s",
            "typedExtensionProtocolOptions": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicitHttpConfig": {"http2ProtocolOptions": {}}}},
            "loadAssignment": {"clusterName": name, "endpoints": [{"lbEndpoints": [{"endpoint": {"address":
                {"socketAddress": {"address": "127.0.0.1", "portValue": 1}}}}]}]}
        })));
    }
    let mut listeners: Vec<Listener> =
        bodies(ResourceType::Listener).iter().map(|body| Listener::decode(&**body).unwrap()).collect();
    for (at, (name, config)) in mesh.json(scope, ResourceType::Route).into_iter().enumerate() {
        listeners.push(decode(&json!({
            "name": format!("routes of {name}"),
            "address": {"socketAddress": {"address": "127.0.0.1", "portValue": 40000 + at}},
            "filterChains": [{"filters": [{"name": "http", "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "statPrefix": "x", "routeConfig": config,
                "httpFilters": [{"name": "envoy.filters.http.router", "typedConfig": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]
        })));
    }
    let ads = json!({"apiType": "GRPC", "transportApiVersion": "V3",
        "grpcServices": [{"envoyGrpc": {"clusterName": "xds-grpc"}}]});
    let mut made: Bootstrap =
        decode(&json!({"node": {"id": "a", "cluster": "b"}, "dynamicResources": {"adsConfig": ads}}));
    made.static_resources = Some(bootstrap::StaticResources { listeners, clusters, ..Default::default() });
    made
}

#[track_caller]
fn taken(mesh: &Mesh, scopes: &[(&str, Scope)]) {
    for (_, scope) in scopes {
        // Our own proxy is sent more, and takes it all: `Mesh::json` asserts it.
        let own = Scope::new(Facets { extensions: true, ..scope.facets().clone() });
        let types =
            [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route];
        types.into_iter().for_each(|of| drop(mesh.json(&own, of)));
    }
    let Some(envoy) = testkit::peers::need("envoy") else { return };
    let dir = tempfile::tempdir().unwrap();
    for (name, scope) in scopes {
        let file = dir.path().join(format!("{name}.pb"));
        std::fs::write(&file, bootstrap(mesh, scope).encode_to_vec()).unwrap();
        let run = Command::new(&envoy)
            .args(["--mode", "validate", "-l", "warn", "-c"])
            .arg(&file)
            .output()
            .expect("envoy runs");
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{name}: {said}");
    }
}

#[test]
fn bookinfo_is_taken() {
    let mesh = Mesh::bookinfo(RESOURCES);
    let router = Scope::new(Facets { extensions: false, ..ingress().facets().clone() });
    let mut scopes: Vec<_> =
        ["reviews", "ratings", "mysqldb", "productpage"].map(|app| (app, stock(app))).into();
    scopes.push(("ingress", router));
    taken(&mesh, &scopes);
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
    taken(&mesh, &[("plain", stock("plain")), ("dual", dual), ("router", router)]);
}
