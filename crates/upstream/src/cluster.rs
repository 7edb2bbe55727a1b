//! What a cluster's name stands for at run time; outlives every change of its configuration.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use base::Random;

use crate::balance::Table;
use crate::host::HostState;
use crate::set::{Group, PrioritySet, Shared};
use crate::{
    Address, Assignment, Breakers, Ejection, EndpointSet, Host, LbPolicy, LocalityLb, OutlierConfig,
    Thresholds,
};

/// What of a cluster's configuration matters at run time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClusterSettings {
    pub lb: LbPolicy,
    pub outlier: Option<Arc<OutlierConfig>>,
    /// By [`crate::Priority`].
    pub thresholds: [Thresholds; 2],
}

/// Host states, breakers and the current set of one cluster. The lock is for the control thread: workers hold the set.
#[derive(Debug)]
pub struct ClusterState {
    pub breakers: Arc<Breakers>,
    shared: Arc<Shared>,
    inner: Mutex<Inner>,
    /// When hosts were last judged, in the cluster's milliseconds.
    judged: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    states: HashMap<Address, Arc<HostState>>,
    current: Arc<EndpointSet>,
}

impl ClusterState {
    pub fn new(settings: &ClusterSettings, now: Instant) -> Self {
        let shared = Arc::new(Shared { epoch: AtomicU64::new(0), ejected: AtomicU32::new(0), origin: now });
        let current = Arc::new(build(&Assignment::default(), settings, &shared, &mut HashMap::new()));
        Self {
            breakers: Arc::new(Breakers::new(&settings.thresholds)),
            shared,
            inner: Mutex::new(Inner { states: HashMap::new(), current }),
            judged: AtomicU64::new(0),
        }
    }

    /// Takes a new assignment or new settings. Addresses that stay keep their ejections and counts.
    pub fn update(
        &self,
        assignment: &Assignment,
        settings: &ClusterSettings,
        now: Instant,
    ) -> Arc<EndpointSet> {
        self.breakers.set(&settings.thresholds);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut states = HashMap::with_capacity(inner.states.len());
        std::mem::swap(&mut states, &mut inner.states);
        let mut kept = HashMap::with_capacity(states.len());
        for endpoint in assignment.endpoints() {
            if let Some(state) = states.remove(&endpoint.address) {
                kept.insert(endpoint.address.clone(), state);
            }
        }
        for gone in states.into_values() {
            if gone.ejected.swap(false, Relaxed) {
                self.shared.ejected.fetch_sub(1, Relaxed);
            }
        }
        let since = self.shared.millis(now);
        let known = kept.len();
        inner.current = Arc::new(build(assignment, settings, &self.shared, &mut kept));
        if known < kept.len() {
            inner.current.hosts().filter(|host| host.state.is_new()).for_each(|host| host.state.begin(since));
        }
        if settings.outlier.is_none() {
            inner.current.uneject_all();
        }
        inner.states = kept;
        Arc::clone(&inner.current)
    }

    /// The set as of the last [`Self::update`].
    pub fn endpoints(&self) -> Arc<EndpointSet> {
        Arc::clone(&self.inner.lock().unwrap_or_else(PoisonError::into_inner).current)
    }

    /// At the end of each outlier interval lets hosts back whose time is over, and judges success rates. Call more often
    /// than that.
    pub fn tick<R: Random + ?Sized>(&self, now: Instant, rng: &mut R) -> Vec<Ejection> {
        let set = self.endpoints();
        let Some(config) = set.outlier_config() else { return Vec::new() };
        let interval = config.interval.as_millis() as u64;
        let millis = set.millis(now);
        let elapsed = millis.saturating_sub(self.judged.load(Relaxed));
        // Who calls once each interval is sometimes early by a little.
        if elapsed.saturating_add(interval / 10) < interval {
            return Vec::new();
        }
        self.judged.store(millis, Relaxed);
        set.judge_interval(now, rng)
    }

    /// Hosts that are ejected now.
    pub fn ejected(&self) -> u32 {
        self.shared.ejected.load(Relaxed)
    }
}

fn build(
    assignment: &Assignment,
    settings: &ClusterSettings,
    shared: &Arc<Shared>,
    states: &mut HashMap<Address, Arc<HostState>>,
) -> EndpointSet {
    let mut by_priority: BTreeMap<u32, PrioritySet> = BTreeMap::new();
    for group in &assignment.groups {
        let set = by_priority.entry(group.priority).or_insert_with(|| PrioritySet {
            hosts: Vec::new(),
            groups: Vec::new(),
            table: None,
        });
        let start = set.hosts.len();
        set.hosts.extend(group.endpoints.iter().map(|endpoint| Host {
            endpoint: Arc::clone(endpoint),
            state: Arc::clone(states.entry(endpoint.address.clone()).or_default()),
        }));
        let hosts = start..set.hosts.len();
        set.groups.push(Group { locality: Arc::clone(&group.locality), weight: group.weight, hosts });
    }
    let mut priorities: Vec<_> = by_priority.into_values().collect();
    for set in &mut priorities {
        set.table = Table::build(&settings.lb.kind, &weighted_hosts(set, settings.lb.locality));
    }
    EndpointSet {
        policy: settings.lb,
        overprovisioning: assignment.overprovisioning_factor,
        drop_per_million: assignment.drop_per_million,
        len: priorities.iter().map(|p| p.hosts.len()).sum(),
        priorities,
        outlier: settings.outlier.clone(),
        shared: Arc::clone(shared),
    }
}

/// Hosts and the weights that hash tables give them: with weighted localities, a locality's share divided among its hosts.
fn weighted_hosts(set: &PrioritySet, locality: LocalityLb) -> Vec<(&Host, f64)> {
    set.groups
        .iter()
        .flat_map(|group| {
            let hosts = &set.hosts[group.hosts.clone()];
            let total: f64 = hosts.iter().map(|h| f64::from(h.endpoint.weight)).sum();
            hosts.iter().map(move |host| {
                let own = f64::from(host.endpoint.weight);
                let weight = match locality {
                    LocalityLb::Ignored => own,
                    LocalityLb::Weighted => f64::from(group.weight) * own / total.max(1.0),
                };
                (host, weight)
            })
        })
        .collect()
}
