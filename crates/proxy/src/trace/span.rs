//! Spans and Zipkin's JSON form of them.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::context::Ids;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    Client,
    Server,
}

/// A finished span.
#[derive(Debug, Clone)]
pub struct Span {
    pub ids: Ids,
    pub kind: SpanKind,
    pub name: String,
    pub start: SystemTime,
    pub duration: Duration,
    pub service: String,
    pub local: Option<SocketAddr>,
    /// Whether the client's span has the same id (`sharedSpanContext`).
    pub shared: bool,
    pub tags: Vec<(String, String)>,
}

/// The body of `POST /api/v2/spans`.
pub fn encode_spans(spans: &[Span]) -> Vec<u8> {
    Value::Array(spans.iter().map(span).collect()).to_string().into_bytes()
}

fn span(span: &Span) -> Value {
    let Ids { trace, span: id, parent } = span.ids;
    let micros = span.start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
    let trace = if trace >> 64 == 0 { format!("{trace:016x}") } else { format!("{trace:032x}") };
    let mut endpoint = Map::new();
    endpoint.insert("serviceName".into(), span.service.clone().into());
    if let Some(local) = span.local {
        let key = if local.is_ipv4() { "ipv4" } else { "ipv6" };
        endpoint.insert(key.into(), local.ip().to_string().into());
        endpoint.insert("port".into(), local.port().into());
    }
    let mut object = json!({
        "traceId": trace,
        "id": format!("{id:016x}"),
        "kind": match span.kind { SpanKind::Client => "CLIENT", SpanKind::Server => "SERVER" },
        "name": span.name,
        "timestamp": micros,
        "duration": (span.duration.as_micros() as u64).max(1),
        "localEndpoint": endpoint,
        "tags": span.tags.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect::<Map<_, _>>(),
    });
    if let Some(parent) = parent {
        object["parentId"] = format!("{parent:016x}").into();
    }
    if span.shared {
        object["shared"] = true.into();
    }
    object
}
