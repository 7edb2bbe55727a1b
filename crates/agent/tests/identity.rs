//! The agent against an authority over real sockets, and a real Envoy against the agent.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use agent::authority::{AuthorityClient, Token};
use agent::certificates::{CertificateError, Certificates, Renewer};
use base::{SpiffeId, SystemClock};
use ca::{
    Authenticators, Authority, CertificateRequest, Credentials, JoinGrant, JoinTokens, OwnRoot, Policy,
    RootLife,
};
use proto::istio::ca as wire;
use tls::seal::SealKey;
use tls::{
    ClientCertificates, ClientOptions, ClientTls, IdentitySource, PeerInfo, ServerOptions, ServerTls, Verify,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

const ID: &str = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews";
const PATIENCE: Duration = Duration::from_secs(20);
const CONTROL_PLANE: &str = "istiod.istio-system.svc";

/// An authority behind TLS, as the control plane is one.
struct ControlPlane {
    authority: Arc<Authority>,
    serving: IdentitySource,
    join: Arc<JoinTokens>,
    address: std::net::SocketAddr,
    calls: Arc<AtomicUsize>,
    _folder: tempfile::TempDir,
}

#[derive(Clone)]
struct Service {
    authority: Arc<Authority>,
    authenticators: Authenticators,
    calls: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl wire::CertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<wire::CertificateRequest>,
    ) -> Result<Response<wire::CertificateResponse>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let header = request.metadata().get("authorization").and_then(|v| v.to_str().ok());
        let peer = request.extensions().get::<Peer>().and_then(|p| p.0.clone());
        let credentials = Credentials::new(header, peer);
        let csr = CertificateRequest::from_pem(&request.get_ref().csr)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let caller = self
            .authenticators
            .authenticate(&credentials, csr.public_key(), SystemTime::now())
            .await
            .map_err(|e| Status::unauthenticated(e.to_string()))?;
        let issued = self
            .authority
            .issue(&csr, &caller, Duration::ZERO)
            .await
            .map_err(|e| Status::unavailable(e.to_string()))?;
        Ok(Response::new(wire::CertificateResponse { cert_chain: issued.entries() }))
    }
}

#[derive(Clone)]
struct Peer(Option<Arc<PeerInfo>>);

struct Stream(tokio_rustls::server::TlsStream<TcpStream>);

impl Connected for Stream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer(PeerInfo::of_connection(self.0.get_ref().1).map(Arc::new))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl ControlPlane {
    async fn start(ttl: Duration) -> Self {
        tls::install_provider();
        let folder = tempfile::tempdir().unwrap();
        let life = RootLife::for_leaves(Duration::from_secs(3600));
        let seal = SealKey::from_bytes(&[3; 32]).unwrap();
        let root =
            OwnRoot::load_or_create(folder.path(), seal, "cluster.local", &life, SystemTime::now()).unwrap();
        let policy = Policy { default_ttl: ttl, ..Policy::default() };
        let authority =
            Arc::new(Authority::with_own_root(policy, Arc::new(SystemClock), root, life).unwrap());
        let own = authority.issue_server(ca::control_plane_names("istio-system", ""), vec![]).await.unwrap();
        let serving = IdentitySource::new(own);
        let mut options = ServerOptions::new(serving.clone());
        options.client_certificates = ClientCertificates::Optional(Verify::spiffe(authority.bundle(), []));
        options.alpn = vec![b"h2".to_vec()];
        let tls = ServerTls::new(options).unwrap();
        let join = Arc::new(JoinTokens::default());
        let calls = Arc::new(AtomicUsize::new(0));
        let service = Service {
            authority: authority.clone(),
            authenticators: Authenticators {
                trust_domains: authority.policy().trust_domains.clone(),
                join: join.clone(),
                reviewer: None,
            },
            calls: calls.clone(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, connections) = tokio::sync::mpsc::channel::<std::io::Result<Stream>>(8);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = tls.accept(stream).await {
                    let _ = sender.send(Ok(Stream(stream))).await;
                }
            }
        });
        let incoming = tokio_stream::wrappers::ReceiverStream::new(connections);
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(wire::CertificateServer::new(service))
                .serve_with_incoming(incoming),
        );
        Self { authority, serving, join, address, calls, _folder: folder }
    }

    async fn renew_own(&self) {
        let names = ca::control_plane_names("istio-system", "");
        self.serving.set(self.authority.issue_server(names, vec![]).await.unwrap());
    }

    /// An agent's certificates, and the renewer that keeps them.
    fn agent(&self, token: Token, names: &[&str]) -> (Certificates, Renewer) {
        let certificates = Certificates::new((*self.authority.bundle().current().unwrap()).clone());
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let dial = xds::client::Config::connect_to(self.address.to_string());
        let client = AuthorityClient::new(dial, &names, token, "Kubernetes".into(), &certificates).unwrap();
        let id: SpiffeId = ID.parse().unwrap();
        let renewer =
            Renewer::new(id, Duration::ZERO, Arc::new(client), certificates.clone(), Arc::new(SystemClock));
        (certificates, renewer)
    }

    fn token(&self, folder: &std::path::Path) -> Token {
        let grant = JoinGrant { namespace: "default".into(), service_account: "bookinfo-reviews".into() };
        let token = self.join.mint(&grant, Duration::from_secs(300), SystemTime::now()).unwrap();
        let file = folder.join("token");
        std::fs::write(&file, token.as_bytes()).unwrap();
        Token::File(file)
    }
}

fn serial(source: &IdentitySource) -> String {
    source.current().map(|i| i.info().serial.clone()).unwrap_or_default()
}

#[tokio::test]
async fn the_authority_says_the_trust_domain() {
    let control = ControlPlane::start(Duration::from_secs(60)).await;
    let trust = &control.authority.policy().trust_domains;
    let folder = tempfile::tempdir().unwrap();
    trust.set("example.org".parse().unwrap(), vec![]);
    let (certificates, strict) = control.agent(control.token(folder.path()), &[CONTROL_PLANE]);
    let refused = strict.renew().await.unwrap_err().to_string();
    assert!(refused.contains("trust domain"), "{refused}");
    let (certificates, renewer) = {
        drop(certificates);
        let (certificates, renewer) = control.agent(control.token(folder.path()), &[CONTROL_PLANE]);
        (certificates, renewer.of_any_domain())
    };
    renewer.renew().await.unwrap();
    let id = || certificates.identity.current().unwrap().spiffe_id().unwrap().to_string();
    assert_eq!(id(), ID.replace("cluster.local", "example.org"));
    // When the mesh is renamed, its former name an alias, the certificate buys one of the new name.
    trust.set("example.net".parse().unwrap(), vec!["example.org".parse().unwrap()]);
    renewer.renew().await.unwrap();
    assert_eq!(id(), ID.replace("cluster.local", "example.net"));
    trust.set("example.com".parse().unwrap(), vec![]);
    let refused = renewer.renew().await.unwrap_err().to_string();
    assert!(refused.contains("no SVID of trust domain example.com"), "{refused}");
}

#[tokio::test]
async fn a_join_token_brings_the_first_certificate_and_each_brings_the_next() {
    let control = ControlPlane::start(Duration::from_secs(4)).await;
    let folder = tempfile::tempdir().unwrap();
    let (certificates, renewer) = control.agent(control.token(folder.path()), &[CONTROL_PLANE]);
    let running = tokio::spawn(renewer.run());
    let first = timeout(PATIENCE, certificates.first()).await.unwrap().unwrap();
    assert_eq!(first.spiffe_id().unwrap().to_string(), ID);
    assert_eq!(*certificates.bundle.current().unwrap(), *control.authority.bundle().current().unwrap());
    let mut versions = certificates.identity.watch();
    for _ in 0..2 {
        versions.mark_unchanged();
        let before = serial(&certificates.identity);
        timeout(PATIENCE, versions.changed()).await.expect("renewed at half of its life").unwrap();
        assert_ne!(serial(&certificates.identity), before);
        assert!(first.not_after() > SystemTime::now() || certificates.failure().is_none());
    }
    assert!(control.calls.load(Ordering::SeqCst) >= 3);
    running.abort();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(!text.contains("PRIVATE"), "a key was written");
    }
}

/// As after a night without a control plane: the certificate is worth nothing, the token is.
#[tokio::test]
async fn an_expired_certificate_does_not_stand_in_the_tokens_way() {
    let control = ControlPlane::start(Duration::from_secs(2)).await;
    let folder = tempfile::tempdir().unwrap();
    let (certificates, renewer) = control.agent(control.token(folder.path()), &[CONTROL_PLANE]);
    renewer.renew().await.unwrap();
    let first = certificates.identity.current().unwrap();
    while first.not_after() > SystemTime::now() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The control plane's own is as short-lived here.
    control.renew_own().await;
    control.token(folder.path());
    renewer.renew().await.unwrap();
    assert_ne!(serial(&certificates.identity), first.info().serial);
}

#[tokio::test]
async fn refusals_say_why_and_do_not_hang() {
    let control = ControlPlane::start(Duration::from_secs(600)).await;
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad");
    std::fs::write(&bad, "mizzen-join.forged\n").unwrap();
    let cases = [
        (Token::File(bad), CONTROL_PLANE, "not known here"),
        (Token::None, CONTROL_PLANE, "no credentials"),
        (Token::File(folder.path().join("absent")), CONTROL_PLANE, "token file"),
    ];
    for (token, name, words) in cases {
        let (certificates, renewer) = control.agent(token, &[name]);
        let running = tokio::spawn(renewer.run());
        let error = timeout(PATIENCE, certificates.first()).await.unwrap().unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        running.abort();
    }
    let (_, renewer) = control.agent(control.token(folder.path()), &["somebody-else.svc"]);
    let error = renewer.renew().await.unwrap_err();
    assert!(
        matches!(&error, CertificateError::Unavailable(why) if why.contains("istiod.istio-system.svc")),
        "{error}"
    );
}

#[tokio::test]
async fn a_lost_control_plane_leaves_the_certificate_in_use() {
    let control = ControlPlane::start(Duration::from_secs(600)).await;
    let folder = tempfile::tempdir().unwrap();
    let (certificates, renewer) = control.agent(control.token(folder.path()), &[CONTROL_PLANE]);
    renewer.renew().await.unwrap();
    let had = serial(&certificates.identity);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let dial = xds::client::Config::connect_to(closed.to_string());
    let names = [CONTROL_PLANE.to_owned()];
    let client = AuthorityClient::new(dial, &names, Token::None, "c".into(), &certificates).unwrap();
    let lost = Renewer::new(
        ID.parse().unwrap(),
        Duration::ZERO,
        Arc::new(client),
        certificates.clone(),
        Arc::new(SystemClock),
    );
    assert!(lost.renew().await.unwrap_err().is_temporary());
    assert_eq!(serial(&certificates.identity), had);
}

/// A listener of a stock Envoy that takes certificate and roots from the socket and asks clients for theirs.
fn envoy_config(socket: &std::path::Path, port: u16, delta: bool) -> String {
    let sds = serde_json::json!({ "resourceApiVersion": "V3", "apiConfigSource": {
        "apiType": if delta { "DELTA_GRPC" } else { "GRPC" }, "transportApiVersion": "V3",
        "grpcServices": [{ "envoyGrpc": { "clusterName": "sds-grpc" } }] } });
    serde_json::json!({
        "node": { "id": "x", "cluster": "y" },
        "staticResources": {
            "clusters": [{
                "name": "sds-grpc", "type": "STATIC", "connectTimeout": "1s",
                "typedExtensionProtocolOptions": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicitHttpConfig": { "http2ProtocolOptions": {} } } },
                "loadAssignment": { "clusterName": "sds-grpc", "endpoints": [{ "lbEndpoints": [{ "endpoint": {
                    "address": { "pipe": { "path": socket } } } }] }] },
            }],
            "listeners": [{
                "name": "l",
                "address": { "socketAddress": { "address": "127.0.0.1", "portValue": port } },
                "filterChains": [{
                    "filters": [{ "name": "envoy.filters.network.direct_response", "typedConfig": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config",
                        "response": { "inlineString": "hello" } } }],
                    "transportSocket": { "name": "envoy.transport_sockets.tls", "typedConfig": {
                        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                        "requireClientCertificate": true,
                        "commonTlsContext": {
                            "tlsCertificateSdsSecretConfigs": [{ "name": "default", "sdsConfig": sds }],
                            "combinedValidationContext": {
                                "defaultValidationContext": { "matchTypedSubjectAltNames": [
                                    { "sanType": "URI", "matcher": { "prefix": "spiffe://cluster.local/" } }] },
                                "validationContextSdsSecretConfig": { "name": "ROOTCA", "sdsConfig": sds },
                            },
                        },
                    } },
                }],
            }],
        },
    })
    .to_string()
}

/// The serial of the certificate that the Envoy shows and the text it sends, once it accepts connections.
async fn visit(client: &ClientTls, port: u16) -> Option<(String, String)> {
    use tokio::io::AsyncReadExt as _;
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let mut stream = client.connect(tcp).await.ok()?;
    let mut text = [0; 5];
    stream.read_exact(&mut text).await.ok()?;
    let peer = PeerInfo::of_connection(stream.get_ref().1)?;
    Some((peer.serial, String::from_utf8_lossy(&text).into_owned()))
}

async fn visit_until(client: &ClientTls, port: u16, wanted: &str) {
    let reached = async {
        loop {
            match visit(client, port).await {
                Some((serial, text)) if serial == wanted => return assert_eq!(text, "hello"),
                // Envoy says nothing when it is ready to accept; asking again is the only way to know.
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("never saw certificate {wanted}"));
}

#[tokio::test]
async fn a_stock_envoy_takes_its_keys_from_the_socket_and_every_renewal() {
    let Some(envoy) = testkit::peers::need("envoy") else { return };
    let control = ControlPlane::start(Duration::from_secs(600)).await;
    for delta in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (certificates, renewer) = control.agent(control.token(folder.path()), &[CONTROL_PLANE]);
        let socket = folder.path().join("sds");
        let listener = agent::sds::bind(&socket).unwrap();
        let serving = tokio::spawn(agent::sds::serve(listener, certificates.clone()));
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let mut process = tokio::process::Command::new(&envoy)
            .args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error"])
            .args(["--config-yaml", &envoy_config(&socket, port, delta)])
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut options = ClientOptions::new(Verify::spiffe(certificates.bundle.clone(), [ID.to_owned()]));
        options.identity = Some(certificates.identity.clone());
        let client = ClientTls::new(options).unwrap();
        // The first certificate comes after Envoy has asked: it must be pushed.
        for _ in 0..2 {
            renewer.renew().await.unwrap();
            visit_until(&client, port, &serial(&certificates.identity)).await;
        }
        process.kill().await.unwrap();
        serving.abort();
    }
}
