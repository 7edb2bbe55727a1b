//! Scenario 4: what is tried again, where, and how often.

use std::net::SocketAddr;
use std::time::Duration;

use agent::host::{GATEWAY, Hub, Launcher};
use anyhow::ensure;
use e2e::mesh::Logged;
use e2e::{Mesh, Proxies, Workload, until};
use testkit::relay::Relay;

use super::{PATIENCE, URL, policy, routes, until_all_answer};

/// With no rule at all neither a refused connection nor a drained replica costs a request.
pub(crate) fn by_default() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    mesh.log_requests()?;
    let stays = mesh.serve("ratings", "v1", "stays")?;
    let leaves = mesh.serve("ratings", "v1", "leaves")?;
    let refuses = mesh.serve("ratings", "v1", "refuses")?;
    until_all_answer(&mesh, 3)?;
    refuses.wire()?.refuse()?;
    let met = mesh.load_as("late", &[], &["--url", URL, "--count", "100", "--fresh"])?;
    ensure!(met.failed() == 0 && met.names.len() == 2, "a refused connection cost a request: {met:?}");
    let again = mesh.logged("late").iter().filter(|request| request.attempts > 1).count();
    ensure!(again > 0, "nobody met the replica that refuses");
    let before = (stays.begun(), leaves.begun());
    let load = mesh.start_load(&["--url", URL, "--connections", "4", "--pause", "5"])?;
    until("the load reaches both", PATIENCE, || {
        (stays.begun() > before.0 + 50 && leaves.begun() > before.1 + 50).then_some(())
    })?;
    leaves.stop()?;
    let report = load.stop()?;
    ensure!(report.failed() == 0, "requests were lost: {report:?}");
    Ok(())
}

/// Connections that stand are reset, under load: requests that nobody read go elsewhere, with no rule at all.
pub(crate) fn of_standing_connections() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let stays = mesh.serve("ratings", "v1", "stays")?;
    let resets = mesh.serve("ratings", "v1", "resets")?;
    until_all_answer(&mesh, 2)?;
    let load = mesh.start_load(&["--url", URL, "--connections", "4", "--pause", "5"])?;
    let before = resets.begun();
    until("the load reaches both", PATIENCE, || (resets.begun() > before + 50).then_some(()))?;
    resets.wire()?.refuse()?;
    let before = stays.begun();
    until("all goes to the other", PATIENCE, || (stays.begun() > before + 200).then_some(()))?;
    let report = load.stop()?;
    ensure!(report.failed() == 0, "requests were lost: {report:?}");
    Ok(())
}

/// `attempts: 3` makes three retries at most, on other hosts first; a POST that was read is not repeated by default.
pub(crate) fn as_configured() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    mesh.log_requests()?;
    let sick = mesh.serve("ratings", "v1", "sick")?;
    mesh.until_answers(URL)?;
    let before = sick.begun();
    sick.behave("status=503")?;
    let post = ["--url", URL, "--method", "POST", "--body", "stars", "--connections", "1", "--pause", "20"];
    let posts = mesh.start_load(&post)?;
    posts.next(3)?;
    sick.behave("abort=1")?;
    posts.next(3)?;
    let report = posts.stop()?;
    ensure!(report.status(503) == report.sent, "{report:?}");
    let read = sick.begun() - before;
    ensure!(read as u64 == report.sent, "{read} POSTs were read of {}: some were repeated", report.sent);
    let rule = "retries: {attempts: 3, perTryTimeout: 2s, retryOn: '5xx,connect-failure'}";
    mesh.apply_and_wait(&routes(&[("/", rule)]), "virtualservice", "ratings")?;
    sick.behave("status=503")?;
    let before = sick.begun();
    let report = mesh.load_as("one", &[], &["--url", URL, "--count", "1"])?;
    ensure!(report.status(503) == 1, "{report:?}");
    let tries: Vec<_> = sick.events().iter().map(|event| event.attempt).skip(2 * before).step_by(2).collect();
    ensure!(tries == [1, 2, 3, 4], "one try and three retries are four: {tries:?}");
    let logged = mesh.logged("one");
    ensure!(
        logged.len() == 1 && logged[0].attempts == 4 && has(&logged[0], "URX"),
        "what the log says: {logged:?}"
    );

    let well = mesh.serve("ratings", "v1", "well")?;
    until_reached(&mesh, &well)?;
    // In turn: two tries beside each other would often meet on one host, were it not avoided.
    let turns = policy("ratings", "{loadBalancer: {simple: ROUND_ROBIN}}");
    mesh.apply_and_wait(&turns, "destinationrule", "ratings")?;
    let before = sick.events().len();
    let report = mesh.load_as("many", &[], &["--url", URL, "--count", "100"])?;
    ensure!(report.failed() == 0, "another host did not save the request: {report:?}");
    let after = &sick.events()[before..];
    ensure!(!after.is_empty(), "the sick replica got nothing");
    let repeated = after.iter().filter(|event| event.attempt > 1).count();
    ensure!(repeated == 0, "{repeated} of {} tries were retries on the host that had failed", after.len());

    // Two of three fail: whoever has met both goes to the third.
    let sicker = mesh.serve("ratings", "v1", "sicker")?;
    until_reached(&mesh, &sicker)?;
    sicker.behave("status=503")?;
    let before = [&sick, &sicker].map(|replica| replica.events().len());
    let report = mesh.load(&["--url", URL, "--count", "100"])?;
    ensure!(report.failed() == 0, "the third host did not save the request: {report:?}");
    for (replica, before) in [&sick, &sicker].into_iter().zip(before) {
        let after = replica.events().split_off(before);
        let latest = after.iter().map(|event| event.attempt).max();
        ensure!(latest.is_some_and(|attempt| attempt <= 2), "{}: attempt {latest:?}", replica.name());
    }

    sick.behave("")?;
    sicker.behave("")?;
    well.wire()?.refuse()?;
    let report = mesh.load_as("refused", &[], &["--url", URL, "--count", "100", "--fresh"])?;
    ensure!(report.failed() == 0, "a refused connection cost a request: {report:?}");
    let again = mesh.logged("refused").iter().filter(|request| request.attempts > 1).count();
    ensure!(again > 0, "nobody met the replica that refuses");
    Ok(())
}

/// Sends requests until a replica gets some.
fn until_reached(mesh: &Mesh, replica: &Workload) -> anyhow::Result<()> {
    let load = mesh.start_load(&["--url", URL, "--pause", "5"])?;
    until("the new replica gets traffic", PATIENCE, || (replica.begun() > 0).then_some(()))?;
    load.stop().map(drop)
}

/// Over a network that loses 2 % of its packets, and is cut for five seconds, tries and errors are as configured.
pub(crate) fn over_a_lossy_and_cut_network() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    mesh.log_requests()?;
    let far = mesh.serve("ratings", "v1", "far")?;
    // While that starts.
    let rules = routes(&[
        ("/patient", "retries: {attempts: 3, perTryTimeout: 2s, retryOn: '5xx,connect-failure'}"),
        ("/hasty", "retries: {attempts: 1, perTryTimeout: 1s, retryOn: '5xx,connect-failure'}"),
    ]);
    // A stock Envoy's try begins when it has a connection; until then this holds.
    let connections = policy("ratings", "{connectionPool: {tcp: {connectTimeout: 2s}}}");
    mesh.apply(&format!("{rules}---{connections}"))?;
    let (patient, hasty) = ("http://ratings:9080/patient", "http://ratings:9080/hasty");
    mesh.until_answers(patient)?;
    for kind in ["virtualservice", "destinationrule"] {
        mesh.wait("default", kind, "ratings")?;
    }

    // These begin while packets are lost: what that does to them is as configured, too.
    let load =
        |name, url| mesh.start_load_as(name, &[], &["--url", url, "--connections", "2", "--pause", "20"]);
    let wire = far.wire()?;
    wire.lose(2)?;
    let (waits, gives_up) = (load("patient", patient)?, load("hasty", hasty)?);
    let lossy = mesh.load_as("lossy", &[], &["--url", patient, "--count", "100", "--connections", "8"])?;
    let lost = wire.dropped()?;
    ensure!(lost > 0 && lossy.failed() == 0, "{lost} packets lost: {lossy:?}");
    ensure!(mesh.logged("lossy").iter().all(|request| request.attempts <= 4), "more than three retries");
    wire.heal()?;

    let seen = |path| far.events().iter().filter(|event| event.path == path).count();
    let before = seen("/patient");
    until("both loads run", PATIENCE, || {
        (seen("/patient") > before + 20 && seen("/hasty") > 20).then_some(())
    })?;
    wire.cut()?;
    std::thread::sleep(Duration::from_secs(5));
    wire.heal()?;
    let healed = (seen("/patient"), seen("/hasty"));
    until("traffic flows again", PATIENCE, || {
        (seen("/patient") > healed.0 + 20 && seen("/hasty") > healed.1 + 20).then_some(())
    })?;
    let (waits, gives_up) = (waits.stop()?, gives_up.stop()?);
    ensure!(waits.failed() == 0, "three retries of two seconds outlast a cut of five: {waits:?}");
    let logged = mesh.logged("patient");
    ensure!(logged.iter().any(|r| r.attempts > 1) && logged.iter().all(|r| r.attempts <= 4), "{logged:?}");
    // A try ends by its own time, which begins when it has a connection; until then by the connection's.
    let failed = gives_up.status(503) + gives_up.status(504);
    ensure!(failed > 0 && gives_up.ok() + failed == gives_up.sent, "{gives_up:?}");
    let logged = mesh.logged("hasty");
    let errors: Vec<_> = logged.iter().filter(|request| request.code != 200).collect();
    ensure!(errors.len() as u64 == failed, "{} errors are logged of {failed}", errors.len());
    let as_configured = |r: &Logged| {
        let flag = if r.code == 504 { "UT" } else { "UF" };
        r.attempts == 2 && has(r, flag) && has(r, "URX")
    };
    ensure!(errors.iter().all(|r| as_configured(r)) && logged.iter().all(|r| r.attempts <= 2), "{errors:?}");
    Ok(())
}

/// Over a network with a delay, each try has the time that is configured, and all together theirs.
pub(crate) fn over_a_slow_network() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    mesh.log_requests()?;
    let _far = mesh.serve("far", "v1", "far")?;
    mesh.until_answers("http://far:9080/")?;
    let relay = relay(&mesh)?;
    mesh.apply(&by_relay())?;
    let rules = routes(&[
        ("/patient", "retries: {attempts: 3, perTryTimeout: 8s, retryOn: '5xx,connect-failure'}"),
        ("/hasty", "retries: {attempts: 3, perTryTimeout: 200ms, retryOn: '5xx,connect-failure'}"),
        ("/bounded", "timeout: 500ms\n    retries: {attempts: 3, perTryTimeout: 200ms, retryOn: 5xx}"),
    ]);
    mesh.apply_and_wait(&rules, "virtualservice", "ratings")?;
    mesh.until_answers("http://ratings:9080/patient")?;
    relay.delay(Duration::from_millis(250));
    let load = |name, path: &str| {
        let url = format!("http://ratings:9080{path}");
        mesh.load_as(name, &[], &["--url", &url, "--count", "10", "--connections", "10"])
    };

    let patient = load("patient", "/patient")?;
    ensure!(patient.ok() == 10 && patient.slowest_ms >= 500, "{patient:?}");
    ensure!(mesh.logged("patient").iter().all(|request| request.attempts == 1), "what came late was retried");

    let hasty = load("hasty", "/hasty")?;
    ensure!(hasty.status(504) == 10 && hasty.last_failure == "upstream request timeout", "{hasty:?}");
    // A stock Envoy's try begins when it has a connection, whose handshake takes half a second here.
    let most = if Proxies::caller_is_stock() { 5000 } else { 3000 };
    ensure!((800..most).contains(&hasty.slowest_ms), "four tries took {} ms", hasty.slowest_ms);
    let logged = mesh.logged("hasty");
    let details = Some("upstream_per_try_timeout");
    let as_configured = |r: &Logged| r.attempts == 4 && has(r, "UT") && r.details.as_deref() == details;
    ensure!(logged.len() == 10 && logged.iter().all(as_configured), "four tries of 200 ms: {logged:?}");

    let bounded = load("bounded", "/bounded")?;
    ensure!(bounded.status(504) == 10, "{bounded:?}");
    ensure!((500..2000).contains(&bounded.slowest_ms), "500 ms took {} ms", bounded.slowest_ms);
    let logged = mesh.logged("bounded");
    let details = Some("response_timeout");
    let as_configured = |r: &Logged| r.attempts <= 3 && has(r, "UT") && r.details.as_deref() == details;
    ensure!(logged.len() == 10 && logged.iter().all(as_configured), "the whole time is 500 ms: {logged:?}");
    Ok(())
}

fn has(request: &Logged, flag: &str) -> bool {
    request.flags.as_deref().is_some_and(|flags| flags.split(',').any(|own| own == flag))
}

const RELAY_PORT: u16 = 7080;

/// A relay on the mesh's network to the replica `far`.
fn relay(mesh: &Mesh) -> anyhow::Result<Relay> {
    let listener = Hub::join(&Launcher::default())?.listen(SocketAddr::new(GATEWAY.into(), RELAY_PORT))?;
    Ok(Relay::start(listener, mesh.bare("far", 9080)?)?)
}

/// ratings is the replica `far` behind the relay.
fn by_relay() -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: ratings, namespace: default}}
spec: {{selector: {{app: ratings}}, ports: [{{name: http, port: 9080}}]}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: by-relay, namespace: default}}
spec:
  address: {GATEWAY}
  ports: {{http: {RELAY_PORT}}}
  serviceAccount: far
  labels: {{app: ratings, security.istio.io/tlsMode: istio}}
"
    )
}
