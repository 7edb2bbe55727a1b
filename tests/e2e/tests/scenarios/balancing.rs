//! Load balancing, locality and failover.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use e2e::load::Report;
use e2e::mesh::Load;
use e2e::stage::Scenario;
use e2e::{Mesh, Workload, until};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("balancing_round_robin", round_robin),
    ("balancing_least_request", least_request),
    ("balancing_random", random),
    ("balancing_by_hash_of_a_header", by_header),
    ("balancing_by_hash_of_a_cookie", by_cookie),
    ("balancing_by_hash_of_the_source_address", by_source),
    ("balancing_default_of_the_mesh", default_of_the_mesh),
];

/// Of localities and their priorities.
pub(crate) const LOCALITY: &[Scenario] = &[
    ("locality_failover_by_readiness", failover_by_readiness),
    ("locality_failover_by_outlier_detection", failover_by_outliers),
    ("locality_shares_by_distribute", distribute),
];

const URL: &str = "http://ratings:9080/ratings/0";
const PATIENCE: Duration = Duration::from_secs(20);
const ALL: &str = "10000";

/// Three replicas of ratings, `a`, `b` and `c`, that answer.
fn three() -> anyhow::Result<(Mesh, [Workload; 3])> {
    let mesh = Mesh::start()?;
    let serve = |name| mesh.serve("ratings", "v1", name);
    let replicas = [serve("a")?, serve("b")?, serve("c")?];
    let load = mesh.start_load(&["--url", URL, "--pause", "2"])?;
    load.until_only(&["a", "b", "c"])?;
    load.stop()?;
    Ok((mesh, replicas))
}

/// A DestinationRule for ratings.
fn rule(policy: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: ratings, namespace: default}}
spec:
  host: ratings
  trafficPolicy: {{{policy}}}
"
    )
}

/// Where no other rule does.
const DEFAULT: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: default, namespace: istio-system}
spec:
  host: '*.local'
  trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}
";

fn within(report: &Report, name: &str, share: f64, points: f64) -> anyhow::Result<()> {
    let got = report.share(name);
    ensure!((got - share).abs() <= points / 100.0, "{name} has {got:.3}, not {share:.3}: {:?}", report.names);
    Ok(())
}

/// All three have the same share, but for so many points.
fn spread(report: &Report, points: f64) -> anyhow::Result<()> {
    ["a", "b", "c"].iter().try_for_each(|name| within(report, name, 1.0 / 3.0, points))
}

fn none_failed(report: &Report) -> anyhow::Result<()> {
    ensure!(report.failed() == 0, "requests were lost: {report:?}");
    Ok(())
}

/// Each in its turn: exactly a third, but for where each of the proxy's threads began.
pub(crate) fn round_robin() -> anyhow::Result<()> {
    let (mesh, _replicas) = three()?;
    mesh.steer(&rule("loadBalancer: {simple: ROUND_ROBIN}"))?;
    let report = mesh.load(&["--url", URL, "--count", ALL, "--connections", "8"])?;
    none_failed(&report)?;
    println!("{:?}", report.names);
    let fair = |count: &u64| count.abs_diff(report.sent / 3) <= 8;
    ensure!(report.names.len() == 3 && report.names.values().all(fair), "{:?}", report.names);
    Ok(())
}

/// Even among equals; a replica that is slow, and so has more requests open, gets far fewer.
pub(crate) fn least_request() -> anyhow::Result<()> {
    let (mesh, [_a, _b, slow]) = three()?;
    mesh.steer(&rule("loadBalancer: {simple: LEAST_REQUEST}"))?;
    let even = mesh.load(&["--url", URL, "--count", ALL, "--connections", "8"])?;
    none_failed(&even)?;
    // Whoever is slower for a moment, as on a machine that does other things as well, is no equal then.
    spread(&even, 6.0)?;
    slow.behave("delay=20")?;
    // Many callers: with few, most of the time would be spent waiting for the slow one.
    let report = mesh.load(&["--url", URL, "--count", ALL, "--connections", "24"])?;
    none_failed(&report)?;
    println!("even {:?}, then {:?} with c slow", even.names, report.names);
    ensure!(report.share("c") < 0.2, "a slow replica gets as much as others: {:?}", report.names);
    within(&report, "a", report.share("b"), 8.0)
}

/// A third each by chance, however slow one of them is.
pub(crate) fn random() -> anyhow::Result<()> {
    let (mesh, [_a, _b, slow]) = three()?;
    slow.behave("delay=2")?;
    mesh.steer(&rule("loadBalancer: {simple: RANDOM}"))?;
    let report = mesh.load(&["--url", URL, "--count", ALL, "--connections", "8"])?;
    none_failed(&report)?;
    println!("{:?}", report.names);
    // More than four standard deviations.
    spread(&report, 2.0)
}

/// Who answered each user; an error if that was more than one.
fn homes(report: &Report) -> anyhow::Result<BTreeMap<u64, String>> {
    let home = |(user, names): (&u64, &BTreeMap<String, u64>)| {
        let mut names = names.keys();
        match (names.next(), names.next()) {
            (Some(only), None) => Ok((*user, only.clone())),
            _ => anyhow::bail!("user {user} was sent around: {:?}", report.places.get(user)),
        }
    };
    report.places.iter().map(home).collect()
}

/// A user stays at one replica, whoever's proxy is asked; users are spread; when a replica comes or leaves most others stay
/// where they are.
pub(crate) fn by_header() -> anyhow::Result<()> {
    let (mesh, [_a, _b, c]) = three()?;
    mesh.steer(&rule("loadBalancer: {consistentHash: {httpHeaderName: x-user}}"))?;
    let users = ["--url", URL, "--connections", "8", "--vary", "300", "--header", "x-user: user-{}"];
    let other = mesh.start_load(&[&users[..], &["--count", "900"]].concat())?;
    let load = mesh.start_load(&users)?;
    let report = load.next(10_000)?;
    none_failed(&report)?;
    let before = homes(&report)?;
    println!("{:?}", report.names);
    ensure!(before.len() == 300, "{} users", before.len());
    spread(&report, 15.0)?;
    ensure!(homes(&other.report()?)? == before, "another caller's proxy leads users elsewhere");

    let _d = mesh.serve("ratings", "v1", "d")?;
    load.until_only(&["a", "b", "c", "d"])?;
    let report = load.next(900)?;
    none_failed(&report)?;
    let with_fourth = homes(&report)?;
    let moved = |user: &&u64| with_fourth[*user] != "d" && with_fourth[*user] != before[*user];
    let (moved, at_fourth) =
        (before.keys().filter(moved).count(), with_fourth.values().filter(|name| *name == "d").count());
    println!("a fourth came and has {at_fourth} users, {moved} others moved");
    // Each has fewer places on a ring of a fixed size once there are four.
    ensure!(moved * 4 < before.len(), "{moved} users moved to where they had been able to go before");
    within(&report, "d", 0.25, 15.0)?;
    c.stop()?;
    load.until_only(&["a", "b", "d"])?;
    let after = homes(&load.next(900)?)?;
    none_failed(&load.stop()?)?;
    let moved = |user: &&u64| with_fourth[*user] != "c" && with_fourth[*user] != after[*user];
    let others = with_fourth.values().filter(|name| *name != "c").count();
    let moved = with_fourth.keys().filter(moved).count();
    println!("c left, and {moved} of {others} users of the others moved");
    ensure!(after.values().all(|name| name != "c"), "{after:?}");
    // A ring of a fixed size, as Envoy's, is filled up by the others: by chance half of all would move.
    ensure!(moved * 4 < others, "{moved} of {others} users moved without need");
    Ok(())
}

/// Who brings the cookie stays where it leads; who has none is given one and stays from then on.
pub(crate) fn by_cookie() -> anyhow::Result<()> {
    let (mesh, _replicas) = three()?;
    mesh.steer(&rule(
        "loadBalancer: {consistentHash: {httpCookie: {name: user, path: /ratings, ttl: 1h}, maglev: {tableSize: 65537}}}",
    ))?;
    let brought = ["--url", URL, "--connections", "8", "--vary", "300", "--header", "cookie: a=b; user=u{}"];
    let report = mesh.load(&[&brought[..], &["--count", ALL]].concat())?;
    none_failed(&report)?;
    ensure!(homes(&report)?.len() == 300, "{:?}", report.places);
    println!("brought: {:?}", report.names);
    spread(&report, 15.0)?;
    let first = mesh.load(&["--url", URL, "--connections", "1", "--count", "1"])?;
    let cookie = first.last.headers.get("set-cookie").map(String::as_str).unwrap_or_default();
    let as_asked = cookie.starts_with("user=") && cookie.contains("Path=/ratings");
    ensure!(as_asked && cookie.contains("Max-Age=3600"), "given was {cookie:?}");
    let given = ["--url", URL, "--connections", "24", "--keep-cookies", "--count", ALL];
    let report = mesh.load(&given)?;
    none_failed(&report)?;
    println!("given: {:?}", report.names);
    let homes = homes(&report)?;
    ensure!(homes.len() == 24, "not everybody was given a cookie: {:?}", report.places);
    // All of 24 random cookies lead to the same one of three hardly ever.
    ensure!(report.names.len() > 1, "all cookies lead to the same place: {:?}", report.names);
    Ok(())
}

/// All requests from one address go to one replica, those from several to several.
pub(crate) fn by_source() -> anyhow::Result<()> {
    const CLIENTS: usize = 5;
    let (mesh, _replicas) = three()?;
    mesh.steer(&rule("loadBalancer: {consistentHash: {useSourceIp: true}}"))?;
    // They stay when they have sent their part, so that each has an address of its own. The first makes a connection for
    // each request.
    let part = ["--url", URL, "--connections", "4", "--count", "2000", "--linger"];
    let start = |more: &[&str]| mesh.start_load(&[&part[..], more].concat());
    let mut clients = vec![start(&["--fresh"])?];
    for _ in 1..CLIENTS {
        clients.push(start(&[])?);
    }
    let mut used: BTreeMap<String, u64> = BTreeMap::new();
    for at in 0..3 * CLIENTS {
        // By chance all may lead to the same place: then a few more are asked.
        if at == clients.len() && used.len() == 1 {
            clients.push(start(&[])?);
        }
        let Some(client) = clients.get_mut(at) else { break };
        let report = client.counted()?;
        none_failed(&report)?;
        ensure!(report.names.len() == 1, "one address was sent around: {:?}", report.names);
        report.names.into_iter().for_each(|(name, count)| *used.entry(name).or_default() += count);
    }
    println!("{used:?}");
    ensure!(used.len() > 1, "all addresses lead to the same place: {used:?}");
    Ok(())
}

/// A DestinationRule for `*.local` in the root namespace applies where no other does.
pub(crate) fn default_of_the_mesh() -> anyhow::Result<()> {
    let (mesh, _replicas) = three()?;
    let load =
        mesh.start_load(&["--url", URL, "--connections", "4", "--pause", "1", "--header", "x-user: one"])?;
    load.until_only(&["a", "b", "c"])?;
    mesh.steer(DEFAULT)?;
    let stuck = until("the mesh's default holds", PATIENCE, || {
        let next = load.next(60).ok()?;
        (next.names.len() == 1).then_some(next)
    })?;
    let home: Vec<&str> = stuck.names.keys().map(String::as_str).collect();
    load.until_only(&home)?;
    mesh.steer(&rule("loadBalancer: {simple: ROUND_ROBIN}"))?;
    load.until_only(&["a", "b", "c"])?;
    let fair = load.next(300)?;
    println!("default {:?}, own {:?}", stuck.names, fair.names);
    spread(&fair, 5.0)?;
    mesh.kubectl_ok(&["delete", "destinationrule", "ratings"])?;
    load.until_only(&home)?;
    none_failed(&load.stop()?)
}

/// Two replicas in the caller's zone, one in the next zone, one in another region.
struct Places {
    mesh: Mesh,
    near: [Workload; 2],
    next_zone: Workload,
    _next_region: Workload,
}

const HERE: &[&str] = &["--locality", "region1/zone1"];
const NEAR: &[&str] = &["near1", "near2"];

fn serve_at(mesh: &Mesh, place: &str, name: &str) -> anyhow::Result<Workload> {
    mesh.serve_with("ratings", "v1", name, &["--port", "http=9080", "--locality", place])
}

fn places() -> anyhow::Result<Places> {
    let mesh = Mesh::start()?;
    let at = |place, name| serve_at(&mesh, place, name);
    let near = [at("region1/zone1", "near1")?, at("region1/zone1", "near2")?];
    let (next_zone, next_region) = (at("region1/zone2", "zone2")?, at("region2/zone1", "region2")?);
    mesh.until_answers(URL)?;
    Ok(Places { mesh, near, next_zone, _next_region: next_region })
}

/// Not one of so many more requests goes elsewhere, and none fails.
fn stays(load: &Load, names: &[&str], count: u64) -> anyhow::Result<()> {
    let report = load.next(count)?;
    none_failed(&report)?;
    let strayed = report.names.keys().any(|name| !names.contains(&name.as_str()));
    ensure!(!strayed, "not all went to {names:?}: {:?}", report.names);
    Ok(())
}

/// Where nobody asks, everywhere; where a rule asks, in the zone, then in the next, then in the other region, and back.
fn failover_by_readiness() -> anyhow::Result<()> {
    let Places { mesh, near, next_zone, _next_region } = places()?;
    let load = mesh.start_load_as("client", HERE, &["--url", URL, "--connections", "4", "--pause", "5"])?;
    load.until_only(&["near1", "near2", "zone2", "region2"])?;
    mesh.steer(&rule(
        "loadBalancer: {localityLbSetting: {enabled: true, failover: [{from: region1, to: region2}]}}",
    ))?;
    load.until_only(NEAR)?;
    stays(&load, NEAR, 200)?;
    let [near1, near2] = near;
    let near1 = near1.leave();
    load.until_only(&["near2"])?;
    let near2 = near2.leave();
    load.until_only(&["zone2"])?;
    stays(&load, &["zone2"], 200)?;
    let next_zone = next_zone.leave();
    load.until_only(&["region2"])?;
    [near1, near2, next_zone].into_iter().try_for_each(|left| left())?;
    let lost = load.so_far().failed();
    ensure!(lost == 0, "replicas that said goodbye cost requests: {:?}", load.so_far());
    let zone2 = serve_at(&mesh, "region1/zone2", "zone2")?;
    load.until_only(&["zone2"])?;
    let near1 = serve_at(&mesh, "region1/zone1", "near1")?;
    load.until_only(&["near1"])?;
    none_failed(&load.so_far())?;
    // Without a goodbye: what is lost until that is noticed is lost, and then nothing.
    near1.crash()?;
    load.until_only(&["zone2"])?;
    zone2.crash()?;
    load.until_only(&["region2"])?;
    let _near1 = serve_at(&mesh, "region1/zone1", "again")?;
    load.until_only(&["again"])?;
    stays(&load, &["again"], 200)?;
    load.stop().map(drop)
}

/// The zone's replicas are sick rather than gone: they are ejected, and traffic goes on and returns.
fn failover_by_outliers() -> anyhow::Result<()> {
    let Places { mesh, near, next_zone, _next_region } = places()?;
    let load = mesh.start_load_as("client", HERE, &["--url", URL, "--connections", "2", "--pause", "5"])?;
    load.until_only(&["near1", "near2", "zone2", "region2"])?;
    // As people know it from Istio: the rule asks by its outlier detection.
    mesh.steer(&rule(
        "outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 2s, maxEjectionPercent: 100}",
    ))?;
    load.until_only(NEAR)?;
    stays(&load, NEAR, 500)?;
    for replica in &near {
        replica.behave("status=503")?;
    }
    load.until_only(&["zone2"])?;
    next_zone.behave("status=503")?;
    load.until_only(&["region2"])?;
    for replica in near.iter().chain([&next_zone]) {
        replica.behave("")?;
    }
    load.until_only(NEAR)?;
    stays(&load, NEAR, 200)?;
    let report = load.stop()?;
    println!("{:?}", report.statuses);
    ensure!(report.errors.is_empty() && report.sent == report.ok() + report.status(503), "{report:?}");
    Ok(())
}

/// Shares of the zones as the rule says; a zone that is gone leaves its share to the others.
fn distribute() -> anyhow::Result<()> {
    let Places { mesh, near, next_zone, _next_region } = places()?;
    let load = mesh.start_load_as("client", HERE, &["--url", URL, "--connections", "4", "--pause", "1"])?;
    load.until_only(&["near1", "near2", "zone2", "region2"])?;
    mesh.steer(&rule(
        "loadBalancer: {localityLbSetting: {enabled: true, distribute: [
          {from: region1/zone1/*, to: {region1/zone1/*: 70, region1/zone2/*: 20, region2/*: 10}}]}}",
    ))?;
    let report = mesh.load_as("other", HERE, &["--url", URL, "--count", "4000", "--connections", "4"])?;
    none_failed(&report)?;
    println!("{:?}", report.names);
    within(&report, "zone2", 0.2, 2.0)?;
    within(&report, "region2", 0.1, 2.0)?;
    let [near1, near2] = near;
    near1.stop()?;
    near2.stop()?;
    load.until_only(&["zone2", "region2"])?;
    let report = mesh.load_as("other", HERE, &["--url", URL, "--count", "1000", "--connections", "4"])?;
    within(&report, "zone2", 2.0 / 3.0, 5.0)?;
    next_zone.stop()?;
    load.until_only(&["region2"])?;
    none_failed(&load.stop()?)
}
