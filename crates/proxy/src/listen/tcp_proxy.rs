//! TCP connections forwarded: which cluster, which host, both joined, all of it counted and logged.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::BytesMut;
use decide::{
    Connection, Direction, DynamicMetadata, FilterChain, LogEntry, ResponseFlags, TcpForward, TcpProxy,
    Terminal, Times, TlsInfo, UpstreamEntry,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use upstream::{ActiveRequest, Address, Endpoint, Host, LbKind, Outcome, Permit, Pick, Priority, Resource};

use super::accept::Arrived;
use super::exchange_tcp::{ALPN, PeerExchange, Said, exchange_peers};
use crate::cluster::{Cluster, DialError, Target, dial};
use crate::net::{Io, NameError};
use crate::tcp::{Carried, End, Limits, Peel, join};
use crate::telemetry::Call;
use crate::worker::Worker;

/// An upstream connection that is ready to carry bytes.
pub struct Opened {
    pub io: Io,
    /// What the server said while nobody was joined to it.
    pub ahead: BytesMut,
    pub cluster: Rc<Cluster>,
    pub host: Host,
    pub exchanges: bool,
    /// What the server says of itself before all else, where it does.
    exchange: PeerExchange,
    pub tls: Option<Arc<TlsInfo>>,
    attempts: u32,
    _permit: Permit,
    _active: ActiveRequest,
}

/// Why there is none.
pub struct NotOpened {
    pub attempts: u32,
    pub flags: ResponseFlags,
    pub cluster: Option<Rc<Cluster>>,
    pub host: Option<Host>,
    pub reason: String,
}

impl NotOpened {
    fn new(flags: ResponseFlags, cluster: Option<Rc<Cluster>>) -> Self {
        Self { attempts: 0, flags, cluster, host: None, reason: String::new() }
    }
}

pub async fn open(
    worker: &Rc<Worker>,
    forward: &TcpForward,
    connection: &Connection,
) -> Result<Opened, NotOpened> {
    let Some(cluster) = worker.cluster(&forward.cluster.name) else {
        return Err(NotOpened::new(ResponseFlags::NO_CLUSTER_FOUND, None));
    };
    let named = match look_up(&cluster, forward).await {
        Ok(named) => named,
        Err(error) => {
            tracing::debug!(?error, "the name of a server has no address");
            cluster.stats().cx_none_healthy.inc();
            return Err(NotOpened::new(ResponseFlags::NO_HEALTHY_UPSTREAM, Some(cluster)));
        }
    };
    let mut tried: Vec<Host> = Vec::new();
    let mut last = None;
    for attempts in 1..=forward.proxy.max_connect_attempts.max(1) {
        let chosen = match &named {
            Some(host) => Some((host.clone(), Rc::clone(&cluster))),
            None => choose(worker, &cluster, forward, connection, &tried),
        };
        let Some((host, own)) = chosen else {
            cluster.stats().cx_none_healthy.inc();
            return Err(
                last.unwrap_or_else(|| NotOpened::new(ResponseFlags::NO_HEALTHY_UPSTREAM, Some(cluster)))
            );
        };
        match open_to(worker, &own, host.clone()).await {
            Ok(mut opened) => {
                own.stats().rq_total.inc();
                opened.attempts = attempts;
                return Ok(opened);
            }
            Err(error) => last = Some(NotOpened { attempts, ..error }),
        }
        tried.push(host);
    }
    let mut last =
        last.unwrap_or_else(|| NotOpened::new(ResponseFlags::UPSTREAM_CONNECTION_FAILURE, Some(cluster)));
    last.flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
    Err(last)
}

/// The host that the connection names, where its cluster is for that.
async fn look_up(cluster: &Cluster, forward: &TcpForward) -> Result<Option<Host>, NameError> {
    let (Some(names), Some((name, port))) = (cluster.target().names.clone(), &forward.dynamic) else {
        return Ok(None);
    };
    let address = SocketAddr::new(names.resolve(name).await?, *port);
    Ok(Some(Host::detached(Endpoint::new(Address::Socket(address)))))
}

fn choose(
    worker: &Worker,
    cluster: &Rc<Cluster>,
    forward: &TcpForward,
    connection: &Connection,
    tried: &[Host],
) -> Option<(Host, Rc<Cluster>)> {
    let (cluster, place) = cluster.stands_for(worker)?;
    let set = cluster.endpoints();
    if cluster.target().original_destination || set.policy().kind == LbKind::OriginalDestination {
        // Without a restored destination the way would lead back here.
        let to = connection.local_restored.then_some(connection.local)?;
        return Some((Host::detached(Endpoint::new(Address::Socket(to))), cluster));
    }
    let host = worker.with_rng(|rng| {
        cluster.pick(&Pick { hash: forward.hash, avoid: tried, attempts: 5, place, ..Pick::default() }, rng)
    });
    host.map(|host| (host, cluster))
}

async fn open_to(worker: &Rc<Worker>, cluster: &Rc<Cluster>, host: Host) -> Result<Opened, NotOpened> {
    let fail = |flags, reason: String| NotOpened {
        attempts: 0,
        flags,
        cluster: Some(cluster.clone()),
        host: Some(host.clone()),
        reason,
    };
    let breakers = &cluster.state().breakers;
    let Some(permit) = breakers.acquire(Resource::Connection, Priority::Default) else {
        cluster.stats().cx_overflow.inc();
        return Err(fail(ResponseFlags::UPSTREAM_OVERFLOW, String::new()));
    };
    let target = cluster.target();
    let Some((_, transport)) = target.transport(&host.endpoint) else {
        return Err(fail(ResponseFlags::UPSTREAM_CONNECTION_FAILURE, "no transport socket matches".into()));
    };
    cluster.stats().cx_total.inc();
    cluster.state().checks.heed_traffic();
    let active = host.start_request();
    let dialed = dial(
        host.address(),
        (&target.connect, target.outside.as_ref()),
        transport.tls.as_deref(),
        &Default::default(),
        target.connect_timeout,
    )
    .await;
    let mut io = match dialed {
        Ok(io) => io,
        Err(error) => {
            cluster.stats().cx_connect_fail.inc();
            cluster.stats().pending_failure_eject.inc();
            let outcome = if error == DialError::Timeout { Outcome::Timeout } else { Outcome::ConnectFailed };
            worker.with_rng(|rng| cluster.record(&host, outcome, rng));
            return Err(fail(ResponseFlags::UPSTREAM_CONNECTION_FAILURE, error.to_string()));
        }
    };
    worker.with_rng(|rng| cluster.record(&host, Outcome::Connected, rng));
    let exchanges = target.exchange_metadata && io.alpn() == Some(ALPN);
    if exchanges && io.write_all(&exchange_peers(&worker.node.peer)).await.is_err() {
        return Err(fail(ResponseFlags::UPSTREAM_CONNECTION_FAILURE, "connection termination".into()));
    }
    cluster.stats().cx_active.inc();
    let tls = io.tls_info(transport.tls.as_deref().and_then(tls::ClientTls::identity).as_deref());
    Ok(Opened {
        io,
        ahead: BytesMut::new(),
        cluster: cluster.clone(),
        exchanges,
        exchange: PeerExchange::default(),
        tls,
        attempts: 1,
        _permit: permit,
        _active: active,
        host,
    })
}

impl Opened {
    /// Waits for the server's first word; false when it ends instead. What it says of itself is none.
    pub async fn speaks(&mut self) -> bool {
        loop {
            match self.io.read_buf(&mut self.ahead).await {
                Ok(read) if read > 0 => {}
                _ => return false,
            }
            let introduced = !self.exchanges || self.exchange.peel(&mut self.ahead);
            if introduced && !self.ahead.is_empty() {
                return true;
            }
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.cluster.stats().cx_active.dec();
        self.cluster.stats().cx_destroy.inc();
    }
}

/// What the log tells besides of a connection.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The name of the filter chain.
    pub chain: &'a str,
    /// What network filters found.
    pub metadata: &'a DynamicMetadata,
}

pub async fn serve(
    worker: &Rc<Worker>,
    arrived: Arrived,
    mut client: Io,
    forward: &TcpForward,
    facts: Facts<'_>,
    exchanges_with_client: bool,
    opened: Option<Opened>,
) {
    let proxy = &*forward.proxy;
    let stats = worker.tcp_stats(&proxy.stat_prefix);
    stats.cx_total.inc();
    stats.cx_active.inc();
    let started = (Instant::now(), SystemTime::now());
    let connection = &arrived.connection;
    let opened = match opened {
        Some(opened) => Ok(opened),
        None => open(worker, forward, connection).await,
    };
    match opened {
        Ok(mut opened) => {
            let mut from_client = PeerExchange::default();
            let mut from_server = std::mem::take(&mut opened.exchange);
            if exchanges_with_client && client.write_all(&exchange_peers(&worker.node.peer)).await.is_err() {
                stats.cx_active.dec();
                return;
            }
            let exchanges = opened.exchanges;
            let awaited = match arrived.listener.direction {
                Direction::Inbound => exchanges_with_client.then(|| from_client.said.clone()),
                _ => exchanges.then(|| from_server.said.clone()),
            };
            let mut counted = Counted::new(worker, &arrived, &opened, awaited);
            let limits = (
                arrived.listener.per_connection_buffer_limit,
                opened.cluster.target().config.per_connection_buffer_limit,
            );
            let held = (limits.0 as usize, limits.1 as usize);
            let ahead = std::mem::take(&mut opened.ahead);
            let (carried, end) = {
                let peel_client: Option<&mut dyn Peel> =
                    if exchanges_with_client { Some(&mut from_client) } else { None };
                let peel_server: Option<&mut dyn Peel> =
                    if exchanges { Some(&mut from_server) } else { None };
                join(
                    (&mut client, arrived.first.clone(), peel_client),
                    (&mut opened.io, ahead, peel_server),
                    Limits { idle: proxy.idle_timeout, duration: proxy.max_duration, held },
                    &mut |so_far| counted.progress(so_far),
                )
                .await
            };
            counted.close(carried);
            stats.rx_bytes.add(carried.forth);
            stats.tx_bytes.add(carried.back);
            opened.cluster.stats().cx_tx_bytes.add(carried.forth);
            opened.cluster.stats().cx_rx_bytes.add(carried.back);
            let flags = match &end {
                End::IdleTimeout => {
                    // Envoy has no flag for it.
                    stats.idle_timeout.inc();
                    ResponseFlags::NONE
                }
                End::MaxDuration => {
                    stats.max_duration.inc();
                    ResponseFlags::DURATION_TIMEOUT
                }
                End::FirstBroke => ResponseFlags::DOWNSTREAM_REMOTE_RESET,
                End::SecondBroke => ResponseFlags::UPSTREAM_REMOTE_RESET,
                End::Closed => ResponseFlags::NONE,
            };
            let failed = NotOpened::new(flags, None);
            log(worker, &arrived, (proxy, facts), started, Some(&opened), &failed, carried);
        }
        Err(failed) => {
            if failed.flags.has(ResponseFlags::NO_CLUSTER_FOUND) {
                stats.cx_no_route.inc();
            }
            let cluster = failed.cluster.as_ref().map(|c| c.target());
            let call = Call {
                direction: arrived.listener.direction,
                connection,
                cluster: cluster.as_ref().map(|t| &*t.config),
                authority: &connection.server_name,
                route: "",
                downstream_peer: None,
                upstream_peer: None,
                endpoint: failed.host.as_ref().map(|h| &h.endpoint.workload),
                upstream_tls: None,
                flags: failed.flags,
            };
            if let Some(key) = worker.telemetry.tcp(&call) {
                let mut istio = worker.istio.borrow_mut();
                let series = istio.tcp(key);
                series.opened += 1;
                series.closed += 1;
            }
            log(worker, &arrived, (proxy, facts), started, None, &failed, Carried::default());
        }
    }
    stats.cx_active.dec();
}

/// Istio's TCP metrics of one connection, kept up while it lives. Its labels are known once the peer has said who it is.
struct Counted<'a> {
    worker: &'a Worker,
    arrived: &'a Arrived,
    target: Arc<Target>,
    endpoint: Arc<str>,
    upstream_tls: Option<Arc<TlsInfo>>,
    /// Where the peer's word will be, if it is to say who it is.
    awaited: Option<Said>,
    key: Option<Option<crate::stats::TcpKey>>,
    reported: Carried,
    since: Instant,
}

/// How often a long connection's bytes are added up.
const REPORT_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

impl<'a> Counted<'a> {
    fn new(worker: &'a Worker, arrived: &'a Arrived, opened: &Opened, awaited: Option<Said>) -> Self {
        let mut counted = Self {
            worker,
            arrived,
            target: opened.cluster.target(),
            endpoint: opened.host.endpoint.workload.clone(),
            upstream_tls: opened.tls.clone(),
            awaited,
            key: None,
            reported: Carried::default(),
            since: Instant::now(),
        };
        if counted.is_introduced() {
            counted.key();
        }
        counted
    }

    fn is_introduced(&self) -> bool {
        self.awaited.as_ref().is_none_or(|said| said.get().is_some())
    }

    /// The series, chosen by what is known of the peer when it is first asked for.
    fn key(&mut self) -> Option<&crate::stats::TcpKey> {
        let Self { worker, arrived, target, endpoint, upstream_tls, awaited, key, .. } = self;
        let choose = || {
            let peer = awaited.as_ref().and_then(|said| said.get()?.as_ref());
            let direction = arrived.listener.direction;
            let (downstream_peer, upstream_peer) =
                if direction == Direction::Inbound { (peer, None) } else { (None, peer) };
            let key = worker.telemetry.tcp(&Call {
                direction,
                connection: &arrived.connection,
                cluster: Some(&target.config),
                authority: &arrived.connection.server_name,
                route: "",
                downstream_peer,
                upstream_peer,
                endpoint: Some(endpoint),
                upstream_tls: upstream_tls.as_deref(),
                flags: ResponseFlags::NONE,
            })?;
            worker.istio.borrow_mut().tcp(key.clone()).opened += 1;
            Some(key)
        };
        key.get_or_insert_with(choose).as_ref()
    }

    fn progress(&mut self, so_far: Carried) {
        let is_due = self.since.elapsed() >= REPORT_EVERY;
        if is_due {
            self.since = Instant::now();
            self.add(so_far);
        } else if self.key.is_none() && self.is_introduced() {
            self.key();
        }
    }

    fn add(&mut self, so_far: Carried) {
        let (worker, reported) = (self.worker, self.reported);
        let Some(key) = self.key() else { return };
        let mut istio = worker.istio.borrow_mut();
        let series = istio.tcp(key.clone());
        series.received += so_far.forth - reported.forth;
        series.sent += so_far.back - reported.back;
        self.reported = so_far;
    }

    fn close(&mut self, carried: Carried) {
        self.add(carried);
        if let Some(Some(key)) = &self.key {
            self.worker.istio.borrow_mut().tcp(key.clone()).closed += 1;
        }
    }
}

fn log(
    worker: &Worker,
    arrived: &Arrived,
    (proxy, facts): (&TcpProxy, Facts<'_>),
    (started, wall): (Instant, SystemTime),
    opened: Option<&Opened>,
    failed: &NotOpened,
    carried: Carried,
) {
    if proxy.access_log.is_empty() {
        return;
    }
    let cluster = opened.map(|o| &o.cluster).or(failed.cluster.as_ref()).map(|c| c.target());
    let host = opened.map(|o| &o.host).or(failed.host.as_ref());
    let mut entry = LogEntry::new(&arrived.connection, wall);
    entry.flags = failed.flags;
    entry.filter_chain = facts.chain;
    entry.metadata = Some(facts.metadata);
    entry.bytes_received = carried.forth;
    entry.bytes_sent = carried.back;
    if opened.is_some() {
        (entry.upstream_wire_bytes_sent, entry.upstream_wire_bytes_received) = (carried.forth, carried.back);
    }
    entry.times = Times { total: Some(started.elapsed()), ..Times::default() };
    entry.listener = &arrived.listener.name;
    entry.hostname = &worker.node.hostname;
    entry.upstream = UpstreamEntry {
        cluster: cluster.as_ref().map_or("", |t| &t.stat_name),
        cluster_raw: cluster.as_ref().map_or("", |t| &t.name),
        host: host.map(Host::address),
        local: opened.and_then(|o| o.io.tcp()).and_then(|s| s.local_addr().ok()),
        attempts: opened.map_or(failed.attempts, |o| o.attempts),
        transport_failure: &failed.reason,
        tls: opened.and_then(|o| o.tls.as_deref()),
        ..UpstreamEntry::default()
    };
    worker.write_log(&proxy.access_log, &entry);
}

/// A connection that its chain closed leaves a line where its TCP proxy has a log.
pub fn log_closed(
    worker: &Worker,
    arrived: &Arrived,
    chain: &FilterChain,
    metadata: &DynamicMetadata,
    (flags, details, ending): (ResponseFlags, &str, &str),
) {
    let Terminal::Tcp(proxy) = &chain.terminal else { return };
    let mut entry = LogEntry::new(&arrived.connection, SystemTime::now());
    entry.flags = flags;
    entry.filter_chain = &chain.name;
    entry.metadata = Some(metadata);
    entry.response_code_details = details;
    entry.connection_termination_details = ending;
    entry.times = Times { total: Some(std::time::Duration::ZERO), ..Times::default() };
    entry.listener = &arrived.listener.name;
    entry.hostname = &worker.node.hostname;
    worker.write_log(&proxy.access_log, &entry);
}
