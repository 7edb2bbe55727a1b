//! Servers under test: ours, and a real kube-apiserver with its etcd.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use http::{Method, Request};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::{Client, Config};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Ours, in this process, in a folder that goes with it.
pub struct Ours {
    pub handle: apiserver::Handle,
    pub folder: tempfile::TempDir,
}

pub async fn ours() -> Ours {
    tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let mut config = apiserver::Config::new(folder.path());
    config.listen = ([127, 0, 0, 1], 0).into();
    let handle = apiserver::Server::start(config).await.unwrap();
    Ours { handle, folder }
}

impl Ours {
    pub fn client(&self) -> Client {
        client(&self.handle.url(), self.handle.admin_token())
    }
}

pub fn client(url: &str, token: &str) -> Client {
    let mut config = Config::new(url.parse().unwrap());
    config.accept_invalid_certs = true;
    config.default_retry = false;
    config.auth_info.token = Some(token.to_owned().into());
    config.read_timeout = Some(Duration::from_secs(30));
    Client::try_from(config).unwrap()
}

/// A real API server; its processes end with it.
pub struct Real {
    children: Vec<Child>,
    pub url: String,
    _folder: tempfile::TempDir,
}

pub const TOKEN: &str = "an-administrators-token";

impl Drop for Real {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(program: &Path, folder: &Path, arguments: &[String]) -> Child {
    let log = std::fs::File::create(folder.join("log")).unwrap();
    Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// `None` when it is not installed.
pub async fn real() -> Option<Real> {
    let (etcd, server) = (testkit::peers::need("etcd")?, testkit::peers::need("kube-apiserver")?);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let (store, api) = (at("etcd"), at("api"));
    let (clients, peers, port) = (free_port(), free_port(), free_port());
    let list = |words: &[String]| words.to_vec();
    let etcd = spawn(
        &etcd,
        &store,
        &list(&[
            "--unsafe-no-fsync".into(),
            format!("--data-dir={}/data", store.display()),
            format!("--listen-client-urls=http://127.0.0.1:{clients}"),
            format!("--advertise-client-urls=http://127.0.0.1:{clients}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peers}"),
        ]),
    );
    std::fs::write(api.join("tokens.csv"), format!("{TOKEN},admin,1,\"system:masters\"\n")).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(api.join("sa.key"), key.serialize_pem()).unwrap();
    std::fs::write(api.join("sa.pub"), key.public_key_pem()).unwrap();
    let server = spawn(
        &server,
        &api,
        &list(&[
            format!("--etcd-servers=http://127.0.0.1:{clients}"),
            format!("--secure-port={port}"),
            "--bind-address=127.0.0.1".into(),
            "--cert-dir=certs".into(),
            "--token-auth-file=tokens.csv".into(),
            "--service-account-key-file=sa.pub".into(),
            "--service-account-signing-key-file=sa.key".into(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            "--service-cluster-ip-range=10.96.0.0/12".into(),
            "--disable-admission-plugins=ServiceAccount".into(),
            "--anonymous-auth=false".into(),
        ]),
    );
    let real =
        Real { children: vec![server, etcd], url: format!("https://127.0.0.1:{port}"), _folder: folder };
    let client = client(&real.url, TOKEN);
    for _ in 0..300 {
        let ready = client.request_text(Request::get("/readyz").body(Vec::new()).unwrap()).await;
        if ready.is_ok_and(|text| text == "ok") {
            return Some(real);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let log = std::fs::read_to_string(api.join("log")).unwrap_or_default();
    let end: Vec<&str> = log.lines().rev().take(5).collect();
    panic!("the real API server did not become ready: {end:#?}");
}

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    pub code: u16,
    pub content_type: String,
    pub warnings: Vec<String>,
    pub body: Value,
}

pub async fn send(client: &Client, method: &str, path: &str, content_type: &str, body: Vec<u8>) -> Answer {
    send_as(client, method, path, content_type, "application/json", body).await
}

pub async fn send_as(
    client: &Client,
    method: &str,
    path: &str,
    content_type: &str,
    accept: &str,
    body: Vec<u8>,
) -> Answer {
    let mut request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).unwrap())
        .uri(path)
        .header("user-agent", "suite/1")
        .header("accept", accept);
    if !content_type.is_empty() {
        request = request.header("content-type", content_type);
    }
    let response = client.send(request.body(Body::from(body)).unwrap()).await.unwrap();
    let code = response.status().as_u16();
    let text = |name: &str| -> Vec<String> {
        response.headers().get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect()
    };
    let (content_type, warnings) = (text("content-type").join(","), text("warning"));
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    Answer { code, content_type, warnings, body }
}
