//! What the command line says of a live mesh.

use e2e::stage::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
