//! The port as kubelets and Prometheus see it.

use tls::TrustBundle;

use super::*;

/// Something that answers one path with 200 and a body, and everything else with 503.
async fn server(path: &'static str, body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(http::serve_connection(stream, move |call: Call| async move {
                if call.path == path { Reply::text(200, body) } else { Reply::text(503, "LIVE") }
            }));
        }
    });
    address
}

struct Fixture {
    address: SocketAddr,
    actions: mpsc::Receiver<Action>,
    draining: watch::Sender<bool>,
    certificates: Certificates,
}

async fn start(config: StatusConfig) -> Fixture {
    tls::install_provider();
    let certificates = Certificates::new(TrustBundle::default());
    let (sender, actions) = mpsc::channel(4);
    let (draining, watched) = watch::channel(false);
    let status = Status::new(
        config,
        certificates.clone(),
        Egress::direct(),
        sender,
        watched,
        watch::Sender::new(None),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(status.serve(listener));
    Fixture { address, actions, draining, certificates }
}

fn config(proxy_admin: SocketAddr) -> StatusConfig {
    let app_address = "127.0.0.1".parse().unwrap();
    StatusConfig { proxy_admin, app_metrics: None, probes: BTreeMap::new(), app_address }
}

async fn get(to: SocketAddr, path: &str) -> Reply {
    http::get(&Egress::direct(), to, path, &[], Duration::from_secs(10)).await.unwrap()
}

fn identity() -> tls::Identity {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    tls::Identity::from_pem("x", certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
}

#[tokio::test]
async fn ready_means_certificate_and_configuration_and_not_ending() {
    let fixture = start(config(server("/ready", "LIVE").await)).await;
    let first = get(fixture.address, "/healthz/ready").await;
    assert_eq!(first.status, 503);
    assert!(first.body_text().contains("no certificate"));
    fixture.certificates.identity.set(identity());
    assert_eq!(get(fixture.address, "/healthz/ready").await.status, 200);
    fixture.draining.send_replace(true);
    assert_eq!(get(fixture.address, "/healthz/ready").await.status, 503);

    let unready = start(config(server("/elsewhere", "").await)).await;
    unready.certificates.identity.set(identity());
    let reply = get(unready.address, "/healthz/ready").await;
    assert!(reply.status == 503 && reply.body_text().contains("the proxy answers 503: LIVE"));
}

#[tokio::test]
async fn metrics_of_all_three_come_as_one() {
    let proxy = server("/stats/prometheus", "envoy_x 1\n").await;
    let app = server("/own", "app_y 2\n# EOF").await;
    let mut config = config(proxy);
    config.app_metrics = Some(AppMetrics { port: app.port(), path: "/own".into() });
    let fixture = start(config).await;
    fixture.certificates.identity.set(identity());
    let text = get(fixture.address, "/stats/prometheus").await.body_text();
    for series in ["envoy_x 1\n", "app_y 2\n", "istio_agent_cert_expiry_seconds{resource_name=\"default\"} "]
    {
        assert!(text.contains(series), "{series} in {text}");
    }
    assert!(!text.contains("EOF"));
}

#[tokio::test]
async fn only_a_post_ends_it() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut fixture = start(config(server("/ready", "").await)).await;
    assert_eq!(get(fixture.address, "/quitquitquit").await.status, 405);
    assert!(fixture.actions.try_recv().is_err());
    for (path, action) in [("/drain", Action::Drain), ("/quitquitquit", Action::Quit)] {
        let mut stream = tokio::net::TcpStream::connect(fixture.address).await.unwrap();
        let request =
            format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(fixture.actions.recv().await, Some(action));
    }
}

#[tokio::test]
async fn kubelets_probes_reach_the_application() {
    let app = server("/health", "").await;
    let json = format!(
        r#"{{"/app-health/a/readyz": {{"httpGet": {{"path": "health", "port": {p}}}}},
            "/app-health/a/livez": {{"httpGet": {{"path": "/other", "port": {p}}}, "timeoutSeconds": 3}},
            "/app-health/a/startupz": {{"tcpSocket": {{"port": {p}}}}},
            "/app-health/b/livez": {{"tcpSocket": {{"port": 1}}}}}}"#,
        p = app.port()
    );
    let mut config = config(app);
    config.probes = probes_from_json(&json).unwrap();
    let fixture = start(config).await;
    let table =
        [("a/readyz", 200), ("a/livez", 503), ("a/startupz", 200), ("b/livez", 500), ("c/livez", 404)];
    for (path, status) in table {
        assert_eq!(get(fixture.address, &format!("/app-health/{path}")).await.status, status, "{path}");
    }
}

#[test]
fn probes_that_are_not_understood_are_refused_by_name() {
    let table = [
        (r#"{"/x": {"tcpSocket": {"port": 1}}}"#, "/app-health/<container>"),
        (r#"{"/app-health/a/livez": {"grpc": {"port": 1}}}"#, "grpc"),
        (r#"{"/app-health/a/livez": {}}"#, "exactly one"),
        (r#"{"/app-health/a/livez": {"httpGet": {"port": "http"}}}"#, "numbered port"),
        ("[]", "probes"),
    ];
    for (json, words) in table {
        let error = probes_from_json(json).unwrap_err().to_string();
        assert!(error.contains(words), "{json}: {error}");
    }
}
