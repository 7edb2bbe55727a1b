//! Discovery and the shifting of traffic.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::load::now_ms;
use e2e::mesh::{Load, program};
use e2e::stage::Scenario;
use e2e::{Mesh, outside, processes, until, yaml};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("discovery_by_name_with_no_configuration", discovery_at_once),
    ("discovery_of_a_hundred_replicas", hundred),
    ("discovery_of_unmodified_python_and_node", python_and_node),
    ("discovery_at_the_address_of_a_sidecar_s_listener", own_listener),
    ("traffic_shift_by_weight", shift),
    ("traffic_shift_under_load_and_back", shift_back),
];

const REVIEWS: &str = "http://reviews:9080/reviews/0";
const PATIENCE: Duration = Duration::from_secs(20);

/// A service is reached by its name with no configuration; replicas come and go and no request is lost.
pub(crate) fn discovery() -> anyhow::Result<()> {
    come_and_go().map(drop)
}

/// The same, and who comes gets traffic within a second, who goes gets none after one.
fn discovery_at_once() -> anyhow::Result<()> {
    let Moments { came, went } = come_and_go()?;
    println!("first request {came:?} ms after listening, last one {went:?} ms after SIGTERM");
    ensure!(came.iter().chain(&went).all(|ms| *ms <= 1000), "came {came:?} ms, went {went:?} ms");
    Ok(())
}

/// A Sidecar gives a service another address and protocol, beside the usual ones; and what the mesh's settings say of
/// the way in, and of threads, holds.
fn own_listener() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let _one = mesh.serve("reviews", "v1", "one")?;
    mesh.until_answers(REVIEWS)?;
    mesh.steer(
        "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: client, namespace: default}
spec:
  workloadSelector: {labels: {app: client}}
  egress:
  - port: {number: 9080, protocol: TCP, name: tcp-reviews}
    bind: 10.96.100.41
    hosts: [./reviews.default.svc.cluster.local]
  - hosts: ['./*']
",
    )?;
    let reached = || -> anyhow::Result<()> {
        for url in ["http://10.96.100.41:9080/reviews/0", REVIEWS] {
            let report = mesh.load(&["--url", url, "--count", "20", "--fresh"])?;
            ensure!(report.ok() == 20 && report.share("one") == 1.0, "{url}: {report:?}");
        }
        Ok(())
    };
    reached()?;
    mesh.steer(
        "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    inboundTrafficPolicy: {mode: LOCALHOST}
    meshMTLS: {minProtocolVersion: TLSV1_3}
    defaultConfig: {concurrency: 3, terminationDrainDuration: 7s}
",
    )?;
    reached()?;
    let two = mesh.serve("details", "v1", "two")?;
    let proxy = until("its proxy runs", PATIENCE, || two.process("mizzen-proxy").ok())?;
    let words = processes::words(proxy);
    let told = |option: &str, value: &str| words.windows(2).any(|pair| pair == [option, value]);
    ensure!(told("--concurrency", "3") && told("--drain-time", "7"), "{words:?}");
    Ok(())
}

/// How long it took callers to see the replicas `two` and `three` come and go, in milliseconds.
struct Moments {
    came: [u64; 2],
    went: [u64; 2],
}

/// Under load from one replica to three, to two, and back to one.
fn come_and_go() -> anyhow::Result<Moments> {
    let mesh = Mesh::start()?;
    let _one = mesh.serve("reviews", "v1", "one")?;
    mesh.until_answers(REVIEWS)?;
    let load = mesh.start_load(&["--url", REVIEWS, "--connections", "4", "--pause", "5"])?;
    load.until_only(&["one"])?;
    let others = others(&mesh)?;
    let two = mesh.serve("reviews", "v1", "two")?;
    let three = mesh.serve("reviews", "v1", "three")?;
    load.until_only(&["one", "two", "three"])?;

    let left_two = now_ms();
    two.stop()?;
    let after = mesh.load(&["--url", REVIEWS, "--count", "100", "--fresh"])?;
    ensure!(!after.names.contains_key("two") && after.failed() == 0, "who left gets traffic: {after:?}");
    load.until_only(&["one", "three"])?;
    let left_three = now_ms();
    three.stop()?;
    load.until_only(&["one"])?;

    let report = load.stop()?;
    ensure!(report.failed() == 0 && report.sent > 100, "requests were lost: {report:?}");
    none_lost(others)?;
    let began = |name: &str| -> anyhow::Result<u64> {
        let log = mesh.logs(name);
        let moment = log.lines().find_map(|line| line.strip_prefix("listening ")?.parse().ok());
        moment.with_context(|| format!("{name} never listened: {log}"))
    };
    let seen = |name: &str| report.seen.get(name).copied().unwrap_or_default();
    Ok(Moments {
        came: [seen("two").0.saturating_sub(began("two")?), seen("three").0.saturating_sub(began("three")?)],
        went: [seen("two").1.saturating_sub(left_two), seen("three").1.saturating_sub(left_three)],
    })
}

/// Loads of other kinds beside the plain one: by new connections, by HTTP/2, and with bodies.
fn others(mesh: &Mesh) -> anyhow::Result<[(&'static str, Load); 3]> {
    let start = |kind: &'static str, how: &[&str]| -> anyhow::Result<_> {
        let load = ["--url", REVIEWS, "--connections", "1", "--pause", "10"];
        Ok((kind, mesh.start_load_as(kind, &[], &[&load[..], how].concat())?))
    };
    Ok([
        start("fresh", &["--fresh"])?,
        start("http2", &["--http2"])?,
        start("posts", &["--method", "POST", "--body", "a review"])?,
    ])
}

fn none_lost(loads: [(&str, Load); 3]) -> anyhow::Result<()> {
    for (kind, load) in loads {
        let report = load.stop_after(50)?;
        ensure!(report.failed() == 0, "{kind}: requests were lost: {report:?}");
        // All of them were there for the changes.
        ensure!(report.names.len() > 1, "{kind}: {report:?}");
    }
    Ok(())
}

/// A hundred small replicas, each an address without a proxy, get their shares.
fn hundred() -> anyhow::Result<()> {
    const REPLICAS: u32 = 100;
    outside::addresses()?;
    let mesh = Mesh::start()?;
    let mut server = Command::new(program("mizzen-e2e"));
    server.args(["serve", "--port", "9080"]);
    let _server = mesh.spawn(server, "server", PathBuf::new())?;
    let mut yaml = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
"
    .to_owned();
    for last in 1..=REPLICAS {
        yaml.push_str(&format!(
            "---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: reviews-{last}, namespace: default}}
spec: {{address: 192.0.2.{last}, labels: {{app: reviews}}}}
"
        ));
    }
    mesh.apply(&yaml)?;
    let load = mesh.start_load(&["--url", REVIEWS, "--connections", "8"])?;
    until("all are known", PATIENCE, || (load.so_far().names.len() == 100).then_some(()))?;
    mesh.steer(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec: {host: reviews, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}
",
    )?;
    let report = load.next(10_000)?;
    ensure!(load.stop()?.failed() == 0 && report.names.len() == 100, "not all get traffic: {report:?}");
    let (least, most) = (report.names.values().min(), report.names.values().max());
    let share = report.sent / 100;
    println!("of {} requests between {least:?} and {most:?} each", report.sent);
    // In turn, but for where each of the proxy's threads began.
    let fair = |count: &u64| count.abs_diff(share) <= 8;
    ensure!(report.names.values().all(fair), "not fair: {report:?}");
    Ok(())
}

/// An application in Python and a client in Node, as people write them, work the same.
fn python_and_node() -> anyhow::Result<()> {
    let (Some(python), Some(node)) = (testkit::peers::need("python3"), testkit::peers::need("node")) else {
        return Ok(());
    };
    let mesh = Mesh::start()?;
    let mut details = mesh.mizzen(["run", "--service", "details", "--version", "v1", "--port", "http=9080"]);
    details.arg("--").arg(python).arg(app("details.py"));
    let _details = mesh.spawn(details, "details", PathBuf::new())?;
    mesh.until_answers("http://details:9080/details/0")?;
    let mut client = mesh.mizzen(["run", "--service", "client", "--"]);
    client.arg(node).arg(app("client.js")).args(["http://details:9080/details/0", "300"]);
    let output = client.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "Node: {said}");
    let told: serde_json::Value =
        serde_json::from_slice(&output.stdout).with_context(|| said.into_owned())?;
    ensure!(told["names"]["details-python"] == 300, "{told}");
    let report = mesh.load(&["--url", "http://details.default:9080/details/1", "--count", "200"])?;
    ensure!(report.names.get("details-python") == Some(&200), "{report:?}");
    Ok(())
}

/// A program that people might have written.
pub(crate) fn app(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("apps").join(name)
}

/// A VirtualService splits by weight within two points over 10,000 requests.
pub(crate) fn shift() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let _v2 = mesh.serve("reviews", "v2", "v2")?;
    let _v3 = mesh.serve("reviews", "v3", "v3")?;
    mesh.until_answers(REVIEWS)?;
    mesh.apply(&yaml::subsets("reviews", &["v2", "v3"]))?;
    mesh.apply(&split(50))?;
    mesh.kubectl_ok(&["get", "virtualservice", "reviews"])?;
    until("the split holds", PATIENCE, || {
        let report = mesh.load(&["--url", REVIEWS, "--count", "200"]).ok()?;
        (report.names.len() == 2).then_some(())
    })?;
    let report = mesh.load(&["--url", REVIEWS, "--count", "10000", "--connections", "8"])?;
    println!("{:.2} % went to v2", report.share("v2") * 100.0);
    ensure!((report.share("v2") - 0.5).abs() <= 0.02, "not half and half: {report:?}");
    ensure!(report.failed() == 0, "requests were lost: {report:?}");
    Ok(())
}

/// Moving all traffic, rolling back by re-applying and by deleting lose no request; `jason` goes where his match says.
pub(crate) fn shift_back() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let _v2 = mesh.serve("reviews", "v2", "v2")?;
    let _v3 = mesh.serve("reviews", "v3", "v3")?;
    mesh.until_answers(REVIEWS)?;
    mesh.apply(&yaml::subsets("reviews", &["v2", "v3"]))?;
    mesh.steer(&split(50))?;
    let everybody = ["--url", REVIEWS, "--connections", "4", "--pause", "2"];
    let load = mesh.start_load(&everybody)?;
    let jason = mesh.start_load(&[&everybody[..], &["--header", "end-user: jason"]].concat())?;
    load.until_only(&["v2", "v3"])?;
    jason.until_only(&["v2"])?;
    let others = others(&mesh)?;

    mesh.steer(&split(0))?;
    load.until_only(&["v3"])?;
    mesh.steer(&split(50))?;
    load.until_only(&["v2", "v3"])?;
    mesh.steer(&split(100))?;
    load.until_only(&["v2"])?;
    let jason = jason.stop()?;
    mesh.kubectl_ok(&["delete", "virtualservice", "reviews"])?;
    load.until_only(&["v2", "v3"])?;
    let load = load.stop()?;
    for report in [&load, &jason] {
        ensure!(report.failed() == 0 && report.sent > 100, "requests were lost: {report:?}");
    }
    none_lost(others)?;
    ensure!(jason.share("v2") == 1.0, "jason went elsewhere: {jason:?}");
    println!("{} and {} requests, none lost", load.sent, jason.sent);
    Ok(())
}

fn split(v2: u32) -> String {
    let v3 = 100 - v2;
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: default}}
spec:
  hosts: [reviews]
  http:
  - match: [{{headers: {{end-user: {{exact: jason}}}}}}]
    route: [{{destination: {{host: reviews, subset: v2}}}}]
  - route:
    - {{destination: {{host: reviews, subset: v2}}, weight: {v2}}}
    - {{destination: {{host: reviews, subset: v3}}, weight: {v3}}}
"
    )
}
