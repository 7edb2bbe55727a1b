//! The right to use a connection, until it is given back or dropped.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use upstream::Permit;

use super::local::Cluster;
use super::pool::{DEFAULT_IDLE, Idle, PoolKey, UpstreamInfo, peer_has_closed};
use crate::wire::H1Client;

/// How much sooner than the server we close, where it says when it will.
const CLOSE_BEFORE: Duration = Duration::from_secs(1);

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
    cluster: Rc<Cluster>,
    /// Who waits in line is not told of its end.
    quiet: bool,
}

/// What a connection's streams and its pool know of it.
pub(super) struct H2Shared {
    pub(super) key: PoolKey,
    pub(super) info: Rc<UpstreamInfo>,
    pub(super) active: Cell<u32>,
    pub(super) dead: Cell<bool>,
    pub(super) draining: Cell<bool>,
    pub(super) streams: Cell<u32>,
    pub(super) idle_since: Cell<Instant>,
}

impl H2Shared {
    pub(super) fn new(info: Rc<UpstreamInfo>, key: PoolKey) -> Self {
        Self {
            key,
            info,
            active: Cell::new(0),
            dead: Cell::new(false),
            draining: Cell::new(false),
            streams: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
        }
    }
}

impl H2Lease {
    pub(super) fn new(send: SendRequest<Bytes>, shared: &Rc<H2Shared>, cluster: &Rc<Cluster>) -> Self {
        shared.active.set(shared.active.get() + 1);
        shared.streams.set(shared.streams.get() + 1);
        Self { send, shared: Rc::clone(shared), cluster: Rc::clone(cluster), quiet: false }
    }

    pub fn info(&self) -> Rc<UpstreamInfo> {
        Rc::clone(&self.shared.info)
    }

    /// The connection takes no new streams: it refused one or is going away.
    pub fn retire(&self) {
        self.shared.draining.set(true);
    }

    /// Nobody wants the stream after all.
    pub(super) fn forgo(mut self) {
        self.quiet = true;
    }
}

impl Drop for H2Lease {
    fn drop(&mut self) {
        self.shared.active.set(self.shared.active.get() - 1);
        self.shared.idle_since.set(Instant::now());
        if !self.quiet {
            self.cluster.stream_ended(&self.shared.key);
        }
    }
}

impl H1Lease {
    /// Of a connection that was just made.
    pub(super) fn first(
        (client, info, permit): (Box<H1Client>, Rc<UpstreamInfo>, Permit),
        generation: u64,
        key: &PoolKey,
        cluster: &Rc<Cluster>,
    ) -> Self {
        Self {
            client: Some(client),
            reused: false,
            info,
            key: key.clone(),
            generation,
            permit: Some(permit),
            cluster: Rc::clone(cluster),
        }
    }

    /// Of one that has served before.
    pub(super) fn again(idle: Idle, key: &PoolKey, cluster: &Rc<Cluster>) -> Self {
        Self {
            reused: idle.client.requests() > 0,
            client: Some(idle.client),
            info: idle.info,
            key: key.clone(),
            generation: cluster.pools().generation.get(),
            permit: Some(idle.permit),
            cluster: Rc::clone(cluster),
        }
    }

    /// Gives the connection back, if its exchange ended well and its cluster still wants it.
    pub fn release(mut self, mut client: Box<H1Client>, server_keeps: Option<Duration>) {
        let target = self.cluster.target();
        let spent = target.max_requests_per_connection.is_some_and(|max| client.requests() >= u64::from(max));
        if spent || !client.reusable() {
            return;
        }
        client.conn().shrink();
        self.client = Some(client);
        self.reused = true;
        self.offer(server_keeps);
    }

    /// To the first in line, else into the pool; closed where it is not wanted any more.
    pub(super) fn offer(self, server_keeps: Option<Duration>) {
        if !self.is_wanted() {
            return;
        }
        let cluster = Rc::clone(&self.cluster);
        let ends_soon = server_keeps.is_some_and(|keeps| keeps <= CLOSE_BEFORE);
        let nobodys = if ends_soon { Some(self) } else { cluster.hand_on(self) };
        if let Some(nobodys) = nobodys {
            nobodys.keep(server_keeps);
        }
    }

    pub(super) fn key(&self) -> &PoolKey {
        &self.key
    }

    /// Whether the peer has closed a connection that served before, which the event loop may not have heard yet.
    pub(super) fn is_gone(&self) -> bool {
        self.reused && self.client.as_deref().is_none_or(peer_has_closed)
    }

    /// Whether new requests may go this way.
    fn is_wanted(&self) -> bool {
        let target = self.cluster.target();
        self.generation == self.cluster.pools().generation.get()
            && !target.is_too_old(self.info.opened, Instant::now())
    }

    fn keep(mut self, server_keeps: Option<Duration>) {
        let (Some(client), Some(permit)) = (self.client.take(), self.permit.take()) else { return };
        let now = Instant::now();
        let ours = self.cluster.target().idle_timeout.unwrap_or(DEFAULT_IDLE);
        let keep = server_keeps.map_or(ours, |s| ours.min(s.saturating_sub(CLOSE_BEFORE)));
        let idle = Idle { client, keep_until: now + keep, info: Rc::clone(&self.info), permit };
        if let Some(pool) = self.cluster.pools().hosts.borrow_mut().get_mut(&self.key) {
            pool.idle.push(idle);
        }
    }
}

impl Drop for H1Lease {
    fn drop(&mut self) {
        let unused = self.client.is_some() && self.is_wanted();
        let (Some(permit), client) = (self.permit.take(), self.client.take()) else { return };
        match client.filter(|_| unused) {
            // It was given to somebody who had just left.
            Some(client) => {
                let info = Rc::clone(&self.info);
                let idle = Idle { client, keep_until: Instant::now(), info, permit };
                Self::again(idle, &self.key, &self.cluster).offer(None);
            }
            None => {
                drop(permit);
                self.cluster.closed_h1(&self.key);
            }
        }
    }
}
