//! `adaptive_concurrency`: as many requests at once as do not make answers slower, by Envoy's gradient controller.
//!
//! Now and then few are let through, to learn how fast answers are without a crowd; between, the limit follows the ratio of
//! that and of what is measured. What timers do in Envoy is done here by whichever request comes when it is due.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use base::Random;
use proto::pb::envoy::extensions::filters::http::adaptive_concurrency::v3 as pb;
use proto::pb::envoy::r#type::v3::Percent;

use crate::refusal::{Refusal, Taken, Within};
use crate::wire::{duration, flag, number};

/// How often the limit may be the least one before the fastest answer is measured anew.
const LOW_WINDOWS: u32 = 5;

#[derive(Debug)]
pub(crate) struct Gradient {
    pub(crate) enabled: bool,
    pub(crate) status: u16,
    percentile: f64,
    most: u32,
    least: u32,
    update: Duration,
    interval: Duration,
    jitter: f64,
    buffer: f64,
    wanted: u32,
    fixed: Option<Duration>,
    /// What moments are counted from, in microseconds.
    origin: OnceLock<Instant>,
    outstanding: AtomicU32,
    limit: AtomicU32,
    /// The limit to go back to when the fastest answer is known; 0 while it is not looked for.
    deferred: AtomicU32,
    fastest: AtomicU64,
    /// Requests that began before are not counted.
    epoch: AtomicU64,
    next_update: AtomicU64,
    next_measure: AtomicU64,
    low_windows: AtomicU32,
    samples: Samples,
    /// Whoever has this changes the limit; nobody waits for it.
    busy: AtomicBool,
    pub(crate) blocked: Arc<str>,
    shown: Shown,
}

#[derive(Debug, Default)]
struct Shown {
    gradient: AtomicI64,
    burst: AtomicI64,
    sampled: AtomicI64,
}

fn percent(value: &Option<Percent>, default: f64, field: &str) -> Taken<f64> {
    match value.as_ref().map_or(default, |p| p.value) {
        value if (0.0..=100.0).contains(&value) => Ok(value / 100.0),
        _ => Err(Refusal::new("must be from 0 to 100").under(field)),
    }
}

impl Gradient {
    pub(crate) fn compile(m: &pb::AdaptiveConcurrency) -> Taken<Self> {
        use pb::adaptive_concurrency::ConcurrencyControllerConfig as Config;
        const FIELD: &str = "gradientControllerConfig";
        let Some(Config::GradientControllerConfig(gradient)) = &m.concurrency_controller_config else {
            return Err(Refusal::new("is missing").under(FIELD));
        };
        let status = m.concurrency_limit_exceeded_status.as_ref().map_or(503, |s| s.code);
        // Envoy: a status that is no error is none to turn away with.
        let status = u16::try_from(status).ok().filter(|s| (400..600).contains(s)).unwrap_or(503);
        Self::of(gradient, m.enabled.as_ref().is_none_or(|e| flag(&e.default_value, true)), status)
            .within(FIELD)
    }

    fn of(m: &pb::GradientControllerConfig, enabled: bool, status: u16) -> Taken<Self> {
        let missing = |field: &str| Refusal::new("is missing").under(field);
        let limits = m.concurrency_limit_params.as_ref().ok_or_else(|| missing("concurrencyLimitParams"))?;
        let measure = m.min_rtt_calc_params.as_ref().ok_or_else(|| missing("minRttCalcParams"))?;
        let above_zero = |value: Option<Duration>, field: &str| {
            value.filter(|d| !d.is_zero()).ok_or_else(|| Refusal::new("must be greater than 0").under(field))
        };
        let update = duration(&limits.concurrency_update_interval, "concurrencyUpdateInterval");
        let update = update
            .and_then(|d| above_zero(d, "concurrencyUpdateInterval"))
            .within("concurrencyLimitParams")?;
        let of_measure = || -> Taken<_> {
            let fixed = duration(&measure.fixed_value, "fixedValue")?.filter(|d| !d.is_zero());
            let interval = duration(&measure.interval, "interval")?;
            let interval = if fixed.is_some() {
                interval.unwrap_or_default()
            } else {
                above_zero(interval, "interval")?
            };
            let jitter = percent(&measure.jitter, 15.0, "jitter")?;
            Ok((fixed, interval, jitter, percent(&measure.buffer, 25.0, "buffer")?))
        };
        let (fixed, interval, jitter, buffer) = of_measure().within("minRttCalcParams")?;
        let at_least_one = |value: Option<u32>, default: u32, field: &str| match value.unwrap_or(default) {
            0 => Err(Refusal::new("must be greater than 0").under(field)),
            value => Ok(value),
        };
        let least =
            at_least_one(number(&measure.min_concurrency), 3, "minConcurrency").within("minRttCalcParams")?;
        let most = at_least_one(number(&limits.max_concurrency_limit), 1000, "maxConcurrencyLimit");
        Ok(Self {
            enabled,
            status,
            percentile: percent(&m.sample_aggregate_percentile, 50.0, "sampleAggregatePercentile")?,
            most: most.within("concurrencyLimitParams")?,
            least,
            update,
            interval,
            jitter,
            buffer,
            wanted: at_least_one(number(&measure.request_count), 50, "requestCount")
                .within("minRttCalcParams")?,
            fixed,
            origin: OnceLock::new(),
            outstanding: AtomicU32::new(0),
            limit: AtomicU32::new(least),
            deferred: AtomicU32::new(if fixed.is_some() { 0 } else { least }),
            fastest: AtomicU64::new(fixed.map_or(0, |d| d.as_micros() as u64)),
            epoch: AtomicU64::new(0),
            next_update: AtomicU64::new(update.as_micros() as u64),
            next_measure: AtomicU64::new(u64::MAX),
            low_windows: AtomicU32::new(0),
            samples: Samples::default(),
            busy: AtomicBool::new(false),
            blocked: "adaptive_concurrency.gradient_controller.rq_blocked".into(),
            shown: Shown::default(),
        })
    }

    fn moment(&self, now: Instant) -> u64 {
        now.saturating_duration_since(*self.origin.get_or_init(|| now)).as_micros() as u64
    }

    fn measures(&self) -> bool {
        self.deferred.load(Relaxed) != 0
    }

    /// Whether one more may be under way; it is counted then.
    pub(crate) fn begin(&self, now: Instant) -> bool {
        self.turn(self.moment(now));
        let limit = self.limit.load(Relaxed);
        self.outstanding.fetch_update(Relaxed, Relaxed, |n| (n < limit).then_some(n + 1)).is_ok()
    }

    /// It ended without a whole answer, which tells nothing.
    pub(crate) fn cancel(&self) {
        self.outstanding.fetch_sub(1, Relaxed);
    }

    pub(crate) fn complete<R: Random + ?Sized>(&self, began: Instant, now: Instant, rng: &mut R) {
        self.outstanding.fetch_sub(1, Relaxed);
        let at = self.moment(now);
        if self.moment(began) >= self.epoch.load(Relaxed) {
            let took = now.saturating_duration_since(began).as_micros() as u64;
            let samples = self.samples.add(took.max(1));
            if self.measures() && samples >= self.wanted {
                self.alone(|| self.measured(at, rng));
            }
        }
        self.turn(at);
    }

    /// Runs what changes the limit, unless somebody else does.
    fn alone(&self, work: impl FnOnce()) {
        if !self.busy.swap(true, std::sync::atomic::Ordering::Acquire) {
            work();
            self.busy.store(false, std::sync::atomic::Ordering::Release);
        }
    }

    /// Does what is due.
    fn turn(&self, at: u64) {
        if self.measures() {
            return;
        }
        if at >= self.next_measure.load(Relaxed) {
            self.alone(|| self.measure(at));
        } else if at >= self.next_update.load(Relaxed) {
            self.alone(|| self.follow(at));
        }
    }

    /// From now on few are let through, until enough have told how fast answers are.
    fn measure(&self, at: u64) {
        if self.measures() {
            return;
        }
        self.deferred.store(self.limit.load(Relaxed).max(1), Relaxed);
        self.set(self.least);
        self.samples.clear();
        self.epoch.store(at, Relaxed);
    }

    fn measured<R: Random + ?Sized>(&self, at: u64, rng: &mut R) {
        // Somebody else may just have done it.
        if !self.measures() || self.samples.count() < self.wanted {
            return;
        }
        self.fastest.store(self.samples.take(self.percentile), Relaxed);
        self.set(self.deferred.load(Relaxed));
        let interval = self.interval.as_micros() as u64;
        let jitter = rng.below((interval as f64 * self.jitter).ceil() as u64);
        self.next_measure.store(at + interval + jitter, Relaxed);
        self.next_update.store(at + self.update.as_micros() as u64, Relaxed);
        self.deferred.store(0, Relaxed);
    }

    /// Lets the limit follow what was measured since the last time.
    fn follow(&self, at: u64) {
        if self.measures() || at < self.next_update.load(Relaxed) {
            return;
        }
        self.next_update.store(at + self.update.as_micros() as u64, Relaxed);
        if self.samples.count() == 0 {
            return;
        }
        let sampled = self.samples.take(self.percentile).max(1);
        self.shown.sampled.store(sampled as i64 / 1000, Relaxed);
        let fastest = self.fastest.load(Relaxed) as f64 * (1.0 + self.buffer);
        let gradient = (fastest / sampled as f64).clamp(0.5, 2.0);
        let limit = f64::from(self.limit.load(Relaxed)) * gradient;
        let burst = limit.sqrt();
        self.shown.gradient.store((gradient * 1000.0) as i64, Relaxed);
        self.shown.burst.store(burst as i64, Relaxed);
        let old = self.limit.load(Relaxed);
        let new = ((limit + burst) as u32).min(self.most).max(self.least);
        self.set(new);
        if old == self.least && new == self.least {
            // Where the limit cannot fall, the fastest answer may have been too fast to be true.
            if self.low_windows.fetch_add(1, Relaxed) + 1 >= LOW_WINDOWS && self.fixed.is_none() {
                self.low_windows.store(0, Relaxed);
                self.measure(at);
            }
        } else {
            self.low_windows.store(0, Relaxed);
        }
    }

    fn set(&self, limit: u32) {
        self.limit.store(limit, Relaxed);
    }

    /// Gauges by their names below the connection manager's.
    pub(crate) fn gauges(&self) -> [(&'static str, i64); 6] {
        [
            (
                "adaptive_concurrency.gradient_controller.concurrency_limit",
                i64::from(self.limit.load(Relaxed)),
            ),
            ("adaptive_concurrency.gradient_controller.gradient", self.shown.gradient.load(Relaxed)),
            ("adaptive_concurrency.gradient_controller.burst_queue_size", self.shown.burst.load(Relaxed)),
            (
                "adaptive_concurrency.gradient_controller.min_rtt_msecs",
                (self.fastest.load(Relaxed) / 1000) as i64,
            ),
            ("adaptive_concurrency.gradient_controller.sample_rtt_msecs", self.shown.sampled.load(Relaxed)),
            (
                "adaptive_concurrency.gradient_controller.min_rtt_calculation_active",
                i64::from(self.measures()),
            ),
        ]
    }
}

/// Sixteen buckets to each doubling, from a microsecond to an hour.
const STEPS: u32 = 16;
const DOUBLINGS: usize = 32;

#[derive(Debug)]
struct Samples {
    buckets: Box<[AtomicU32]>,
    count: AtomicU32,
}

impl Default for Samples {
    fn default() -> Self {
        let buckets = (0..DOUBLINGS * STEPS as usize).map(|_| AtomicU32::new(0)).collect();
        Self { buckets, count: AtomicU32::new(0) }
    }
}

impl Samples {
    fn add(&self, micros: u64) -> u32 {
        let bucket =
            (((micros.max(1) as f64).log2() * f64::from(STEPS)) as usize).min(self.buckets.len() - 1);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.count.fetch_add(1, Relaxed) + 1
    }

    fn count(&self) -> u32 {
        self.count.load(Relaxed)
    }

    fn clear(&self) {
        self.buckets.iter().for_each(|bucket| bucket.store(0, Relaxed));
        self.count.store(0, Relaxed);
    }

    /// The quantile in microseconds; all are forgotten then.
    fn take(&self, quantile: f64) -> u64 {
        let counts: Vec<u32> = self.buckets.iter().map(|bucket| bucket.swap(0, Relaxed)).collect();
        self.count.store(0, Relaxed);
        let total: u64 = counts.iter().map(|n| u64::from(*n)).sum();
        let wanted = ((total as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        let found = counts.iter().position(|n| {
            seen += u64::from(*n);
            seen >= wanted
        });
        // The middle of the bucket.
        found.map_or(0, |i| ((i as f64 + 0.5) / f64::from(STEPS)).exp2() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BinaryHeap;

    use base::SeededRandom;
    use serde_json::json;

    use super::*;

    fn filter(more: serde_json::Value) -> Arc<Gradient> {
        let mut fields = json!({
            "concurrencyLimitParams": {"concurrencyUpdateInterval": "0.1s", "maxConcurrencyLimit": 500},
            "minRttCalcParams": {"interval": "10s", "requestCount": 50, "minConcurrency": 3},
        });
        if let (Some(fields), Some(more)) = (fields.as_object_mut(), more.as_object()) {
            fields.extend(more.clone());
        }
        let message = proto::json::decode(&json!({"gradientControllerConfig": fields})).unwrap();
        Arc::new(Gradient::compile(&message).unwrap())
    }

    /// A server that does `most` requests at once in 10 ms each, and queues the rest; clients send `rate` a second. What was
    /// let through, turned away, and the limit at the end.
    fn simulate(filter: &Gradient, most: u64, rate: u64, seconds: u64, seed: u64) -> (u64, u64, u32) {
        let mut rng = SeededRandom::new(seed);
        let start = Instant::now();
        let mut ends: BinaryHeap<std::cmp::Reverse<(u64, u64)>> = BinaryHeap::new();
        let mut free_at = vec![0u64; most as usize];
        let (mut passed, mut blocked) = (0, 0);
        let at = |micros: u64| start + Duration::from_micros(micros);
        for i in 0..rate * seconds {
            let now = i * 1_000_000 / rate + rng.below(1_000_000 / rate);
            while ends.peek().is_some_and(|end| end.0.0 <= now) {
                let Some(std::cmp::Reverse((end, began))) = ends.pop() else { break };
                filter.complete(at(began), at(end), &mut rng);
            }
            if !filter.begin(at(now)) {
                blocked += 1;
                continue;
            }
            passed += 1;
            let lane = (0..free_at.len()).min_by_key(|lane| free_at[*lane]).unwrap();
            let end = free_at[lane].max(now) + 9_000 + rng.below(2_000);
            free_at[lane] = end;
            ends.push(std::cmp::Reverse((end, now)));
        }
        (passed, blocked, filter.limit.load(Relaxed))
    }

    #[test]
    fn a_server_within_its_means_is_left_alone() {
        for seed in 1..4 {
            let filter = filter(json!({}));
            let (_, blocked, limit) = simulate(&filter, 100, 500, 8, seed);
            // Only while the fastest answer was looked for.
            assert!(blocked < 200, "{seed}: {blocked}");
            assert!(limit > 20, "{seed}: {limit}");
        }
    }

    #[test]
    fn a_server_beyond_its_means_gets_about_what_it_can_do() {
        for seed in 1..4 {
            // Ten at once, a thousand a second; three times as many come.
            let filter = filter(json!({}));
            let (passed, blocked, limit) = simulate(&filter, 10, 3000, 8, seed);
            assert!((5..60).contains(&limit), "{seed}: {limit}");
            assert!((5000..8300).contains(&passed), "{seed}: {passed} of {}", passed + blocked);
            assert!(filter.fastest.load(Relaxed) < 13_000);
        }
    }

    #[test]
    fn the_fastest_answer_is_measured_now_and_then_with_few() {
        let filter = filter(json!({}));
        let mut rng = SeededRandom::new(3);
        let start = Instant::now();
        assert!(filter.measures());
        let mut measured = 0;
        let mut was = true;
        for i in 0..30_000u64 {
            let now = start + Duration::from_millis(i);
            if filter.begin(now) {
                filter.complete(now, now + Duration::from_micros(900), &mut rng);
            }
            measured += u32::from(was && !filter.measures());
            was = filter.measures();
        }
        // At first, then after ten seconds and up to one and a half more.
        assert_eq!(measured, 3);
    }

    #[test]
    fn the_limit_holds_whatever_the_threads() {
        let filter = filter(json!({"minRttCalcParams": {"fixedValue": "0.005s", "minConcurrency": 4}}));
        let now = Instant::now();
        let most = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        if filter.begin(now) {
                            most.fetch_max(filter.outstanding.load(Relaxed), Relaxed);
                            filter.cancel();
                        }
                    }
                });
            }
        });
        assert!((1..=4).contains(&most.load(Relaxed)));
        assert_eq!(filter.outstanding.load(Relaxed), 0);
    }

    #[test]
    fn quantiles_are_near() {
        let samples = Samples::default();
        (1..=1000).for_each(|n| _ = samples.add(n * 10));
        let half = samples.take(0.5);
        assert!((4700..5300).contains(&half), "{half}");
        assert_eq!(samples.take(0.5), 0);
    }
}
