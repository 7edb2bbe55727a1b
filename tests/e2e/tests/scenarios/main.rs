//! The scenarios that must hold, each named so that a reader recognizes it.

mod traffic;

use std::process::ExitCode;

use e2e::stage::{Scenario, run};

const SCENARIOS: &[Scenario] = &[
    ("discovery_by_name_with_no_configuration", traffic::discovery),
    ("traffic_shift_by_weight", traffic::shift),
];

fn main() -> ExitCode {
    run(SCENARIOS)
}
