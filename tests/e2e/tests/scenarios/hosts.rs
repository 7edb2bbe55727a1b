//! Workloads on other hosts.

use e2e::stage::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
