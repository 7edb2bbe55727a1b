//! Scenario 6: what is too much is refused at once.

use anyhow::ensure;
use e2e::mesh::Logged;
use e2e::serve::most_at_once;
use e2e::{Mesh, Workload};

use super::{URL, policy};

/// One connection and one that waits: everybody else is told at once, and nothing queues without bound.
pub(crate) fn bound_the_queue() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    mesh.log_requests()?;
    let slow = mesh.serve("ratings", "v1", "slow")?;
    mesh.until_answers(URL)?;
    let rule =
        policy("ratings", "{connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}}");
    mesh.apply_and_wait(&rule, "destinationrule", "ratings")?;
    slow.behave("delay=100")?;
    let before = slow.events().len();
    let load = ["--url", URL, "--connections", "10", "--count", "80", "--pause", "10"];
    let report = mesh.load_as("crowd", &["--proxy-concurrency", "1"], &load)?;
    let refused = report.status(503);
    ensure!(report.ok() > 1 && refused > 0 && report.ok() + refused == report.sent, "{report:?}");
    ensure!(report.last_failure.contains("reset reason: overflow"), "{report:?}");
    let events = &slow.events()[before..];
    ensure!(most_at_once(events) == 1, "{} connections at once", most_at_once(events));
    ensure!(events.len() as u64 == 2 * report.ok(), "what was refused was sent all the same");
    overflow_is_logged(&mesh.logged("crowd"), refused)?;
    // Of the first ten, one is sent and one waits.
    let burst = ["--url", URL, "--connections", "10", "--count", "10"];
    let report = mesh.load_as("burst", &["--proxy-concurrency", "1"], &burst)?;
    ensure!(report.ok() <= 3, "more were let in than one and one that waits: {report:?}");
    slow.behave("")?;
    let report = mesh.load(&["--url", URL, "--connections", "1", "--count", "20"])?;
    ensure!(report.failed() == 0, "the breaker did not close: {report:?}");
    Ok(())
}

/// `http2MaxRequests: 10` lets ten requests be in flight in all, over all replicas and threads, in either version of
/// HTTP.
pub(crate) fn bound_what_is_in_flight() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    mesh.log_requests()?;
    let replicas = |service: &str, port: &str| -> anyhow::Result<Vec<Workload>> {
        let names = (1..=3).map(|n| format!("{service}-{n}"));
        names.map(|name| mesh.serve_with(service, "v1", &name, &["--port", port])).collect()
    };
    let services = [
        ("plain", None, replicas("plain", "http=9080")?),
        ("second", Some("--http2"), replicas("second", "http2=9080")?),
    ];
    for (service, version, replicas) in &services {
        let url = format!("http://{service}:9080/");
        e2e::until("all replicas get traffic", super::PATIENCE, || {
            let report = mesh.load_as("first", &[], &["--url", &url, "--count", "40"]).ok()?;
            (report.names.len() == 3).then_some(())
        })?;
        let rule = policy(service, "{connectionPool: {http: {http2MaxRequests: 10}}}");
        mesh.apply_and_wait(&rule, "destinationrule", service)?;
        replicas.iter().try_for_each(|replica| replica.behave("delay=150"))?;
        for threads in ["1", "2"] {
            let seen = |replica: &Workload| replica.events().len();
            let before: Vec<_> = replicas.iter().map(seen).collect();
            let caller = format!("{service}-{threads}");
            let load = ["--url", &url, "--connections", "100", "--count", "300", "--pause", "20"];
            let load: Vec<_> = load.into_iter().chain(*version).collect();
            let report = mesh.load_as(&caller, &["--proxy-concurrency", threads], &load)?;
            let refused = report.status(503);
            ensure!(refused > 0 && report.ok() + refused == report.sent, "{caller}: {report:?}");
            let new =
                replicas.iter().zip(before).flat_map(|(replica, before)| replica.events().split_off(before));
            let events: Vec<_> = new.collect();
            let most = most_at_once(&events);
            ensure!(most == 10, "{caller}: {most} were in flight at once: {report:?}");
            ensure!(
                events.len() as u64 == 2 * report.ok(),
                "{caller}: what was refused was sent all the same"
            );
            overflow_is_logged(&mesh.logged(&caller), refused)?;
        }
    }
    Ok(())
}

fn overflow_is_logged(requests: &[Logged], refused: u64) -> anyhow::Result<()> {
    let errors: Vec<_> = requests.iter().filter(|request| request.code == 503).collect();
    ensure!(errors.len() as u64 == refused, "{} of {refused} refusals are logged", errors.len());
    let other = errors.iter().find(|request| request.flags.as_deref() != Some("UO"));
    ensure!(other.is_none(), "another flag than UO: {other:?}");
    Ok(())
}
