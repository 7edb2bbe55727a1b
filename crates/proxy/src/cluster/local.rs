//! One worker's view of a cluster.

use std::cell::{Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use base::Random;
use upstream::{AggregateBalancer, Balancer, ClusterState, EndpointSet, Host, Outcome, Pick, Place};

use super::pool::Pools;
use super::target::Target;
use crate::stats::ClusterStats;
use crate::worker::Worker;

/// A cluster in one worker. Pools, cursor and statistics outlive every change of configuration.
pub struct Cluster {
    target: RefCell<Arc<Target>>,
    state: Arc<ClusterState>,
    balancer: RefCell<Balancer>,
    aggregate: RefCell<AggregateBalancer>,
    pools: Pools,
    stats: ClusterStats,
}

impl Cluster {
    pub fn new<R: Random + ?Sized>(
        target: Arc<Target>,
        state: Arc<ClusterState>,
        set: Arc<EndpointSet>,
        rng: &mut R,
    ) -> Rc<Self> {
        Rc::new(Self {
            target: RefCell::new(target),
            state,
            balancer: RefCell::new(Balancer::new(set, rng)),
            aggregate: RefCell::default(),
            pools: Pools::default(),
            stats: ClusterStats::default(),
        })
    }

    pub fn target(&self) -> Arc<Target> {
        Arc::clone(&self.target.borrow())
    }

    pub fn name(&self) -> Ref<'_, str> {
        Ref::map(self.target.borrow(), |t| &*t.name)
    }

    pub fn state(&self) -> &Arc<ClusterState> {
        &self.state
    }

    pub fn stats(&self) -> &ClusterStats {
        &self.stats
    }

    /// What is worth knowing of a connection that was just made.
    pub(super) fn info_of(
        &self,
        io: &crate::net::Io,
        tls: Option<&tls::ClientTls>,
    ) -> Rc<super::UpstreamInfo> {
        let ours = tls.and_then(tls::ClientTls::identity);
        let (id, local) = (self.stats.cx_total.get(), io.tcp().and_then(|s| s.local_addr().ok()));
        Rc::new(super::UpstreamInfo { id, opened: Instant::now(), local, tls: io.tls_info(ours.as_deref()) })
    }

    pub(super) fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Takes a new configuration; connections whose transport changed take no new requests.
    pub fn reconfigure(&self, target: Arc<Target>) {
        let old = self.target.replace(target);
        let new = self.target();
        if !same_transports(&old, &new) {
            self.retire_connections();
        }
    }

    /// Takes new endpoints; idle connections to those that left are closed.
    pub fn replace_endpoints<R: Random + ?Sized>(&self, set: Arc<EndpointSet>, rng: &mut R) {
        if Arc::ptr_eq(self.balancer.borrow().set(), &set) {
            return;
        }
        self.balancer.borrow_mut().replace(Arc::clone(&set), rng);
        if !self.target().original_destination && self.target().names.is_none() {
            self.retire_hosts(|address| !set.hosts().any(|h| h.address() == address));
        }
    }

    pub fn endpoints(&self) -> Arc<EndpointSet> {
        Arc::clone(self.balancer.borrow().set())
    }

    pub fn pick<R: Random + ?Sized>(&self, pick: &Pick<'_>, rng: &mut R) -> Option<Host> {
        let mut balancer = self.balancer.borrow_mut();
        let now = balancer.set().policy().slow_start.map(|_| Instant::now());
        let host = balancer.pick(&Pick { now, ..*pick }, rng);
        if balancer.set().subsets().is_some() {
            let counts = balancer.take_counts();
            self.stats.subsets_selected.add(counts.selected);
            self.stats.subsets_fallback.add(counts.fallback);
            self.stats.subsets_fallback_panic.add(counts.fallback_panic);
        }
        host
    }

    /// The cluster that a request is to go to, where this one stands for others, and which of its hosts; nothing when
    /// none of them can take it.
    pub fn stands_for(self: &Rc<Self>, worker: &Worker) -> Option<(Rc<Self>, Option<Place>)> {
        let target = self.target();
        let Some(names) = &target.aggregate else { return Some((Rc::clone(self), None)) };
        // One that stands for others itself has no hosts.
        let clusters: Vec<_> = names.iter().filter_map(|name| worker.cluster(name)).collect();
        let sets: Vec<_> = clusters.iter().map(|cluster| cluster.endpoints()).collect();
        let policy = &target.config.settings.lb;
        let choice = worker.with_rng(|rng| self.aggregate.borrow_mut().choose(&sets, policy, rng));
        choice.and_then(|(index, place)| Some((clusters.get(index)?.clone(), Some(place))))
    }

    /// Counts how a request to the host ended, for outlier detection.
    pub fn record<R: Random + ?Sized>(&self, host: &Host, outcome: Outcome, rng: &mut R) {
        let set = self.endpoints();
        if set.outlier_config().is_none() {
            return;
        }
        if let Some(ejection) = set.record(host, outcome, Instant::now(), rng) {
            self.stats.ejections.inc();
            tracing::info!(cluster = %self.name(), host = %ejection.address, kind = ?ejection.kind, "host ejected");
        }
    }
}

fn same_transports(old: &Target, new: &Target) -> bool {
    old.connect == new.connect
        && old.protocol == new.protocol
        && old.transports.len() == new.transports.len()
        && old.transports.iter().zip(&new.transports).all(|(a, b)| {
            a.labels == b.labels
                && match (&a.tls, &b.tls) {
                    (None, None) => true,
                    (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                    _ => false,
                }
        })
}
