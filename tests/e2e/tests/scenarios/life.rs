//! Starts and ends: of workloads, of jobs, of the control plane.

use e2e::stage::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
