//! Starts and ends: of workloads, of jobs, of the control plane.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::mesh::program;
use e2e::stage::Scenario;
use e2e::{Mesh, processes, until, yaml};
use serde_json::{Value, json};

use crate::traffic::app;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("control_plane_killed_and_traffic_goes_on", control_plane_killed),
    ("certificates_that_expired_without_a_control_plane_are_renewed", renewal_resumes),
    ("workload_stopped_under_load_loses_no_request", stopped),
    ("application_that_dies_at_sigterm_loses_no_request_either", dies_at_sigterm),
    ("workload_killed_under_load_loses_what_was_in_flight_and_its_entry", killed),
    ("entries_of_the_dead_outlive_a_restart_by_a_grace", grace_starts_anew),
    ("job_ends_its_proxy_and_passes_on_its_exit_code", jobs),
];

const URL: &str = "http://reviews:9080/reviews/0";
const PATIENCE: Duration = Duration::from_secs(20);
/// What a control plane that comes back must know.
const KINDS: [&str; 9] = [
    "services",
    "serviceaccounts",
    "virtualservices",
    "destinationrules",
    "workloadentries",
    "authorizationpolicies",
    "gateways",
    "secrets",
    "configmaps",
];

/// Old and new connections go on; the restarted control plane knows everything, and the next change applies.
fn control_plane_killed() -> anyhow::Result<()> {
    let mut mesh = Mesh::start()?;
    let _v1 = mesh.serve("reviews", "v1", "v1")?;
    let _v2 = mesh.serve("reviews", "v2", "v2")?;
    mesh.until_answers(URL)?;
    mesh.apply(&yaml::subsets("reviews", &["v1", "v2"]))?;
    mesh.apply(&all_to("v1"))?;
    let all_go_to = |mesh: &Mesh, name: &str| {
        until(&format!("all goes to {name}"), PATIENCE, || {
            let report = mesh.load(&["--url", URL, "--count", "30"]).ok()?;
            (report.share(name) == 1.0 && report.failed() == 0).then_some(())
        })
    };
    all_go_to(&mesh, "v1")?;
    mesh.apply(&format!("{}---{POLICY}", yaml::door_to(8080, "reviews", 9080)))?;
    mesh.kubectl_ok(&["create", "secret", "generic", "kept", "--from-literal=word=secret"])?;
    mesh.kubectl_ok(&["create", "configmap", "kept", "--from-literal=word=open"])?;
    // Whoever is held up for long fails: that traffic flows again at the restart is not enough.
    let load = |name, how: &[&str]| {
        let load = ["--url", URL, "--connections", "2", "--patience", "5000"];
        mesh.start_load_as(name, &[], &[&load[..], how].concat())
    };
    let steady = load("steady", &["--pause", "5"])?;
    let fresh = load("fresh", &["--pause", "10", "--fresh"])?;
    let socket = mesh.start_hold(&["--websocket", "reviews:9080"])?;
    let connected = until("all proxies are connected", PATIENCE, || {
        proxies(&mesh).ok().filter(|proxies| proxies.len() == 5)
    })?;
    let before = state(&mesh)?;

    mesh.kill_control_plane();
    for (what, during) in [("steady", steady.next(500)?), ("fresh", fresh.next(100)?)] {
        ensure!(during.failed() == 0, "{what}: requests were lost without a control plane: {during:?}");
    }
    mesh.restart()?;
    let after = state(&mesh)?;
    ensure!(before == after, "the state is another:\n{before:#?}\n{after:#?}");
    until("all proxies are back", PATIENCE, || {
        let now = proxies(&mesh).ok()?;
        connected.iter().all(|proxy| now.contains(proxy)).then_some(())
    })?;
    // Nonsense is refused, and what was there before keeps serving.
    ensure!(mesh.apply(&all_to("v1").replace("weight: 100", "weight: -1")).is_err(), "a negative weight");
    all_go_to(&mesh, "v1")?;
    mesh.apply(&all_to("v2"))?;
    all_go_to(&mesh, "v2")?;
    for (what, report) in [("steady", steady.stop_after(50)?), ("fresh", fresh.stop_after(50)?)] {
        ensure!(report.failed() == 0, "{what}: requests were lost: {report:?}");
        ensure!(report.names.contains_key("v2"), "{what}: the change did not reach an old proxy: {report:?}");
        println!("{what}: {} requests, {:?}, slowest {} ms", report.sent, report.names, report.slowest_ms);
    }
    let held = socket.stop()?;
    ensure!(held.problem.is_none() && held.received == held.sent, "the WebSocket was cut: {held:?}");
    Ok(())
}

/// Nobody renews while there is no control plane. When it is back, so are the certificates.
fn renewal_resumes() -> anyhow::Result<()> {
    let life = Duration::from_secs(5);
    let mut mesh = Mesh::start_with(&["--workload-cert-ttl", "5s"])?;
    let _reviews = mesh.serve("reviews", "v1", "one")?;
    mesh.until_answers(URL)?;
    let load = mesh.start_load(&["--url", URL, "--connections", "2", "--pause", "20", "--fresh"])?;
    let is_of_reviews = |line: &&str| line.contains("certificate.issued") && line.contains("/sa/reviews ");
    let issued = |mesh: &Mesh| mesh.whole_log("up").lines().filter(is_of_reviews).count();
    until("the certificate of reviews was renewed", PATIENCE, || (issued(&mesh) > 1).then_some(()))?;
    let report = load.stop_after(50)?;
    ensure!(report.failed() == 0, "renewal lost requests: {report:?}");
    mesh.kill_control_plane();
    std::thread::sleep(life);
    let before = issued(&mesh);
    mesh.restart()?;
    // Callers have theirs from the start; what was kept open from before the outage may answer until reviews has its own.
    until("reviews has a new certificate", PATIENCE, || (issued(&mesh) > before).then_some(()))?;
    until("both are known to each other again", PATIENCE, || {
        let report = mesh.load(&["--url", URL, "--count", "10", "--fresh"]).ok()?;
        (report.failed() == 0).then_some(())
    })?;
    let report = mesh.load(&["--url", URL, "--count", "50", "--fresh"])?;
    ensure!(report.failed() == 0, "{report:?}");
    Ok(())
}

/// SIGTERM: what is under way is finished, nothing new comes, and nobody notices.
fn stopped() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let _stays = mesh.serve("reviews", "v1", "stays")?;
    let goes = mesh.serve("reviews", "v1", "goes")?;
    both_answer(&mesh, "goes")?;
    goes.behave("delay=200")?;
    let steady = mesh.start_load(&["--url", URL, "--connections", "4", "--pause", "2"])?;
    let fresh = mesh.start_load(&["--url", URL, "--connections", "2", "--pause", "5", "--fresh"])?;
    let posts = mesh.start_load(&["--url", URL, "--method", "POST", "--connections", "2", "--pause", "5"])?;
    let http2 = mesh.start_load(&["--url", URL, "--http2", "--connections", "2", "--pause", "5"])?;
    under_way(&mesh, 6)?;
    goes.stop()?;
    std::thread::sleep(Duration::from_millis(500));
    for (what, load) in [("steady", steady), ("fresh", fresh), ("posts", posts), ("http2", http2)] {
        let report = load.stop_after(20)?;
        ensure!(report.failed() == 0, "{what}: requests were lost: {report:?}");
        ensure!(report.names.contains_key("goes"), "{what}: it was never under load: {report:?}");
        println!("{what}: {} requests, {:?}", report.sent, report.names);
    }
    let entries = mesh.objects("workloadentries")?;
    ensure!(entries.len() == 1, "only the entry of the one that stays is left: {entries:#?}");
    Ok(())
}

/// One that handles no signal is asked to end only when its callers have gone elsewhere.
fn dies_at_sigterm() -> anyhow::Result<()> {
    let Some(python) = testkit::peers::need("python3") else { return Ok(()) };
    let mesh = Mesh::start()?;
    let _stays = mesh.serve("reviews", "v1", "stays")?;
    let mut command = mesh.run("reviews", "python", &["--version", "v2", "--port", "http=9080"]);
    command.arg("--").arg(python).arg(app("details.py"));
    let goes = mesh.spawn(command, "python", PathBuf::new())?;
    both_answer(&mesh, "details-python")?;
    let steady = mesh.start_load(&["--url", URL, "--connections", "4", "--pause", "2"])?;
    let fresh = mesh.start_load(&["--url", URL, "--connections", "2", "--pause", "5", "--fresh"])?;
    for load in [&steady, &fresh] {
        load.until_only(&["stays", "details-python"])?;
    }
    goes.stop()?;
    for (what, load) in [("steady", steady), ("fresh", fresh)] {
        load.until_only(&["stays"])?;
        let report = load.stop()?;
        ensure!(report.failed() == 0, "{what}: requests were lost: {report:?}");
    }
    Ok(())
}

/// `kill -9` of the workload with all that is in it: its entry is unready at once, and goes.
fn killed() -> anyhow::Result<()> {
    const CONNECTIONS: u64 = 8;
    let mesh = Mesh::start_with(&["--workload-grace", "1s"])?;
    let _stays = mesh.serve("reviews", "v1", "stays")?;
    let dies = mesh.serve("reviews", "v2", "dies")?;
    both_answer(&mesh, "dies")?;
    // A host that is gone does not even refuse.
    mesh.steer(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec: {host: reviews, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 1s}}}}
",
    )?;
    dies.behave("delay=100")?;
    let connections = CONNECTIONS.to_string();
    let load = mesh.start_load(&["--url", URL, "--connections", &connections, "--pause", "5"])?;
    under_way(&mesh, 3)?;
    dies.kill();
    until("its entry says that its proxy is lost", PATIENCE, || {
        let condition = entry(&mesh, "v2").ok()??["status"]["conditions"][0].clone();
        (condition["status"] == "False" && condition["reason"] == "ProxyLost").then_some(())
    })?;
    until("its entry is gone", PATIENCE, || entry(&mesh, "v2").ok()?.is_none().then_some(()))?;
    let report = load.stop()?;
    println!("{report:?}");
    ensure!(report.names.contains_key("dies"), "it was never under load: {report:?}");
    // A connection has one request in flight at most.
    ensure!(
        report.failed() <= CONNECTIONS && report.failed() == report.status(503),
        "more failed than what was in flight: {report:?}"
    );
    let after = mesh.load(&["--url", URL, "--count", "100", "--fresh"])?;
    ensure!(after.failed() == 0 && after.share("stays") == 1.0, "{after:?}");
    ensure!(entry(&mesh, "v1")?.is_some(), "the entry of the living is gone, too");
    Ok(())
}

/// Who died while there was no control plane is known to be dead a grace after its restart; who lives stays.
fn grace_starts_anew() -> anyhow::Result<()> {
    let mut mesh = Mesh::start_with(&["--workload-grace", "7s"])?;
    let _lives = mesh.serve("reviews", "v1", "lives")?;
    let dies = mesh.serve("reviews", "v2", "dies")?;
    both_answer(&mesh, "dies")?;
    mesh.kill_control_plane();
    dies.kill();
    mesh.restart()?;
    let back = std::time::Instant::now();
    ensure!(entry(&mesh, "v2")?.is_some(), "removed before the grace was over");
    until("the entry of the dead is gone", PATIENCE, || entry(&mesh, "v2").ok()?.is_none().then_some(()))?;
    ensure!(back.elapsed() > Duration::from_secs(5), "removed after {:?}", back.elapsed());
    let living = entry(&mesh, "v1")?.context("the entry of the living is gone, too")?;
    ensure!(living["status"]["conditions"][0]["status"] == "True", "{living:#}");
    let report = mesh.load(&["--url", URL, "--count", "50", "--fresh"])?;
    ensure!(report.failed() == 0 && report.share("lives") == 1.0, "{report:?}");
    Ok(())
}

/// Its exit is the end of everything that was started for it, and its exit code is that of `mizzen run`.
fn jobs() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let _reviews = mesh.serve("reviews", "v1", "one")?;
    mesh.until_answers(URL)?;
    let call = program("mizzen-e2e").display().to_string();
    let call = [call.as_str(), "load", "--url", URL, "--count", "3"];
    let ends: [(&[&str], Option<i32>, Option<i32>); 5] = [
        (&["true"], Some(0), None),
        (&["false"], Some(1), None),
        (&["sh", "-c", "exit 77"], Some(77), None),
        (&["sh", "-c", "kill -KILL $$"], None, Some(9)),
        (&call, Some(0), None),
    ];
    let of_jobs = || -> Vec<String> {
        let lines = processes::all().map(|pid| processes::words(pid).join(" "));
        lines.filter(|line| line.contains("~nightly-")).collect()
    };
    // While a job runs, what runs for it is found: so would be what is left.
    let mut job = mesh.mizzen(["run", "--service", "nightly", "--", "sleep", "2"]).spawn()?;
    let found = until("a job's proxy is found", PATIENCE, || (!of_jobs().is_empty()).then_some(()));
    ensure!(job.wait()?.success() && found.is_ok(), "{found:?}");
    for (command, code, signal) in ends {
        let mut run = mesh.mizzen(["run", "--service", "nightly", "--"]);
        let output = run.args(command).output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(
            (output.status.code(), output.status.signal()) == (code, signal),
            "{command:?} ended with {}: {told}",
            output.status
        );
        let left = of_jobs();
        ensure!(left.is_empty(), "{command:?} left processes behind: {left:?}");
        let entries = mesh.objects("workloadentries")?;
        ensure!(entries.len() == 1, "{command:?} left its entry behind: {entries:#?}");
    }
    let mut missing = mesh.mizzen(["run", "--service", "nightly", "--", "/no/such/program"]);
    let output = missing.output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && told.contains("/no/such/program"), "{}: {told}", output.status);
    Ok(())
}

fn both_answer(mesh: &Mesh, name: &str) -> anyhow::Result<()> {
    until("both replicas get traffic", Duration::from_secs(30), || {
        let report = mesh.load(&["--url", URL, "--count", "40"]).ok()?;
        (report.names.len() == 2 && report.names.contains_key(name)).then_some(())
    })
}

/// Waits until that many workloads run, and lets their load flow for a moment.
fn under_way(mesh: &Mesh, workloads: usize) -> anyhow::Result<()> {
    until("all loads are under way", PATIENCE, || {
        let entries = mesh.objects("workloadentries").ok()?;
        let is_ready = |entry: &&Value| entry["status"]["conditions"][0]["status"] == "True";
        (entries.iter().filter(is_ready).count() == workloads).then_some(())
    })?;
    std::thread::sleep(Duration::from_secs(1));
    Ok(())
}

/// The entry of a version of reviews.
fn entry(mesh: &Mesh, version: &str) -> anyhow::Result<Option<Value>> {
    let entries = mesh.objects("workloadentries")?;
    Ok(entries.into_iter().find(|e| {
        e["metadata"]["labels"]["app"] == "reviews" && e["metadata"]["labels"]["version"] == version
    }))
}

/// Everything that people and workloads wrote in all namespaces, without what changes by itself.
fn state(mesh: &Mesh) -> anyhow::Result<Vec<[Value; 5]>> {
    let text = mesh.kubectl_ok(&["get", &KINDS.join(","), "-A", "-o", "json"])?;
    let mut list: Value = serde_json::from_str(&text)?;
    let objects: Vec<Value> = serde_json::from_value(list["items"].take())?;
    let kinds: BTreeSet<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    ensure!(kinds.len() == KINDS.len(), "of some kinds there is nothing: {kinds:?}");
    let essence = |object: &Value| {
        let metadata = &object["metadata"];
        let content = json!([object["spec"], object["data"]]);
        [&object["kind"], &metadata["namespace"], &metadata["name"], &metadata["uid"], &content]
            .map(Value::clone)
    };
    Ok(objects.iter().map(essence).collect())
}

fn proxies(mesh: &Mesh) -> anyhow::Result<Vec<String>> {
    let status = mesh.proxies()?;
    let synced = status["proxies"].as_array().into_iter().flatten().filter(|proxy| proxy["synced"] == true);
    Ok(synced.filter_map(|proxy| Some(proxy["proxy"].as_str()?.to_owned())).collect())
}

const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: reviews, namespace: default}
spec:
  selector: {matchLabels: {app: reviews}}
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]}]
";

fn all_to(subset: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: default}}
spec:
  hosts: [reviews]
  http: [{{route: [{{destination: {{host: reviews, subset: {subset}}}, weight: 100}}]}}]
"
    )
}
