//! `mizzen demo --check`: whether what people would see is there.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use agent::host::Hub;
use anyhow::{Context, bail, ensure};
use futures::future::join_all;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{database::Database, plane::Plane};
use crate::workload::{Inside, Running, get, get_on};

const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);
const REQUESTS: usize = 60;
/// For counters to be collected, and for proxies to accept.
const SOON: Duration = Duration::from_secs(20);

fn door(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Until the page is whole: its own part, details and reviews.
pub(super) async fn await_page(gateway: &Inside) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut last = String::new();
    while Instant::now() < deadline {
        match get_on(gateway.connect(), gateway.address, "/productpage", None).await {
            Ok((200, body)) if is_whole(&body) => return Ok(()),
            Ok((200, _)) => last = "the page lacks details or reviews".into(),
            Ok((code, body)) => last = format!("{code} {}", body.lines().next().unwrap_or_default()),
            Err(error) => last = error.to_string(),
        }
        sleep(PAUSE).await;
    }
    bail!("the product page does not come up: {last}")
}

fn is_whole(body: &str) -> bool {
    !body.contains("product details are currently unavailable")
        && !body.contains("product reviews are currently unavailable")
}

/// Where a proxy shows its counters.
const STATS_PORT: u16 = 15090;

/// Who calls whom when the page is asked for often enough.
const EDGES: [(&str, &str); 10] = [
    ("istio-ingressgateway", "productpage-v1"),
    ("productpage-v1", "details-v1"),
    ("productpage-v1", "reviews-v1"),
    ("productpage-v1", "reviews-v2"),
    ("productpage-v1", "reviews-v3"),
    ("reviews-v2", "ratings-v1"),
    ("reviews-v2", "ratings-v2"),
    ("reviews-v3", "ratings-v1"),
    ("reviews-v3", "ratings-v2"),
    ("ratings-v2", "mysqldb-v1"),
];

/// What is looked at.
pub(super) struct Demo<'a> {
    pub(super) port: u16,
    pub(super) plane: &'a Plane,
    pub(super) proxies: Vec<Proxy>,
    pub(super) database: &'a Database,
}

/// A workload's proxy.
pub(super) struct Proxy {
    name: String,
    stats: Inside,
}

impl Proxy {
    pub(super) fn of(running: &Running, hub: &Arc<Hub>) -> Self {
        let address = SocketAddr::new(running.address, STATS_PORT);
        Self { name: running.name.clone(), stats: Inside { hub: Arc::clone(hub), address } }
    }

    async fn counters(&self) -> anyhow::Result<String> {
        let Inside { address, .. } = self.stats;
        match get_on(self.stats.connect(), address, "/stats/prometheus", None).await {
            Ok((200, text)) => Ok(text),
            Ok((code, _)) => bail!("the proxy of {} answers {code} for its counters", self.name),
            Err(error) => Err(error).with_context(|| format!("the counters of {}", self.name)),
        }
    }
}

/// What was found; an error says what is not as it should be.
type Found = anyhow::Result<String>;

impl Demo<'_> {
    /// Tries everything and says what held. Exit code 0 if all did.
    pub(super) async fn check(&self) -> ExitCode {
        let mut good = true;
        let mut report = |what: &str, found: Found| match found {
            Ok(how) => println!("ok    {what}: {how}"),
            Err(why) => {
                good = false;
                println!("FAIL  {what}: {why:#}");
            }
        };
        let before = self.counted().await;
        report("product page", pages(self.port).await);
        report("versions of reviews", versions(self.port).await);
        report("kubectl-style API", self.objects().await);
        report("proxies", self.proxies().await);
        report("metrics", self.metrics(before).await);
        report("console", self.console().await);
        report("mutual TLS", self.edges().await);
        report("traces", self.traces().await);
        report("database", self.database().await);
        if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Everybody is there, has accepted everything and has refused nothing.
    async fn proxies(&self) -> Found {
        until(|| async {
            let status = self.plane.status().await?;
            let count = status.proxies.len();
            ensure!(count == self.proxies.len(), "{count} of {} are connected", self.proxies.len());
            let refusals = crate::proxy_status::refusals(status.proxies.iter().collect());
            ensure!(refusals.is_empty(), "{}", refusals.trim());
            ensure!(status.is_settled(), "not all have accepted what they were sent");
            Ok(format!("all {count} are in sync, none has refused anything"))
        })
        .await
    }

    /// Answers that the gateway counted, and that productpage counted.
    async fn counted(&self) -> anyhow::Result<(f64, f64)> {
        let texts = self.counters().await?;
        let of = |reporter| {
            let labels = [("reporter", reporter), ("destination_service_name", "productpage")];
            texts.iter().map(|text| sum(text, "istio_requests_total", &labels)).sum()
        };
        Ok((of("source"), of("destination")))
    }

    async fn counters(&self) -> anyhow::Result<Vec<String>> {
        join_all(self.proxies.iter().map(Proxy::counters)).await.into_iter().collect()
    }

    /// Every proxy serves counters, and both ends of a hop counted what was sent.
    async fn metrics(&self, before: anyhow::Result<(f64, f64)>) -> Found {
        let before = before?;
        until(|| async {
            for (proxy, text) in self.proxies.iter().zip(self.counters().await?) {
                let name = match proxy.name.as_str() {
                    name if name.starts_with("mysqldb") => "istio_tcp_connections_opened_total",
                    _ => "istio_requests_total",
                };
                ensure!(sum(&text, name, &[]) > 0.0, "the proxy of {} has counted no {name}", proxy.name);
            }
            let after = self.counted().await?;
            let grown = (after.0 - before.0, after.1 - before.1);
            let sent = (2 * REQUESTS) as f64;
            ensure!(
                grown == (sent, sent),
                "of {sent} requests the gateway counted {}, productpage {}",
                grown.0,
                grown.1
            );
            Ok(format!("istio_requests_total has all {sent} requests, at the gateway as at productpage"))
        })
        .await
    }

    /// The page is served, its API answers whoever has a token, and nobody else.
    async fn console(&self) -> Found {
        let (code, page) = get(self.plane.console(), "/").await?;
        ensure!(code == 200 && page.contains("<script"), "the page is answered {code}");
        let (code, _) = get(self.plane.console(), "/api/graph").await?;
        ensure!(code == 401, "without a token its API answers {code}");
        let proxies = self.ask("/api/proxies").await?;
        let count = proxies["proxies"].as_array().map_or(0, Vec::len);
        ensure!(count == self.proxies.len(), "it knows {count} of {} proxies", self.proxies.len());
        Ok(format!("http://{}/ and its API answer", self.plane.console()))
    }

    /// A page of the console's API, as JSON.
    async fn ask(&self, path: &str) -> anyhow::Result<Value> {
        let console = self.plane.console();
        let token = self.plane.token()?;
        let connect = tokio::net::TcpStream::connect(console);
        let (code, body) = get_on(connect, console, path, token.as_deref()).await?;
        ensure!(code == 200, "{path} is answered {code}");
        serde_json::from_str(&body).with_context(|| format!("{path} is not JSON"))
    }

    /// All of the graph's edges are there, and each is mutual TLS. The console collects every two seconds.
    async fn edges(&self) -> Found {
        until(|| async {
            let graph = self.ask("/api/graph").await?;
            let count = all_mutual(&graph)?;
            Ok(format!("all {count} edges of the graph"))
        })
        .await
    }

    /// Applications hand the trace headers on.
    async fn traces(&self) -> Found {
        let traces = self.ask("/api/traces?window=60").await?;
        let names: Vec<&str> = traces["splitBy"]
            .as_array()
            .context("no list")?
            .iter()
            .filter_map(|by| by["name"].as_str())
            .collect();
        ensure!(names.is_empty(), "split by {}", names.join(", "));
        Ok("every service hands their headers on".into())
    }

    async fn database(&self) -> Found {
        until(|| async {
            let graph = self.ask("/api/graph").await?;
            let edges = graph["edges"].as_array().context("no edges")?;
            let its = edges.iter().find(|edge| edge["destination"]["name"] == "mysqldb-v1");
            let bytes = its.and_then(|edge| edge["bytes"].as_f64()).unwrap_or(0.0);
            ensure!(bytes > 0.0, "nothing was read from it");
            Ok(format!("{}, {bytes} bytes with ratings v2", self.database.told()))
        })
        .await
    }

    async fn objects(&self) -> Found {
        let output = self.plane.mizzen(&["get", "workloadentries"], &[]).await?;
        let text = String::from_utf8_lossy(&output.stdout);
        let entries = text.lines().filter(|line| line.contains("10.44.")).count();
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && entries >= 8, "{entries} workload entries; {said}");
        Ok(format!("{entries} workload entries"))
    }
}

/// Until it holds, or time is up: then what was wrong last.
async fn until<T, F: Future<Output = anyhow::Result<T>>>(
    mut attempt: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + SOON;
    loop {
        match attempt().await {
            Err(_) if Instant::now() < deadline => sleep(PAUSE).await,
            result => return result,
        }
    }
}

/// How many edges the graph has, if those that should be there are and all are mutual TLS.
fn all_mutual(graph: &Value) -> anyhow::Result<usize> {
    let edges = graph["edges"].as_array().context("the graph has no edges")?;
    let name = |edge: &Value, end: &str| edge[end]["name"].as_str().unwrap_or_default().to_owned();
    let seen: BTreeSet<_> =
        edges.iter().map(|edge| (name(edge, "source"), name(edge, "destination"))).collect();
    let told = |(from, to): (&str, &str)| format!("{from} → {to}");
    let missing: Vec<String> = EDGES
        .into_iter()
        .filter(|(from, to)| !seen.contains(&((*from).to_owned(), (*to).to_owned())))
        .map(told)
        .collect();
    ensure!(missing.is_empty(), "not in the graph: {}", missing.join(", "));
    let open: Vec<String> = edges
        .iter()
        .filter(|edge| edge["mutualTls"] != true)
        .map(|edge| told((&name(edge, "source"), &name(edge, "destination"))))
        .collect();
    ensure!(open.is_empty(), "without it: {}", open.join(", "));
    Ok(edges.len())
}

/// The sum of a counter's series that have all of these labels, in Prometheus' text.
fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let has = |line: &str| labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")));
    let value = |line: &str| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
        rest.rsplit(' ').next()?.parse::<f64>().ok()
    };
    text.lines().filter(|line| has(line)).filter_map(value).sum()
}

async fn pages(port: u16) -> Found {
    let mut failed = Vec::new();
    for _ in 0..REQUESTS {
        match get(door(port), "/productpage").await {
            Ok((200, body)) if is_whole(&body) => {}
            Ok((code, _)) => failed.push(code.to_string()),
            Err(error) => failed.push(error.to_string()),
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join(", "));
    Ok(format!("{REQUESTS} requests, all whole"))
}

/// With no rule every version gets its share.
async fn versions(port: u16) -> Found {
    let mut seen = BTreeSet::new();
    for _ in 0..REQUESTS {
        let Ok((200, body)) = get(door(port), "/api/v1/products/0/reviews").await else { continue };
        seen.insert(
            ["\"red\"", "\"black\""].into_iter().find(|colour| body.contains(colour)).unwrap_or("none"),
        );
    }
    ensure!(seen.len() == 3, "only {seen:?}");
    Ok("no stars, black stars, red stars".into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counters_are_summed_over_the_series_that_have_the_labels() {
        let text = "# TYPE istio_requests_total counter\n\
            istio_requests_total{reporter=\"source\",destination_service_name=\"a\"} 3\n\
            istio_requests_total{reporter=\"source\",destination_service_name=\"b\"} 4\n\
            istio_requests_total{reporter=\"destination\",destination_service_name=\"a\"} 5\n\
            istio_requests_total_more{reporter=\"source\"} 6\n";
        assert_eq!(sum(text, "istio_requests_total", &[("reporter", "source")]), 7.0);
        assert_eq!(
            sum(text, "istio_requests_total", &[("reporter", "source"), ("destination_service_name", "a")]),
            3.0
        );
        assert_eq!(sum(text, "istio_requests_total", &[]), 12.0);
    }

    #[test]
    fn edges_that_are_missing_or_open_are_named() {
        let edge = |(from, to): (&str, &str)| json!({"source": {"name": from}, "destination": {"name": to}, "mutualTls": true});
        let mut graph = json!({"edges": EDGES.map(edge)});
        assert_eq!(all_mutual(&graph).unwrap(), EDGES.len());
        graph["edges"][9]["mutualTls"] = Value::Null;
        let said = all_mutual(&graph).unwrap_err().to_string();
        assert_eq!(said, "without it: ratings-v2 → mysqldb-v1");
        graph["edges"].as_array_mut().unwrap().remove(1);
        let said = all_mutual(&graph).unwrap_err().to_string();
        assert_eq!(said, "not in the graph: productpage-v1 → details-v1");
    }
}
