//! Choosing a host: a priority by health, then (where asked for) a locality, then a host.
//!
//! A [`Balancer`] belongs to one worker. It holds the shared [`EndpointSet`] and what it derives from it and from the
//! hosts' health; one relaxed load per pick tells whether health changed since.

mod aggregate;
mod pool;
mod priority;
mod schedule;
mod table;
mod zone;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use base::Random;

use crate::subset::{Chosen, Labels, SelectorFallback, Subsets};
use crate::{Ejection, EndpointSet, Host, LocalityLb, Outcome};
pub use aggregate::AggregateBalancer;
use pool::{PriorityPools, Way};
pub use priority::Place;
use priority::{Loads, Source};
pub(crate) use table::Table;
pub use zone::Home;
use zone::Zones;

/// What a choice depends on besides the hosts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pick<'a> {
    /// From the route's hash policies: for ring hash and Maglev.
    pub hash: Option<u64>,
    /// Hosts that were tried before (retry predicate `previous_hosts`).
    pub avoid: &'a [Host],
    /// How often to choose before a host to avoid is taken anyway; 0 is 1.
    pub attempts: u32,
    /// For slow start, without which every host has its full share, and for hosts' latency.
    pub now: Option<Instant>,
    /// What the route wants of hosts, for clusters with subsets; sorted by key.
    pub subset: Option<&'a Labels>,
    /// Where an aggregate of clusters has chosen already.
    pub place: Option<Place>,
    /// Who else is where we are, for clusters that heed zones.
    pub home: Option<Home<'a>>,
}

/// What choices came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LbCounts {
    /// How often subsets were found, and what was done where they were not.
    pub subsets_selected: u64,
    pub subsets_fallback: u64,
    pub subsets_fallback_panic: u64,
    /// Health was ignored, or nothing chosen for that reason.
    pub panic: u64,
    /// Where zones sent requests.
    pub zone_direct: u64,
    pub zone_sampled: u64,
    pub zone_cross: u64,
    pub zone_no_capacity: u64,
    /// Why they did not.
    pub zone_recalculated: u64,
    pub zone_too_small: u64,
    pub zone_home_not_ok: u64,
}

/// A host that warms up is passed over so often at the most: then it is taken, as nobody else seems to be there.
const PASSES: u32 = 16;

/// One worker's balancer of one cluster.
#[derive(Debug)]
pub struct Balancer {
    set: Arc<EndpointSet>,
    epoch: u64,
    loads: Loads,
    pools: Vec<PriorityPools>,
    nested: Nested,
    zones: Zones,
    counts: LbCounts,
    counted: bool,
}

/// Balancers of subsets, made when they are first asked for: at the most one for each subset.
#[derive(Debug, Default)]
struct Nested {
    by_labels: HashMap<Box<Labels>, Balancer>,
    any: Option<Box<Balancer>>,
    default: Option<Box<Balancer>>,
}

impl Balancer {
    pub fn new<R: Random + ?Sized>(set: Arc<EndpointSet>, rng: &mut R) -> Self {
        let mut balancer = Self {
            set,
            epoch: 0,
            loads: Loads::default(),
            pools: Vec::new(),
            nested: Nested::default(),
            zones: Zones::default(),
            counts: LbCounts::default(),
            counted: false,
        };
        balancer.look_again(rng);
        balancer
    }

    /// Takes a new set. Where the hosts stay the same, so does what was learned of them.
    pub fn replace<R: Random + ?Sized>(&mut self, set: Arc<EndpointSet>, rng: &mut R) {
        self.set = set;
        self.nested = Nested::default();
        self.look_again(rng);
    }

    pub fn set(&self) -> &Arc<EndpointSet> {
        &self.set
    }

    /// What was counted since this was asked last.
    pub fn take_counts(&mut self) -> Option<LbCounts> {
        std::mem::take(&mut self.counted).then(|| std::mem::take(&mut self.counts))
    }

    fn count(&mut self, which: impl FnOnce(&mut LbCounts) -> &mut u64) {
        self.counted = true;
        *which(&mut self.counts) += 1;
    }

    /// The host to use, or nothing when there is none to use (flag `UH`).
    pub fn pick<R: Random + ?Sized>(&mut self, pick: &Pick<'_>, rng: &mut R) -> Option<Host> {
        if self.set.subsets.is_none() {
            return self.pick_of_all(pick, rng);
        }
        let set = Arc::clone(&self.set);
        self.pick_subset(set.subsets.as_ref()?, pick.subset, pick, rng)
    }

    fn pick_subset<R: Random + ?Sized>(
        &mut self,
        subsets: &Subsets,
        wanted: Option<&Labels>,
        pick: &Pick<'_>,
        rng: &mut R,
    ) -> Option<Host> {
        if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
            if subsets.set(Chosen::Labels(wanted)).is_some() {
                self.count(|counts| &mut counts.subsets_selected);
                return self.pick_in(Chosen::Labels(wanted), subsets, pick, rng);
            }
            match subsets.config.fallback_of(wanted) {
                Some(SelectorFallback::Of(fallback)) => {
                    return self.pick_in(fallback.chosen()?, subsets, pick, rng);
                }
                // Fewer keys each time.
                Some(SelectorFallback::Keys(keys)) if keys.len() < wanted.len() => {
                    let fewer: Box<Labels> =
                        wanted.iter().filter(|(key, _)| keys.contains(key)).cloned().collect();
                    return self.pick_subset(subsets, Some(&fewer), pick, rng);
                }
                Some(SelectorFallback::Keys(_)) | None => {}
            }
        }
        let host = self.pick_in(subsets.config.fallback.chosen()?, subsets, pick, rng);
        if host.is_some() {
            self.count(|counts| &mut counts.subsets_fallback);
            return host;
        }
        let any = subsets.config.panic_mode_any.then_some(Chosen::Any)?;
        let host = self.pick_in(any, subsets, pick, rng);
        if host.is_some() {
            self.count(|counts| &mut counts.subsets_fallback_panic);
        }
        host
    }

    fn pick_in<R: Random + ?Sized>(
        &mut self,
        chosen: Chosen<'_>,
        subsets: &Subsets,
        pick: &Pick<'_>,
        rng: &mut R,
    ) -> Option<Host> {
        let set = subsets.set(chosen)?;
        let place = match chosen {
            Chosen::Any => self.nested.any.get_or_insert_with(|| Box::new(Self::new(Arc::clone(set), rng))),
            Chosen::Default => {
                self.nested.default.get_or_insert_with(|| Box::new(Self::new(Arc::clone(set), rng)))
            }
            Chosen::Labels(labels) => {
                if !self.nested.by_labels.contains_key(labels) {
                    self.nested.by_labels.insert(labels.into(), Self::new(Arc::clone(set), rng));
                }
                self.nested.by_labels.get_mut(labels)?
            }
        };
        let host = place.pick_of_all(pick, rng);
        if let Some(counts) = place.take_counts() {
            self.counted = true;
            self.counts.add(&counts);
        }
        host
    }

    fn pick_of_all<R: Random + ?Sized>(&mut self, pick: &Pick<'_>, rng: &mut R) -> Option<Host> {
        if self.set.shared.epoch.load(Relaxed) != self.epoch {
            self.look_again(rng);
        }
        let mut chosen = None;
        for attempt in 0..pick.attempts.max(1) {
            let host = self.pick_warm(pick, attempt, rng)?;
            let repeated = pick.avoid.contains(&host);
            chosen = Some(host);
            if !repeated {
                return chosen;
            }
        }
        if pick.attempts <= 1 || self.set.policy.kind.is_hashed() {
            return chosen;
        }
        self.untried(pick, rng).or(chosen)
    }

    /// A host that was not tried, where chance found none: the one that just failed often looks least loaded.
    fn untried<R: Random + ?Sized>(&self, pick: &Pick<'_>, rng: &mut R) -> Option<Host> {
        let (priority, source) = match pick.place {
            Some(place) => self.loads.at(place),
            None => self.loads.choose(rng.next_u64())?,
        };
        let (hosts, pools) = (&self.set.priorities.get(priority)?.hosts, self.pools.get(priority)?);
        let start = rng.below(hosts.len() as u64) as usize;
        (0..hosts.len())
            .map(|step| (start + step) % hosts.len())
            .filter(|at| pools.accepts(source, *at))
            .map(|at| &hosts[at])
            .find(|host| !pick.avoid.contains(host))
            .cloned()
    }

    /// Counts how a request to a host ended; tells when that ejected the host.
    pub fn record<R: Random + ?Sized>(
        &self,
        host: &Host,
        outcome: Outcome,
        now: Instant,
        rng: &mut R,
    ) -> Option<Ejection> {
        self.set.record(host, outcome, now, rng)
    }

    /// A host that warms up is taken only as often as its age says.
    fn pick_warm<R: Random + ?Sized>(&mut self, pick: &Pick<'_>, attempt: u32, rng: &mut R) -> Option<Host> {
        let slow = self.set.policy.slow_start.filter(|_| !self.set.policy.kind.is_hashed());
        let (Some(slow), Some(now)) = (slow, pick.now) else {
            return self.pick_once(pick, attempt, rng).cloned();
        };
        let millis = self.set.shared.millis(now);
        let mut host = self.pick_once(pick, attempt, rng)?.clone();
        for _ in 0..PASSES {
            let share = slow.factor(Duration::from_millis(host.state.age(millis)));
            if share >= 1.0 || rng.next_u64() as f64 / u64::MAX as f64 <= share {
                break;
            }
            host = self.pick_once(pick, attempt, rng)?.clone();
        }
        Some(host)
    }

    fn pick_once<R: Random + ?Sized>(&mut self, pick: &Pick<'_>, attempt: u32, rng: &mut R) -> Option<&Host> {
        let draw = match pick.hash {
            Some(hash) if self.set.policy.kind.is_hashed() => hash,
            _ => rng.next_u64(),
        };
        let chosen = match pick.place {
            Some(place) => Some(self.loads.at(place)),
            None => self.loads.choose(draw),
        };
        if chosen.map_or_else(|| self.loads.panics(), |(_, source)| source == Source::All) {
            self.count(|counts| &mut counts.panic);
            if self.set.policy.fail_on_panic {
                return None;
            }
        }
        let (priority, source) = chosen?;
        if priority == 0
            && source == Source::Healthy
            && let Some(home) = &pick.home
            && let LocalityLb::ZoneAware(config) = self.set.policy.locality
            && self.set.policy.kind.heeds_zones()
        {
            let set = Arc::clone(&self.set);
            let zoned = self.zones.choose(&set, &config, home, &mut self.counts, rng);
            self.counted = true;
            match zoned {
                zone::Choice::Anywhere => {}
                zone::Choice::Nowhere => return None,
                zone::Choice::Zone(pool) => {
                    let index = pool.pick(&way(&set, 0, pick)?, rng)?;
                    return self.set.priorities.first()?.hosts.get(index);
                }
            }
        }
        let hosts = self.set.priorities.get(priority)?;
        let pools = self.pools.get_mut(priority)?;
        let index = match &hosts.table {
            Some(table) => table.pick(draw, attempt, |host| pools.accepts(source, host)),
            None => pools.pick(source, &way(&self.set, priority, pick)?, rng),
        }?;
        hosts.hosts.get(index)
    }

    fn look_again<R: Random + ?Sized>(&mut self, rng: &mut R) {
        self.epoch = self.set.shared.epoch.load(Relaxed);
        self.pools = self.set.priorities.iter().map(|p| PriorityPools::new(p, &self.set, rng)).collect();
        self.loads = Loads::new(self.pools.iter().map(PriorityPools::counts), &self.set.policy);
        self.zones.forget();
    }
}

fn way<'a>(set: &'a EndpointSet, priority: usize, pick: &Pick<'_>) -> Option<Way<'a>> {
    let tick = pick.now.map_or(0, |now| set.shared.tick(now));
    Some(Way { kind: &set.policy.kind, hosts: &set.priorities.get(priority)?.hosts, tick })
}

impl LbCounts {
    fn add(&mut self, other: &Self) {
        for (count, more) in [
            (&mut self.subsets_selected, other.subsets_selected),
            (&mut self.subsets_fallback, other.subsets_fallback),
            (&mut self.subsets_fallback_panic, other.subsets_fallback_panic),
            (&mut self.panic, other.panic),
            (&mut self.zone_direct, other.zone_direct),
            (&mut self.zone_sampled, other.zone_sampled),
            (&mut self.zone_cross, other.zone_cross),
            (&mut self.zone_no_capacity, other.zone_no_capacity),
            (&mut self.zone_recalculated, other.zone_recalculated),
            (&mut self.zone_too_small, other.zone_too_small),
            (&mut self.zone_home_not_ok, other.zone_home_not_ok),
        ] {
            *count += more;
        }
    }
}

#[cfg(test)]
mod tests;
