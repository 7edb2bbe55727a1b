//! What lies outside the mesh.

use e2e::stage::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
