//! What flowed on each edge of the graph: counters of proxies, summed and compared over time. Pure.
//!
//! Every hop between two proxies is counted by both. The source's figures are taken where the source reports, since
//! they hold what the caller lived through; what only the destination knows (mutual TLS) is taken from there.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::exposition::{self, Sample};

/// A workload, as telemetry names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    pub name: String,
    pub namespace: String,
    pub app: String,
    pub version: String,
}

/// From whom to whom, and by which service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeKey {
    pub source: Workload,
    pub destination: Workload,
    /// The host that was called.
    pub service: String,
}

/// Counters of one edge as one side reports them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters {
    pub requests: BTreeMap<Code, f64>,
    /// Upper bounds of the histogram in milliseconds, with cumulative counts.
    pub buckets: BTreeMap<Bound, f64>,
    pub sent_bytes: f64,
    pub received_bytes: f64,
    pub opened: f64,
    pub mutual_tls: f64,
    pub plaintext: f64,
}

/// Status of the response, and Envoy's flags for why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code {
    pub status: u16,
    pub grpc: Option<u32>,
    pub flags: String,
}

/// The upper bound of a bucket, in thousandths of a millisecond; the largest stands for infinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bound(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reporter {
    Source,
    Destination,
}

/// All counters at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Totals(BTreeMap<(EdgeKey, Reporter), Counters>);

/// What flowed on an edge over some time.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    #[serde(flatten)]
    pub key: EdgeKey,
    pub protocol: &'static str,
    /// Requests a second.
    pub rate: f64,
    /// Of a hundred requests, how many failed: 5xx, gRPC errors, no response at all.
    pub error_percent: f64,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// Bytes a second, both ways.
    pub bytes_rate: f64,
    pub connections: f64,
    /// Whether all of it was mutual TLS; unknown when no destination reports.
    pub mutual_tls: Option<bool>,
    /// Rates by response code and flags.
    pub responses: BTreeMap<String, f64>,
}

impl Totals {
    /// Adds what one proxy exposes.
    pub fn add(&mut self, text: &str) {
        for sample in exposition::samples(text, "istio_") {
            self.sample(&sample);
        }
    }

    fn sample(&mut self, sample: &Sample<'_>) {
        let reporter = match sample.label("reporter") {
            "source" => Reporter::Source,
            "destination" => Reporter::Destination,
            _ => return,
        };
        let counters = self.0.entry((key(sample), reporter)).or_default();
        match sample.name {
            "istio_requests_total" => {
                *counters.requests.entry(code(sample)).or_default() += sample.value;
                counters.security(sample);
            }
            "istio_request_duration_milliseconds_bucket" => {
                if let Some(bound) = Bound::parse(sample.label("le")) {
                    *counters.buckets.entry(bound).or_default() += sample.value;
                }
            }
            "istio_tcp_sent_bytes_total" => counters.sent_bytes += sample.value,
            "istio_tcp_received_bytes_total" => counters.received_bytes += sample.value,
            "istio_tcp_connections_opened_total" => {
                counters.opened += sample.value;
                counters.security(sample);
            }
            _ => {}
        }
    }

    /// What flowed between an earlier moment and this one. A counter that fell began again at nothing.
    pub fn since(&self, earlier: &Totals, elapsed: Duration) -> Vec<Edge> {
        let seconds = elapsed.as_secs_f64().max(0.001);
        let mut keys: Vec<&EdgeKey> = self.0.keys().map(|(key, _)| key).collect();
        keys.dedup();
        keys.iter().filter_map(|key| self.edge(key, earlier, seconds)).collect()
    }

    fn edge(&self, key: &EdgeKey, earlier: &Totals, seconds: f64) -> Option<Edge> {
        let by = |reporter| {
            let now = self.0.get(&(key.clone(), reporter))?;
            let before = earlier.0.get(&(key.clone(), reporter)).cloned().unwrap_or_default();
            Some(now.minus(&before)).filter(|counters| !counters.is_idle())
        };
        let (source, destination) = (by(Reporter::Source), by(Reporter::Destination));
        let mutual_tls = destination.as_ref().and_then(Counters::is_mutual_tls);
        let counters = source.or(destination)?;
        let requests: f64 = counters.requests.values().sum();
        let failed: f64 =
            counters.requests.iter().filter(|(code, _)| code.is_failure()).map(|(_, n)| n).sum();
        Some(Edge {
            key: key.clone(),
            protocol: if requests > 0.0 { "http" } else { "tcp" },
            rate: requests / seconds,
            error_percent: if requests > 0.0 { 100.0 * failed / requests } else { 0.0 },
            p50_ms: quantile(&counters.buckets, 0.5),
            p99_ms: quantile(&counters.buckets, 0.99),
            bytes_rate: (counters.sent_bytes + counters.received_bytes) / seconds,
            connections: counters.opened,
            mutual_tls,
            responses: counters.requests.iter().map(|(code, n)| (code.to_string(), n / seconds)).collect(),
        })
    }
}

impl Counters {
    fn security(&mut self, sample: &Sample<'_>) {
        match sample.label("connection_security_policy") {
            "mutual_tls" => self.mutual_tls += sample.value,
            "none" => self.plaintext += sample.value,
            _ => {}
        }
    }

    fn minus(&self, before: &Self) -> Self {
        Self {
            requests: minus(&self.requests, &before.requests),
            buckets: minus(&self.buckets, &before.buckets),
            sent_bytes: grown(self.sent_bytes, before.sent_bytes),
            received_bytes: grown(self.received_bytes, before.received_bytes),
            opened: grown(self.opened, before.opened),
            mutual_tls: grown(self.mutual_tls, before.mutual_tls),
            plaintext: grown(self.plaintext, before.plaintext),
        }
    }

    fn is_idle(&self) -> bool {
        self.requests.values().all(|n| *n == 0.0)
            && self.sent_bytes == 0.0
            && self.received_bytes == 0.0
            && self.opened == 0.0
    }

    fn is_mutual_tls(&self) -> Option<bool> {
        (self.mutual_tls + self.plaintext > 0.0).then_some(self.plaintext == 0.0)
    }
}

impl Code {
    fn is_failure(&self) -> bool {
        self.status == 0 || self.status >= 500 || self.grpc.is_some_and(|status| status != 0)
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.status)?;
        if let Some(grpc) = self.grpc {
            write!(f, " grpc {grpc}")?;
        }
        if self.flags.is_empty() { Ok(()) } else { write!(f, " {}", self.flags) }
    }
}

impl Bound {
    const INFINITE: Self = Self(u64::MAX);

    fn parse(text: &str) -> Option<Self> {
        let bound: f64 = text.parse().ok()?;
        Some(if bound.is_finite() { Self((bound * 1000.0) as u64) } else { Self::INFINITE })
    }

    fn milliseconds(self) -> f64 {
        self.0 as f64 / 1000.0
    }
}

fn key(sample: &Sample<'_>) -> EdgeKey {
    let workload = |side: &str| {
        let label = |what: &str| sample.label(&format!("{side}_{what}")).to_owned();
        Workload {
            name: label("workload"),
            namespace: label("workload_namespace"),
            app: label("app"),
            version: label("version"),
        }
    };
    EdgeKey {
        source: workload("source"),
        destination: workload("destination"),
        service: sample.label("destination_service").to_owned(),
    }
}

fn code(sample: &Sample<'_>) -> Code {
    let flags = sample.label("response_flags");
    Code {
        status: sample.label("response_code").parse().unwrap_or_default(),
        grpc: sample.label("grpc_response_status").parse().ok(),
        flags: if flags == "-" { String::new() } else { flags.to_owned() },
    }
}

fn minus<K: Ord + Clone>(now: &BTreeMap<K, f64>, before: &BTreeMap<K, f64>) -> BTreeMap<K, f64> {
    now.iter()
        .map(|(key, n)| (key.clone(), grown(*n, before.get(key).copied().unwrap_or_default())))
        .collect()
}

fn grown(now: f64, before: f64) -> f64 {
    if now >= before { now - before } else { now }
}

/// Prometheus' `histogram_quantile`: linear within the bucket that holds the rank.
fn quantile(buckets: &BTreeMap<Bound, f64>, rank: f64) -> Option<f64> {
    let total = *buckets.get(&Bound::INFINITE)?;
    if total <= 0.0 {
        return None;
    }
    let wanted = rank * total;
    let (mut below, mut lower) = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= wanted {
            if *bound == Bound::INFINITE {
                return Some(lower);
            }
            let within = (wanted - below) / (count - below).max(f64::MIN_POSITIVE);
            return Some(lower + (bound.milliseconds() - lower) * within.clamp(0.0, 1.0));
        }
        (below, lower) = (*count, bound.milliseconds());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(reporter: &str, code: u16, security: &str, value: u32) -> String {
        format!(
            "istio_requests_total{{reporter=\"{reporter}\",source_workload=\"a\",source_workload_namespace=\"n\",\
             destination_workload=\"b\",destination_workload_namespace=\"n\",destination_service=\"b.n.svc\",\
             response_code=\"{code}\",response_flags=\"-\",connection_security_policy=\"{security}\"}} {value}\n"
        )
    }

    fn totals(lines: &[String]) -> Totals {
        let mut totals = Totals::default();
        totals.add(&lines.concat());
        totals
    }

    #[test]
    fn both_sides_count_a_hop_and_it_is_shown_once() {
        let before =
            totals(&[line("source", 200, "unknown", 10), line("destination", 200, "mutual_tls", 10)]);
        let now = totals(&[
            line("source", 200, "unknown", 25),
            line("source", 503, "unknown", 5),
            line("destination", 200, "mutual_tls", 25),
        ]);
        let edges = now.since(&before, Duration::from_secs(10));
        assert_eq!(edges.len(), 1);
        assert!((edges[0].rate - 2.0).abs() < 1e-9 && (edges[0].error_percent - 25.0).abs() < 1e-9);
        assert_eq!(edges[0].mutual_tls, Some(true));
    }

    #[test]
    fn a_proxy_that_restarted_counts_from_nothing_and_an_idle_edge_is_not_shown() {
        let before = totals(&[line("source", 200, "unknown", 100)]);
        let after_restart = totals(&[line("source", 200, "unknown", 4)]);
        assert!((after_restart.since(&before, Duration::from_secs(2))[0].rate - 2.0).abs() < 1e-9);
        assert!(before.since(&before, Duration::from_secs(2)).is_empty());
    }

    #[test]
    fn quantiles_are_prometheus_own() {
        let buckets = [("1", 0.0), ("5", 50.0), ("10", 100.0), ("+Inf", 100.0)]
            .map(|(bound, n)| (Bound::parse(bound).unwrap(), n))
            .into();
        assert_eq!(quantile(&buckets, 0.5), Some(5.0));
        assert_eq!(quantile(&buckets, 0.75), Some(7.5));
        let over = [("1", 1.0), ("+Inf", 100.0)].map(|(bound, n)| (Bound::parse(bound).unwrap(), n)).into();
        assert_eq!(quantile(&over, 0.99), Some(1.0));
        assert_eq!(quantile(&BTreeMap::new(), 0.5), None);
    }
}
