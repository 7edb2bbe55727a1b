//! One worker's connections to the hosts of one cluster: idle HTTP/1 ones, shared HTTP/2 ones, and who waits for one.
//!
//! A request takes a connection that is ready, or waits in line. Connections are made for those in line by tasks of
//! their own, so that one is not lost with the request that caused it; whatever comes free goes to the first in line.

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
use super::http2;
use super::lease::{H1Lease, H2Lease, H2Shared, Lease};
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
    /// What is of high priority waits for nothing that is not.
    pub priority: Priority,
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

pub(super) struct Idle {
    pub(super) client: Box<H1Client>,
    pub(super) keep_until: Instant,
    pub(super) info: Rc<UpstreamInfo>,
    pub(super) permit: Permit,
}

struct H2Conn {
    send: SendRequest<Bytes>,
    shared: Rc<H2Shared>,
    _permit: Permit,
    driver: tokio::task::AbortHandle,
}

/// A request in line.
struct Waiter {
    turn: oneshot::Sender<Result<Lease, AcquireError>>,
    priority: Priority,
    by_alpn: bool,
}

#[derive(Default)]
pub(super) struct HostPool {
    pub(super) idle: Vec<Idle>,
    h2: Vec<H2Conn>,
    /// Open HTTP/1 connections of this worker, leased or idle.
    open: u32,
    /// Connections under way.
    connecting: usize,
    waiters: VecDeque<Waiter>,
}

impl HostPool {
    /// Those that serve, or will.
    fn connections(&self) -> usize {
        let shared = self.h2.iter().filter(|conn| !conn.shared.dead.get() && !conn.shared.draining.get());
        self.open as usize + shared.count() + self.connecting
    }

    /// The first in line that is still there.
    fn next_waiter(&mut self) -> Option<Waiter> {
        std::iter::from_fn(|| self.waiters.pop_front()).find(|waiter| !waiter.turn.is_closed())
    }
}

/// All pools of a cluster in one worker.
#[derive(Default)]
pub struct Pools {
    pub(super) hosts: RefCell<AHashMap<PoolKey, HostPool>>,
    /// Moves when connections made so far must not be used for new requests.
    pub(super) generation: Cell<u64>,
}

/// How large an answer's head may be: as much as Envoy takes.
const RESPONSE_LIMITS: HeadLimits = HeadLimits { bytes: 80 * 1024, headers: 100 };

/// Without configuration an idle connection is kept this long, as in Envoy.
pub(super) const DEFAULT_IDLE: Duration = Duration::from_secs(3600);

impl Cluster {
    /// A connection to the host: one that is ready, or the first that is made or comes free within the breakers' bounds.
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
            priority: want.priority,
        };
        if (want.http2 || want.by_alpn)
            && let Some(lease) = self.shared_h2(&key, &target)
        {
            return Ok(Lease::H2(lease));
        }
        if !want.http2
            && !want.fresh
            && let Some(lease) = self.idle_h1(&key, want.careful).await
        {
            return Ok(Lease::H1(lease));
        }
        let Some(_pending) = self.state().breakers.acquire(Resource::Pending, want.priority) else {
            self.stats().pending_overflow.inc();
            return Err(AcquireError::Overflow);
        };
        self.stats().pending_total.inc();
        loop {
            let turn = self.next_in_line(&key, want).await;
            match turn.inspect_err(|_| self.stats().pending_failure_eject.inc())? {
                Lease::H1(mut lease) if want.careful && lease.is_gone() => lease.client = None,
                lease => return Ok(lease),
            }
        }
    }

    async fn next_in_line(self: &Rc<Self>, key: &PoolKey, want: &Want<'_>) -> Result<Lease, AcquireError> {
        let (turn, own) = oneshot::channel();
        let waiter = Waiter { turn, priority: want.priority, by_alpn: want.by_alpn };
        self.pools().hosts.borrow_mut().entry(key.clone()).or_default().waiters.push_back(waiter);
        self.connect_more(key);
        let gone = || AcquireError::Dial(DialError::Connect("the pool is gone".into()));
        own.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Begins connections for those in line, as far as the breakers let: one each, or one that all share.
    pub(super) fn connect_more(self: &Rc<Self>, key: &PoolKey) {
        loop {
            let mut hosts = self.pools().hosts.borrow_mut();
            let Some(pool) = hosts.get_mut(key) else { return };
            pool.waiters.retain(|waiter| !waiter.turn.is_closed());
            let wanted = if key.http2 { pool.waiters.len().min(1) } else { pool.waiters.len() };
            let Some(first) = pool.waiters.front().filter(|_| pool.connecting < wanted) else { return };
            let (priority, by_alpn) = (first.priority, first.by_alpn);
            let breakers = &self.state().breakers;
            let permit = match breakers.acquire(Resource::Connection, priority) {
                Some(permit) => permit,
                // Envoy lets each worker have one connection to each host whatever the breaker says.
                None if pool.connections() == 0 => {
                    self.stats().cx_overflow.inc();
                    breakers.force(Resource::Connection, priority)
                }
                None => {
                    self.stats().cx_overflow.inc();
                    return;
                }
            };
            pool.connecting += 1;
            let under_way = UnderWay { cluster: Rc::clone(self), key: key.clone() };
            tokio::task::spawn_local(under_way.connect(permit, by_alpn));
        }
    }

    async fn open(
        self: &Rc<Self>,
        key: &PoolKey,
        permit: Permit,
        by_alpn: bool,
    ) -> Result<Opened, AcquireError> {
        let generation = self.pools().generation.get();
        let target = self.target();
        let tls = target.transports.get(usize::from(key.transport)).and_then(|t| t.tls.clone());
        let stats = self.stats();
        stats.cx_total.inc();
        self.state().checks.heed_traffic();
        let dialed = dial(
            &key.address,
            (&target.connect, target.outside.as_ref()),
            tls.as_deref(),
            &key.tls,
            target.connect_timeout,
        )
        .await;
        let io = dialed.map_err(|error| {
            stats.cx_connect_fail.inc();
            if error == DialError::Timeout {
                stats.cx_connect_timeout.inc();
            }
            AcquireError::Dial(error)
        })?;
        let info = self.info_of(&io, tls.as_deref());
        if key.http2 || (by_alpn && io.alpn() == Some(b"h2")) {
            return self.open_h2((io, info), (key, &target), permit, generation).await.map(Opened::H2);
        }
        stats.cx_http1_total.inc();
        stats.cx_active.inc();
        let client = Box::new(H1Client::new(Conn::new(io), RESPONSE_LIMITS));
        Ok(Opened::H1 { client, info, permit, generation })
    }

    async fn open_h2(
        self: &Rc<Self>,
        (io, info): (Io, Rc<UpstreamInfo>),
        (key, target): (&PoolKey, &Target),
        permit: Permit,
        generation: u64,
    ) -> Result<H2Conn, AcquireError> {
        let handshake = http2::builder(&target.config.http).handshake::<_, Bytes>(io);
        let failed = |text: String| AcquireError::Dial(DialError::Connect(text));
        let (send, connection) = match tokio::time::timeout(target.connect_timeout, handshake).await {
            Ok(Ok(pair)) => pair,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(AcquireError::Dial(DialError::Timeout)),
        };
        let stats = self.stats();
        stats.cx_http2_total.inc();
        stats.cx_active.inc();
        let shared = Rc::new(H2Shared::new(info, key.clone()));
        // Made as the configuration was when it began; what has changed since then holds for new ones.
        shared.draining.set(generation != self.pools().generation.get());
        let end = H2End { shared: Rc::clone(&shared), cluster: Rc::clone(self) };
        let keepalive = target.config.http.keepalive;
        let driver = tokio::task::spawn_local(async move {
            let _end = end;
            http2::drive(connection, keepalive).await;
        })
        .abort_handle();
        Ok(H2Conn { send, shared, _permit: permit, driver })
    }

    /// A stream on a connection that has room.
    fn shared_h2(self: &Rc<Self>, key: &PoolKey, target: &Target) -> Option<H2Lease> {
        let mut hosts = self.pools().hosts.borrow_mut();
        let pool = hosts.get_mut(key)?;
        pool.h2.retain(|c| !c.shared.dead.get() && !(c.shared.draining.get() && c.shared.active.get() == 0));
        let limit = target.max_requests_per_connection.unwrap_or(u32::MAX);
        let now = Instant::now();
        let conn = pool.h2.iter().find(|c| {
            let s = &c.shared;
            // Where the peer allows none for now, one request waits on the connection itself.
            let room = target.max_concurrent_streams.min(c.send.current_max_send_streams() as u32).max(1);
            let spent = s.streams.get() >= limit || target.is_too_old(s.info.opened, now);
            if spent {
                s.draining.set(true);
            }
            !s.draining.get() && s.active.get() < room
        })?;
        Some(H2Lease::new(conn.send.clone(), &conn.shared, self))
    }

    /// The most recently used idle connection that is not stale.
    async fn idle_h1(self: &Rc<Self>, key: &PoolKey, careful: bool) -> Option<H1Lease> {
        loop {
            let mut idle = self.pools().hosts.borrow_mut().get_mut(key)?.idle.pop()?;
            let stale = poll_fn(|cx| Poll::Ready(idle.client.poll_stale(cx))).await;
            let gone = careful && peer_has_closed(&idle.client);
            let now = Instant::now();
            let old = idle.keep_until <= now || self.target().is_too_old(idle.info.opened, now);
            if stale || gone || old {
                drop(idle.permit);
                self.closed_h1(key);
                continue;
            }
            return Some(H1Lease::again(idle, key, self));
        }
    }

    /// Gives a connection to the first in line; it comes back if there is nobody.
    pub(super) fn hand_on(&self, mut lease: H1Lease) -> Option<H1Lease> {
        loop {
            // The pool is not borrowed while a lease may be dropped.
            let waiter = self.pools().hosts.borrow_mut().get_mut(lease.key()).and_then(HostPool::next_waiter);
            let Some(waiter) = waiter else { return Some(lease) };
            match waiter.turn.send(Ok(Lease::H1(lease))) {
                Err(Ok(Lease::H1(back))) => lease = back,
                _ => return None,
            }
        }
    }

    /// A stream ended: its place is for the first in line.
    pub(super) fn stream_ended(self: &Rc<Self>, key: &PoolKey) {
        if self.pools().hosts.borrow().get(key).is_some_and(|pool| !pool.waiters.is_empty()) {
            self.hand_on_streams(key);
            self.connect_more(key);
        }
    }

    /// Gives streams to those in line, as far as connections have room.
    fn hand_on_streams(self: &Rc<Self>, key: &PoolKey) {
        let target = self.target();
        loop {
            let waits = self.pools().hosts.borrow().get(key).is_some_and(|pool| !pool.waiters.is_empty());
            let Some(lease) = waits.then(|| self.shared_h2(key, &target)).flatten() else { return };
            let waiter = self.pools().hosts.borrow_mut().get_mut(key).and_then(HostPool::next_waiter);
            match waiter {
                // One that has just left gives its stream back to the next.
                Some(waiter) => drop(waiter.turn.send(Ok(Lease::H2(lease)))),
                None => return lease.forgo(),
            }
        }
    }

    /// A connection was closed: there may be room for another one, to this host or, where the breaker is shared, to any.
    pub(super) fn closed_h1(self: &Rc<Self>, key: &PoolKey) {
        let stats = self.stats();
        stats.cx_active.dec();
        stats.cx_destroy.inc();
        if let Some(pool) = self.pools().hosts.borrow_mut().get_mut(key) {
            pool.open = pool.open.saturating_sub(1);
        }
        self.connect_more(key);
        self.freed_any();
    }

    fn freed_any(self: &Rc<Self>) {
        let waiting: Vec<PoolKey> = {
            let hosts = self.pools().hosts.borrow();
            hosts.iter().filter(|(_, pool)| !pool.waiters.is_empty()).map(|(key, _)| key.clone()).collect()
        };
        waiting.iter().for_each(|key| self.connect_more(key));
    }

    /// Closes what has been idle too long or was closed by its server. Called about once a second.
    pub fn reap(self: &Rc<Self>, cx: &mut std::task::Context<'_>, now: Instant) {
        let mut closed = 0;
        {
            let mut hosts = self.pools().hosts.borrow_mut();
            let target = self.target();
            let idle_timeout = target.idle_timeout.unwrap_or(DEFAULT_IDLE);
            hosts.retain(|_, pool| {
                let before = pool.idle.len();
                pool.idle.retain_mut(|i| {
                    i.keep_until > now && !target.is_too_old(i.info.opened, now) && !i.client.poll_stale(cx)
                });
                let gone = (before - pool.idle.len()) as u32;
                pool.open = pool.open.saturating_sub(gone);
                closed += gone;
                pool.h2.retain(|c| {
                    let s = &c.shared;
                    if target.is_too_old(s.info.opened, now) {
                        s.draining.set(true);
                    }
                    let expired = s.active.get() == 0
                        && (s.draining.get() || now.duration_since(s.idle_since.get()) > idle_timeout);
                    if expired {
                        c.driver.abort();
                    }
                    !s.dead.get() && !expired
                });
                pool.waiters.retain(|w| !w.turn.is_closed());
                pool.connections() > 0 || !pool.h2.is_empty() || !pool.waiters.is_empty()
            });
        }
        for _ in 0..closed {
            self.stats().cx_active.dec();
            self.stats().cx_destroy.inc();
            self.stats().cx_idle_timeout.inc();
        }
        if closed > 0 {
            self.freed_any();
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

/// A connection that was made.
enum Opened {
    H1 { client: Box<H1Client>, info: Rc<UpstreamInfo>, permit: Permit, generation: u64 },
    H2(H2Conn),
}

/// Told to the pool when a connection of many streams ends, however that comes.
struct H2End {
    shared: Rc<H2Shared>,
    cluster: Rc<Cluster>,
}

impl Drop for H2End {
    fn drop(&mut self) {
        self.shared.dead.set(true);
        let stats = self.cluster.stats();
        stats.cx_active.dec();
        stats.cx_destroy.inc();
        if let Some(pool) = self.cluster.pools().hosts.borrow_mut().get_mut(&self.shared.key) {
            pool.h2.retain(|conn| !conn.shared.dead.get());
        }
        self.cluster.freed_any();
    }
}

/// A connection under way: counted until it is made or given up.
struct UnderWay {
    cluster: Rc<Cluster>,
    key: PoolKey,
}

impl UnderWay {
    async fn connect(self, permit: Permit, by_alpn: bool) {
        let opened = self.cluster.open(&self.key, permit, by_alpn).await;
        let (cluster, key) = (Rc::clone(&self.cluster), self.key.clone());
        drop(self);
        match opened {
            Ok(Opened::H1 { client, info, permit, generation }) => {
                cluster.pools().hosts.borrow_mut().entry(key.clone()).or_default().open += 1;
                H1Lease::first((client, info, permit), generation, &key, &cluster).offer(None);
            }
            Ok(Opened::H2(conn)) => {
                cluster.pools().hosts.borrow_mut().entry(key.clone()).or_default().h2.push(conn);
                cluster.hand_on_streams(&key);
            }
            Err(error) => {
                // Who waited for a host that cannot be reached is told, and may try another.
                let waiters =
                    cluster.pools().hosts.borrow_mut().get_mut(&key).map(|p| std::mem::take(&mut p.waiters));
                for waiter in waiters.into_iter().flatten() {
                    let _ = waiter.turn.send(Err(error.clone()));
                }
            }
        }
        cluster.connect_more(&key);
        cluster.freed_any();
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(pool) = self.cluster.pools().hosts.borrow_mut().get_mut(&self.key) {
            pool.connecting = pool.connecting.saturating_sub(1);
        }
    }
}

/// Asks the system, not the event loop, which may not have heard yet.
pub(super) fn peer_has_closed(client: &H1Client) -> bool {
    let Some(stream) = client.conn_ref().io().tcp() else { return false };
    let mut byte = [std::mem::MaybeUninit::uninit()];
    match socket2::SockRef::from(stream).peek(&mut byte) {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}
