//! Configuration from files, changed in each way in which people change files, while requests go on.

mod common;

use std::path::Path;
use std::time::Duration;

use common::{cluster, echo_upstream, endpoint, get, listener, stat, status};
use proxy::bootstrap::{Overrides, settings};
use serde_json::{Value, json};

fn source(file: &Path, watched: Option<&Path>) -> Value {
    let mut source = json!({"path": file});
    if let Some(watched) = watched {
        source["watchedDirectory"] = json!({"path": watched});
    }
    json!({"resourceApiVersion": "V3", "pathConfigSource": source})
}

fn manager(source: Value) -> Value {
    json!({"name": "h", "typedConfig": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "statPrefix": "in", "rds": {"routeConfigName": "r", "configSource": source},
        "httpFilters": [{"name": "router", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
    }})
}

fn routes(said: &str) -> String {
    let route =
        json!({"match": {"prefix": "/"}, "directResponse": {"status": 200, "body": {"inlineString": said}}});
    json!({"resources": [{"@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": "r", "virtualHosts": [{"name": "v", "domains": ["*"], "routes": [route]}]}]})
    .to_string()
}

async fn start(listeners: Vec<Value>, clusters: Vec<Value>) -> proxy::Handle {
    tls::install_provider();
    let bootstrap = json!({"staticResources": {"listeners": listeners, "clusters": clusters}});
    let overrides = Overrides { concurrency: Some(1), ..Overrides::default() };
    let settings = settings(bootstrap, &overrides).unwrap_or_else(|e| panic!("{e}"));
    proxy::start(settings).await.unwrap_or_else(|e| panic!("{e}"))
}

async fn until<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let waited = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited).await.unwrap_or_else(|_| panic!("{what}"));
}

async fn says(handle: &proxy::Handle, wanted: &str) {
    until(wanted, || async {
        match handle.address("l").await {
            Some(address) => get(address, "/").await.ends_with(wanted),
            None => false,
        }
    })
    .await;
}

#[tokio::test]
async fn a_mounted_folder_whose_link_is_turned_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let version = |name: &str, said: &str| {
        std::fs::create_dir(at(name)).unwrap();
        std::fs::write(at(name).join("rds.json"), routes(said)).unwrap();
        std::os::unix::fs::symlink(name, at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    version("..one", "first");
    std::os::unix::fs::symlink("..data/rds.json", at("rds.json")).unwrap();
    let source = source(&at("rds.json"), Some(folder.path()));
    let handle = start(vec![listener("l", json!([manager(source)]))], Vec::new()).await;
    says(&handle, "first").await;
    version("..two", "second");
    says(&handle, "second").await;
    assert_eq!(stat(&handle, "http.in.rds.r.update_success").await, 2);
    handle.stop().await;
}

#[tokio::test]
async fn a_plain_write_is_followed_and_a_bad_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (rds, eds) = (folder.path().join("rds.json"), folder.path().join("eds.json"));
    let handle = start(vec![listener("l", json!([manager(source(&rds, None))]))], Vec::new()).await;
    std::fs::write(&rds, routes("first")).unwrap();
    says(&handle, "first").await;
    handle.ready().await;
    // That there was no file at first may have been seen, or not.
    let before = stat(&handle, "http.in.rds.r.update_failure").await;
    std::fs::write(&rds, "no JSON").unwrap();
    until("it is counted", || async { stat(&handle, "http.in.rds.r.update_failure").await > before }).await;
    says(&handle, "first").await;
    std::fs::write(&rds, routes("second")).unwrap();
    says(&handle, "second").await;
    handle.stop().await;

    let (up, seen) = echo_upstream().await;
    let assigned = |addresses: &[std::net::SocketAddr]| {
        let endpoints: Vec<_> = addresses.iter().map(|a| endpoint(*a)).collect();
        json!({"resources": [{"@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "clusterName": "up", "endpoints": [{"lbEndpoints": endpoints}]}]})
        .to_string()
    };
    std::fs::write(&eds, assigned(&[])).unwrap();
    let mut dynamic = cluster("up", &[]);
    dynamic["type"] = json!("EDS");
    dynamic["edsClusterConfig"] = json!({"edsConfig": source(&eds, None)});
    dynamic.as_object_mut().unwrap().remove("loadAssignment");
    let hcm = common::hcm(common::route(json!({"cluster": "up"})));
    let handle = start(vec![listener("l", json!([hcm]))], vec![dynamic]).await;
    handle.ready().await;
    let address = handle.address("l").await.unwrap();
    assert_eq!(status(&get(address, "/nobody").await), "503");
    std::fs::write(&eds, assigned(&[up])).unwrap();
    until("there is somebody", || async { status(&get(address, "/").await) == "200" }).await;
    assert!(seen.len() > 0);
    handle.stop().await;
}
