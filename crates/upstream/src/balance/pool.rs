//! The hosts of one priority by health and locality, and the schedules that go over them.

use base::Random;

use super::priority::{Counts, Source};
use super::schedule::Schedule;
use crate::policy::LbKind;
use crate::set::{Group, PrioritySet};
use crate::{EndpointSet, Health, Host, LocalityLb};

/// Hosts that are chosen among: one pool, or one per locality.
#[derive(Debug)]
struct Pool {
    localities: Vec<LocalityPool>,
    /// Over `localities`; absent when there is one.
    schedule: Option<Schedule>,
}

#[derive(Debug)]
pub(super) struct LocalityPool {
    /// Indices into the priority's hosts.
    members: Vec<usize>,
    schedule: Schedule,
    uniform: bool,
}

/// How to choose, and among whose hosts.
pub(super) struct Way<'a> {
    pub(super) kind: &'a LbKind,
    pub(super) hosts: &'a [Host],
    /// Of the cluster's time, where that matters.
    pub(super) tick: u32,
}

#[derive(Debug)]
pub(super) struct PriorityPools {
    standing: Vec<Source>,
    counts: Counts,
    healthy: Pool,
    degraded: Pool,
    all: Pool,
}

impl PriorityPools {
    pub(super) fn new<R: Random + ?Sized>(priority: &PrioritySet, set: &EndpointSet, rng: &mut R) -> Self {
        let standing: Vec<_> = priority.hosts.iter().map(standing).collect();
        let counts = Counts::of(&standing, set.overprovisioning);
        let mut pool = |source| Pool::new(priority, set, &standing, source, rng);
        let (healthy, degraded, all) = (pool(Source::Healthy), pool(Source::Degraded), pool(Source::All));
        Self { healthy, degraded, all, counts, standing }
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether a host may be used when choosing among `source`.
    pub(super) fn accepts(&self, source: Source, host: usize) -> bool {
        source == Source::All || self.standing.get(host) == Some(&source)
    }

    pub(super) fn pick<R: Random + ?Sized>(
        &mut self,
        source: Source,
        way: &Way<'_>,
        rng: &mut R,
    ) -> Option<usize> {
        let pool = match source {
            Source::Healthy => &mut self.healthy,
            Source::Degraded => &mut self.degraded,
            Source::All => &mut self.all,
        };
        let at = match &mut pool.schedule {
            Some(schedule) => schedule.next(),
            None => 0,
        };
        pool.localities.get_mut(at)?.pick(way, rng)
    }
}

impl Counts {
    fn of(standing: &[Source], overprovisioning: u32) -> Self {
        let count = |source| standing.iter().filter(|s| **s == source).count();
        let (healthy, degraded) = (count(Source::Healthy), count(Source::Degraded));
        Self { healthy, degraded, all: standing.len(), overprovisioning }
    }

    pub(super) fn of_hosts(priority: &PrioritySet, set: &EndpointSet) -> Self {
        let standing: Vec<_> = priority.hosts.iter().map(standing).collect();
        Self::of(&standing, set.overprovisioning)
    }
}

/// `All` stands for a host that only panic would use.
fn standing(host: &Host) -> Source {
    match host.health() {
        Health::Healthy => Source::Healthy,
        Health::Degraded => Source::Degraded,
        Health::Unhealthy | Health::Draining => Source::All,
    }
}

impl Pool {
    fn new<R: Random + ?Sized>(
        priority: &PrioritySet,
        set: &EndpointSet,
        standing: &[Source],
        source: Source,
        rng: &mut R,
    ) -> Self {
        let used = |i: &usize| source == Source::All || standing[*i] == source;
        let weight = |i: &usize| priority.hosts[*i].endpoint.weight;
        if set.policy.locality != LocalityLb::Weighted || priority.groups.iter().all(|g| g.weight == 0) {
            let members: Vec<_> = (0..priority.hosts.len()).filter(used).collect();
            return Self { localities: vec![LocalityPool::new(members, weight, rng)], schedule: None };
        }
        let mut weights = Vec::new();
        let mut localities = Vec::new();
        for group in &priority.groups {
            let members: Vec<_> = group.hosts.clone().filter(used).collect();
            let effective = effective_weight(group, members.len(), set.overprovisioning);
            if effective > 0.0 {
                weights.push(effective);
                localities.push(LocalityPool::new(members, weight, rng));
            }
        }
        let schedule = (localities.len() > 1).then(|| Schedule::new(&weights, rng));
        Self { localities, schedule }
    }
}

/// A locality keeps its weight until too few of its hosts can be used.
fn effective_weight(group: &Group, usable: usize, overprovisioning: u32) -> f64 {
    let all = group.hosts.len().max(1) as f64;
    let availability = f64::from(overprovisioning) / 100.0 * usable as f64 / all;
    f64::from(group.weight) * availability.min(1.0)
}

impl LocalityPool {
    pub(super) fn new<R: Random + ?Sized>(
        members: Vec<usize>,
        weight: impl Fn(&usize) -> u32,
        rng: &mut R,
    ) -> Self {
        let weights: Vec<_> = members.iter().map(|m| f64::from(weight(m))).collect();
        let uniform = weights.windows(2).all(|pair| pair[0] == pair[1]);
        Self { schedule: Schedule::new(&weights, rng), members, uniform }
    }

    pub(super) fn pick<R: Random + ?Sized>(&mut self, way: &Way<'_>, rng: &mut R) -> Option<usize> {
        let (members, hosts) = (&self.members, way.hosts);
        match members.as_slice() {
            [] => return None,
            [only] => return Some(*only),
            _ => {}
        }
        let at = match way.kind {
            LbKind::LeastRequest { choices } if self.uniform => {
                least_of(*choices, members.len(), |at| hosts[members[at]].active_requests(), rng)
            }
            LbKind::LeastRequest { .. } => self.schedule.next_by(|at| {
                let host = &hosts[members[at]];
                f64::from(host.endpoint.weight) / f64::from(host.active_requests().saturating_add(1))
            }),
            LbKind::RoundRobin => self.schedule.next(),
            LbKind::PeakEwma(config) => {
                let cost = |at: usize| {
                    let host = &hosts[members[at]];
                    host.state.latency.cost(host.active_requests(), way.tick, config)
                };
                let first = rng.below(members.len() as u64) as usize;
                // Another one.
                let second = rng.below(members.len() as u64 - 1) as usize;
                let second = if second >= first { second + 1 } else { second };
                if cost(second) < cost(first) { second } else { first }
            }
            _ => rng.below(members.len() as u64) as usize,
        };
        members.get(at).copied()
    }
}

/// The least loaded of `choices` random ones.
fn least_of<R: Random + ?Sized>(choices: u32, len: usize, load: impl Fn(usize) -> u32, rng: &mut R) -> usize {
    let mut best = rng.below(len as u64) as usize;
    let mut least = load(best);
    for _ in 1..choices.max(2) {
        let candidate = rng.below(len as u64) as usize;
        let its = load(candidate);
        if its < least {
            (best, least) = (candidate, its);
        }
    }
    best
}
