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
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum LbKind {
    #[default]
    RoundRobin,
    LeastRequest {
        /// At least 2.
        choices: u32,
    },
    Random,
    PeakEwma(PeakEwma),
    RingHash(RingHashConfig),
    Maglev(MaglevConfig),
    /// The endpoint is the connection's original destination: nothing to balance.
    OriginalDestination,
}

impl LbKind {
    /// Whether it stays in our own zone where that is asked for.
    pub fn heeds_zones(&self) -> bool {
        matches!(self, Self::RoundRobin | Self::LeastRequest { .. } | Self::Random)
    }

    /// Whether the same hash goes to the same host.
    pub fn is_hashed(&self) -> bool {
        matches!(self, Self::RingHash(_) | Self::Maglev(_))
    }
}

/// Of two hosts the one whose answers came sooner lately, for each request that it is at work on. What was measured decays,
/// so that a host that was slow is tried again; an answer that is slower than that counts at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PeakEwma {
    pub decay: Duration,
    /// Of a host that has not answered yet.
    pub default_rtt: Duration,
    /// What a host costs that has not answered yet, and is to: for each, in milliseconds.
    pub penalty: f64,
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self { decay: Duration::from_secs(10), default_rtt: Duration::from_millis(10), penalty: 1_000_000.0 }
    }
}

/// What localities are to the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalityLb {
    /// All endpoints of a priority are one pool.
    #[default]
    Ignored,
    /// First a locality by its weight and health, then an endpoint in it.
    Weighted,
    /// Our own first, as far as that keeps all endpoints as busy as they would be without, where it is known who else
    /// calls from where.
    ZoneAware(ZoneAware),
}

/// When zones are heeded, and how far. Of the first priority alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZoneAware {
    /// Of the requests: percent.
    pub enabled: u32,
    /// Healthy endpoints that there must be.
    pub min_cluster_size: u64,
    /// So many healthy endpoints in our own zone take all, however busy that makes them.
    pub force_at: Option<u32>,
    /// A zone counts by its endpoints' weights, and not by their number.
    pub by_weight: bool,
}

impl Default for ZoneAware {
    fn default() -> Self {
        Self { enabled: 100, min_cluster_size: 6, force_at: None, by_weight: false }
    }
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
    /// Nothing is chosen where health would be ignored.
    pub fail_on_panic: bool,
    /// For round robin and least request.
    pub slow_start: Option<SlowStart>,
}

impl LbPolicy {
    /// Whether a choice depends on when it is made.
    pub fn needs_time(&self) -> bool {
        self.slow_start.is_some() || matches!(self.kind, LbKind::PeakEwma(_))
    }
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
