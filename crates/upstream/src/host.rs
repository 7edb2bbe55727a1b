//! The run-time state of one endpoint address: shared by all workers, by atomics.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::ewma::Latency;
use crate::{Address, Endpoint, Health};

/// What active health checks say of a host, and whether it is only kept since they pass.
pub(crate) const FAILED: u8 = 1;
pub(crate) const DEGRADED: u8 = 2;
pub(crate) const TIMED_OUT: u8 = 4;
pub(crate) const REMOVED: u8 = 8;

/// What is known of an address at run time. Keyed by cluster and address, it outlives changes of configuration.
#[derive(Debug, Default)]
pub(crate) struct HostState {
    pub(crate) active: AtomicU32,
    pub(crate) ejected: AtomicBool,
    /// Of [`FAILED`] and the others.
    pub(crate) check: AtomicU8,
    /// Milliseconds of the cluster's time at which it began to take requests.
    pub(crate) since: AtomicU64,
    /// Milliseconds of the detector's time; meaningful while ejected.
    pub(crate) ejected_until: AtomicU64,
    /// How often the host was ejected lately; decays while it behaves.
    pub(crate) ejections: AtomicU32,
    pub(crate) consecutive_5xx: AtomicU32,
    pub(crate) consecutive_gateway: AtomicU32,
    pub(crate) consecutive_local: AtomicU32,
    /// Of the current interval, for success rates.
    pub(crate) successes: AtomicU32,
    pub(crate) total: AtomicU32,
    pub(crate) local_successes: AtomicU32,
    pub(crate) local_total: AtomicU32,
    pub(crate) latency: Latency,
}

/// Of `since`, before the first assignment that holds the host is complete.
const NEW: u64 = 0;

impl HostState {
    pub(crate) fn is_new(&self) -> bool {
        self.since.load(Relaxed) == NEW
    }

    /// Takes requests from this moment on.
    pub(crate) fn begin(&self, millis: u64) {
        self.since.store(millis + 1, Relaxed);
    }

    /// For how many milliseconds it has taken requests.
    pub(crate) fn age(&self, millis: u64) -> u64 {
        (millis + 1).saturating_sub(self.since.load(Relaxed))
    }
}

/// An endpoint as configured and its run-time state.
#[derive(Debug, Clone)]
pub struct Host {
    pub endpoint: Arc<Endpoint>,
    pub(crate) state: Arc<HostState>,
}

/// Two hosts are equal when they are the same address of the same cluster.
impl PartialEq for Host {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }
}

impl Eq for Host {}

impl Host {
    /// A host of its own, for clusters whose endpoint is the connection's original destination.
    pub fn detached(endpoint: Endpoint) -> Self {
        Self { endpoint: Arc::new(endpoint), state: Arc::default() }
    }

    pub fn address(&self) -> &Address {
        &self.endpoint.address
    }

    pub fn is_ejected(&self) -> bool {
        self.state.ejected.load(Relaxed)
    }

    /// Requests in flight, of all workers.
    pub fn active_requests(&self) -> u32 {
        self.state.active.load(Relaxed)
    }

    /// Counts one request (or TCP connection) until the guard is dropped.
    pub fn start_request(&self) -> ActiveRequest {
        self.state.active.fetch_add(1, Relaxed);
        ActiveRequest(Arc::clone(&self.state))
    }

    /// Whether requests should go here: assigned as healthy or degraded, not ejected, and not failing its checks.
    pub fn is_available(&self) -> bool {
        matches!(self.health(), Health::Healthy | Health::Degraded)
    }

    /// Health by everything that is known: the assignment, checks, outliers.
    pub fn health(&self) -> Health {
        match self.endpoint.health {
            Health::Healthy | Health::Degraded if self.is_ejected() || self.has(FAILED) => Health::Unhealthy,
            Health::Healthy if self.has(DEGRADED) => Health::Degraded,
            assigned => assigned,
        }
    }

    pub fn fails_checks(&self) -> bool {
        self.has(FAILED)
    }

    /// The last failed check got no answer in time.
    pub fn times_out(&self) -> bool {
        self.has(TIMED_OUT)
    }

    /// Its checks pass, and it says that it is to be spared.
    pub fn is_degraded_by_checks(&self) -> bool {
        self.has(DEGRADED)
    }

    /// No longer assigned, and kept as long as its checks pass.
    pub fn is_kept_by_checks(&self) -> bool {
        self.has(REMOVED)
    }

    fn has(&self, flag: u8) -> bool {
        self.state.check.load(Relaxed) & flag != 0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.address.fmt(f)
    }
}

/// A request in flight; dropping it ends the count.
#[derive(Debug)]
pub struct ActiveRequest(Arc<HostState>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}
