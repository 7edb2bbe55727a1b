//! Histograms with the bucket bounds that Envoy and Istio publish.

/// Upper bounds in the unit of what is counted (milliseconds or bytes).
pub const BOUNDS: [f64; 20] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
    f64::INFINITY,
];

#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Histogram {
    /// Counts of each bucket alone, not cumulated.
    pub buckets: [u64; BOUNDS.len()],
    pub sum: f64,
}

impl Histogram {
    pub fn record(&mut self, value: f64) {
        let at = BOUNDS.iter().position(|b| value <= *b).unwrap_or(BOUNDS.len() - 1);
        self.buckets[at] += 1;
        self.sum += value;
    }

    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.sum += other.sum;
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The value that so many percent of what was recorded do not exceed, interpolated within its bucket; nothing when
    /// nothing was recorded.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = percent / 100.0 * count as f64;
        let (mut below, mut low, mut value) = (0.0, 0.0, 0.0);
        for (bound, n) in BOUNDS.iter().zip(self.buckets) {
            let (n, high) = (n as f64, if bound.is_finite() { *bound } else { low });
            if n > 0.0 {
                value = low + (high - low) * ((rank - below) / n).clamp(0.0, 1.0);
                if below + n >= rank {
                    break;
                }
            }
            below += n;
            low = high;
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_in_the_bucket_of_their_rank() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(50.0), None);
        for value in [7.0, 7.0, 7.0, 80.0] {
            histogram.record(value);
        }
        for (percent, low, high) in [
            (0.0, 5.0, 5.0),
            (50.0, 5.0, 10.0),
            (75.0, 10.0, 10.0),
            (90.0, 50.0, 100.0),
            (100.0, 100.0, 100.0),
        ] {
            let value = histogram.percentile(percent).unwrap_or_default();
            assert!((low..=high).contains(&value), "P{percent} is {value}");
        }
        // Beyond the last bound nothing is known but that.
        histogram.record(1e9);
        assert_eq!(histogram.percentile(100.0), Some(3_600_000.0));
    }
}
