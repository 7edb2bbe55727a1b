//! Failures that spread, and what stops them.

use e2e::stage::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
