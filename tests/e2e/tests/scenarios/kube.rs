//! kubectl, and a real API server.

use e2e::stage::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
