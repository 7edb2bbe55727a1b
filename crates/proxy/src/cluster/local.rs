//! One worker's view of a cluster.

use std::cell::{Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{Locality, Random};
use upstream::{
    AggregateBalancer, Balancer, ClusterState, EndpointSet, Home, Host, LbCounts, Outcome, Pick, Place,
};

use super::pool::Pools;
use super::target::Target;
use crate::stats::ClusterStats;
use crate::worker::Worker;

/// Who else of our kind is where: the local cluster, where one is named.
pub struct Neighbours {
    pub cluster: Arc<str>,
    locality: Locality,
    set: RefCell<Option<Arc<EndpointSet>>>,
}

impl Neighbours {
    pub fn new(cluster: Arc<str>, locality: Locality) -> Self {
        Self { cluster, locality, set: RefCell::default() }
    }

    pub fn replace(&self, set: Option<Arc<EndpointSet>>) {
        self.set.replace(set);
    }
}

/// A cluster in one worker. Pools, cursor and statistics outlive every change of configuration.
pub struct Cluster {
    target: RefCell<Arc<Target>>,
    state: Arc<ClusterState>,
    balancer: RefCell<Balancer>,
    aggregate: RefCell<AggregateBalancer>,
    pools: Pools,
    stats: ClusterStats,
    neighbours: Option<Rc<Neighbours>>,
}

impl Cluster {
    pub fn new<R: Random + ?Sized>(
        target: Arc<Target>,
        state: Arc<ClusterState>,
        set: Arc<EndpointSet>,
        neighbours: Option<Rc<Neighbours>>,
        rng: &mut R,
    ) -> Rc<Self> {
        Rc::new(Self {
            target: RefCell::new(target),
            state,
            balancer: RefCell::new(Balancer::new(set, rng)),
            aggregate: RefCell::default(),
            pools: Pools::default(),
            stats: ClusterStats::default(),
            neighbours,
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
        let now = balancer.set().policy().needs_time().then(Instant::now);
        let neighbours = self.neighbours.as_deref().map(|n| (&n.locality, n.set.borrow()));
        let home =
            neighbours.as_ref().and_then(|(locality, set)| Some(Home { locality, cluster: set.as_ref()? }));
        let host = balancer.pick(&Pick { now, home, ..*pick }, rng);
        if let Some(counts) = balancer.take_counts() {
            self.count(&counts);
        }
        host
    }

    fn count(&self, counts: &LbCounts) {
        let stats = &self.stats;
        for (counter, n) in [
            (&stats.subsets_selected, counts.subsets_selected),
            (&stats.subsets_fallback, counts.subsets_fallback),
            (&stats.subsets_fallback_panic, counts.subsets_fallback_panic),
            (&stats.lb_panic, counts.panic),
            (&stats.zone_direct, counts.zone_direct),
            (&stats.zone_sampled, counts.zone_sampled),
            (&stats.zone_cross, counts.zone_cross),
            (&stats.zone_no_capacity, counts.zone_no_capacity),
            (&stats.zone_recalculated, counts.zone_recalculated),
            (&stats.zone_too_small, counts.zone_too_small),
            (&stats.zone_home_not_ok, counts.zone_home_not_ok),
        ] {
            counter.add(n);
        }
    }

    /// Notes how soon a host answered, where that matters to the choice.
    pub fn observe_latency(&self, host: &Host, rtt: Duration) {
        let balancer = self.balancer.borrow();
        if balancer.set().policy().needs_time() {
            balancer.set().observe_latency(host, rtt, Instant::now());
        }
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
