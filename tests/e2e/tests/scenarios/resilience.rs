//! Retries, timeouts, circuit breakers, outlier detection.

pub(crate) mod breakers;
pub(crate) mod outliers;
pub(crate) mod retries;
pub(crate) mod timeouts;

use std::time::Duration;

use e2e::stage::Scenario;
use e2e::{Mesh, until};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("retries_cost_no_request_by_default", retries::by_default),
    ("retries_of_requests_on_connections_that_are_reset", retries::of_standing_connections),
    ("retries_as_configured", retries::as_configured),
    ("retries_over_a_lossy_and_cut_network", retries::over_a_lossy_and_cut_network),
    ("retries_over_a_slow_network", retries::over_a_slow_network),
    ("timeout_answers_504_and_cancels_the_call", timeouts::cancel_the_call),
    ("circuit_breaker_bounds_the_queue", breakers::bound_the_queue),
    ("circuit_breaker_bounds_what_is_in_flight", breakers::bound_what_is_in_flight),
    ("outlier_detection_ejects_at_the_seventh_error", outliers::eject_at_the_seventh_error),
    ("outlier_detection_lets_back_and_spares_a_share", outliers::let_back_and_spare_a_share),
    ("outlier_detection_of_ten_percent_spares_three_replicas", outliers::ten_percent_of_three_is_none),
];

const URL: &str = "http://ratings:9080/ratings/0";
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a load gets answers of so many replicas.
fn until_all_answer(mesh: &Mesh, replicas: usize) -> anyhow::Result<()> {
    let load = mesh.start_load_as("first", &[], &["--url", URL, "--pause", "5"])?;
    until("all replicas get traffic", PATIENCE, || {
        (load.next(40).ok()?.names.len() == replicas).then_some(())
    })?;
    load.stop().map(drop)
}

/// A VirtualService for ratings with these rules, each for the paths that begin as it says.
fn routes(rules: &[(&str, &str)]) -> String {
    let route = |(prefix, rule): &(&str, &str)| {
        format!(
            "
  - match: [{{uri: {{prefix: {prefix}}}}}]
    route: [{{destination: {{host: ratings}}}}]
    {rule}"
        )
    };
    let routes: String = rules.iter().map(route).collect();
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: ratings, namespace: default}}
spec:
  hosts: [ratings]
  http:{routes}
"
    )
}

/// A DestinationRule for a service with this policy.
fn policy(service: &str, policy: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {service}, namespace: default}}
spec: {{host: {service}, trafficPolicy: {policy}}}
"
    )
}
