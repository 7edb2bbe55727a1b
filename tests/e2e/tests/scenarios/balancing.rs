//! Load balancing, locality and failover.

use e2e::stage::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
