//! Changes under load.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::stage::Scenario;
use e2e::{Mesh, until};

pub(crate) const SCENARIOS: &[Scenario] =
    &[("five_hundred_changes_under_load_cost_no_request_and_no_connection", changes)];

const URL: &str = "http://reviews:9080/reviews/0";
/// Each of five changes: subsets, route, subsets, policy, endpoint.
const ROUNDS: usize = 100;
const ROUNDS_PER_FILE: usize = 20;

/// Routes, subsets, policies and endpoints change without a pause; whatever is open stays open.
fn changes() -> anyhow::Result<()> {
    let Some(redis) = testkit::peers::need("redis-server") else { return Ok(()) };
    let mesh = Mesh::start()?;
    let options = ["--save", "", "--appendonly", "no", "--protected-mode", "no", "--bind", "0.0.0.0"];
    let command = std::iter::once(redis.into_os_string()).chain(options.map(Into::into));
    let _redis = mesh.start_service("redis", "tcp-redis=6379", command)?;
    let _one = mesh.serve("reviews", "v1", "one")?;
    let _two = mesh.serve("reviews", "v1", "two")?;
    let _three = mesh.serve("reviews", "v2", "three")?;
    until("all three get traffic", Duration::from_secs(30), || {
        let report = mesh.load(&["--url", URL, "--count", "60", "--fresh"]).ok()?;
        (report.names.len() == 3).then_some(())
    })?;
    mesh.apply(&subsets(0, 0))?;
    mesh.apply(&route(0))?;
    let moving = mesh
        .objects("workloadentries")?
        .into_iter()
        .find(|entry| entry["metadata"]["labels"]["version"] == "v2")
        .context("no entry of v2")?;

    let steady = mesh.start_load(&["--url", URL, "--connections", "3", "--pause", "5"])?;
    let posts =
        mesh.start_load(&["--url", URL, "--method", "POST", "--connections", "1", "--pause", "10"])?;
    let fresh = mesh.start_load(&["--url", URL, "--connections", "1", "--pause", "10", "--fresh"])?;
    let socket = mesh.start_hold(&["--websocket", "reviews:9080"])?;
    let subscription = mesh.start_hold(&["--redis", "redis:6379"])?;
    let streams = until("all nine proxies have everything", Duration::from_secs(30), || {
        streams(&mesh).ok().filter(|streams| streams.len() == 9)
    })?;
    let before = mesh.proxies()?;
    let started = Instant::now();
    for first in (0..ROUNDS).step_by(ROUNDS_PER_FILE) {
        let mut file = String::new();
        for round in first..first + ROUNDS_PER_FILE {
            write!(file, "{}", round_of_changes(round, &moving)?)?;
        }
        mesh.apply(&file)?;
        let wait = mesh.mizzen(["wait", "--timeout", "60s"]).output()?;
        ensure!(wait.status.success(), "not applied everywhere: {}", String::from_utf8_lossy(&wait.stderr));
    }
    let took = started.elapsed();
    ensure!(took <= Duration::from_secs(60), "500 changes took {took:?}");
    let after = mesh.proxies()?;

    for (what, load) in [("steady", steady), ("posts", posts), ("fresh", fresh)] {
        let report = load.stop_after(100)?;
        ensure!(report.failed() == 0, "{what}: requests were lost: {report:?}");
        let most = match what {
            "steady" => 3,
            "posts" => 1,
            _ => report.sent,
        };
        ensure!(report.opened <= most, "{what}: a connection was dropped: {report:?}");
        println!("{what}: {} requests on {} connections, {:?}", report.sent, report.opened, report.names);
    }
    for (what, held) in [("WebSocket", socket.stop()?), ("Redis", subscription.stop()?)] {
        ensure!(
            held.problem.is_none() && held.received == held.sent && held.sent > 100,
            "{what}: the connection was cut: {held:?}"
        );
        println!("{what}: {} messages on one connection", held.received);
    }
    let restarted: Vec<_> = streams.iter().filter(|(proxy, stream)| !has(&after, proxy, **stream)).collect();
    ensure!(restarted.is_empty(), "proxies or their streams ended: {restarted:?} of {after:#}");
    ensure!(!after.to_string().contains("NACK"), "a proxy refused a change: {after:#}");
    let states = after["generation"].as_u64().zip(before["generation"].as_u64());
    let states = states.map_or(0, |(after, before)| after - before);
    println!("500 changes in {took:?}, shown to proxies as {states} states of the mesh");
    ensure!(states > 100, "hardly anything changed: {states} states");
    Ok(())
}

/// The stream of each proxy that is connected and has everything.
fn streams(mesh: &Mesh) -> anyhow::Result<BTreeMap<String, u64>> {
    let status = mesh.proxies()?;
    let synced = status["proxies"].as_array().into_iter().flatten().filter(|proxy| proxy["synced"] == true);
    Ok(synced
        .filter_map(|proxy| Some((proxy["proxy"].as_str()?.to_owned(), proxy["connection"].as_u64()?)))
        .collect())
}

fn has(status: &serde_json::Value, proxy: &str, stream: u64) -> bool {
    let mut proxies = status["proxies"].as_array().into_iter().flatten();
    proxies.any(|other| other["proxy"] == proxy && other["connection"] == stream)
}

/// A subset comes, traffic moves to it, the old one goes; a policy changes; an endpoint leaves or comes back.
fn round_of_changes(round: usize, moving: &serde_json::Value) -> anyhow::Result<String> {
    let mut text = String::new();
    for change in [
        subsets(round, round + 1),
        route(round + 1),
        subsets(round + 1, round + 1),
        policy(round),
        endpoint(round, moving),
    ] {
        writeln!(text, "---{change}")?;
    }
    Ok(text)
}

fn subsets(first: usize, last: usize) -> String {
    let balancer = ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"][last % 3];
    let subsets: String =
        (first..=last).map(|n| format!("\n  - {{name: s{n}, labels: {{version: v1}}}}")).collect();
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: reviews, namespace: default}}
spec:
  host: reviews
  trafficPolicy:
    loadBalancer: {{simple: {balancer}}}
    connectionPool: {{tcp: {{maxConnections: {connections}}}}}
  subsets:{subsets}",
        connections = 1000 + last
    )
}

/// Some to a subset that did not exist a moment ago, the rest to whoever there is.
fn route(round: usize) -> String {
    let weight = 10 + (round * 7) % 80;
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: default}}
spec:
  hosts: [reviews]
  http:
  - match: [{{uri: {{prefix: /none-{round}}}}}]
    fault: {{abort: {{httpStatus: 418, percentage: {{value: 100}}}}}}
    route: [{{destination: {{host: reviews}}}}]
  - timeout: {timeout}s
    retries: {{attempts: {attempts}, retryOn: 'connect-failure,refused-stream'}}
    route:
    - {{destination: {{host: reviews, subset: s{round}}}, weight: {weight}}}
    - {{destination: {{host: reviews}}, weight: {rest}}}",
        timeout = 30 + round % 5,
        attempts = 2 + round % 3,
        rest = 100 - weight
    )
}

fn policy(round: usize) -> String {
    if round.is_multiple_of(2) {
        let mode = if round.is_multiple_of(4) { "STRICT" } else { "PERMISSIVE" };
        return format!(
            "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: default}}
spec: {{mtls: {{mode: {mode}}}}}"
        );
    }
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: reviews, namespace: default}}
spec:
  selector: {{matchLabels: {{app: reviews}}}}
  rules:
  - from: [{{source: {{principals: [cluster.local/ns/default/sa/client, cluster.local/ns/default/sa/c{round}]}}}}]
    to: [{{operation: {{methods: [GET, POST]}}}}]"
    )
}

/// The replica of v2 is taken out of the service by a label, and put back with another weight.
fn endpoint(round: usize, entry: &serde_json::Value) -> String {
    let labels = |app: &str| {
        format!(
            "{{app: {app}, version: v2, security.istio.io/tlsMode: istio, service.istio.io/canonical-name: reviews}}"
        )
    };
    let labels = labels(if round.is_multiple_of(2) { "parked" } else { "reviews" });
    format!(
        "
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}, namespace: default, labels: {labels}}}
spec: {{address: {address}, serviceAccount: reviews, weight: {weight}, labels: {labels}}}",
        name = entry["metadata"]["name"].as_str().unwrap_or_default(),
        address = entry["spec"]["address"].as_str().unwrap_or_default(),
        weight = 1 + round % 5,
    )
}
