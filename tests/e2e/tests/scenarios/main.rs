//! The scenarios that must hold, each named so that a reader recognizes it.

mod resilience;
mod security;
mod traffic;

use std::process::ExitCode;

use e2e::stage::{Scenario, run};

const SCENARIOS: &[Scenario] = &[
    ("discovery_by_name_with_no_configuration", traffic::discovery),
    ("traffic_shift_by_weight", traffic::shift),
    ("retries_cost_no_request_by_default", resilience::default_retries),
    ("retries_as_configured", resilience::retries_as_configured),
    ("timeout_answers_504", resilience::timeout),
    ("circuit_breaker_bounds_the_queue", resilience::circuit_breaker),
    ("outlier_detection_ejects_the_sick_replica", resilience::outlier_detection),
    ("identity_is_proven_with_no_configuration", security::identity),
    ("authorization_by_method_and_path", security::authorization),
];

fn main() -> ExitCode {
    run(SCENARIOS)
}
