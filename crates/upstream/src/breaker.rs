//! Circuit breakers: bounds on what is in flight to a cluster, promised for the whole proxy and kept by atomics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Envoy's routing priority; each has its own breakers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Priority {
    #[default]
    Default,
    High,
}

/// What is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    Connection,
    /// Waiting for a connection.
    Pending,
    Request,
    Retry,
}

const RESOURCES: usize = 4;

/// Bounds of one priority.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    pub max_connections: u32,
    pub max_pending: u32,
    pub max_requests: u32,
    pub max_retries: u32,
    pub retry_budget: Option<RetryBudget>,
}

/// Retries as a share of what is in flight, instead of a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// Percent of active and pending requests; 20 unless configured.
    pub percent: f64,
    /// 3 unless configured.
    pub min_concurrency: u32,
}

impl Default for Thresholds {
    /// Envoy's defaults; Istio always sends its own (2³²−1).
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    limit: [AtomicU32; RESOURCES],
    used: [AtomicU32; RESOURCES],
    /// The retry budget: hundredths of a percent in the high half plus one, minimum in the low half; 0 is none.
    budget: AtomicU64,
}

/// The breakers of one cluster.
#[derive(Debug, Default)]
pub struct Breakers {
    priorities: [Counters; 2],
}

impl Breakers {
    pub fn new(thresholds: &[Thresholds; 2]) -> Self {
        let breakers = Self::default();
        breakers.set(thresholds);
        breakers
    }

    /// Takes new bounds; what is in flight stays counted.
    pub fn set(&self, thresholds: &[Thresholds; 2]) {
        for (counters, t) in self.priorities.iter().zip(thresholds) {
            for (limit, value) in
                counters.limit.iter().zip([t.max_connections, t.max_pending, t.max_requests, t.max_retries])
            {
                limit.store(value, Relaxed);
            }
            let budget = t.retry_budget.map_or(0, |b| {
                let percent = (b.percent.clamp(0.0, 100.0) * 100.0) as u64 + 1;
                (percent << 32) | u64::from(b.min_concurrency)
            });
            counters.budget.store(budget, Relaxed);
        }
    }

    /// Takes one of `resource`, or nothing when the breaker is open. Never exceeds the bound, however many threads ask.
    pub fn acquire(self: &Arc<Self>, resource: Resource, priority: Priority) -> Option<Permit> {
        let limit = self.limit(resource, priority);
        let used = &self.counters(priority).used[resource as usize];
        used.fetch_update(Relaxed, Relaxed, |n| (n < limit).then(|| n + 1)).ok()?;
        Some(Permit { breakers: Arc::clone(self), resource, priority })
    }

    /// Counts one of `resource` even beyond the bound: Envoy lets each host have one connection.
    pub fn force(self: &Arc<Self>, resource: Resource, priority: Priority) -> Permit {
        self.counters(priority).used[resource as usize].fetch_add(1, Relaxed);
        Permit { breakers: Arc::clone(self), resource, priority }
    }

    pub fn in_use(&self, resource: Resource, priority: Priority) -> u32 {
        self.counters(priority).used[resource as usize].load(Relaxed)
    }

    pub fn limit(&self, resource: Resource, priority: Priority) -> u32 {
        let counters = self.counters(priority);
        let budget = counters.budget.load(Relaxed);
        if resource == Resource::Retry && budget != 0 {
            let in_flight = u64::from(self.in_use(Resource::Request, priority))
                + u64::from(self.in_use(Resource::Pending, priority));
            let allowed = in_flight * ((budget >> 32) - 1) / 10_000;
            return u32::try_from(allowed).unwrap_or(u32::MAX).max(budget as u32);
        }
        counters.limit[resource as usize].load(Relaxed)
    }

    /// Whether the next [`Self::acquire`] would fail.
    pub fn is_open(&self, resource: Resource, priority: Priority) -> bool {
        self.in_use(resource, priority) >= self.limit(resource, priority)
    }

    fn counters(&self, priority: Priority) -> &Counters {
        &self.priorities[priority as usize]
    }
}

/// One of a bounded resource; dropping it gives it back.
#[derive(Debug)]
pub struct Permit {
    breakers: Arc<Breakers>,
    resource: Resource,
    priority: Priority,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.breakers.counters(self.priority).used[self.resource as usize].fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn limited(max_requests: u32) -> Arc<Breakers> {
        Arc::new(Breakers::new(&[Thresholds { max_requests, ..Thresholds::default() }; 2]))
    }

    #[test]
    fn the_bound_holds_over_threads_and_everything_is_given_back() {
        let breakers = limited(10);
        let barrier = Barrier::new(4);
        let peak = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..20_000 {
                        let held: Vec<_> = (0..4)
                            .filter_map(|_| breakers.acquire(Resource::Request, Priority::Default))
                            .collect();
                        peak.fetch_max(breakers.in_use(Resource::Request, Priority::Default), Relaxed);
                        drop(held);
                    }
                });
            }
        });
        assert!((1..=10).contains(&peak.into_inner()));
        assert_eq!(breakers.in_use(Resource::Request, Priority::Default), 0);
    }

    #[test]
    fn priorities_and_resources_are_apart_and_bounds_change_live() {
        let breakers = limited(1);
        let held = breakers.acquire(Resource::Request, Priority::Default).unwrap();
        assert!(breakers.acquire(Resource::Request, Priority::Default).is_none());
        assert!(breakers.acquire(Resource::Request, Priority::High).is_some());
        assert!(breakers.acquire(Resource::Connection, Priority::Default).is_some());
        breakers.set(&[Thresholds { max_requests: 2, ..Thresholds::default() }; 2]);
        assert!(breakers.acquire(Resource::Request, Priority::Default).is_some());
        drop(held);
    }

    #[test]
    fn a_retry_budget_is_a_share_of_what_is_in_flight() {
        let retry_budget = Some(RetryBudget { percent: 25.0, min_concurrency: 1 });
        let breakers = Arc::new(Breakers::new(&[Thresholds { retry_budget, ..Thresholds::default() }; 2]));
        let limit = || breakers.limit(Resource::Retry, Priority::Default);
        assert_eq!(limit(), 1);
        let held: Vec<_> = (0..40).map(|_| breakers.force(Resource::Request, Priority::Default)).collect();
        assert_eq!(limit(), 10);
        drop(held);
        assert_eq!(limit(), 1);
    }
}
