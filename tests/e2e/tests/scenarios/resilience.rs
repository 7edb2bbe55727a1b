//! Retries, timeouts, circuit breakers, outlier detection.

use std::time::Duration;

use anyhow::ensure;
use e2e::stage::Scenario;
use e2e::{Mesh, until};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("retries_cost_no_request_by_default", default_retries),
    ("retries_as_configured", retries_as_configured),
    ("timeout_answers_504", timeout),
    ("circuit_breaker_bounds_the_queue", circuit_breaker),
    ("outlier_detection_ejects_the_sick_replica", outlier_detection),
];

const URL: &str = "http://ratings:9080/ratings/0";
const PATIENCE: Duration = Duration::from_secs(10);

/// With no rule at all a refused connection costs no request.
pub(crate) fn default_retries() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let _stays = mesh.serve("ratings", "v1", "stays")?;
    let dies = mesh.serve("ratings", "v1", "dies")?;
    until("both get traffic", Duration::from_secs(20), || {
        let report = mesh.load(&["--url", URL, "--count", "40"]).ok()?;
        (report.names.len() == 2).then_some(())
    })?;
    let load = mesh.start_load(&["--url", URL, "--connections", "4", "--pause", "5"])?;
    std::thread::sleep(Duration::from_millis(300));
    dies.stop()?;
    std::thread::sleep(Duration::from_secs(1));
    let report = load.stop()?;
    ensure!(report.failed() == 0 && report.sent > 50, "requests were lost: {report:?}");
    Ok(())
}

/// `attempts: 3` makes at most three retries, on another host first; a POST that was read is not repeated by default.
pub(crate) fn retries_as_configured() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let sick = mesh.serve("ratings", "v1", "sick")?;
    mesh.until_answers(URL)?;
    sick.behave("status=503")?;
    let post = mesh.load(&["--url", URL, "--method", "POST", "--count", "1"])?;
    ensure!(post.status(503) == 1, "{post:?}");
    let before = served(&post.last_failure);
    let post = mesh.load(&["--url", URL, "--method", "POST", "--count", "1"])?;
    ensure!(served(&post.last_failure) == before + 1, "a POST that was read was repeated: {post:?}");

    mesh.apply(&routes("retries: {attempts: 3, perTryTimeout: 2s, retryOn: '5xx,connect-failure'}"))?;
    let tries = until("the rule holds", PATIENCE, || {
        let before = served(&mesh.load(&["--url", URL, "--count", "1"]).ok()?.last_failure);
        let after = served(&mesh.load(&["--url", URL, "--count", "1"]).ok()?.last_failure);
        (after - before > 1).then_some(after - before)
    })?;
    ensure!(tries == 4, "one try and three retries are four, not {tries}");
    let _well = mesh.serve("ratings", "v1", "well")?;
    until("the other host saves the request", PATIENCE, || {
        let report = mesh.load(&["--url", URL, "--count", "50"]).ok()?;
        (report.failed() == 0).then_some(())
    })
}

/// A timeout answers 504 with Envoy's body.
pub(crate) fn timeout() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let slow = mesh.serve("ratings", "v1", "slow")?;
    mesh.until_answers(URL)?;
    slow.behave("delay=3000")?;
    mesh.apply(&routes("timeout: 500ms"))?;
    until("the timeout holds", PATIENCE, || {
        let report = mesh.load(&["--url", URL, "--count", "2"]).ok()?;
        (report.status(504) == 2 && report.last_failure == "upstream request timeout").then_some(())
    })
}

/// One connection and one that waits: the rest is told at once, and nothing queues without bound.
pub(crate) fn circuit_breaker() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let slow = mesh.serve("ratings", "v1", "slow")?;
    mesh.until_answers(URL)?;
    slow.behave("delay=200")?;
    mesh.apply(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ratings, namespace: default}
spec:
  host: ratings
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}
",
    )?;
    let report = until("the breaker opens", PATIENCE, || {
        let report = mesh.load(&["--url", URL, "--connections", "10", "--count", "60"]).ok()?;
        (report.status(503) > 0).then_some(report)
    })?;
    ensure!(report.ok() > 0 && report.ok() + report.status(503) == report.sent, "{report:?}");
    ensure!(report.last_failure.contains("overflow"), "{report:?}");
    let in_flight = mesh.load(&["--url", URL, "--count", "1"])?;
    ensure!(in_flight.ok() == 1, "{in_flight:?}");
    Ok(())
}

/// The sick replica is ejected at its seventh error in a row, gets no request while it is out, and comes back.
pub(crate) fn outlier_detection() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let sick = mesh.serve("ratings", "v1", "sick")?;
    let _a = mesh.serve("ratings", "v1", "a")?;
    let _b = mesh.serve("ratings", "v1", "b")?;
    until("all three get traffic", Duration::from_secs(20), || {
        let report = mesh.load(&["--url", URL, "--count", "60"]).ok()?;
        (report.names.len() == 3).then_some(())
    })?;
    mesh.apply(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ratings, namespace: default}
spec:
  host: ratings
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection: {consecutive5xxErrors: 7, interval: 1s, baseEjectionTime: 3s, maxEjectionPercent: 100}
",
    )?;
    mesh.kubectl_ok(&["get", "destinationrule", "ratings"])?;
    sick.behave("status=503")?;
    // One client, one proxy: what it counts, it ejects.
    let report = until("the sick replica is ejected", PATIENCE, || {
        let report = mesh.load(&["--url", URL, "--connections", "1", "--count", "200"]).ok()?;
        (report.status(503) == 7).then_some(report)
    })?;
    ensure!(report.ok() == 193, "{report:?}");
    let load = mesh.start_load(&["--url", URL, "--connections", "1", "--pause", "20"])?;
    std::thread::sleep(Duration::from_secs(1));
    sick.behave("")?;
    std::thread::sleep(Duration::from_secs(6));
    let report = load.stop()?;
    ensure!(report.names.contains_key("sick"), "an ejected replica never came back: {report:?}");
    Ok(())
}

/// How many requests the application says it has served.
fn served(body: &str) -> u64 {
    serde_json::from_str::<serde_json::Value>(body)
        .ok()
        .and_then(|body| body["served"].as_u64())
        .unwrap_or_default()
}

fn routes(rule: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: ratings, namespace: default}}
spec:
  hosts: [ratings]
  http:
  - route: [{{destination: {{host: ratings}}}}]
    {rule}
"
    )
}
