//! A stock Envoy in the place of the proxy.

use e2e::Proxies;
use e2e::proxies::Proxy;
use e2e::stage::Scenario;

use crate::{resilience, security, traffic};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("envoy_by_delta_is_discovered", || delta(traffic::discovery)),
    ("envoy_by_sotw_is_discovered", || sotw(traffic::discovery)),
    ("envoy_by_rest_is_discovered", || rest(traffic::discovery)),
    ("envoy_by_delta_shifts_traffic", || delta(traffic::shift)),
    ("envoy_by_sotw_shifts_traffic", || sotw(traffic::shift)),
    ("envoy_by_rest_shifts_traffic", || rest(traffic::shift)),
    ("envoy_by_delta_retries_by_default", || delta(resilience::retries::by_default)),
    ("envoy_by_delta_retries_as_configured", || delta(resilience::retries::as_configured)),
    ("envoy_by_delta_times_out", || delta(resilience::timeouts::cancel_the_call)),
    ("envoy_by_delta_breaks_the_circuit", || delta(resilience::breakers::bound_the_queue)),
    ("envoy_by_delta_ejects_outliers", || delta(resilience::outliers::eject_at_the_seventh_error)),
    ("envoy_by_delta_proves_identity", || delta(security::identity)),
    ("envoy_by_delta_authorizes", || delta(security::authorization)),
];

type Body = fn() -> anyhow::Result<()>;

fn delta(body: Body) -> anyhow::Result<()> {
    beside("delta", body)
}

fn sotw(body: Body) -> anyhow::Result<()> {
    beside("sotw", body)
}

fn rest(body: Body) -> anyhow::Result<()> {
    beside("rest", body)
}

/// Callers have a stock Envoy, which decides; of those that serve every other one has, so that both proxies prove
/// themselves to each other in both directions.
fn beside(xds: &'static str, body: Body) -> anyhow::Result<()> {
    if testkit::peers::envoy().is_none() {
        return Ok(());
    }
    let envoy = Proxy::Envoy(xds);
    Proxies { caller: envoy, callees: [envoy, Proxy::Mizzen] }.choose()?;
    body()
}
