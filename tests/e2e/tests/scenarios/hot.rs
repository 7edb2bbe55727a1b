//! Changes under load.

use e2e::stage::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
