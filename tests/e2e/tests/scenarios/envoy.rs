//! A stock Envoy in the place of the proxy.

use e2e::stage::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
