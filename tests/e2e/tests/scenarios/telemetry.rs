//! Metrics, traces and logs.

use e2e::stage::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
