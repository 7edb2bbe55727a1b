//! What a cluster's name stands for at run time; outlives every change of its configuration.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use base::Random;

use crate::balance::Table;
use crate::host::{FAILED, HostState, REMOVED};
use crate::set::{Group, PrioritySet, Shared};
use crate::subset::Subsets;
use crate::{
    Address, Assignment, Breakers, CheckConfig, CheckCounts, Ejection, EndpointSet, Host, LbPolicy,
    LocalityGroup, LocalityLb, OutlierConfig, SubsetConfig, Thresholds,
};

/// What of a cluster's configuration matters at run time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClusterSettings {
    pub lb: LbPolicy,
    pub subsets: Option<Arc<SubsetConfig>>,
    pub outlier: Option<Arc<OutlierConfig>>,
    pub check: Option<Arc<CheckConfig>>,
    /// By [`crate::Priority`].
    pub thresholds: [Thresholds; 2],
}

/// Host states, breakers and the current set of one cluster. The lock is for the control thread: workers hold the set.
#[derive(Debug)]
pub struct ClusterState {
    pub breakers: Arc<Breakers>,
    pub checks: CheckCounts,
    /// How often hosts came or went.
    pub membership_changes: AtomicU64,
    shared: Arc<Shared>,
    inner: Mutex<Inner>,
    /// When hosts were last judged, in the cluster's milliseconds.
    judged: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    states: HashMap<Address, Arc<HostState>>,
    current: Arc<EndpointSet>,
    /// What the last update was made of, where hosts are checked: hosts that it left out may have to go.
    last: Option<(Assignment, ClusterSettings)>,
}

impl ClusterState {
    pub fn new(settings: &ClusterSettings, now: Instant) -> Self {
        let shared = Arc::new(Shared { epoch: AtomicU64::new(0), ejected: AtomicU32::new(0), origin: now });
        let current = Arc::new(build(&Assignment::default(), settings, &shared, &mut HashMap::new()));
        Self {
            breakers: Arc::new(Breakers::new(&settings.thresholds)),
            checks: CheckCounts::default(),
            membership_changes: AtomicU64::new(0),
            shared,
            inner: Mutex::new(Inner { states: HashMap::new(), current, last: None }),
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
        inner.last = settings.check.as_ref().map(|_| (assignment.clone(), settings.clone()));
        let with_kept = with_kept(&inner.current, assignment, settings);
        let assignment = with_kept.as_ref().unwrap_or(assignment);
        let mut states = HashMap::with_capacity(inner.states.len());
        std::mem::swap(&mut states, &mut inner.states);
        let mut kept = HashMap::with_capacity(states.len());
        for endpoint in assignment.endpoints() {
            if let Some(state) = states.remove(&endpoint.address) {
                kept.insert(endpoint.address.clone(), state);
            }
        }
        let left = states.len();
        for gone in states.into_values() {
            if gone.ejected.swap(false, Relaxed) {
                self.shared.ejected.fetch_sub(1, Relaxed);
            }
        }
        let since = self.shared.millis(now);
        let known = kept.len();
        inner.current = Arc::new(build(assignment, settings, &self.shared, &mut kept));
        if known < kept.len() {
            for host in inner.current.hosts().filter(|host| host.state.is_new()) {
                host.state.begin(since);
                let fails = if settings.check.is_some() { FAILED } else { 0 };
                host.state.check.store(fails, Relaxed);
            }
        }
        if known < kept.len() || left > 0 {
            self.membership_changes.fetch_add(1, Relaxed);
        }
        for host in inner.current.hosts() {
            if settings.check.is_none() || host.endpoint.check.disabled {
                set_flags(&host.state.check, 0);
            }
        }
        if settings.outlier.is_none() {
            inner.current.uneject_all();
        }
        inner.states = kept;
        Arc::clone(&inner.current)
    }

    /// Lets hosts go that are assigned no longer and were kept since their checks passed, when they do not any more.
    pub fn let_go(&self, now: Instant) -> Option<Arc<EndpointSet>> {
        let last = {
            let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let over = |host: &Host| host.is_kept_by_checks() && !host.is_available();
            if inner.current.is_checked && inner.current.hosts().any(over) {
                inner.last.clone()
            } else {
                None
            }
        };
        last.map(|(assignment, settings)| self.update(&assignment, &settings, now))
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

/// Writes only what is not so already.
fn set_flags(flags: &AtomicU8, to: u8) {
    if flags.load(Relaxed) != to {
        flags.store(to, Relaxed);
    }
}

/// The assignment with those hosts of the current set that it leaves out and that are to stay while their checks pass.
/// Nothing where there is none.
fn with_kept(
    current: &EndpointSet,
    assignment: &Assignment,
    settings: &ClusterSettings,
) -> Option<Assignment> {
    let assigned: std::collections::HashSet<&Address> =
        assignment.endpoints().map(|endpoint| &endpoint.address).collect();
    if current.is_checked {
        for host in current.hosts().filter(|host| assigned.contains(host.address())) {
            host.state.check.fetch_and(!REMOVED, Relaxed);
        }
    }
    settings.check.as_ref().filter(|check| current.is_checked && !check.drop_removed)?;
    let mut all: Option<Assignment> = None;
    for (priority, locality, host) in current.placed_hosts() {
        let stays =
            !assigned.contains(host.address()) && !host.endpoint.check.disabled && host.is_available();
        if !stays {
            continue;
        }
        host.state.check.fetch_or(REMOVED, Relaxed);
        let all = all.get_or_insert_with(|| assignment.clone());
        let place = all.groups.iter_mut().find(|g| g.priority == priority && g.locality == *locality);
        match place {
            Some(group) => group.endpoints.push(Arc::clone(&host.endpoint)),
            None => all.groups.push(LocalityGroup {
                locality: Arc::clone(locality),
                priority,
                weight: 0,
                endpoints: vec![Arc::clone(&host.endpoint)],
            }),
        }
    }
    all
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
    let subsets = settings.subsets.as_ref().map(|config| {
        let locality = match settings.lb.locality {
            LocalityLb::Weighted if !config.locality_weight_aware => LocalityLb::Ignored,
            locality => locality,
        };
        let own = ClusterSettings { lb: LbPolicy { locality, ..settings.lb }, ..ClusterSettings::default() };
        Subsets::new(config, assignment, |part| build(part, &own, shared, states))
    });
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
        is_checked: settings.check.is_some(),
        subsets,
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
                    LocalityLb::Ignored | LocalityLb::ZoneAware(_) => own,
                    LocalityLb::Weighted => f64::from(group.weight) * own / total.max(1.0),
                };
                (host, weight)
            })
        })
        .collect()
}
