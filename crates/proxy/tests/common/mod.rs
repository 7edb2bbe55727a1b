//! A recording upstream and a proxy made of an Envoy bootstrap, both in this process, on real sockets.
#![allow(dead_code)]

pub mod frames;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proxy::bootstrap::{Overrides, settings};
use proxy::{Handle, Settings};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What an upstream does with one connection.
pub type Serve = Arc<dyn Fn(TcpStream, Seen) -> tokio::task::JoinHandle<()> + Send + Sync>;

/// The requests that an upstream saw, as text.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    pub fn push(&self, request: String) {
        self.0.lock().unwrap().push(request);
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// An upstream that hands each connection to `serve`.
pub async fn upstream<F, Fut>(serve: F) -> (SocketAddr, Seen)
where
    F: Fn(TcpStream, Seen) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
    let recorded = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, recorded.clone()));
        }
    });
    (address, seen)
}

/// Reads one head with a body of its `content-length`; nothing at the end of the connection.
pub async fn read_message(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        let n = stream.read_buf(&mut bytes).await.ok()?;
        if n == 0 {
            return None;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let length = text
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "))
        .map_or(0, |n| n.trim().parse::<usize>().unwrap());
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// An upstream that answers every request with its path.
pub async fn echo_upstream() -> (SocketAddr, Seen) {
    upstream(|mut stream, seen| async move {
        while let Some(request) = read_message(&mut stream).await {
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            seen.push(request);
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

pub fn endpoint(address: SocketAddr) -> Value {
    json!({"endpoint": {"address": {"socketAddress": {"address": address.ip().to_string(), "portValue": address.port()}}}})
}

pub fn cluster(name: &str, endpoints: &[SocketAddr]) -> Value {
    json!({
        "name": name, "type": "STATIC", "connectTimeout": "1s",
        "loadAssignment": {"clusterName": name, "endpoints": [{
            "lbEndpoints": endpoints.iter().map(|a| endpoint(*a)).collect::<Vec<_>>(),
        }]},
    })
}

/// An HTTP connection manager whose only virtual host has these routes.
pub fn hcm(routes: Value) -> Value {
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "statPrefix": "in",
            "routeConfig": {"name": "r", "virtualHosts": [{"name": "v", "domains": ["*"], "routes": routes}]},
            "upgradeConfigs": [{"upgradeType": "websocket"}],
            "httpFilters": [{"name": "envoy.filters.http.router", "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
        },
    })
}

pub fn route(action: Value) -> Value {
    json!([{"match": {"prefix": "/"}, "route": action}])
}

pub fn listener(name: &str, filters: Value) -> Value {
    json!({
        "name": name,
        "address": {"socketAddress": {"address": "127.0.0.1", "portValue": 0}},
        "filterChains": [{ "filters": filters }],
    })
}

pub async fn start(listeners: Vec<Value>, clusters: Vec<Value>, workers: usize) -> Handle {
    tls::install_provider();
    proxy::start(settings_of(listeners, clusters, workers)).await.unwrap_or_else(|e| panic!("{e}"))
}

/// Gives a proxy that runs these listeners in the place of those of the same names.
pub async fn change(handle: &Handle, listeners: Vec<Value>) {
    apply(handle, settings_of(listeners, Vec::new(), 1).initial).await;
}

/// Gives a proxy that runs these clusters as well.
pub async fn add_clusters(handle: &Handle, clusters: Vec<Value>) {
    apply(handle, settings_of(Vec::new(), clusters, 1).initial).await;
}

/// Tells a proxy that runs what a control plane would tell it.
pub async fn apply(handle: &Handle, deltas: Vec<proto::Delta>) {
    let refused = handle.apply(deltas).await;
    assert!(refused.is_empty(), "{refused:?}");
}

fn settings_of(listeners: Vec<Value>, clusters: Vec<Value>, workers: usize) -> Settings {
    let bootstrap = json!({
        "node": {"id": "test", "cluster": "test"},
        "staticResources": {"listeners": listeners, "clusters": clusters},
    });
    let overrides = Overrides {
        concurrency: Some(workers),
        admin_port: Some(0),
        drain_time: Some(Duration::from_secs(5)),
        ..Overrides::default()
    };
    settings(bootstrap, &overrides).unwrap_or_else(|e| panic!("{e}"))
}

/// A proxy with one HTTP listener and one cluster `up`.
pub async fn http_proxy(action: Value, up: Value, workers: usize) -> (Handle, SocketAddr) {
    let handle = start(vec![listener("l", json!([hcm(route(action))]))], vec![up], workers).await;
    let address = handle.address("l").await.unwrap();
    (handle, address)
}

/// Sends raw bytes on a connection of its own and reads until the end of the first answer, or of the connection.
pub async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(10), read_message(&mut stream)).await;
    answer.expect("an answer").unwrap_or_default()
}

pub async fn get(address: SocketAddr, path: &str) -> String {
    exchange(address, &format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await
}

pub fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// The value of one of `/stats`' lines.
pub async fn stat(handle: &Handle, name: &str) -> i64 {
    let text = proxy::stats_text(&handle.stats().await, &proxy::WantedStats::default());
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.and_then(|n| n.parse().ok()).unwrap_or_default()
}
