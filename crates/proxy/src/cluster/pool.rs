//! One worker's connections to the hosts of one cluster: idle HTTP/1 ones, shared HTTP/2 ones, and who waits for one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::oneshot;
use upstream::{Address, Host, Permit, Priority, Resource};

use super::dial::{DialError, TlsOverride, dial};
use super::local::Cluster;
use super::target::Target;
use crate::h1::HeadLimits;
use crate::net::Io;
use crate::wire::{Conn, H1Client};

/// Connections that can stand in for each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    pub address: Address,
    pub transport: u16,
    pub http2: bool,
    pub tls: TlsOverride,
}

/// What a request asks of the pool.
pub struct Want<'a> {
    pub host: &'a Host,
    pub http2: bool,
    /// Take what ALPN selects instead.
    pub by_alpn: bool,
    pub tls: TlsOverride,
    pub priority: Priority,
    /// Not an idle one: a pooled connection has just proved stale.
    pub fresh: bool,
    /// Ask the system whether an idle connection still stands: the request must not be sent twice.
    pub careful: bool,
}

/// What is known of an upstream connection besides its bytes.
pub struct UpstreamInfo {
    pub id: u64,
    pub opened: Instant,
    pub local: Option<std::net::SocketAddr>,
    pub tls: Option<std::sync::Arc<decide::TlsInfo>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    #[error("overflow")]
    Overflow,
    #[error("{0}")]
    Dial(DialError),
    #[error("no transport socket matches the endpoint")]
    NoTransport,
}

/// A connection for one request.
pub enum Lease {
    H1(H1Lease),
    H2(H2Lease),
}

/// An HTTP/1 connection of one's own until it is given back or dropped.
pub struct H1Lease {
    pub client: Option<Box<H1Client>>,
    pub reused: bool,
    pub info: Rc<UpstreamInfo>,
    key: PoolKey,
    generation: u64,
    permit: Option<Permit>,
    cluster: Rc<Cluster>,
}

/// The right to open one stream on a shared HTTP/2 connection.
pub struct H2Lease {
    pub send: SendRequest<Bytes>,
    shared: Rc<H2Shared>,
}

struct H2Shared {
    info: Rc<UpstreamInfo>,
    active: Cell<u32>,
    dead: Cell<bool>,
    draining: Cell<bool>,
    streams: Cell<u32>,
    idle_since: Cell<Instant>,
}

struct Idle {
    client: Box<H1Client>,
    keep_until: Instant,
    info: Rc<UpstreamInfo>,
    permit: Permit,
}

struct H2Conn {
    send: SendRequest<Bytes>,
    shared: Rc<H2Shared>,
    _permit: Permit,
    driver: tokio::task::AbortHandle,
}

#[derive(Default)]
struct HostPool {
    idle: Vec<Idle>,
    h2: Vec<H2Conn>,
    /// Open HTTP/1 connections of this worker, leased or idle.
    open: u32,
    waiters: VecDeque<oneshot::Sender<()>>,
    connecting_h2: bool,
}

/// All pools of a cluster in one worker.
#[derive(Default)]
pub struct Pools {
    hosts: RefCell<AHashMap<PoolKey, HostPool>>,
    /// Moves when connections made so far must not be used for new requests.
    generation: Cell<u64>,
}

/// Without configuration an idle connection is kept this long, as in Envoy.
const DEFAULT_IDLE: Duration = Duration::from_secs(3600);
/// How much sooner than the server we close, where it says when it will.
const CLOSE_BEFORE: Duration = Duration::from_secs(1);

impl Cluster {
    /// A connection to the host: an idle one, a new one, or the first that comes free within the breakers' bounds.
    pub async fn acquire(self: &Rc<Self>, want: &Want<'_>) -> Result<Lease, AcquireError> {
        let target = self.target();
        let Some((index, _)) = target.transport(&want.host.endpoint) else {
            return Err(AcquireError::NoTransport);
        };
        let key = PoolKey {
            address: want.host.address().clone(),
            transport: index as u16,
            http2: want.http2,
            tls: want.tls.clone(),
        };
        if (want.http2 || want.by_alpn)
            && let Some(lease) = self.shared_h2(&key, &target).await
        {
            return Ok(Lease::H2(lease));
        }
        if !want.http2
            && !want.fresh
            && let Some(lease) = self.idle_h1(&key, want.careful).await
        {
            return Ok(Lease::H1(lease));
        }
        let Some(pending) = self.state().breakers.acquire(Resource::Pending, want.priority) else {
            self.stats().pending_overflow.inc();
            return Err(AcquireError::Overflow);
        };
        self.stats().pending_total.inc();
        let lease = self.acquire_pending(want, key, &target).await;
        drop(pending);
        lease
    }

    async fn acquire_pending(
        self: &Rc<Self>,
        want: &Want<'_>,
        key: PoolKey,
        target: &Target,
    ) -> Result<Lease, AcquireError> {
        loop {
            let permit = match self.state().breakers.acquire(Resource::Connection, want.priority) {
                Some(permit) => permit,
                // Envoy lets each worker have one connection to each host whatever the breaker says.
                None if self.open_connections(&key) == 0 => {
                    self.state().breakers.force(Resource::Connection, want.priority)
                }
                None => {
                    self.stats().cx_overflow.inc();
                    self.wait_turn(&key).await;
                    if let Some(lease) = self.idle_h1(&key, want.careful).await {
                        return Ok(Lease::H1(lease));
                    }
                    continue;
                }
            };
            return self.open(want, key, target, permit).await;
        }
    }

    async fn open(
        self: &Rc<Self>,
        want: &Want<'_>,
        key: PoolKey,
        target: &Target,
        permit: Permit,
    ) -> Result<Lease, AcquireError> {
        let mut guard = OpenGuard::new(self, &key);
        let generation = self.pools().generation.get();
        let tls = target.transports.get(usize::from(key.transport)).and_then(|t| t.tls.clone());
        let stats = self.stats();
        stats.cx_total.inc();
        let dialed = dial(
            &key.address,
            (&target.connect, target.outside.as_ref()),
            tls.as_deref(),
            &key.tls,
            target.connect_timeout,
        )
        .await;
        let io = match dialed {
            Ok(io) => io,
            Err(error) => {
                stats.cx_connect_fail.inc();
                if error == DialError::Timeout {
                    stats.cx_connect_timeout.inc();
                }
                return Err(AcquireError::Dial(error));
            }
        };
        if want.http2 || (want.by_alpn && io.alpn() == Some(b"h2")) {
            return self.open_h2(io, key, target, permit).await.map(Lease::H2);
        }
        stats.cx_http1_total.inc();
        stats.cx_active.inc();
        guard.disarm();
        let info = self.info_of(&io);
        let client = Box::new(H1Client::new(Conn::new(io), HeadLimits::default()));
        Ok(Lease::H1(H1Lease {
            client: Some(client),
            reused: false,
            info,
            key,
            generation,
            permit: Some(permit),
            cluster: Rc::clone(self),
        }))
    }

    async fn open_h2(
        self: &Rc<Self>,
        io: Io,
        key: PoolKey,
        target: &Target,
        permit: Permit,
    ) -> Result<H2Lease, AcquireError> {
        let info = self.info_of(&io);
        let http = &target.config.http;
        let handshake = h2::client::Builder::new()
            .initial_window_size(http.initial_stream_window.unwrap_or(1 << 20).min(16 << 20))
            .initial_connection_window_size(http.initial_connection_window.unwrap_or(16 << 20).min(64 << 20))
            .enable_push(false)
            .max_send_buffer_size(256 * 1024)
            .handshake::<_, Bytes>(io);
        let failed = |text: String| AcquireError::Dial(DialError::Connect(text));
        let (send, mut connection) = match tokio::time::timeout(target.connect_timeout, handshake).await {
            Ok(Ok(pair)) => pair,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(AcquireError::Dial(DialError::Timeout)),
        };
        let stats = self.stats();
        stats.cx_http2_total.inc();
        stats.cx_active.inc();
        let shared = Rc::new(H2Shared {
            info,
            active: Cell::new(0),
            dead: Cell::new(false),
            draining: Cell::new(false),
            streams: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
        });
        let (ended, cluster) = (Rc::clone(&shared), Rc::clone(self));
        let alive = keep_alive(connection.ping_pong(), http.keepalive);
        let driver = tokio::task::spawn_local(async move {
            tokio::select! {
                _ = connection => {}
                () = alive => {}
            }
            ended.dead.set(true);
            cluster.stats().cx_active.dec();
            cluster.stats().cx_destroy.inc();
        })
        .abort_handle();
        let lease = H2Lease::new(send.clone(), &shared);
        let conn = H2Conn { send, shared, _permit: permit, driver };
        self.pools().hosts.borrow_mut().entry(key).or_default().h2.push(conn);
        Ok(lease)
    }

    /// A stream on a connection that has room.
    async fn shared_h2(&self, key: &PoolKey, target: &Target) -> Option<H2Lease> {
        let pools = self.pools();
        let mut hosts = pools.hosts.borrow_mut();
        let pool = hosts.get_mut(key)?;
        pool.h2.retain(|c| !c.shared.dead.get() && !(c.shared.draining.get() && c.shared.active.get() == 0));
        let limit = target.max_requests_per_connection.unwrap_or(u32::MAX);
        let conn = pool.h2.iter().find(|c| {
            let s = &c.shared;
            let young = target.max_age.is_none_or(|max| s.info.opened.elapsed() < max);
            let room = target.max_concurrent_streams.min(c.send.current_max_send_streams() as u32);
            young && !s.draining.get() && s.active.get() < room && s.streams.get() < limit
        })?;
        Some(H2Lease::new(conn.send.clone(), &conn.shared))
    }

    /// The most recently used idle connection that is not stale.
    async fn idle_h1(self: &Rc<Self>, key: &PoolKey, careful: bool) -> Option<H1Lease> {
        loop {
            let mut idle = self.pools().hosts.borrow_mut().get_mut(key)?.idle.pop()?;
            let stale = poll_fn(|cx| Poll::Ready(idle.client.poll_stale(cx))).await;
            let gone = careful && idle.client.conn_ref().io().tcp().is_some_and(peer_has_closed);
            if stale || gone || idle.keep_until <= Instant::now() {
                self.closed_h1(key);
                continue;
            }
            return Some(H1Lease {
                client: Some(idle.client),
                reused: true,
                info: idle.info,
                key: key.clone(),
                generation: self.pools().generation.get(),
                permit: Some(idle.permit),
                cluster: Rc::clone(self),
            });
        }
    }

    fn open_connections(&self, key: &PoolKey) -> u32 {
        let hosts = self.pools().hosts.borrow();
        hosts.get(key).map_or(0, |p| p.open + p.h2.len() as u32)
    }

    async fn wait_turn(&self, key: &PoolKey) {
        let (turn, woken) = oneshot::channel();
        self.pools().hosts.borrow_mut().entry(key.clone()).or_default().waiters.push_back(turn);
        let _ = woken.await;
    }

    /// Wakes who waits for this host, else who waits for any host of the cluster.
    fn wake_one(&self, key: &PoolKey) {
        let mut hosts = self.pools().hosts.borrow_mut();
        if let Some(pool) = hosts.get_mut(key) {
            while let Some(waiter) = pool.waiters.pop_front() {
                if waiter.send(()).is_ok() {
                    return;
                }
            }
        }
        for pool in hosts.values_mut() {
            while let Some(waiter) = pool.waiters.pop_front() {
                if waiter.send(()).is_ok() {
                    return;
                }
            }
        }
    }

    fn closed_h1(&self, key: &PoolKey) {
        let stats = self.stats();
        stats.cx_active.dec();
        stats.cx_destroy.inc();
        self.forget(key);
    }

    fn forget(&self, key: &PoolKey) {
        if let Some(pool) = self.pools().hosts.borrow_mut().get_mut(key) {
            pool.open = pool.open.saturating_sub(1);
        }
        self.wake_one(key);
    }

    /// Closes what has been idle too long or was closed by its server. Called about once a second.
    pub fn reap(&self, cx: &mut std::task::Context<'_>, now: Instant) {
        let mut closed = 0;
        {
            let mut hosts = self.pools().hosts.borrow_mut();
            let target = self.target();
            let idle_timeout = target.idle_timeout.unwrap_or(DEFAULT_IDLE);
            let old = |info: &UpstreamInfo| {
                target.max_age.is_some_and(|max| now.duration_since(info.opened) >= max)
            };
            hosts.retain(|_, pool| {
                let before = pool.idle.len();
                pool.idle.retain_mut(|i| i.keep_until > now && !i.client.poll_stale(cx));
                let gone = (before - pool.idle.len()) as u32;
                pool.open = pool.open.saturating_sub(gone);
                closed += gone;
                pool.h2.retain(|c| {
                    let s = &c.shared;
                    let expired = s.active.get() == 0
                        && (s.draining.get()
                            || old(&s.info)
                            || now.duration_since(s.idle_since.get()) > idle_timeout);
                    if expired {
                        c.driver.abort();
                    }
                    !s.dead.get() && !expired
                });
                pool.waiters.retain(|w| !w.is_closed());
                !(pool.open == 0 && pool.h2.is_empty() && pool.waiters.is_empty() && !pool.connecting_h2)
            });
        }
        for _ in 0..closed {
            self.stats().cx_active.dec();
            self.stats().cx_destroy.inc();
            self.stats().cx_idle_timeout.inc();
        }
    }

    /// Connections made so far carry what they carry and take nothing new: their transport was reconfigured.
    pub fn retire_connections(&self) {
        let pools = self.pools();
        pools.generation.set(pools.generation.get() + 1);
        self.retire_where(|_| true);
    }

    /// Lets go of idle connections to hosts that are gone.
    pub fn retire_hosts(&self, gone: impl Fn(&Address) -> bool) {
        self.retire_where(|key| gone(&key.address));
    }

    fn retire_where(&self, which: impl Fn(&PoolKey) -> bool) {
        let mut closed = 0;
        for (_, pool) in self.pools().hosts.borrow_mut().iter_mut().filter(|(key, _)| which(key)) {
            let idle = std::mem::take(&mut pool.idle).len() as u32;
            pool.open = pool.open.saturating_sub(idle);
            closed += idle;
            for conn in &pool.h2 {
                conn.shared.draining.set(true);
            }
        }
        for _ in 0..closed {
            self.stats().cx_active.dec();
            self.stats().cx_destroy.inc();
        }
    }
}

/// Counts a connection as open while it is being made; gives the count back if it never comes about.
struct OpenGuard<'a> {
    cluster: &'a Rc<Cluster>,
    key: PoolKey,
    armed: bool,
}

impl<'a> OpenGuard<'a> {
    fn new(cluster: &'a Rc<Cluster>, key: &PoolKey) -> Self {
        cluster.pools().hosts.borrow_mut().entry(key.clone()).or_default().open += 1;
        Self { cluster, key: key.clone(), armed: true }
    }

    fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Drop for OpenGuard<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.cluster.forget(&self.key);
        }
    }
}

impl H2Lease {
    fn new(send: SendRequest<Bytes>, shared: &Rc<H2Shared>) -> Self {
        shared.active.set(shared.active.get() + 1);
        shared.streams.set(shared.streams.get() + 1);
        Self { send, shared: Rc::clone(shared) }
    }

    pub fn info(&self) -> Rc<UpstreamInfo> {
        Rc::clone(&self.shared.info)
    }

    /// The connection takes no new streams: it refused one or is going away.
    pub fn retire(&self) {
        self.shared.draining.set(true);
    }
}

/// Asks the system, not the event loop, which may not have heard yet.
fn peer_has_closed(stream: &tokio::net::TcpStream) -> bool {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    match socket2::SockRef::from(stream).peek(&mut byte) {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// Ends when a ping is not answered in time; never, where none are asked for.
async fn keep_alive(pings: Option<h2::PingPong>, settings: Option<decide::Http2Keepalive>) {
    let every = settings.and_then(|s| Some((s.interval?, s.timeout)));
    let (Some(mut pings), Some((interval, timeout))) = (pings, every) else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(interval).await;
        if !matches!(tokio::time::timeout(timeout, pings.ping(h2::Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

impl Drop for H2Lease {
    fn drop(&mut self) {
        self.shared.active.set(self.shared.active.get() - 1);
        self.shared.idle_since.set(Instant::now());
    }
}

impl H1Lease {
    /// Gives the connection back, if its exchange ended well and its cluster still wants it.
    pub fn release(mut self, mut client: Box<H1Client>, server_keeps: Option<Duration>) {
        let cluster = Rc::clone(&self.cluster);
        let target = cluster.target();
        let spent = target.max_requests_per_connection.is_some_and(|max| client.requests() >= u64::from(max));
        if spent || !client.reusable() || self.generation != cluster.pools().generation.get() {
            return;
        }
        let Some(permit) = self.permit.take() else { return };
        let now = Instant::now();
        let ours = target.idle_timeout.unwrap_or(DEFAULT_IDLE);
        let keep = server_keeps.map_or(ours, |s| ours.min(s.saturating_sub(CLOSE_BEFORE)));
        let left = target.max_age.map_or(keep, |max| max.saturating_sub(self.info.opened.elapsed()));
        client.conn().shrink();
        let idle = Idle { client, keep_until: now + keep.min(left), info: self.info.clone(), permit };
        if let Some(pool) = cluster.pools().hosts.borrow_mut().get_mut(&self.key) {
            pool.idle.push(idle);
        }
        cluster.wake_one(&self.key);
    }
}

impl Drop for H1Lease {
    fn drop(&mut self) {
        if self.permit.take().is_some() {
            self.cluster.closed_h1(&self.key);
        }
    }
}
