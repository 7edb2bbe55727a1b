//! What flowed on each edge of the graph: counters of proxies, summed and compared over time. Pure.
//!
//! Every hop between two proxies is counted by both. The source's figures are taken where the source reports, since
//! they hold what the caller lived through; what only the destination knows (mutual TLS) is taken from there.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::exposition::{self, Sample};
use crate::traces::{Splitter, Traces};

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
    /// Towards the destination, and back.
    pub sent_bytes: f64,
    pub received_bytes: f64,
    pub opened: f64,
    pub mutual_tls: f64,
    pub plaintext: f64,
    /// Identities that the source proved, with how often.
    pub principals: BTreeMap<String, f64>,
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

/// All counters of one proxy at one moment, or what several counted over some time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Totals {
    edges: BTreeMap<(EdgeKey, Reporter), Counters>,
    traces: Traces,
}

/// What flowed on an edge over some time: counts, from which whoever shows them makes rates and percentiles.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    #[serde(flatten)]
    pub key: EdgeKey,
    pub protocol: &'static str,
    /// By response code and flags.
    pub requests: BTreeMap<String, f64>,
    /// Requests that failed: 5xx, gRPC errors, no response at all.
    pub failed: f64,
    /// Cumulative counts of durations up to so many milliseconds; the last, without a bound, counts all.
    pub buckets: Vec<(Option<f64>, f64)>,
    /// Both ways.
    pub bytes: f64,
    pub opened: f64,
    /// Whether all of it was mutual TLS; unknown when no destination reports.
    pub mutual_tls: Option<bool>,
    /// Identities under which the source was seen.
    pub principals: Vec<String>,
}

impl Totals {
    /// Adds what one proxy exposes.
    pub fn add(&mut self, text: &str) {
        for sample in exposition::samples(text, "istio_") {
            self.sample(&sample);
        }
        self.traces.add(text);
    }

    /// Who splits traces.
    pub fn splitters(&self) -> Vec<Splitter> {
        self.traces.splitters()
    }

    fn sample(&mut self, sample: &Sample<'_>) {
        let reporter = match sample.label("reporter") {
            "source" => Reporter::Source,
            "destination" => Reporter::Destination,
            _ => return,
        };
        let counters = self.edges.entry((key(sample), reporter)).or_default();
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
            "istio_tcp_sent_bytes_total" | "istio_response_bytes_sum" => counters.sent_bytes += sample.value,
            "istio_tcp_received_bytes_total" | "istio_request_bytes_sum" => {
                counters.received_bytes += sample.value;
            }
            "istio_tcp_connections_opened_total" => {
                counters.opened += sample.value;
                counters.security(sample);
            }
            _ => {}
        }
    }

    /// What one proxy counted since an earlier moment of its own. A counter that fell began again at nothing.
    pub fn since(&self, earlier: &Self) -> Self {
        let none = Counters::default();
        let grown = |(key, now): (&(EdgeKey, Reporter), &Counters)| {
            (key.clone(), now.minus(earlier.edges.get(key).unwrap_or(&none)))
        };
        Self { edges: self.edges.iter().map(grown).collect(), traces: self.traces.since(&earlier.traces) }
    }

    /// Adds what another proxy counted.
    pub fn merge(&mut self, other: &Self) {
        for (key, counters) in &other.edges {
            self.edges.entry(key.clone()).or_default().plus(counters);
        }
        self.traces.merge(&other.traces);
    }

    /// Without the edges on which nothing flowed.
    pub fn edges(&self) -> Vec<Edge> {
        let mut keys: Vec<&EdgeKey> = self.edges.keys().map(|(key, _)| key).collect();
        keys.dedup();
        keys.iter().filter_map(|key| self.edge(key)).collect()
    }

    fn edge(&self, key: &EdgeKey) -> Option<Edge> {
        let by = |reporter| self.edges.get(&(key.clone(), reporter)).filter(|counters| !counters.is_idle());
        let (source, destination) = (by(Reporter::Source), by(Reporter::Destination));
        let counters = source.or(destination)?;
        let requests: f64 = counters.requests.values().sum();
        let seen = |(principal, n): (&String, &f64)| (*n > 0.0).then(|| principal.clone());
        Some(Edge {
            key: key.clone(),
            protocol: if requests > 0.0 { "http" } else { "tcp" },
            requests: counters
                .requests
                .iter()
                .filter(|(_, n)| **n > 0.0)
                .map(|(c, n)| (c.to_string(), *n))
                .collect(),
            failed: counters.requests.iter().filter(|(code, _)| code.is_failure()).map(|(_, n)| n).sum(),
            buckets: counters.buckets.iter().map(|(bound, n)| (bound.milliseconds(), *n)).collect(),
            bytes: counters.sent_bytes + counters.received_bytes,
            opened: counters.opened,
            mutual_tls: destination.and_then(Counters::is_mutual_tls),
            principals: destination
                .map_or(&BTreeMap::new(), |d| &d.principals)
                .iter()
                .filter_map(seen)
                .collect(),
        })
    }
}

impl Edge {
    /// The same edge with nothing on it.
    pub fn idle(self) -> Self {
        Self { requests: BTreeMap::new(), failed: 0.0, buckets: Vec::new(), bytes: 0.0, opened: 0.0, ..self }
    }
}

impl Counters {
    fn security(&mut self, sample: &Sample<'_>) {
        match sample.label("connection_security_policy") {
            "mutual_tls" => {
                self.mutual_tls += sample.value;
                let principal = sample.label("source_principal").to_owned();
                *self.principals.entry(principal).or_default() += sample.value;
            }
            "none" => self.plaintext += sample.value,
            _ => {}
        }
    }

    fn plus(&mut self, other: &Self) {
        plus(&mut self.requests, &other.requests);
        plus(&mut self.buckets, &other.buckets);
        plus(&mut self.principals, &other.principals);
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.opened += other.opened;
        self.mutual_tls += other.mutual_tls;
        self.plaintext += other.plaintext;
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
            principals: minus(&self.principals, &before.principals),
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

    fn milliseconds(self) -> Option<f64> {
        (self != Self::INFINITE).then_some(self.0 as f64 / 1000.0)
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

fn plus<K: Ord + Clone>(sums: &mut BTreeMap<K, f64>, more: &BTreeMap<K, f64>) {
    for (key, n) in more {
        *sums.entry(key.clone()).or_default() += n;
    }
}

pub(crate) fn grown(now: f64, before: f64) -> f64 {
    if now >= before { now - before } else { now }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(reporter: &str, code: u16, security: &str, value: u32) -> String {
        format!(
            "istio_requests_total{{reporter=\"{reporter}\",source_workload=\"a\",source_workload_namespace=\"n\",\
             source_principal=\"spiffe://a\",destination_workload=\"b\",destination_workload_namespace=\"n\",\
             destination_service=\"b.n.svc\",response_code=\"{code}\",response_flags=\"-\",\
             connection_security_policy=\"{security}\"}} {value}\n"
        )
    }

    fn totals(lines: &[String]) -> Totals {
        let mut totals = Totals::default();
        totals.add(&lines.concat());
        totals
    }

    fn count(edge: &Edge) -> f64 {
        edge.requests.values().sum()
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
        let edges = now.since(&before).edges();
        assert_eq!(edges.len(), 1);
        assert_eq!((count(&edges[0]), edges[0].failed, edges[0].mutual_tls), (20.0, 5.0, Some(true)));
        assert_eq!(edges[0].principals, ["spiffe://a"]);
    }

    #[test]
    fn a_proxy_that_restarted_counts_from_nothing_and_an_idle_edge_is_not_shown() {
        let before = totals(&[line("source", 200, "unknown", 100)]);
        let after_restart = totals(&[line("source", 200, "unknown", 4)]);
        assert_eq!(count(&after_restart.since(&before).edges()[0]), 4.0);
        assert!(before.since(&before).edges().is_empty());
    }

    #[test]
    fn what_several_proxies_count_adds_up() {
        let mut both = totals(&[line("source", 200, "unknown", 3)]);
        both.merge(&totals(&[line("source", 200, "unknown", 4), line("destination", 200, "none", 4)]));
        assert_eq!((count(&both.edges()[0]), both.edges()[0].mutual_tls), (7.0, Some(false)));
    }

    #[test]
    fn histograms_are_handed_on_as_they_are() {
        let bucket = |le: &str, n: u32| {
            format!("istio_request_duration_milliseconds_bucket{{reporter=\"source\",le=\"{le}\"}} {n}\n")
        };
        let request = "istio_requests_total{reporter=\"source\",response_code=\"200\"} 9\n".to_owned();
        let found = totals(&[request, bucket("0.5", 4), bucket("+Inf", 9)]).edges();
        assert_eq!(found[0].buckets, [(Some(0.5), 4.0), (None, 9.0)]);
    }
}
