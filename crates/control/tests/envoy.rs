//! A stock Envoy against our control plane, in a network namespace of its own: state of the world, delta and polling.

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{Mesh, endpoints, wait};
use serde_json::{Value, json};

const INSIDE: &str = "MIZZEN_TEST_NAMESPACE";
const ADMIN: &str = "127.0.0.1:15999";
const CLUSTER: &str = "outbound|80||s0.default.svc.cluster.local";

/// Runs the named test again in a new network namespace; true where it already runs in one.
fn isolated(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip runs");
        assert!(up.success(), "the loopback interface comes up");
        return true;
    }
    let own = std::env::current_exe().expect("the test has a path");
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--"])
        .arg(own)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare runs");
    assert!(status.success(), "{name} failed in its namespace");
    false
}

struct Envoy(Child);

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Serves Envoy's own certificate as the agent beside it does.
async fn secrets(folder: &Path) {
    tls::install_provider();
    let life = ca::RootLife::for_leaves(Duration::from_secs(3600));
    let seal = tls::seal::SealKey::from_bytes(&[1; 32]).expect("a key");
    let now = std::time::SystemTime::now();
    let root = ca::OwnRoot::load_or_create(folder, seal, "cluster.local", &life, now).expect("a root");
    let clock = Arc::new(base::SystemClock);
    let authority =
        ca::Authority::with_own_root(ca::Policy::default(), clock, root, life).expect("an authority");
    let bundle = authority.bundle().current().expect("a bundle");
    let certificates = agent::certificates::Certificates::new((*bundle).clone());
    let identity = authority.issue_server(vec!["client".into()], vec![]).await.expect("a certificate");
    certificates.identity.set(identity);
    certificates.bundle.set((*bundle).clone());
    let listener = agent::sds::bind(&folder.join("sds")).expect("the socket opens");
    tokio::spawn(agent::sds::serve(listener, certificates));
}

fn bootstrap(port: u16, way: &str, sds: &Path) -> Value {
    let address = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let address = |name: &str| match name {
        "sds-grpc" => json!({"pipe": {"path": sds}}),
        _ => address(port),
    };
    let cluster = |name: &str, options: Value| {
        json!({
            "name": name, "type": "STATIC", "connect_timeout": "1s",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": options,
            }},
            "load_assignment": {"cluster_name": name, "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": address(name)}}]}]},
        })
    };
    let ads = json!({"ads": {}, "resource_api_version": "V3"});
    let rest = json!({"resource_api_version": "V3", "api_config_source": {
        "api_type": "REST", "transport_api_version": "V3", "cluster_names": ["xds-rest"], "refresh_delay": "0.2s"}});
    let source = if way == "REST" { rest } else { ads };
    let mut resources = json!({"cds_config": source, "lds_config": source});
    if way != "REST" {
        resources["ads_config"] = json!({"api_type": way, "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}]});
    }
    json!({
        "node": {
            "id": "sidecar~10.1.0.1~client.default~default.svc.cluster.local", "cluster": "client",
            "metadata": {"NAMESPACE": "default", "SERVICE_ACCOUNT": "default", "LABELS": {"app": "s0"}},
        },
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 15999}}},
        "dynamic_resources": resources,
        "static_resources": {"clusters": [
            cluster("xds-grpc", json!({"http2_protocol_options": {}})),
            cluster("xds-rest", json!({"http_protocol_options": {}})),
            cluster("sds-grpc", json!({"http2_protocol_options": {}})),
        ]},
    })
}

fn start(envoy: &Path, folder: &Path, port: u16, way: &str) -> Envoy {
    let file = folder.join(format!("{way}.json"));
    std::fs::write(&file, bootstrap(port, way, &folder.join("sds")).to_string())
        .expect("the bootstrap is written");
    let log = std::fs::File::create(folder.join(format!("{way}.log"))).expect("the log opens");
    let child = Command::new(envoy)
        .arg("-c")
        .arg(file)
        .args(["--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    Envoy(child.expect("envoy starts"))
}

async fn admin(path: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(ADMIN).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// The counter's value in Envoy's statistics.
async fn stat(name: &str) -> Option<u64> {
    let stats = admin(&format!("/stats?filter=^{}$", name.replace('.', "\\."))).await?;
    stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.trim().parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_envoy_takes_everything_that_is_served() {
    let Some(envoy) = testkit::peers::need("envoy") else { return };
    if !isolated("a_stock_envoy_takes_everything_that_is_served") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    secrets(folder.path()).await;
    let mesh = Mesh::start(3, None).await;
    let port = mesh.handle.addresses().plaintext[0].port();
    for way in ["GRPC", "DELTA_GRPC", "REST"] {
        mesh.change(endpoints(0, &["10.1.0.1", "10.1.0.2"])).await;
        let running = start(&envoy, folder.path(), port, way);
        let has = |text: &'static str| async move {
            admin("/clusters").await.filter(|c| c.contains(text)).map(drop)
        };
        let log = || std::fs::read_to_string(folder.path().join(format!("{way}.log"))).unwrap_or_default();
        let first = tokio::time::timeout(
            std::time::Duration::from_secs(25),
            wait("endpoints", || has("outbound|80||s0.default.svc.cluster.local::10.1.0.2:8080::")),
        );
        assert!(first.await.is_ok(), "{way}: no endpoints came:\n{}", log());
        wait("listeners", || async { stat("listener_manager.lds.update_success").await.filter(|n| *n > 0) })
            .await;
        mesh.change(endpoints(0, &["10.1.0.1", "10.1.0.3"])).await;
        wait("the new endpoint", || has("outbound|80||s0.default.svc.cluster.local::10.1.0.3:8080::")).await;
        // A cluster that changes must not wait for endpoints for ever.
        mesh.change(common::rule(0)).await;
        wait("the changed cluster", || async {
            let dump = admin("/config_dump?resource=dynamic_active_clusters").await?;
            let at = dump.find(CLUSTER)?;
            dump[at.saturating_sub(4000)..].contains("\"max_connections\": 77").then_some(())
        })
        .await;
        mesh.change(common::no_rule(0)).await;
        mesh.settled().await;
        for of in ["cluster_manager.cds", "listener_manager.lds"] {
            assert_eq!(stat(&format!("{of}.update_rejected")).await, Some(0), "{way} {of}:\n{}", log());
        }
        drop(running);
    }
}
