//! Which endpoint, and may we try again: load balancing, health, breakers, budgets. No I/O.
//!
//! What is configured ([`Assignment`], [`LbPolicy`], [`OutlierConfig`], [`Thresholds`], [`RetryPolicy`]) is plain data
//! that `decide` compiles. What happens at run time lives in one [`ClusterState`] per cluster name, which outlives every
//! change of configuration and is shared by all workers through atomics; each worker picks with its own [`Balancer`].
//!
//! ```text
//! control thread:  ClusterState::update(&Assignment, &ClusterSettings) -> Arc<EndpointSet>   to each worker by message
//!                  ClusterState::tick(now)                                  every second or so: let hosts back, judge rates
//! worker:          Balancer::new(set) ; balancer.pick(&Pick { hash, avoid, .. }, rng) -> Option<Host>
//!                  state.breakers.acquire(Resource::Request, priority) -> Option<Permit>
//!                  balancer.record(&host, Outcome::Status(503), now, rng)
//!                  RetryState::new(..).consider(..)
//! ```
//!
//! Deliberately absent: sockets, timers, threads, DNS. Time and randomness are arguments.

mod assignment;
mod backoff;
mod balance;
mod breaker;
mod check;
mod cluster;
mod ewma;
mod host;
mod outlier;
mod policy;
mod retry;
mod set;
mod subset;
mod xxh;

pub use assignment::{Address, Assignment, Endpoint, EndpointCheck, Health, LbLabel, LocalityGroup};
pub use backoff::Backoff;
pub use balance::{AggregateBalancer, Balancer, Home, LbCounts, Pick, Place};
pub use breaker::{Breakers, Permit, Priority, Resource, RetryBudget, Thresholds};
pub use check::{CheckConfig, CheckCounts, CheckResult, HostCheck};
pub use cluster::{ClusterSettings, ClusterState};
pub use host::{ActiveRequest, Host};
pub use outlier::{Ejection, EjectionKind, Outcome, OutlierConfig};
pub use policy::{
    HashKey, LbKind, LbPolicy, LocalityLb, MaglevConfig, PeakEwma, RingHashConfig, SlowStart, ZoneAware,
};
pub use retry::{Attempt, ResetFormat, RetryOn, RetryPolicy, RetryState, Verdict};
pub use set::EndpointSet;
pub use subset::{Fallback, Labels, SelectorFallback, SubsetConfig, SubsetSelector};
pub use xxh::xxh64;
