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

#[derive(Debug, Clone, Default, PartialEq)]
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
}
