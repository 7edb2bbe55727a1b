//! Outlier detection: which hosts to leave out for a while, from what their answers looked like.
//!
//! Envoy's rules. Consecutive errors eject at once, on whichever worker sees the last one; success rates are judged each
//! interval. A host stays out for `base_ejection_time` times the number of its recent ejections. `max_ejection_percent`
//! bounds what is out *after* an ejection, so that 10 % ejects nothing below ten hosts, unless `always_eject_one`.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use base::Random;

use crate::host::HostState;
use crate::{Address, EndpointSet, Host};

/// Envoy's `OutlierDetection`. Percentages called `enforce_*` are the chance that a verdict is acted upon.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierConfig {
    pub consecutive_5xx: u32,
    pub enforce_5xx: u32,
    pub consecutive_gateway: u32,
    pub enforce_gateway: u32,
    pub split_local_origin: bool,
    pub consecutive_local: u32,
    pub enforce_local: u32,
    pub interval: Duration,
    pub base_ejection_time: Duration,
    pub max_ejection_time: Duration,
    pub max_ejection_jitter: Duration,
    pub max_ejection_percent: u32,
    pub always_eject_one: bool,
    pub enforce_success_rate: u32,
    pub enforce_local_success_rate: u32,
    pub success_rate_hosts: u32,
    pub success_rate_volume: u32,
    /// Thousandths of a standard deviation.
    pub success_rate_factor: u32,
    pub enforce_failure_percentage: u32,
    pub enforce_local_failure_percentage: u32,
    pub failure_percentage: u32,
    pub failure_percentage_hosts: u32,
    pub failure_percentage_volume: u32,
    /// A health check that passes ends an ejection.
    pub uneject_on_check: bool,
}

impl Default for OutlierConfig {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            enforce_5xx: 100,
            consecutive_gateway: 5,
            enforce_gateway: 0,
            split_local_origin: false,
            consecutive_local: 5,
            enforce_local: 100,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one: false,
            enforce_success_rate: 100,
            enforce_local_success_rate: 100,
            success_rate_hosts: 5,
            success_rate_volume: 100,
            success_rate_factor: 1900,
            enforce_failure_percentage: 0,
            enforce_local_failure_percentage: 0,
            failure_percentage: 85,
            failure_percentage_hosts: 5,
            failure_percentage_volume: 50,
            uneject_on_check: true,
        }
    }
}

/// How a request (or TCP connection) to a host ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The host answered with this status; for gRPC, the HTTP status that its code stands for.
    Status(u16),
    /// A TCP connection was made.
    Connected,
    ConnectFailed,
    /// The host did not answer in time.
    Timeout,
    /// The stream or connection was lost before an answer.
    Reset,
}

/// A host was ejected or let back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejection {
    pub address: Address,
    pub kind: EjectionKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EjectionKind {
    Consecutive5xx,
    ConsecutiveGateway,
    ConsecutiveLocal,
    SuccessRate,
    FailurePercentage,
    /// The end of an ejection.
    Restored,
}

impl OutlierConfig {
    /// Whether answers need counting: a write to shared memory that most configurations do without.
    fn judges_rates(&self) -> bool {
        self.enforce_success_rate > 0 || self.enforce_failure_percentage > 0
    }
}

impl EndpointSet {
    /// Counts an outcome; tells when it ejected the host.
    pub fn record<R: Random + ?Sized>(
        &self,
        host: &Host,
        outcome: Outcome,
        now: Instant,
        rng: &mut R,
    ) -> Option<Ejection> {
        let config = self.outlier.as_deref()?;
        let state = &*host.state;
        let local = match outcome {
            Outcome::Status(_) => None,
            Outcome::Connected => Some(true),
            Outcome::ConnectFailed | Outcome::Timeout | Outcome::Reset => Some(false),
        };
        let kind = match (config.split_local_origin, local) {
            (true, Some(good)) => count_local(config, state, good, rng),
            (true, None) | (false, _) => {
                if config.split_local_origin {
                    count_local(config, state, true, rng);
                }
                count_status(config, state, status_of(outcome)?, rng)
            }
        }?;
        self.eject(config, host, kind, now, rng)
    }

    /// Lets hosts back and judges the interval that ended.
    pub(crate) fn judge_interval<R: Random + ?Sized>(&self, now: Instant, rng: &mut R) -> Vec<Ejection> {
        let mut events = Vec::new();
        let Some(config) = self.outlier.as_deref() else { return events };
        let millis = self.millis(now);
        for host in self.hosts() {
            if host.is_ejected() {
                if host.state.ejected_until.load(Relaxed) <= millis && self.restore(host) {
                    host.state.begin(millis);
                    events.push(Ejection { address: host.address().clone(), kind: EjectionKind::Restored });
                }
            } else {
                let _ = host.state.ejections.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
            }
        }
        let rates = Rates { total: |s| &s.total, good: |s| &s.successes };
        let enforce = (config.enforce_success_rate, config.enforce_failure_percentage);
        self.judge_rates(config, &rates, enforce, now, rng, &mut events);
        if config.split_local_origin {
            let rates = Rates { total: |s| &s.local_total, good: |s| &s.local_successes };
            let enforce = (config.enforce_local_success_rate, config.enforce_local_failure_percentage);
            self.judge_rates(config, &rates, enforce, now, rng, &mut events);
        }
        events
    }

    pub(crate) fn uneject_all(&self) {
        for host in self.hosts() {
            self.restore(host);
        }
    }

    pub(crate) fn restore(&self, host: &Host) -> bool {
        let restored = host.state.ejected.swap(false, Relaxed);
        if restored {
            for counter in
                [&host.state.consecutive_5xx, &host.state.consecutive_gateway, &host.state.consecutive_local]
            {
                counter.store(0, Relaxed);
            }
            self.shared.ejected.fetch_sub(1, Relaxed);
            self.shared.epoch.fetch_add(1, Relaxed);
        }
        restored
    }

    fn eject<R: Random + ?Sized>(
        &self,
        config: &OutlierConfig,
        host: &Host,
        kind: EjectionKind,
        now: Instant,
        rng: &mut R,
    ) -> Option<Ejection> {
        let state = &*host.state;
        if state.ejected.load(Relaxed) {
            return None;
        }
        let hosts = u32::try_from(self.len).unwrap_or(u32::MAX);
        let may = |out: u32| {
            (config.always_eject_one && out == 0)
                || u64::from(out + 1) * 100
                    <= u64::from(config.max_ejection_percent.min(100)) * u64::from(hosts)
        };
        // The place is taken first, so that several workers together never eject more than is allowed.
        self.shared.ejected.fetch_update(Relaxed, Relaxed, |out| may(out).then(|| out + 1)).ok()?;
        let times = state.ejections.fetch_add(1, Relaxed).saturating_add(1);
        let cap = config.max_ejection_time.max(config.base_ejection_time);
        let jitter = Duration::from_millis(rng.below(config.max_ejection_jitter.as_millis() as u64 + 1));
        let out_for = config.base_ejection_time.saturating_mul(times).min(cap) + jitter;
        state.ejected_until.store(self.millis(now).saturating_add(out_for.as_millis() as u64), Relaxed);
        if state.ejected.swap(true, Relaxed) {
            self.shared.ejected.fetch_sub(1, Relaxed);
            return None;
        }
        self.shared.epoch.fetch_add(1, Relaxed);
        Some(Ejection { address: host.address().clone(), kind })
    }

    fn judge_rates<R: Random + ?Sized>(
        &self,
        config: &OutlierConfig,
        rates: &Rates,
        (enforce_rate, enforce_percentage): (u32, u32),
        now: Instant,
        rng: &mut R,
        events: &mut Vec<Ejection>,
    ) {
        let measured: Vec<(&Host, u32, f64)> = self
            .hosts()
            .map(|host| {
                let total = (rates.total)(&host.state).swap(0, Relaxed);
                let good = (rates.good)(&host.state).swap(0, Relaxed);
                (host, total, 100.0 * f64::from(good) / f64::from(total.max(1)))
            })
            .collect();
        let with_volume =
            |volume: u32| measured.iter().filter(move |m| m.1 > 0 && m.1 >= volume && !m.0.is_ejected());
        let rated: Vec<_> = with_volume(config.success_rate_volume).collect();
        if enforce_rate > 0 && !rated.is_empty() && rated.len() >= config.success_rate_hosts as usize {
            let threshold = rate_threshold(rated.iter().map(|m| m.2), config.success_rate_factor);
            for (host, _, _) in rated.into_iter().filter(|m| m.2 < threshold) {
                if rng.chance(enforce_rate, 100) {
                    events.extend(self.eject(config, host, EjectionKind::SuccessRate, now, rng));
                }
            }
        }
        let failing: Vec<_> = with_volume(config.failure_percentage_volume).collect();
        if enforce_percentage > 0 && failing.len() >= config.failure_percentage_hosts as usize {
            for (host, _, _) in
                failing.into_iter().filter(|m| 100.0 - m.2 >= f64::from(config.failure_percentage))
            {
                if rng.chance(enforce_percentage, 100) {
                    events.extend(self.eject(config, host, EjectionKind::FailurePercentage, now, rng));
                }
            }
        }
    }

    pub(crate) fn millis(&self, now: Instant) -> u64 {
        self.shared.millis(now)
    }
}

struct Rates {
    total: fn(&HostState) -> &AtomicU32,
    good: fn(&HostState) -> &AtomicU32,
}

/// The mean less `factor` thousandths of the standard deviation.
fn rate_threshold(rates: impl Iterator<Item = f64> + Clone, factor: u32) -> f64 {
    let count = rates.clone().count() as f64;
    let mean = rates.clone().sum::<f64>() / count;
    let variance = rates.map(|r| (r - mean).powi(2)).sum::<f64>() / count;
    mean - variance.sqrt() * f64::from(factor) / 1000.0
}

/// What an outcome counts as when local errors are not told apart.
fn status_of(outcome: Outcome) -> Option<u16> {
    Some(match outcome {
        Outcome::Status(status) => status,
        Outcome::Connected => 200,
        Outcome::ConnectFailed | Outcome::Reset => 503,
        Outcome::Timeout => 504,
    })
}

fn count_status<R: Random + ?Sized>(
    config: &OutlierConfig,
    state: &HostState,
    status: u16,
    rng: &mut R,
) -> Option<EjectionKind> {
    if config.judges_rates() {
        state.total.fetch_add(1, Relaxed);
        if status < 500 {
            state.successes.fetch_add(1, Relaxed);
        }
    }
    if status < 500 {
        calm(&state.consecutive_5xx);
        calm(&state.consecutive_gateway);
        return None;
    }
    let gateway = if (502..=504).contains(&status) {
        reached(&state.consecutive_gateway, config.consecutive_gateway)
            && rng.chance(config.enforce_gateway, 100)
    } else {
        calm(&state.consecutive_gateway);
        false
    };
    let any = reached(&state.consecutive_5xx, config.consecutive_5xx) && rng.chance(config.enforce_5xx, 100);
    match (gateway, any) {
        (true, _) => Some(EjectionKind::ConsecutiveGateway),
        (_, true) => Some(EjectionKind::Consecutive5xx),
        _ => None,
    }
}

fn count_local<R: Random + ?Sized>(
    config: &OutlierConfig,
    state: &HostState,
    good: bool,
    rng: &mut R,
) -> Option<EjectionKind> {
    state.local_total.fetch_add(1, Relaxed);
    if good {
        state.local_successes.fetch_add(1, Relaxed);
        calm(&state.consecutive_local);
        return None;
    }
    (reached(&state.consecutive_local, config.consecutive_local) && rng.chance(config.enforce_local, 100))
        .then_some(EjectionKind::ConsecutiveLocal)
}

/// Counts up; true for the one that completes the run, which starts the count anew.
fn reached(counter: &AtomicU32, threshold: u32) -> bool {
    let count = counter.fetch_add(1, Relaxed).saturating_add(1);
    let complete = threshold > 0 && count >= threshold;
    if complete {
        counter.store(0, Relaxed);
    }
    complete
}

/// Ends a run without writing to a cache line that is already right.
fn calm(counter: &AtomicU32) {
    if counter.load(Relaxed) != 0 {
        counter.store(0, Relaxed);
    }
}

#[cfg(test)]
#[path = "outlier_tests.rs"]
mod tests;
