//! Metrics, in a real Prometheus, against what was really sent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::ask::{ask_json, escape};
use e2e::load::Report;
use e2e::{Mesh, Workload, until_ok, yaml};
use serde_json::Value;

use super::bookinfo;

const PATIENCE: Duration = Duration::from_secs(40);
const PROMETHEUS: &str = "http://127.0.0.1:9090";
const REVIEWS: &str = "http://reviews:9080/reviews/0";
const RATINGS: &str = "http://ratings:9080/ratings/0";

const SHOPPED: u64 = 60;
const GRUMBLED: u64 = 20;
const DINED: u64 = 30;
/// How long reviews takes, in milliseconds: well inside one of the histogram's buckets.
const WORK_MS: f64 = 150.0;
/// The upper bounds of Istio's buckets about that.
const BUCKETS: [f64; 6] = [50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0];

/// Prometheus scrapes every proxy that the control plane tells it of. What it adds up is what was sent: requests by
/// code, their durations, the bytes of the database; with the labels that dashboards read.
pub(super) fn scraped() -> anyhow::Result<()> {
    let (Some(prometheus), Some(mariadbd), Some(mariadb)) = (
        testkit::peers::need("prometheus"),
        testkit::peers::need("mariadbd"),
        testkit::peers::need("mariadb"),
    ) else {
        return Ok(());
    };
    let mesh = Mesh::start()?;
    mesh.apply(&yaml::door_to(9090, "prometheus", 9090))?;
    let database = Database { socket: mesh.folder().join("db.socket"), client: mariadb };
    let _db = database.start(&mesh, &mariadbd)?;
    let reviews = mesh.serve("reviews", "v1", "reviews")?;
    let _prometheus = start_prometheus(&mesh, &prometheus)?;
    let _gateway = mesh.gateway(&["--listen", "9090"])?;
    let before = until_ok("the database runs", PATIENCE, || database.counted())?;
    let _ratings = bookinfo(&mesh, "ratings", "v2", "http=9080")?;
    mesh.until_answers(REVIEWS)?;
    mesh.until_answers(RATINGS)?;

    reviews.behave(&format!("delay={WORK_MS}"))?;
    let mut shopper = lingering(&mesh, "shopper", REVIEWS, SHOPPED)?;
    let shopped = shopper.counted()?;
    ensure!(shopped.ok() == SHOPPED, "{shopped:?}");
    reviews.behave("status=503")?;
    let mut grumbler = lingering(&mesh, "grumbler", REVIEWS, GRUMBLED)?;
    let grumbled = grumbler.counted()?;
    ensure!(grumbled.status(503) == GRUMBLED, "{grumbled:?}");
    let mut diner = lingering(&mesh, "diner", RATINGS, DINED)?;
    let dined = diner.counted()?;
    ensure!(dined.ok() == DINED, "{dined:?}");

    until_ok("Prometheus scrapes every proxy", PATIENCE, all_targets_are_up)?;
    until_ok("all requests are counted by both sides", PATIENCE, || {
        for (client, sent) in [("shopper", SHOPPED), ("grumbler", GRUMBLED), ("diner", DINED)] {
            let counted =
                by_reporter(&format!("istio_requests_total{{source_workload=\"client-{client}\"}}"))?;
            ensure!(counted == [sent as f64; 2], "{client} sent {sent}, counted are {counted:?}");
        }
        Ok(())
    })?;
    durations(&shopped)?;
    labels()?;
    until_ok("all of the database's bytes are counted", PATIENCE, || bytes(&database, before))
}

/// A load that stays after its report: its proxy's counters would go with it.
fn lingering(mesh: &Mesh, name: &str, url: &str, count: u64) -> anyhow::Result<e2e::mesh::Load> {
    let count = count.to_string();
    mesh.start_load_as(name, &["--version", name], &["--url", url, "--count", &count, "--linger"])
}

/// In the mesh, where the proxies are reached; the list of them comes from the control plane.
fn start_prometheus(mesh: &Mesh, program: &Path) -> anyhow::Result<Workload> {
    let config = mesh.folder().join("prometheus.yaml");
    std::fs::write(
        &config,
        "
global: {scrape_interval: 2s, scrape_timeout: 2s}
scrape_configs:
- job_name: proxies
  http_sd_configs: [{url: 'http://10.44.0.1:15014/prometheus/targets', refresh_interval: 1s}]
- job_name: control-plane
  static_configs: [{targets: ['10.44.0.1:15014']}]
",
    )?;
    let mut command = mesh.run("prometheus", "prometheus", &["--port", "http=9090"]);
    command.arg("--").arg(program);
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", mesh.folder().join("prometheus").display()));
    mesh.spawn(command, "prometheus", PathBuf::new())
}

/// A series with its labels and its value now.
type Sample = (BTreeMap<String, String>, f64);

fn query(expression: &str) -> anyhow::Result<Vec<Sample>> {
    let answer = ask_json(&format!("{PROMETHEUS}/api/v1/query?query={}", escape(expression)), &[])?;
    let result = answer["data"]["result"].as_array().with_context(|| answer.to_string())?;
    let sample = |sample: &Value| -> anyhow::Result<Sample> {
        let labels = serde_json::from_value(sample["metric"].clone())?;
        Ok((labels, sample["value"][1].as_str().context("no value")?.parse()?))
    };
    result.iter().map(sample).collect()
}

fn one(expression: &str) -> anyhow::Result<f64> {
    let found = query(expression)?;
    let [(_, value)] = found.as_slice() else { anyhow::bail!("{expression} is {found:?}") };
    Ok(*value)
}

/// Summed over all other labels: at the source, at the destination.
fn by_reporter(selector: &str) -> anyhow::Result<[f64; 2]> {
    let found = query(&format!("sum by (reporter) ({selector})"))?;
    let at = |reporter: &str| {
        let sample = found.iter().find(|(labels, _)| labels.get("reporter").is_some_and(|r| r == reporter));
        sample.map_or(0.0, |(_, value)| *value)
    };
    Ok([at("source"), at("destination")])
}

/// Every proxy that is connected is a target, and every target answers.
fn all_targets_are_up() -> anyhow::Result<()> {
    let connected = ask_json("http://127.0.0.1:15014/debug/syncz", &[])?;
    let connected = connected["proxies"].as_array().context("no proxies")?;
    let answer = ask_json(&format!("{PROMETHEUS}/api/v1/targets?state=active"), &[])?;
    let targets = answer["data"]["activeTargets"].as_array().context("no targets")?;
    for proxy in connected {
        let name = proxy["proxy"].as_str().unwrap_or_default();
        let target = targets.iter().find(|target| {
            let label = |label: &str| target["labels"][label].as_str().unwrap_or_default();
            format!("{}.{}", label("pod"), label("namespace")) == name
        });
        let target = target.with_context(|| format!("{name} is no target"))?;
        ensure!(target["health"] == "up", "{name}: {target}");
    }
    let gone = targets.iter().filter(|target| target["health"] == "down").count();
    ensure!(
        targets.len() - gone == connected.len() + 1,
        "{} targets, {} proxies",
        targets.len(),
        connected.len()
    );
    Ok(())
}

/// Each side of a hop waits for the next, so the sums nest; and the median is in the load's own bucket.
fn durations(shopped: &Report) -> anyhow::Result<()> {
    let series = "istio_request_duration_milliseconds";
    let of = "{source_workload=\"client-shopper\"}";
    let counts = by_reporter(&format!("{series}_count{of}"))?;
    ensure!(counts == [SHOPPED as f64; 2], "{counts:?}");
    let [source, destination] = by_reporter(&format!("{series}_sum{of}"))?;
    let load = shopped.total_us as f64 / 1000.0;
    let least = SHOPPED as f64 * WORK_MS;
    ensure!(
        least <= destination && destination <= source && source <= load,
        "{least} {destination} {source} {load}"
    );
    let bucket = |millis: f64| BUCKETS.partition_point(|bound| *bound < millis);
    for reporter in ["source", "destination"] {
        let of = format!("{{source_workload=\"client-shopper\",reporter=\"{reporter}\"}}");
        let median = one(&format!("histogram_quantile(0.5, sum by (le) ({series}_bucket{of}))"))?;
        let own = shopped.median_us as f64 / 1000.0;
        ensure!(bucket(median) == bucket(own), "{reporter}: {median} ms, the load saw {own} ms");
    }
    Ok(())
}

/// The labels of Istio's dashboards, exactly.
fn labels() -> anyhow::Result<()> {
    let client = end("source", "client-grumbler", "client", "grumbler", "client");
    let reviews = end("destination", "reviews-v1", "reviews", "v1", "reviews");
    let request = [("request_protocol", "http"), ("response_code", "503"), ("response_flags", "-")];
    let common = [client, reviews, service("reviews"), owned(&request)].concat();
    check(&common, "istio_requests_total{source_workload=\"client-grumbler\"}")?;

    let ratings = end("source", "ratings-v2", "ratings", "v2", "ratings");
    let database = end("destination", "mysqldb-v1", "mysqldb", "v1", "mysqldb");
    let tcp = [("request_protocol", "tcp"), ("response_flags", "-")];
    let common = [ratings, database, service("mysqldb"), owned(&tcp)].concat();
    check(&common, "istio_tcp_connections_opened_total{destination_service_name=\"mysqldb\"}")
}

type Pairs = Vec<(String, String)>;

fn owned(pairs: &[(&str, &str)]) -> Pairs {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn end(side: &str, workload: &str, app: &str, version: &str, account: &str) -> Pairs {
    let principal = format!("spiffe://cluster.local/ns/default/sa/{account}");
    let labels = [
        ("workload", workload),
        ("workload_namespace", "default"),
        ("principal", principal.as_str()),
        ("app", app),
        ("version", version),
        ("canonical_service", app),
        ("canonical_revision", version),
        ("cluster", "Kubernetes"),
    ];
    labels.iter().map(|(name, value)| (format!("{side}_{name}"), (*value).to_owned())).collect()
}

fn service(name: &str) -> Pairs {
    let host = format!("{name}.default.svc.cluster.local");
    owned(&[
        ("destination_service", &host),
        ("destination_service_name", name),
        ("destination_service_namespace", "default"),
    ])
}

fn check(common: &Pairs, selector: &str) -> anyhow::Result<()> {
    let found = query(selector)?;
    ensure!(found.len() == 2, "one series for each side: {found:#?}");
    for (mut labels, _) in found {
        // Those that Prometheus adds for the target.
        for added in ["__name__", "job", "instance", "namespace", "pod"] {
            labels.remove(added);
        }
        let policy = match labels.get("reporter").map(String::as_str) {
            Some("source") => "unknown",
            Some("destination") => "mutual_tls",
            other => anyhow::bail!("reporter {other:?}"),
        };
        let mut expected: BTreeMap<String, String> = common.iter().cloned().collect();
        expected.insert("reporter".into(), labels["reporter"].clone());
        expected.insert("connection_security_policy".into(), policy.into());
        ensure!(labels == expected, "{selector}\nhas      {labels:?}\nshould be {expected:?}");
    }
    Ok(())
}

/// A real MariaDB, asked for its own counters by a socket that no proxy sees.
struct Database {
    socket: PathBuf,
    client: PathBuf,
}

/// What the database counted: connections, bytes that came, bytes that went.
type Counted = [f64; 3];

impl Database {
    fn start(&self, mesh: &Mesh, program: &Path) -> anyhow::Result<Workload> {
        let data = mesh.folder().join("db");
        std::fs::create_dir(&data)?;
        let rows = [
            "CREATE DATABASE test;",
            "CREATE TABLE test.ratings (ReviewID INT, Rating INT);",
            "INSERT INTO test.ratings VALUES (1, 5), (2, 4);",
        ];
        std::fs::write(mesh.folder().join("db.sql"), rows.join("\n"))?;
        let mut command = mesh.run("mysqldb", "mysqldb", &["--version", "v1", "--port", "tcp=3306"]);
        // Without an account for its tables of users it needs none.
        command.arg("--").arg(program).args([
            "--no-defaults",
            "--skip-grant-tables",
            "--user=root",
            "--skip-log-bin",
        ]);
        command.args(["--bind-address=0.0.0.0", "--port=3306", "--innodb-buffer-pool-size=8M"]);
        command.args(["--innodb-log-file-size=4M", "--innodb-fast-shutdown=2"]);
        command.arg(format!("--datadir={}", data.display()));
        command.arg(format!("--socket={}", self.socket.display()));
        command.arg(format!("--pid-file={}", mesh.folder().join("db.pid").display()));
        command.arg(format!("--init-file={}", mesh.folder().join("db.sql").display()));
        mesh.spawn(command, "mysqldb", PathBuf::new())
    }

    fn counted(&self) -> anyhow::Result<Counted> {
        let mut command = Command::new(&self.client);
        command.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names"]);
        command.arg(format!("--socket={}", self.socket.display()));
        command.args([
            "--execute",
            "SHOW GLOBAL STATUS WHERE Variable_name IN ('Connections', 'Bytes_received', 'Bytes_sent')",
        ]);
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
            Ok::<f64, anyhow::Error>(line.with_context(|| format!("no {name}"))?.parse()?)
        };
        Ok([value("Connections")?, value("Bytes_received")?, value("Bytes_sent")?])
    }
}

/// Both sides counted the connections and bytes that the database did, but for those of our own questions.
fn bytes(database: &Database, before: Counted) -> anyhow::Result<()> {
    let sum =
        |metric: &str| by_reporter(&format!("istio_tcp_{metric}{{destination_workload=\"mysqldb-v1\"}}"));
    let opened = sum("connections_opened_total")?;
    let closed = sum("connections_closed_total")?;
    let (received, sent) = (sum("received_bytes_total")?, sum("sent_bytes_total")?);
    let (first, second) = (database.counted()?, database.counted()?);
    // A question of ours costs what this one did.
    let own = |at: usize| second[at] - first[at];
    let meshed = |at: usize| first[at] - before[at] - own(at);
    ensure!(opened == closed && opened == [meshed(0); 2], "{opened:?} and {closed:?} of {}", meshed(0));
    ensure!(meshed(0) >= DINED as f64, "{} connections", meshed(0));
    for (at, counted) in [(1, received), (2, sent)] {
        // The answers to our own questions differ by some digits.
        let close = counted.iter().all(|bytes| (bytes - meshed(at)).abs() <= 64.0);
        ensure!(close && counted[0] == counted[1], "{counted:?} bytes, the database counted {}", meshed(at));
    }
    Ok(())
}
