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
    for threads in ["1", "2"] {
        // Each thread may open one connection whatever the breaker says, as in Envoy: else none could wait in it.
        let most = threads.parse()?;
        slow.behave("delay=100")?;
        let before = slow.events().len();
        let crowd = format!("crowd-{threads}");
        let load = ["--url", URL, "--connections", "10", "--count", "80", "--pause", "10"];
        let report = mesh.load_as(&crowd, &["--proxy-concurrency", threads], &load)?;
        let refused = report.status(503);
        ensure!(report.ok() > 1 && refused > 0 && report.ok() + refused == report.sent, "{report:?}");
        ensure!(report.last_failure.contains("reset reason: overflow"), "{report:?}");
        let events = slow.events().split_off(before);
        let at_once = most_at_once(&events);
        ensure!((1..=most).contains(&at_once), "{threads} threads: {at_once} connections at once");
        ensure!(events.len() as u64 == 2 * report.ok(), "what was refused was sent all the same");
        overflow_is_logged(&mesh.logged(&crowd), refused)?;
        // Of a hundred at once one is sent on each connection and one waits, for no more than those.
        slow.behave("delay=500")?;
        let before = slow.begun();
        let burst = ["--url", URL, "--connections", "100", "--count", "100"];
        let report = mesh.load_as("burst", &["--proxy-concurrency", threads], &burst)?;
        let let_in = slow.begun() - before;
        ensure!(let_in <= usize::try_from(most)? + 2, "{threads} threads: {let_in} were let in: {report:?}");
        ensure!(report.slowest_ms < 2000, "somebody queued for {} ms", report.slowest_ms);
    }
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
    // In HTTP/2 also as a hundred streams of one connection, which is one thread's.
    let plays: [(&str, &[&str]); 2] = [("1", &["--http2", "--share"]), ("2", &["--http2"])];
    let services = [
        ("plain", [("1", &[][..]), ("2", &[])], replicas("plain", "http=9080")?),
        ("second", plays, replicas("second", "http2=9080")?),
    ];
    for (service, plays, replicas) in &services {
        let url = format!("http://{service}:9080/");
        e2e::until("all replicas get traffic", super::PATIENCE, || {
            let report = mesh.load_as("first", &[], &["--url", &url, "--count", "40"]).ok()?;
            (report.names.len() == 3).then_some(())
        })?;
        let rule = policy(service, "{connectionPool: {http: {http2MaxRequests: 10}}}");
        mesh.apply_and_wait(&rule, "destinationrule", service)?;
        replicas.iter().try_for_each(|replica| replica.behave("delay=150"))?;
        for (threads, version) in plays {
            let seen = |replica: &Workload| replica.events().len();
            let before: Vec<_> = replicas.iter().map(seen).collect();
            let caller = format!("{service}-{threads}");
            let load = ["--url", &url, "--connections", "100", "--count", "300", "--pause", "20"];
            let report =
                mesh.load_as(&caller, &["--proxy-concurrency", threads], &[&load, *version].concat())?;
            let shared = version.contains(&"--share");
            ensure!((report.opened == 1) == shared, "{caller}: {} connections", report.opened);
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
