//! Snapshots as text: Envoy's `/stats` and Prometheus' exposition format.

use std::fmt::Write;

use regex::Regex;
use serde_json::{Value, json};

use super::histogram::{BOUNDS, Histogram};
use super::istio::{Contexts, IstioSnapshot, Labels};
use super::snapshot::{Kind, Snapshot, StatName};

/// Which statistics are asked for.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Found anywhere in the name.
    pub filter: Option<Regex>,
    /// Those that something has happened to.
    pub used_only: bool,
}

impl Wanted {
    fn takes(&self, name: &str, used: bool) -> bool {
        (used || !self.used_only) && self.filter.as_ref().is_none_or(|filter| filter.is_match(name))
    }
}

/// Counters and gauges by their names.
fn numbers(snapshot: &Snapshot, wanted: &Wanted) -> Vec<(String, i64)> {
    let by_class = classes(snapshot)
        .into_iter()
        .map(|((name, class), n)| (format!("{}_{class}xx", plain(&StatName { code: 0, ..name })), n));
    let mut numbers: Vec<(String, i64)> =
        snapshot.samples.iter().map(|(name, (_, value))| (plain(name), *value)).chain(by_class).collect();
    numbers.retain(|(name, value)| wanted.takes(name, *value != 0));
    numbers.sort();
    numbers
}

fn histograms<'a>(
    snapshot: &'a Snapshot,
    wanted: &'a Wanted,
) -> impl Iterator<Item = (String, &'a Histogram)> {
    let named = snapshot.histograms.iter().map(|(name, histogram)| (plain(name), histogram));
    named.filter(|(name, histogram)| wanted.takes(name, histogram.count() > 0))
}

/// Envoy's plain listing: `cluster.NAME.upstream_rq_total: 3`, then histograms by their quantiles. Each of those is two
/// numbers in Envoy, of the last interval and of all time; intervals are not kept here.
pub fn text(snapshot: &Snapshot, wanted: &Wanted) -> String {
    let mut out = String::new();
    for (name, value) in numbers(snapshot, wanted) {
        let _ = writeln!(out, "{name}: {value}");
    }
    for (name, histogram) in histograms(snapshot, wanted) {
        let quantiles: Vec<String> = QUANTILES
            .iter()
            .filter_map(|percent| Some(format!("P{percent}(nan,{})", histogram.percentile(*percent)?)))
            .collect();
        let quantiles =
            if quantiles.is_empty() { "No recorded values".to_owned() } else { quantiles.join(" ") };
        let _ = writeln!(out, "{name}: {quantiles}");
    }
    out
}

/// The same as Envoy's JSON.
pub fn json(snapshot: &Snapshot, wanted: &Wanted) -> Value {
    let mut stats: Vec<Value> = numbers(snapshot, wanted)
        .into_iter()
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    let computed: Vec<Value> = histograms(snapshot, wanted)
        .map(|(name, histogram)| {
            let values: Vec<Value> = QUANTILES
                .iter()
                .map(|percent| json!({"interval": null, "cumulative": histogram.percentile(*percent)}))
                .collect();
            json!({"name": name, "values": values})
        })
        .collect();
    stats.push(json!({"histograms": {"supported_quantiles": QUANTILES, "computed_quantiles": computed}}));
    json!({ "stats": stats })
}

/// Those that Envoy shows.
const QUANTILES: [f64; 10] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

fn plain(name: &StatName) -> String {
    let mut text = String::with_capacity(64);
    for part in [name.prefix, &name.owner].into_iter().filter(|part| !part.is_empty()) {
        text.push_str(part);
        text.push('.');
    }
    text.push_str(&name.stat);
    if name.code != 0 {
        let _ = write!(text, "_{}", name.code);
    }
    text
}

/// Sums of the codes by their class.
fn classes(snapshot: &Snapshot) -> std::collections::BTreeMap<(StatName, u16), i64> {
    let mut sums = std::collections::BTreeMap::new();
    for (name, (_, n)) in snapshot.samples.iter().filter(|(name, _)| name.code != 0) {
        *sums.entry((StatName { code: 0, ..name.clone() }, name.code / 100)).or_insert(0) += n;
    }
    sums
}

/// Prometheus' text format, families together.
pub fn prometheus(snapshot: &Snapshot) -> String {
    let mut families: std::collections::BTreeMap<String, (Kind, Vec<String>)> = Default::default();
    for (name, (kind, value)) in &snapshot.samples {
        let family = match name.code {
            0 => format!("envoy_{}", sanitize(&dotted(name))),
            _ => format!("envoy_{}_{}", name.prefix, name.stat),
        };
        let mut labels = owner_label(name);
        if name.code != 0 {
            labels = join(&labels, &format!("envoy_response_code=\"{}\"", name.code));
        }
        let line = format!("{family}{{{labels}}} {value}");
        families.entry(family).or_insert((*kind, Vec::new())).1.push(line);
    }
    for ((name, class), n) in classes(snapshot) {
        let family = format!("envoy_{}_{}_xx", name.prefix, name.stat);
        let labels = join(&owner_label(&name), &format!("envoy_response_code_class=\"{class}\""));
        families
            .entry(family.clone())
            .or_insert((Kind::Counter, Vec::new()))
            .1
            .push(format!("{family}{{{labels}}} {n}"));
    }
    let mut out = String::new();
    for (family, (kind, lines)) in &families {
        let kind = if *kind == Kind::Counter { "counter" } else { "gauge" };
        let _ = writeln!(out, "# TYPE {family} {kind}");
        for line in lines {
            let _ = writeln!(out, "{line}");
        }
    }
    let mut last = String::new();
    for (name, histogram) in &snapshot.histograms {
        let family = format!("envoy_{}_{}", name.prefix, sanitize(&name.stat));
        if family != last {
            let _ = writeln!(out, "# TYPE {family} histogram");
            last.clone_from(&family);
        }
        put_histogram(&mut out, &family, &owner_label(name), histogram);
    }
    istio(&snapshot.istio, &mut out);
    out
}

/// Without the owner, which is a label.
fn dotted(name: &StatName) -> String {
    if name.prefix.is_empty() { name.stat.to_string() } else { format!("{}.{}", name.prefix, name.stat) }
}

fn owner_label(name: &StatName) -> String {
    if name.tag.is_empty() { String::new() } else { format!("{}=\"{}\"", name.tag, escape(&name.owner)) }
}

fn join(a: &str, b: &str) -> String {
    if a.is_empty() { b.to_owned() } else { format!("{a},{b}") }
}

fn sanitize(name: &str) -> String {
    name.replace(['.', '-'], "_")
}

/// Label values may hold anything a peer said.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn put_histogram(out: &mut String, family: &str, labels: &str, histogram: &Histogram) {
    let mut total = 0;
    for (bound, n) in BOUNDS.iter().zip(histogram.buckets) {
        total += n;
        let bound = if bound.is_infinite() { "+Inf".to_owned() } else { bound.to_string() };
        let labels = join(labels, &format!("le=\"{bound}\""));
        let _ = writeln!(out, "{family}_bucket{{{labels}}} {total}");
    }
    let _ = writeln!(out, "{family}_sum{{{labels}}} {}", histogram.sum);
    let _ = writeln!(out, "{family}_count{{{labels}}} {total}");
}

fn label_text(labels: &Labels) -> String {
    labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect::<Vec<_>>().join(",")
}

fn istio(snapshot: &IstioSnapshot, out: &mut String) {
    let requests: Vec<_> = snapshot.requests.iter().map(|(l, s)| (label_text(l), s)).collect();
    if !requests.is_empty() {
        put_family(out, "istio_requests_total", requests.iter().map(|(l, s)| (l, s.requests)));
        type Pick = fn(&super::istio::RequestSeries) -> &Histogram;
        let histograms: [(&str, Pick); 3] = [
            ("istio_request_duration_milliseconds", |s| &s.duration),
            ("istio_request_bytes", |s| &s.request_bytes),
            ("istio_response_bytes", |s| &s.response_bytes),
        ];
        for (family, pick) in histograms {
            let _ = writeln!(out, "# TYPE {family} histogram");
            for (labels, series) in &requests {
                put_histogram(out, family, labels, pick(series));
            }
        }
        let grpc = || requests.iter().filter(|(l, _)| l.contains("request_protocol=\"grpc\""));
        put_family(out, "istio_request_messages_total", grpc().map(|(l, s)| (l, s.request_messages)));
        put_family(out, "istio_response_messages_total", grpc().map(|(l, s)| (l, s.response_messages)));
    }
    let tcp: Vec<_> = snapshot.tcp.iter().map(|(l, s)| (label_text(l), s)).collect();
    put_family(out, "istio_tcp_connections_opened_total", tcp.iter().map(|(l, s)| (l, s.opened)));
    put_family(out, "istio_tcp_connections_closed_total", tcp.iter().map(|(l, s)| (l, s.closed)));
    put_family(out, "istio_tcp_sent_bytes_total", tcp.iter().map(|(l, s)| (l, s.sent)));
    put_family(out, "istio_tcp_received_bytes_total", tcp.iter().map(|(l, s)| (l, s.received)));
    contexts(&snapshot.contexts, out);
}

/// Ours, not Istio's: which services split traces.
fn contexts((labels, contexts): &(Labels, Contexts), out: &mut String) {
    let labels = label_text(labels);
    let both = [("kept", contexts.kept), ("lost", contexts.lost)];
    let lines: Vec<_> = both
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(what, n)| (join(&labels, &format!("context=\"{what}\"")), *n))
        .collect();
    put_family(out, "mizzen_trace_contexts_total", lines.iter().map(|(labels, n)| (labels, *n)));
}

fn put_family<'a>(out: &mut String, family: &str, series: impl Iterator<Item = (&'a String, u64)>) {
    let mut named = false;
    for (labels, n) in series {
        if !std::mem::replace(&mut named, true) {
            let _ = writeln!(out, "# TYPE {family} counter");
        }
        let _ = writeln!(out, "{family}{{{labels}}} {n}");
    }
}
