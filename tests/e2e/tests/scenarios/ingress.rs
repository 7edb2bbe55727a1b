//! The way in.

use e2e::stage::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
