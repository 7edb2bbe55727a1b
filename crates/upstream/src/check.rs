//! Active health checks: what a check's result means for its host, and when the next one is due. Envoy's rules.
//!
//! A host that is checked is unhealthy until its first check passed; that one suffices. After that a change takes as many
//! results in a row as the thresholds say, but for an answer that says "unhealthy": it counts at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use base::Random;

use crate::host::{DEGRADED, FAILED, TIMED_OUT};
use crate::{ClusterState, EndpointSet, Host};

/// How often hosts are checked, and how many results it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckConfig {
    pub timeout: Duration,
    pub interval: Duration,
    pub initial_jitter: Duration,
    pub interval_jitter: Duration,
    /// Of the interval.
    pub interval_jitter_percent: u32,
    pub unhealthy_threshold: u32,
    pub healthy_threshold: u32,
    /// While nothing was ever sent to the cluster.
    pub no_traffic_interval: Duration,
    pub no_traffic_healthy_interval: Duration,
    /// After a failure; `edge` while the threshold is not reached.
    pub unhealthy_interval: Duration,
    pub unhealthy_edge_interval: Duration,
    pub healthy_edge_interval: Duration,
    /// Hosts that leave the assignment go at once, not when they fail.
    pub drop_removed: bool,
}

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckResult {
    Healthy {
        /// The host says of itself that it is to be spared.
        degraded: bool,
    },
    /// The host answered, and not as it should; `retriable` answers count as one failure of several.
    Unhealthy {
        retriable: bool,
    },
    /// There was no answer.
    Network,
    Timeout,
}

/// What is known of one host's checks besides its flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCheck {
    first: bool,
    successes: u32,
    failures: u32,
}

impl Default for HostCheck {
    fn default() -> Self {
        Self { first: true, successes: 0, failures: 0 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    No,
    /// One more of the same is needed.
    Pending,
    Yes,
}

impl HostCheck {
    /// Judges a result; what the host's flags become, and how long to wait for the next check.
    fn conclude<R: Random + ?Sized>(
        &mut self,
        config: &CheckConfig,
        flags: u8,
        result: CheckResult,
        traffic: bool,
        rng: &mut R,
    ) -> (u8, Duration) {
        let (healthy, flags, change) = match result {
            CheckResult::Healthy { degraded } => self.succeeded(config, flags, degraded),
            CheckResult::Unhealthy { .. } | CheckResult::Network | CheckResult::Timeout => {
                self.failed(config, flags, result)
            }
        };
        self.first = false;
        (flags, config.wait(healthy, change, traffic, rng))
    }

    fn succeeded(&mut self, config: &CheckConfig, mut flags: u8, degraded: bool) -> (bool, u8, Change) {
        self.failures = 0;
        let mut change = Change::No;
        if flags & FAILED != 0 {
            self.successes = self.successes.saturating_add(1);
            if self.first || self.successes >= config.healthy_threshold {
                self.successes = 0;
                flags &= !(FAILED | TIMED_OUT);
                change = Change::Yes;
            } else {
                change = Change::Pending;
            }
        }
        if degraded != (flags & DEGRADED != 0) {
            flags ^= DEGRADED;
            if change == Change::No {
                change = Change::Yes;
            }
        }
        (true, flags, change)
    }

    fn failed(&mut self, config: &CheckConfig, mut flags: u8, result: CheckResult) -> (bool, u8, Change) {
        self.successes = 0;
        let mut change = Change::No;
        if flags & FAILED == 0 {
            let at_once = result == CheckResult::Unhealthy { retriable: false };
            self.failures = self.failures.saturating_add(1);
            if at_once || self.failures >= config.unhealthy_threshold {
                self.failures = 0;
                flags |= FAILED;
                change = Change::Yes;
            } else {
                change = Change::Pending;
            }
        }
        flags &= !TIMED_OUT;
        if result == CheckResult::Timeout && flags & FAILED != 0 {
            flags |= TIMED_OUT;
        }
        (false, flags, change)
    }
}

impl CheckConfig {
    /// Before a host's first check.
    pub fn initial_wait<R: Random + ?Sized>(&self, rng: &mut R) -> Option<Duration> {
        (!self.initial_jitter.is_zero()).then(|| self.jittered(Duration::ZERO, self.initial_jitter, rng))
    }

    fn wait<R: Random + ?Sized>(
        &self,
        healthy: bool,
        change: Change,
        traffic: bool,
        rng: &mut R,
    ) -> Duration {
        let base = match (traffic, healthy, change == Change::Pending) {
            (false, true, false) => self.no_traffic_healthy_interval,
            (false, ..) => self.no_traffic_interval,
            (true, true, false) => self.interval,
            (true, true, true) => self.healthy_edge_interval,
            (true, false, false) => self.unhealthy_interval,
            (true, false, true) => self.unhealthy_edge_interval,
        };
        self.jittered(base, self.interval_jitter, rng)
    }

    fn jittered<R: Random + ?Sized>(&self, base: Duration, jitter: Duration, rng: &mut R) -> Duration {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let base = millis(base);
        let by_percent = base.saturating_mul(u64::from(self.interval_jitter_percent)) / 100;
        let wait = base.saturating_add(rng.below(by_percent)).saturating_add(rng.below(millis(jitter)));
        Duration::from_millis(wait.max(1))
    }
}

/// What was counted of a cluster's checks.
#[derive(Debug, Default)]
pub struct CheckCounts {
    pub attempt: AtomicU64,
    pub success: AtomicU64,
    pub failure: AtomicU64,
    pub network_failure: AtomicU64,
    pub passive_failure: AtomicU64,
    pub verify_cluster: AtomicU64,
    /// Whether anything was ever sent to the cluster.
    traffic: AtomicBool,
}

impl CheckCounts {
    /// Something is sent to the cluster. Writes once.
    pub fn heed_traffic(&self) {
        if !self.traffic.load(Relaxed) {
            self.traffic.store(true, Relaxed);
        }
    }
}

impl ClusterState {
    /// Takes the result of a host's check; how long to wait for the next one.
    pub fn checked<R: Random + ?Sized>(
        &self,
        (host, check): (&Host, &mut HostCheck),
        config: &CheckConfig,
        result: CheckResult,
        now: Instant,
        rng: &mut R,
    ) -> Duration {
        let healthy = matches!(result, CheckResult::Healthy { .. });
        if healthy { &self.checks.success } else { &self.checks.failure }.fetch_add(1, Relaxed);
        if matches!(result, CheckResult::Network | CheckResult::Timeout) {
            self.checks.network_failure.fetch_add(1, Relaxed);
        }
        let before = host.state.check.load(Relaxed);
        let traffic = self.checks.traffic.load(Relaxed);
        let (after, wait) = check.conclude(config, before, result, traffic, rng);
        let set = self.endpoints();
        if after != before {
            host.state.check.store(after, Relaxed);
            if before & FAILED != 0 && after & FAILED == 0 {
                host.state.begin(set.millis(now));
            }
            set.shared.epoch.fetch_add(1, Relaxed);
        }
        let lets_back = set.outlier_config().is_some_and(|outlier| outlier.uneject_on_check);
        if healthy && after & FAILED == 0 && lets_back && host.is_ejected() {
            set.restore(host);
        }
        wait
    }

    /// An answer to a request said that the host is to be left out (`x-envoy-immediate-health-check-fail`): it is, until
    /// checks pass again. Nothing where hosts are not checked.
    pub fn fail_check(&self, set: &EndpointSet, host: &Host) {
        if set.is_checked && !host.endpoint.check.disabled {
            self.checks.failure.fetch_add(1, Relaxed);
            self.checks.passive_failure.fetch_add(1, Relaxed);
            if host.state.check.fetch_or(FAILED, Relaxed) & FAILED == 0 {
                set.shared.epoch.fetch_add(1, Relaxed);
            }
        }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
