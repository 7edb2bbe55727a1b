//! The endpoints of a cluster, ready to balance over: immutable, shared by all workers.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use base::Locality;

use crate::balance::Table;
use crate::subset::Subsets;
use crate::{Host, LbKind, LbPolicy, OutlierConfig};

/// What all sets of one cluster share at run time.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Moves whenever a host is ejected or let back: balancers then look again.
    pub(crate) epoch: AtomicU64,
    pub(crate) ejected: AtomicU32,
    /// Where the cluster's milliseconds count from.
    pub(crate) origin: Instant,
}

impl Shared {
    pub(crate) fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_millis() as u64
    }

    pub(crate) fn tick(&self, now: Instant) -> u32 {
        crate::ewma::tick(now.saturating_duration_since(self.origin))
    }
}

/// Endpoints by priority and locality, with hash tables already built.
#[derive(Debug)]
pub struct EndpointSet {
    pub(crate) policy: LbPolicy,
    pub(crate) overprovisioning: u32,
    pub(crate) drop_per_million: u32,
    pub(crate) priorities: Vec<PrioritySet>,
    pub(crate) outlier: Option<Arc<OutlierConfig>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) len: usize,
    /// Whether hosts are checked actively.
    pub(crate) is_checked: bool,
    pub(crate) subsets: Option<Subsets>,
}

#[derive(Debug)]
pub(crate) struct PrioritySet {
    pub(crate) hosts: Vec<Host>,
    pub(crate) groups: Vec<Group>,
    pub(crate) table: Option<Table>,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) locality: Arc<Locality>,
    pub(crate) weight: u32,
    pub(crate) hosts: Range<usize>,
}

impl EndpointSet {
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.priorities.iter().flat_map(|p| &p.hosts)
    }

    /// Hosts with their priority and locality, for `/clusters` and `explain`.
    pub fn placed_hosts(&self) -> impl Iterator<Item = (u32, &Arc<Locality>, &Host)> {
        self.priorities.iter().zip(0u32..).flat_map(|(set, priority)| {
            set.groups.iter().flat_map(move |group| {
                set.hosts[group.hosts.clone()].iter().map(move |host| (priority, &group.locality, host))
            })
        })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Notes how soon a host answered, where that matters to the choice.
    pub fn observe_latency(&self, host: &Host, rtt: Duration, now: Instant) {
        if let LbKind::PeakEwma(config) = &self.policy.kind {
            host.state.latency.observe(rtt, self.shared.tick(now), config);
        }
    }

    pub fn policy(&self) -> &LbPolicy {
        &self.policy
    }

    pub fn outlier_config(&self) -> Option<&Arc<OutlierConfig>> {
        self.outlier.as_ref()
    }

    /// Subsets that have hosts.
    pub fn subsets(&self) -> Option<usize> {
        self.subsets.as_ref().map(Subsets::len)
    }

    /// Requests of a million that the control plane wants dropped: flag `DO`.
    pub fn drop_per_million(&self) -> u32 {
        self.drop_per_million
    }
}
