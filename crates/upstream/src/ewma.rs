//! How soon a host answered lately: a moving average that follows what is slower at once, and forgets it with time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::policy::PeakEwma;

/// Milliseconds as a float in the high half; when they were measured in the low half. Zero is nothing yet.
#[derive(Debug, Default)]
pub(crate) struct Latency(AtomicU64);

/// Of the clock in the low half: it comes round after five days.
const TICK_MICROS: u128 = 100;

/// Who measured so much before others may come to write after them: an hour.
const LATE: u32 = 36_000_000;

/// A moment of the cluster's time.
pub(crate) fn tick(since_origin: Duration) -> u32 {
    (since_origin.as_micros() / TICK_MICROS) as u32
}

impl Latency {
    pub(crate) fn observe(&self, rtt: Duration, at: u32, config: &PeakEwma) {
        let new = rtt.as_secs_f64() as f32 * 1000.0;
        // Others measure as well: each of them counts.
        let _ = self.0.fetch_update(Relaxed, Relaxed, |before| {
            if before == 0 {
                return Some(packed(new, at));
            }
            let (old, since) = unpacked(before);
            let passed = passed(since, at);
            let average = if new >= old { new } else { new + (old - new) * kept(passed, config) };
            Some(packed(average, since.wrapping_add(passed)))
        });
    }

    /// What a request to the host costs that has so many under way: milliseconds, as far as is known.
    pub(crate) fn cost(&self, active: u32, at: u32, config: &PeakEwma) -> f64 {
        let busy = f64::from(active);
        match self.0.load(Relaxed) {
            0 if active > 0 => config.penalty + busy,
            0 => config.default_rtt.as_secs_f64() * 1000.0,
            measured => {
                let (old, since) = unpacked(measured);
                f64::from(old * kept(passed(since, at), config)) * (busy + 1.0)
            }
        }
    }
}

/// Time does not go back for who is late.
fn passed(since: u32, at: u32) -> u32 {
    let passed = at.wrapping_sub(since);
    if passed > u32::MAX - LATE { 0 } else { passed }
}

/// The share that is left after so many ticks.
fn kept(passed: u32, config: &PeakEwma) -> f32 {
    let passed = f64::from(passed) * TICK_MICROS as f64 / 1e6;
    (-passed / config.decay.as_secs_f64().max(1e-3)).exp() as f32
}

fn packed(millis: f32, at: u32) -> u64 {
    // Never zero, which is nothing yet.
    u64::from(millis.max(f32::MIN_POSITIVE).to_bits()) << 32 | u64::from(at)
}

fn unpacked(value: u64) -> (f32, u32) {
    (f32::from_bits((value >> 32) as u32), value as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> u32 {
        tick(Duration::from_millis(millis))
    }

    #[test]
    fn what_is_slow_counts_at_once_and_is_forgotten_with_time() {
        let config = PeakEwma { decay: Duration::from_secs(1), ..PeakEwma::default() };
        let latency = Latency::default();
        assert_eq!(latency.cost(0, at(0), &config), 10.0, "nothing is known");
        assert_eq!(latency.cost(3, at(0), &config), 1_000_003.0, "nothing came of three");
        latency.observe(Duration::from_millis(20), at(1000), &config);
        let close = |cost: f64, expected: f64| assert!((cost / expected - 1.0).abs() < 0.02, "{cost}");
        close(latency.cost(0, at(1000), &config), 20.0);
        close(latency.cost(4, at(1000), &config), 100.0);
        latency.observe(Duration::from_millis(500), at(1001), &config);
        close(latency.cost(0, at(1001), &config), 500.0);
        // One that is fast takes away little at first, and nearly all after long.
        latency.observe(Duration::from_millis(10), at(1011), &config);
        close(latency.cost(0, at(1011), &config), 495.1);
        close(latency.cost(0, at(2011), &config), 495.1 / 1f64.exp());
        latency.observe(Duration::from_millis(10), at(9000), &config);
        close(latency.cost(0, at(9000), &config), 10.16);
        // Who measured before others comes to write after them.
        latency.observe(Duration::from_millis(5), at(8990), &config);
        close(latency.cost(0, at(8990), &config), 10.16);
        latency.observe(Duration::from_millis(5), at(2000), &config);
        close(latency.cost(0, at(2000), &config), 10.16);
        close(latency.cost(0, at(9000), &config), 10.16);
    }

    #[test]
    fn every_thread_counts() {
        let (config, latency) = (PeakEwma::default(), Latency::default());
        std::thread::scope(|scope| {
            for worker in 1..=4u64 {
                let latency = &latency;
                scope.spawn(move || {
                    for i in 0..1000u64 {
                        latency.observe(Duration::from_millis(worker), at(i), &config);
                    }
                    latency.observe(Duration::from_millis(100 * worker), at(1000), &config);
                });
            }
        });
        let cost = latency.cost(0, at(1000), &config);
        assert!((399.0..=400.1).contains(&cost), "the slowest is not lost: {cost}");
    }
}
