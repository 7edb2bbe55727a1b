//! Spans, and Zipkin's JSON form of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::context::{Ids, trace_text};

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
    pub service: Arc<str>,
    /// `tracestate` as the caller sent it.
    pub state: String,
    /// Whether what it tells of failed.
    pub failed: bool,
    pub local: Option<SocketAddr>,
    /// Whether the client's span has the same id (`sharedSpanContext`).
    pub shared: bool,
    pub tags: Vec<(String, String)>,
}

impl Span {
    /// Zipkin knows failures by a tag.
    fn all_tags(&self) -> impl Iterator<Item = (&str, &str)> {
        let error = self.failed.then_some(("error", "true"));
        self.tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).chain(error)
    }
}

/// The body of `POST /api/v2/spans`.
pub fn encode_zipkin(spans: &[Span]) -> Vec<u8> {
    Value::Array(spans.iter().map(span).collect()).to_string().into_bytes()
}

fn span(span: &Span) -> Value {
    let Ids { trace, span: id, parent } = span.ids;
    let micros = span.start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
    let mut endpoint = Map::new();
    endpoint.insert("serviceName".into(), (*span.service).into());
    if let Some(local) = span.local {
        let key = if local.is_ipv4() { "ipv4" } else { "ipv6" };
        endpoint.insert(key.into(), local.ip().to_string().into());
        endpoint.insert("port".into(), local.port().into());
    }
    let mut object = json!({
        "traceId": trace_text(trace),
        "id": format!("{id:016x}"),
        "kind": match span.kind { SpanKind::Client => "CLIENT", SpanKind::Server => "SERVER" },
        "name": span.name,
        "timestamp": micros,
        "duration": (span.duration.as_micros() as u64).max(1),
        "localEndpoint": endpoint,
        "tags": span.all_tags().map(|(k, v)| (k.to_owned(), Value::from(v))).collect::<Map<_, _>>(),
    });
    if let Some(parent) = parent {
        object["parentId"] = format!("{parent:016x}").into();
    }
    if span.shared {
        object["shared"] = true.into();
    }
    object
}
