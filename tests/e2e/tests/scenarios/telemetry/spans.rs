//! Spans as Zipkin and Jaeger show them, in one form.

use anyhow::{Context, ensure};
use e2e::ask::ask_json;
use e2e::watchers::ADDRESS;
use serde_json::Value;

/// One operation of a trace.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) trace: String,
    pub(super) id: String,
    pub(super) parent: Option<String>,
    /// `reviews.default`.
    pub(super) service: String,
    pub(super) server: bool,
    pub(super) name: String,
    /// Microseconds since 1970.
    pub(super) start: u64,
    pub(super) duration: u64,
    pub(super) url: String,
    pub(super) state: String,
}

/// A trace in Zipkin to which a request with this text in its URL belongs.
pub(super) fn in_zipkin(url: &str) -> anyhow::Result<Vec<Span>> {
    let traces = ask_json(&format!("http://{ADDRESS}:9411/api/v2/traces?limit=200&lookback=600000"), &[])?;
    let traces = traces.as_array().context("no traces")?.iter().map(|trace| each(trace, of_zipkin));
    let found = traces.into_iter().find(|trace| trace.iter().any(|span| span.url.contains(url)));
    found.with_context(|| format!("no trace of {url}"))
}

/// A trace in Jaeger by its id.
pub(super) fn in_jaeger(trace: &str) -> anyhow::Result<Vec<Span>> {
    let answer = ask_json(&format!("http://{ADDRESS}:16686/api/traces/{trace}"), &[])?;
    let data = &answer["data"][0];
    Ok(each(&data["spans"], |span| of_jaeger(span, &data["processes"])))
}

/// All traces in Jaeger that a service has a part in.
pub(super) fn of_service_in_jaeger(service: &str) -> anyhow::Result<Vec<Vec<Span>>> {
    let url = format!("http://{ADDRESS}:16686/api/traces?service={service}&limit=200&lookback=1h");
    let answer = ask_json(&url, &[])?;
    let traces = answer["data"].as_array().context("no traces")?;
    let spans = |trace: &Value| each(&trace["spans"], |span| of_jaeger(span, &trace["processes"]));
    Ok(traces.iter().map(spans).collect())
}

fn each(spans: &Value, read: impl Fn(&Value) -> Span) -> Vec<Span> {
    spans.as_array().map(|spans| spans.iter().map(read).collect()).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn of_zipkin(span: &Value) -> Span {
    Span {
        trace: text(&span["traceId"]),
        id: text(&span["id"]),
        parent: span["parentId"].as_str().map(str::to_owned),
        service: text(&span["localEndpoint"]["serviceName"]),
        server: span["kind"] == "SERVER",
        name: text(&span["name"]),
        start: span["timestamp"].as_u64().unwrap_or_default(),
        duration: span["duration"].as_u64().unwrap_or_default(),
        url: text(&span["tags"]["http.url"]),
        state: String::new(),
    }
}

fn of_jaeger(span: &Value, processes: &Value) -> Span {
    let tags = span["tags"].as_array().cloned().unwrap_or_default();
    let tag = |key: &str| {
        tags.iter().find(|tag| tag["key"] == key).map_or(String::new(), |tag| text(&tag["value"]))
    };
    let references = span["references"].as_array().cloned().unwrap_or_default();
    let parent = references.iter().find(|reference| reference["refType"] == "CHILD_OF");
    let process = span["processID"].as_str().unwrap_or_default();
    Span {
        trace: text(&span["traceID"]),
        id: text(&span["spanID"]),
        parent: parent.map(|parent| text(&parent["spanID"])),
        service: text(&processes[process]["serviceName"]),
        server: tag("span.kind") == "server",
        name: text(&span["operationName"]),
        start: span["startTime"].as_u64().unwrap_or_default(),
        duration: span["duration"].as_u64().unwrap_or_default(),
        url: tag("http.url"),
        state: tag("w3c.tracestate"),
    }
}

/// The spans of one request for the product page, each with the one above it.
const TREE: [(&str, bool, &str, Option<usize>); 9] = [
    ("istio-ingressgateway.istio-system", true, "", None),
    ("istio-ingressgateway.istio-system", false, "productpage", Some(0)),
    ("productpage.default", true, "productpage", Some(1)),
    ("productpage.default", false, "details", Some(2)),
    ("details.default", true, "details", Some(3)),
    ("productpage.default", false, "reviews", Some(2)),
    ("reviews.default", true, "reviews", Some(5)),
    ("reviews.default", false, "ratings", Some(6)),
    ("ratings.default", true, "ratings", Some(7)),
];

/// Whoever waits for an answer may have read it before the other side notes that it has written it; in microseconds.
const SLACK: u64 = 10_000;

/// What [`check_page`] knows beforehand.
pub(super) struct Expected<'a> {
    /// The span of the caller outside, if it told of one.
    pub(super) root_parent: Option<&'a str>,
    /// How long calls to ratings are held back, in microseconds.
    pub(super) delay: u64,
}

/// One trace from the gateway to ratings: all spans, the right parents, times that lie within each other.
pub(super) fn check_page(spans: &[Span], expected: &Expected<'_>) -> anyhow::Result<()> {
    ensure!(spans.len() == TREE.len(), "{} spans instead of {}: {spans:#?}", spans.len(), TREE.len());
    ensure!(spans.iter().all(|span| span.trace == spans[0].trace), "several traces: {spans:#?}");
    let mut found: Vec<&Span> = Vec::new();
    for (service, server, name, above) in TREE {
        let parent = above.map(|above| found[above]);
        let parent_id = parent.map(|span| span.id.as_str()).or(expected.root_parent);
        let span = spans.iter().find(|span| {
            span.service == service
                && span.server == server
                && span.name.contains(name)
                && span.parent.as_deref() == parent_id
        });
        let span = span.with_context(|| {
            format!("no span of {service} (server: {server}, {name:?}) below {parent_id:?}: {spans:#?}")
        })?;
        if let Some(parent) = parent {
            let (end, slack) = (parent.start + parent.duration, SLACK);
            let within = parent.start <= span.start && span.start + span.duration <= end + slack;
            ensure!(within, "{span:#?} does not lie within {parent:#?}");
        }
        found.push(span);
    }
    // The delay is the caller's doing: whoever waits for ratings waits that long, ratings itself does not.
    for at in [0, 1, 2, 5, 6, 7] {
        ensure!(found[at].duration >= expected.delay, "{:#?} is too short", found[at]);
    }
    let (call, served) = (found[7], found[8]);
    ensure!(
        served.start >= call.start + expected.delay,
        "{served:#?} begins before the delay of {call:#?} is over"
    );
    ensure!(served.duration < call.duration, "{served:#?} is longer than {call:#?}");
    Ok(())
}
