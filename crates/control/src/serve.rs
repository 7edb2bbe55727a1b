//! The doors: xDS in plaintext and over TLS (with the CA service beside), monitoring, readiness, webhooks.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::SockRef;
use tls::{PeerInfo, ServerTls};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tonic::body::Body;
use tower::Service as _;
use tracing::{debug, warn};
use xds::grpc::{self, Status};
use xds::{Mode, Payloads, rest};

use crate::ca_service::CaService;
use crate::connection::{self, Peer};
use crate::debug;
use crate::judge::Judge;
use crate::metrics::Metrics;
use crate::polls::Polls;
use crate::publish::Publisher;
use crate::register::Registrar;
use crate::scrape;
use crate::status::{Connection, Connections};
use crate::validate;
use crate::view::Seen;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// A proxy that says nothing for so long is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(3);
/// A machine that does not acknowledge what was sent to it for so long is gone, and its workloads with it: less than
/// eight seconds in all. Its kernel acknowledges even while the proxy itself is busy.
const UNREACHED: Duration = Duration::from_secs(4);
/// A proxy whose machine is there and that does not answer for so long hangs.
const HANGING: Duration = Duration::from_secs(20);
/// A poll's body is a request: never long.
const MAX_POLL: usize = 8 << 20;

/// What the doors share.
pub(crate) struct Context {
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) payloads: Payloads,
    pub(crate) connections: Arc<Connections>,
    pub(crate) polls: Polls,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) serving: watch::Receiver<bool>,
    pub(crate) judge: Judge,
    pub(crate) pending: watch::Receiver<bool>,
    /// How many first syncs may be under way.
    pub(crate) pace: Arc<Semaphore>,
    pub(crate) authenticators: Option<ca::Authenticators>,
    pub(crate) authority: Option<CaService>,
    pub(crate) registrar: Option<Arc<dyn Registrar>>,
    pub(crate) version: Arc<str>,
    pub(crate) revision: Arc<str>,
}

impl Context {
    /// Everybody who is connected, by a stream or by polling.
    pub(crate) fn connected(&self) -> Vec<Arc<Connection>> {
        self.polls.report();
        self.connections.all()
    }
}

/// What is behind a port.
#[derive(Clone)]
pub(crate) enum Door {
    Plaintext,
    Tls(ServerTls),
    Monitoring,
    Scraped,
    Ready,
    Webhooks(ServerTls),
}

/// Accepts until the listener is dropped.
pub(crate) async fn listen(context: Arc<Context>, listener: TcpListener, door: Door) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let socket = SockRef::from(&stream);
                let set =
                    socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_user_timeout(Some(UNREACHED)));
                if let Err(e) = set {
                    debug!(error = %e, "TCP_NODELAY, TCP_USER_TIMEOUT");
                }
                tokio::spawn(accepted(Arc::clone(&context), stream, peer, door.clone()));
            }
            Err(e) => {
                // Out of descriptors, most likely: leave those who are connected some air.
                warn!(error = %e, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn accepted(context: Arc<Context>, stream: tokio::net::TcpStream, address: SocketAddr, door: Door) {
    match door {
        Door::Tls(tls) => {
            let Some(stream) = shake_hands(tls.accept(stream), address).await else { return };
            let chain = stream.get_ref().1.peer_certificates().filter(|chain| !chain.is_empty());
            let certificate = chain.and_then(|chain| PeerInfo::from_chain(chain).ok()).map(Arc::new);
            speak(context, stream, Caller { address, certificate, secure: true }).await;
        }
        Door::Webhooks(tls) => {
            let Some(stream) = shake_hands(tls.accept(stream), address).await else { return };
            let service = service_fn(move |request: Request<Incoming>| {
                let context = Arc::clone(&context);
                async move { Ok::<_, Infallible>(validate::answer(&context, request).await) }
            });
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE);
            builder
                .http2()
                .timer(TokioTimer::new())
                .max_concurrent_streams(64)
                .max_header_list_size(32 << 10);
            if let Err(e) = builder.serve_connection(TokioIo::new(stream), service).await {
                debug!(peer = %address, error = %e, "a webhook's connection ended");
            }
        }
        Door::Plaintext => speak(context, stream, Caller { address, certificate: None, secure: false }).await,
        Door::Monitoring | Door::Scraped | Door::Ready => {
            let service = service_fn(move |request: Request<Incoming>| {
                let context = Arc::clone(&context);
                let answer = answer(&context, &request, &door);
                async move { Ok::<_, Infallible>(answer) }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            if let Err(e) = builder.serve_connection(TokioIo::new(stream), service).await {
                debug!(peer = %address, error = %e, "a monitoring connection failed");
            }
        }
    }
}

async fn shake_hands<S>(
    handshake: impl Future<Output = std::io::Result<S>>,
    address: SocketAddr,
) -> Option<S> {
    match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(e)) => debug!(peer = %address, error = %e, "a TLS handshake failed"),
        Err(_) => debug!(peer = %address, "a TLS handshake took too long"),
    }
    None
}

fn answer(context: &Context, request: &Request<Incoming>, door: &Door) -> Response<Full<Bytes>> {
    let (method, path) = (request.method(), request.uri().path());
    let not_here = |what| debug::text(StatusCode::NOT_FOUND, what);
    match (door, path) {
        (Door::Ready, "/ready") if method == Method::GET => debug::ready(context),
        (Door::Ready, _) => not_here("only GET /ready is served here\n"),
        (Door::Scraped, path) if !matches!(path, "/metrics" | scrape::PATH) => {
            not_here("only /metrics and /prometheus/targets are served here\n")
        }
        _ => debug::monitoring(context, method, path, request.uri().query().unwrap_or_default()),
    }
}

/// Who opened the connection.
#[derive(Clone)]
struct Caller {
    address: SocketAddr,
    certificate: Option<Arc<PeerInfo>>,
    secure: bool,
}

async fn speak(
    context: Arc<Context>,
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    caller: Caller,
) {
    let address = caller.address;
    let shared = Arc::clone(&context);
    let service = service_fn(move |request: Request<Incoming>| {
        let (context, caller) = (Arc::clone(&shared), caller.clone());
        async move { Ok::<_, Infallible>(dispatch(context, request, caller).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1024)
        .max_header_list_size(32 << 10)
        .keep_alive_interval(SILENCE)
        .keep_alive_timeout(HANGING);
    if let Err(e) = builder.serve_connection(TokioIo::new(io), service).await {
        debug!(peer = %address, error = %e, "a connection ended");
    }
    context.polls.closed(address);
}

async fn dispatch(context: Arc<Context>, mut request: Request<Incoming>, caller: Caller) -> Response<Body> {
    match request.uri().path() {
        grpc::SOTW => stream(context, Mode::Sotw, request, caller).await,
        grpc::DELTA => stream(context, Mode::Delta, request, caller).await,
        path if path.starts_with("/v3/discovery:") => poll(&context, request, caller).await.map(Body::new),
        path if path.starts_with("/istio.v1.auth.IstioCertificateService/") => match &context.authority {
            Some(authority) if caller.secure => {
                if let Some(certificate) = caller.certificate {
                    request.extensions_mut().insert(certificate);
                }
                let mut server = authority.clone().into_server();
                match server.call(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            }
            _ => unimplemented(
                "certificates are only issued on the TLS port of a control plane with an authority",
            ),
        },
        _ => unimplemented("this control plane serves ADS and Istio's certificate service"),
    }
}

fn unimplemented(message: &str) -> Response<Body> {
    Status::new(Status::UNIMPLEMENTED, message).into_response()
}

async fn stream(
    context: Arc<Context>,
    mode: Mode,
    request: Request<Incoming>,
    caller: Caller,
) -> Response<Body> {
    let peer = match identify(&context, &request, &caller).await {
        Ok(peer) => peer,
        Err(status) => return status.into_response(),
    };
    let (sender, body) = grpc::outbound();
    tokio::spawn(connection::serve(context, mode, request.into_body(), peer, sender));
    grpc::streaming(body).map(Body::new)
}

/// The identity by certificate or token; on the plaintext port none is asked for, and none believed.
async fn identify(context: &Context, request: &Request<Incoming>, caller: &Caller) -> Result<Peer, Status> {
    let mut peer = Peer { address: caller.address, identity: None, secure: caller.secure };
    if !caller.secure {
        return Ok(peer);
    }
    let Some(authenticators) = &context.authenticators else {
        peer.identity = caller.certificate.as_ref().and_then(|certificate| certificate.spiffe_id.clone());
        return Ok(peer);
    };
    let header = request.headers().get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    // A certificate that was verified says more than a token, and costs nothing to check.
    let header = header.filter(|_| caller.certificate.is_none());
    let credentials = ca::Credentials::new(header, caller.certificate.clone());
    let id = authenticators.authenticate_stream(&credentials, SystemTime::now()).await;
    let id = id.map_err(|e| {
        let code = if e.is_temporary() { Status::UNAVAILABLE } else { Status::UNAUTHENTICATED };
        warn!(target: "audit", event = "caller.refused", peer = %caller.address, reason = %e);
        Status::new(code, e.to_string())
    })?;
    peer.identity = Some(id.id);
    Ok(peer)
}

async fn poll(context: &Context, request: Request<Incoming>, caller: Caller) -> Response<Full<Bytes>> {
    let Some(of) = rest::resource_type(request.uri().path()) else {
        return debug::text(StatusCode::NOT_FOUND, "no such type is served by polling\n");
    };
    if request.method() != Method::POST {
        return debug::text(StatusCode::METHOD_NOT_ALLOWED, "discovery is asked for by POST\n");
    }
    if !*context.serving.borrow() {
        return debug::ready(context);
    }
    let peer = match identify(context, &request, &caller).await {
        Ok(peer) => peer,
        Err(status) => return debug::text(StatusCode::UNAUTHORIZED, status.message),
    };
    let body = match Limited::new(request.into_body(), MAX_POLL).collect().await {
        Ok(body) => body.to_bytes(),
        Err(e) => return debug::text(StatusCode::BAD_REQUEST, format!("the body cannot be read: {e}\n")),
    };
    let answered = polled(context, &body, of, &peer);
    answered.unwrap_or_else(|(status, reason)| debug::text(status, format!("{reason}\n")))
}

fn polled(
    context: &Context,
    body: &[u8],
    of: proto::ResourceType,
    peer: &Peer,
) -> Result<Response<Full<Bytes>>, (StatusCode, String)> {
    let request = rest::parse(body).map_err(|e| (StatusCode::BAD_REQUEST, e))?;
    let node =
        request.node.as_ref().ok_or((StatusCode::BAD_REQUEST, "the request has no node".to_owned()))?;
    let node = translate::Node::from_proto(node).map_err(|e| (StatusCode::BAD_REQUEST, e.to_string()))?;
    connection::check_identity(&node, peer).map_err(|e| (StatusCode::FORBIDDEN, e.message))?;
    if peer.identity.is_some() {
        context.connections.polled(&node, Instant::now());
    }
    let id = Arc::clone(&node.id);
    let view = context.polls.view(&context.publisher, &context.connections, node, peer);
    let seen = Seen { view: &view, authenticated: peer.identity.is_some() };
    let answer = rest::answer(&request, of, &seen).map_err(|e| {
        context.metrics.internal_error();
        (StatusCode::INTERNAL_SERVER_ERROR, e.to_string())
    })?;
    if let Some(reason) = context.polls.note(&request, of, peer.address, &answer) {
        context.metrics.rejected(of);
        warn!(node = %id, r#type = %of, %reason, "a proxy refused configuration");
    }
    match answer {
        rest::Answer::Unchanged => Ok(debug::text(StatusCode::NOT_MODIFIED, "")),
        rest::Answer::Resources { body, .. } => {
            let mut response = debug::text(StatusCode::OK, body);
            let json = http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(http::header::CONTENT_TYPE, json);
            Ok(response)
        }
    }
}
