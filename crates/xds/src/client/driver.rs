//! Keeps a client connected: dials, speaks HTTP/2, hands changes over and carries the verdicts back.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{Random, ThreadRandom};
use bytes::Bytes;
use http::Uri;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message as _;
use proto::pb::envoy::config::core::v3::Node;
use proto::pb::envoy::service::discovery::v3 as pb;
use proto::pb::google::rpc;
use proto::{Delta, Rejection, ResourceType};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use super::dial::{self, Connect, Dial, Socket, Tls};
use super::state::{Client, ClientRequest, Names, Ready, Response, Ticket};
use crate::Mode;
use crate::grpc::{DELTA, Inbound, Outbound, SOTW, Sender, Status, outbound, own_path, request};

/// A sidecar of 10,000 services gets 38 MB in one response.
pub(super) const MAX_MESSAGE: usize = 1 << 30;
const WINDOW: u32 = 4 << 20;
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LAST_DELAY: Duration = Duration::from_secs(15);

/// Gives the bearer token of a new stream, or none.
pub type Token = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// Whom to ask for what.
#[derive(Clone)]
pub struct Config {
    pub connect: Dial,
    /// The `:authority` of requests.
    pub authority: String,
    /// TLS, with the name that the server's certificate must bear; plaintext without.
    pub tls: Option<Tls>,
    pub token: Option<Token>,
    pub mode: Mode,
    pub node: Node,
    /// Types of which everything is wanted; what they refer to is asked for by itself.
    pub all: Vec<ResourceType>,
    /// Resources wanted by name.
    pub names: Vec<(ResourceType, Arc<str>)>,
    /// Whether the workload takes traffic, told to a control plane that registers it; `None` says nothing.
    pub health: Option<watch::Receiver<Option<bool>>>,
    /// More names, which change.
    pub wanted: Option<watch::Receiver<Names>>,
    /// The service of this type alone, in place of the aggregated one.
    pub own: Option<ResourceType>,
    /// What its updates are marked with.
    pub source: usize,
}

/// Changes to apply in this order. The answer is what was refused; all else was applied.
#[derive(Debug)]
pub struct Update {
    /// The mark of whom they came from.
    pub source: usize,
    pub deltas: Vec<Delta>,
    /// Why there are none, where a server of one type alone cannot be asked.
    pub failure: Option<Failure>,
    pub verdict: oneshot::Sender<Vec<Rejection>>,
}

/// Why a source has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    /// There is an answer, and it is none that can be taken.
    pub is_refusal: bool,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("authority", &self.authority)
            .field("tls", &self.tls.is_some())
            .field("mode", &self.mode)
            .field("all", &self.all)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// A connection to an address that is looked up anew each time.
    pub fn connect_to(address: impl Into<String>) -> Connect {
        let address: Arc<str> = Arc::from(address.into());
        Arc::new(move || {
            let address = Arc::clone(&address);
            Box::pin(async move {
                let stream = TcpStream::connect(&*address).await?;
                stream.set_nodelay(true)?;
                Ok(stream)
            })
        })
    }
}

/// Runs until the receiver of updates is dropped. Reconnects with growing delays; what was applied stays applied.
pub async fn run(config: Config, updates: mpsc::Sender<Update>) {
    let mut client = Client::new(config.mode, config.node.clone());
    if config.own.is_some() {
        client = client.alone();
    }
    let mut wanted = config.wanted.clone();
    for t in &config.all {
        client.subscribe_all(*t);
    }
    for (t, name) in &config.names {
        client.subscribe(*t, [Arc::clone(name)]);
    }
    let mut delay = FIRST_DELAY;
    while !updates.is_closed() {
        let started = Instant::now();
        // A stream begins with a request: without any, the server would not answer either.
        client.want(&names_of(&mut wanted));
        if !client.asks() {
            tokio::select! {
                _ = renamed(&mut wanted) => {}
                () = updates.closed() => {}
            }
            continue;
        }
        match stream(&config, &mut client, &updates).await {
            Ok(()) => info!(server = config.authority, "the control plane ended the stream"),
            Err(e) => failed(&config, e.to_string(), &updates).await,
        }
        client.disconnected();
        if started.elapsed() > LAST_DELAY {
            delay = FIRST_DELAY;
        }
        // Full jitter over the upper half, so that clients of a restarted server do not come back at once.
        let half = delay.as_millis() as u64 / 2;
        let wait = Duration::from_millis(half + ThreadRandom.below(half + 1));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = updates.closed() => {}
        }
        delay = (delay * 2).min(LAST_DELAY);
    }
}

async fn stream(config: &Config, client: &mut Client, updates: &mpsc::Sender<Update>) -> Result<(), Status> {
    let io = dial::open(&config.connect, config.tls.as_ref()).await?;
    speak(config, client, updates, io, if config.tls.is_some() { "https" } else { "http" }).await
}

async fn speak(
    config: &Config,
    client: &mut Client,
    updates: &mpsc::Sender<Update>,
    io: Box<dyn Socket>,
    scheme: &str,
) -> Result<(), Status> {
    let failed = |e: &dyn std::fmt::Display| Status::new(Status::UNAVAILABLE, e.to_string());
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let (mut http, connection) =
        builder.handshake::<_, Outbound>(TokioIo::new(io)).await.map_err(|e| failed(&e))?;
    let connection = tokio::spawn(connection);
    let aggregated = || if config.mode == Mode::Delta { DELTA } else { SOTW }.to_owned();
    let path = config.own.and_then(|t| own_path(t, config.mode)).unwrap_or_else(aggregated);
    let uri = Uri::builder().scheme(scheme).authority(config.authority.as_str()).path_and_query(path);
    let (sender, body) = outbound();
    let token = config.token.as_ref().and_then(|token| token());
    let request = uri.build().and_then(|uri| request(uri, body, token.as_deref())).map_err(|e| failed(&e))?;
    client.connected();
    // The first requests go out before the server answers with headers. They may be more than the body holds: it must
    // be read meanwhile.
    let (response, flushed) = tokio::join!(http.send_request(request), flush(client, &sender));
    let response = response.map_err(|e| failed(&e))?;
    if let Some(status) = Status::from_headers(response.headers()) {
        connection.abort();
        return Err(status);
    }
    if response.status() != http::StatusCode::OK {
        connection.abort();
        return Err(failed(&format!("HTTP {} instead of a stream", response.status())));
    }
    flushed?;
    debug!(server = config.authority, "connected to the control plane");
    let done = converse(config, client, updates, &sender, response.into_body()).await;
    connection.abort();
    done
}

pub(super) type Verdict = Pin<Box<dyn Future<Output = (Ticket, Option<Vec<Rejection>>)> + Send>>;

async fn converse(
    config: &Config,
    client: &mut Client,
    updates: &mpsc::Sender<Update>,
    sender: &Sender,
    body: hyper::body::Incoming,
) -> Result<(), Status> {
    use futures::StreamExt as _;
    let mode = config.mode;
    let mut inbound = Inbound::new(body, MAX_MESSAGE);
    let mut health = config.health.clone();
    let mut wanted = config.wanted.clone();
    client.want(&names_of(&mut wanted));
    // Each stream is told anew.
    let mut to_tell = health.as_mut().and_then(|health| *health.borrow_and_update());
    let mut verdicts = futures::stream::FuturesOrdered::<Verdict>::new();
    loop {
        while let Some(ready) = client.next_ready() {
            verdicts.push_back(hand_over(config, ready, updates).await?);
        }
        flush(client, sender).await?;
        if let Some(healthy) = to_tell.take() {
            tell_health(mode, healthy, sender).await?;
        }
        let overdue = client.deadline();
        tokio::select! {
            response = next(mode, &mut inbound) => match response? {
                Some(response) => client.receive(response, Instant::now()),
                None => return inbound.status().filter(|status| status.code != 0).map_or(Ok(()), Err),
            },
            Some((ticket, rejections)) = verdicts.next() => match rejections {
                Some(rejections) => client.verdict(ticket, &rejections),
                None => return Err(Status::new(Status::INTERNAL, "changes were dropped without a verdict")),
            },
            () = tokio::time::sleep_until(overdue.unwrap_or_else(Instant::now).into()), if overdue.is_some() => {
                warn!("applying changes although resources that they refer to have not come");
                client.release_overdue(Instant::now());
            }
            news = changed(&mut health) => to_tell = news,
            names = renamed(&mut wanted) => client.want(&names),
            () = updates.closed() => return Ok(()),
        }
    }
}

/// What the workload's health has become; never, where nobody tells it.
async fn changed(health: &mut Option<watch::Receiver<Option<bool>>>) -> Option<bool> {
    match health {
        Some(receiver) => match receiver.changed().await {
            Ok(()) => *receiver.borrow_and_update(),
            Err(_) => {
                *health = None;
                std::future::pending().await
            }
        },
        None => std::future::pending().await,
    }
}

/// As Istio's agents do: a request of the type, with an error for a workload that takes no traffic.
async fn tell_health(mode: Mode, healthy: bool, sender: &Sender) -> Result<(), Status> {
    let type_url = ResourceType::HealthInformation.url().to_owned();
    let unhealthy =
        || rpc::Status { code: 500, message: "the workload takes no traffic".into(), details: vec![] };
    let error_detail = (!healthy).then(unhealthy);
    let bytes = match mode {
        Mode::Sotw => pb::DiscoveryRequest { type_url, error_detail, ..Default::default() }.encode_to_vec(),
        Mode::Delta => {
            pb::DeltaDiscoveryRequest { type_url, error_detail, ..Default::default() }.encode_to_vec()
        }
    };
    let closed = |_| Status::new(Status::UNAVAILABLE, "the stream is closed");
    sender.send(Bytes::from(bytes), Bytes::new()).await.map_err(closed)
}

/// What is wanted by name now.
pub(super) fn names_of(wanted: &mut Option<watch::Receiver<Names>>) -> Names {
    wanted.as_mut().map_or_else(Names::default, |wanted| wanted.borrow_and_update().clone())
}

/// What is wanted by name, once that changes.
pub(super) async fn renamed(wanted: &mut Option<watch::Receiver<Names>>) -> Names {
    if let Some(names) = wanted
        && names.changed().await.is_ok()
    {
        return names.borrow_and_update().clone();
    }
    std::future::pending().await
}

/// Says that the server cannot be asked; who has a server for one type alone counts that.
pub(super) async fn failed(config: &Config, reason: String, updates: &mpsc::Sender<Update>) {
    let what = config.own.map_or("everything", |t| t.url().rsplit('.').next().unwrap_or_default());
    warn!(server = config.authority, what, error = reason, "the control plane cannot be asked");
    if config.own.is_some() {
        let (verdict, _) = oneshot::channel();
        let failure = Some(Failure { reason, is_refusal: false });
        let _ = updates.send(Update { source: config.source, deltas: Vec::new(), failure, verdict }).await;
    }
}

pub(super) async fn hand_over(
    config: &Config,
    ready: Ready,
    updates: &mpsc::Sender<Update>,
) -> Result<Verdict, Status> {
    let (verdict, answer) = oneshot::channel();
    let update = Update { source: config.source, deltas: ready.deltas, failure: None, verdict };
    let closed = |_| Status::new(Status::INTERNAL, "nobody applies changes any more");
    updates.send(update).await.map_err(closed)?;
    Ok(Box::pin(async move { (ready.ticket, answer.await.ok()) }))
}

async fn next(mode: Mode, inbound: &mut Inbound<hyper::body::Incoming>) -> Result<Option<Response>, Status> {
    Ok(match mode {
        Mode::Sotw => inbound.message::<pb::DiscoveryResponse>().await?.map(Response::Sotw),
        Mode::Delta => inbound.message::<pb::DeltaDiscoveryResponse>().await?.map(Response::Delta),
    })
}

async fn flush(client: &mut Client, sender: &Sender) -> Result<(), Status> {
    while let Some(request) = client.next_request() {
        let bytes = match request {
            ClientRequest::Sotw(request) => request.encode_to_vec(),
            ClientRequest::Delta(request) => request.encode_to_vec(),
        };
        let closed = |_| Status::new(Status::UNAVAILABLE, "the stream is closed");
        sender.send(Bytes::from(bytes), Bytes::new()).await.map_err(closed)?;
    }
    Ok(())
}
