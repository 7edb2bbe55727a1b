//! The console in a browser.

use e2e::stage::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
