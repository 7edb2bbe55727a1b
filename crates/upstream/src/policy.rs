//! How a cluster balances: plain data.

use std::time::Duration;

/// What a hash ring is keyed with for each endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HashKey {
    #[default]
    Address,
    /// Envoy's `use_hostname_for_hashing`.
    Hostname,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingHashConfig {
    pub minimum_size: u64,
    pub maximum_size: u64,
    pub key: HashKey,
}

impl Default for RingHashConfig {
    fn default() -> Self {
        Self { minimum_size: 1024, maximum_size: 8 * 1024 * 1024, key: HashKey::Address }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaglevConfig {
    /// A prime.
    pub table_size: u32,
    pub key: HashKey,
}

impl Default for MaglevConfig {
    fn default() -> Self {
        Self { table_size: 65537, key: HashKey::Address }
    }
}

/// How an endpoint is chosen within a priority (and locality).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LbKind {
    #[default]
    RoundRobin,
    LeastRequest {
        /// At least 2.
        choices: u32,
    },
    Random,
    RingHash(RingHashConfig),
    Maglev(MaglevConfig),
    /// The endpoint is the connection's original destination: nothing to balance.
    OriginalDestination,
}

impl LbKind {
    /// Whether the same hash goes to the same host.
    pub fn is_hashed(&self) -> bool {
        matches!(self, Self::RingHash(_) | Self::Maglev(_))
    }
}

/// Whether localities are weighed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalityLb {
    /// All endpoints of a priority are one pool.
    #[default]
    Ignored,
    /// First a locality by its weight and health, then an endpoint in it.
    Weighted,
}

/// A host that is new or was let back takes its share of the load bit by bit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    pub window: Duration,
    /// 1 is linear in time; above it the share grows faster at first.
    pub aggression: f64,
    /// Of its weight, from the start: percent.
    pub min_percent: f64,
}

impl SlowStart {
    /// The part of its weight that a host has at an age.
    pub fn factor(&self, age: Duration) -> f64 {
        if age >= self.window {
            return 1.0;
        }
        let time = age.as_secs_f64() / self.window.as_secs_f64();
        time.powf(1.0 / self.aggression).max(self.min_percent / 100.0).min(1.0)
    }
}

/// The load balancing of one cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LbPolicy {
    pub kind: LbKind,
    pub locality: LocalityLb,
    /// Below this share of healthy endpoints, health is ignored: percent, 50 unless configured, 0 disables.
    pub panic_threshold: f64,
    /// Fail instead of panicking.
    pub fail_on_panic: bool,
    /// For round robin and least request.
    pub slow_start: Option<SlowStart>,
}

impl Default for LbPolicy {
    fn default() -> Self {
        Self {
            kind: LbKind::default(),
            locality: LocalityLb::default(),
            panic_threshold: 50.0,
            fail_on_panic: false,
            slow_start: None,
        }
    }
}
