//! Accepting, and what a connection goes through before its filter chain is known.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use decide::{Connection, Listener, ListenerFilterKind, TransportProtocol};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use super::chain::{self, Serving};
use super::detect::{self, Detected};
use super::proxy_protocol;
use crate::net::{Io, Kind, local_address, original_destination};
use crate::overload::Counted;
use crate::stats::ListenerStats;
use crate::worker::{Config, Servers, Worker};

/// How long to pause when the process is out of descriptors: whoever waits in the backlog is served later.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(20);

/// How often those who wait look whether connections are accepted again.
const STOPPED: Duration = Duration::from_millis(10);

/// What is known of a connection so far.
pub struct Arrived {
    pub listener: Arc<Listener>,
    pub connection: Connection,
    pub io: Kind,
    /// Read ahead by inspectors.
    pub first: BytesMut,
    /// For the handshake, which is to be the listener's even when there is another in its place by then.
    pub servers: Option<Servers>,
}

impl Arrived {
    fn new(listener: Arc<Listener>, connection: Connection, io: Kind, servers: Servers) -> Self {
        Self { listener, connection, io, first: BytesMut::new(), servers: Some(servers) }
    }
}

pub async fn accept_tcp(worker: Rc<Worker>, name: Arc<str>, socket: TcpListener) {
    loop {
        match socket.accept().await {
            Ok((stream, remote)) => {
                // As it is now: what was accepted is served, though the listener may go meanwhile.
                let config = worker.config();
                let Ok(counted) = admit(&worker, &name).await else { continue };
                let worker = worker.clone();
                let name = name.clone();
                tokio::task::spawn_local(async move {
                    let live = worker.begin();
                    let _ = stream.set_nodelay(true);
                    stay(Box::pin(arrive(&worker, config, &name, stream, remote)).await).await;
                    drop((live, counted));
                });
            }
            Err(error) => refused(&worker, &name, &error).await,
        }
    }
}

pub async fn accept_unix(worker: Rc<Worker>, name: Arc<str>, socket: UnixListener) {
    loop {
        match socket.accept().await {
            Ok((stream, _)) => {
                let config = worker.config();
                let Ok(counted) = admit(&worker, &name).await else { continue };
                let worker = worker.clone();
                let name = name.clone();
                tokio::task::spawn_local(async move {
                    let live = worker.begin();
                    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
                    if let Some(listener) = config.plan.listener(&name).cloned() {
                        let connection =
                            Connection { id: worker.connection_id(), ..Connection::new(nowhere, nowhere) };
                        let arrived = Arrived::new(listener, connection, Kind::Unix(stream), config.servers);
                        stay(Some(Box::pin(inspect(&worker, arrived)).await)).await;
                    }
                    drop((live, counted));
                });
            }
            Err(error) => refused(&worker, &name, &error).await,
        }
    }
}

/// What the overload manager says of a connection: it waits, it is counted, or it is closed.
async fn admit(worker: &Worker, name: &str) -> Result<Option<Counted>, ()> {
    let Some(overload) = &worker.overload else { return Ok(None) };
    // It was taken from the queue a moment too early, and no more are: it waits as those do.
    while overload.stops_connections() {
        tokio::time::sleep(STOPPED).await;
    }
    let stats = || Some(worker.listener_stats(&worker.config().plan.listener(name)?.stat_prefix));
    if worker.overloaded(|overload, rng| overload.rejects_connection(rng)) {
        stats().inspect(|stats| stats.cx_overload_reject.inc());
        return Err(());
    }
    overload.count().inspect_err(|()| _ = stats().inspect(|stats| stats.global_cx_overflow.inc()))
}

async fn refused(worker: &Worker, name: &str, error: &std::io::Error) {
    worker.stats.accept_errors.inc();
    let exhausted =
        matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM));
    if exhausted {
        tracing::warn!(%error, listener = %name, "cannot accept for now");
        tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
    }
}

/// A connection that was led to its chain, and what is left to do for it. What the way there took is gone by then, since
/// connections may stay for long.
struct Led {
    serving: Option<Serving>,
    stats: Rc<ListenerStats>,
}

impl Drop for Led {
    fn drop(&mut self) {
        self.stats.cx_active.dec();
        self.stats.cx_destroy.inc();
    }
}

async fn stay(mut led: Option<Led>) {
    if let Some(serving) = led.as_mut().and_then(|led| led.serving.as_mut()) {
        serving.await;
    }
}

/// Finds where the connection wanted to go and which listener is for that.
async fn arrive(
    worker: &Rc<Worker>,
    Config { plan, servers }: Config,
    name: &str,
    stream: TcpStream,
    remote: SocketAddr,
) -> Option<Led> {
    let bound = plan.listener(name).cloned()?;
    let local = local_address(&stream)?;
    let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    let mut connection = Connection { id: worker.connection_id(), ..Connection::new(remote, local) };
    let restores = bound.use_original_dst
        || bound.filters.iter().any(|f| f.kind == ListenerFilterKind::OriginalDestination);
    if restores && let Some(original) = original_destination(&stream) {
        connection.local_restored = original != local;
        connection.local = original;
    }
    let listener = if bound.use_original_dst && connection.local_restored {
        plan.hand_over(&bound, connection.local).cloned().unwrap_or(bound)
    } else {
        bound
    };
    drop(plan);
    let arrived = Arrived::new(listener, connection, Kind::Tcp(stream), servers);
    Some(inspect(worker, arrived).await)
}

/// Runs the listener's filters, then gives the connection to its chain.
async fn inspect(worker: &Rc<Worker>, mut arrived: Arrived) -> Led {
    let stats = worker.listener_stats(&arrived.listener.stat_prefix);
    stats.cx_total.inc();
    stats.cx_active.inc();
    let mut led = Led { serving: None, stats: stats.clone() };
    let chosen = match proxy_header(&mut arrived).await {
        Ok(()) => detect::detect(worker, &mut arrived, &stats).await,
        Err(()) => Detected::Close,
    };
    match chosen {
        Detected::Chain(found) => led.serving = chain::serve(worker, arrived, found, None).await,
        // The server spoke first while we were still listening for the client.
        Detected::ServerFirst(found, upstream) => {
            led.serving = chain::serve(worker, arrived, found, Some(*upstream)).await;
        }
        Detected::NoChain => {
            stats.no_filter_chain_match.inc();
            chain::log_unmatched(worker, &arrived);
        }
        Detected::Close => {}
    }
    led
}

async fn proxy_header(arrived: &mut Arrived) -> Result<(), ()> {
    let filter = arrived.listener.filters.iter().find_map(|f| match f.kind {
        ListenerFilterKind::ProxyProtocol { optional } => Some(optional),
        _ => None,
    });
    let Some(optional) = filter else { return Ok(()) };
    let mut io = Io::new(std::mem::replace(&mut arrived.io, Kind::Taken));
    let header = proxy_protocol::read(&mut io, &mut arrived.first, optional).await;
    arrived.io = io.into_kind();
    let header = header?;
    if let Some((source, destination)) = header {
        arrived.connection.remote = source;
        arrived.connection.local = destination;
        arrived.connection.local_restored = true;
    }
    Ok(())
}

/// What inspectors learned, put where filter chains look for it.
pub fn learn(connection: &mut Connection, sniffed: &super::sniff::Sniffed) {
    use super::sniff::Sniffed;
    match sniffed {
        Sniffed::Tls(hello) => {
            connection.transport = TransportProtocol::Tls;
            connection.server_name = hello.sni.as_deref().unwrap_or_default().into();
            connection.application_protocols =
                hello.alpn.iter().map(|p| Arc::from(String::from_utf8_lossy(p).as_ref())).collect();
        }
        Sniffed::Http(version) => {
            connection.application_protocols = [Arc::from(*version)].into_iter().collect()
        }
        Sniffed::NeedMore | Sniffed::Other | Sniffed::Bad => {}
    }
}
