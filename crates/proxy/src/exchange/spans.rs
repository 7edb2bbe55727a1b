//! Spans of requests: begun with the decision, ended with the record.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use decide::{
    Decision, Direction, Hcm, Headers, Known, LogEntry, Request, ResponseFlags, TagValue, Tracer, Tracing,
};
use upstream::Host;

use super::serve::HttpConnection;
use crate::cluster::Target;
use crate::trace::{InService, Span, SpanContext, SpanKind};
use crate::worker::Worker;

/// A request's span while it runs.
#[derive(Debug)]
pub struct Traced {
    context: SpanContext,
    kind: SpanKind,
    shared: bool,
    /// `tracestate` as it came.
    state: String,
    attempt: Option<Box<Attempt>>,
    /// While the application is at work on it.
    _in_service: Option<InService>,
}

/// The span of the try that is under way, where each has its own.
#[derive(Debug)]
pub struct Attempt {
    context: SpanContext,
    wall: SystemTime,
    started: Instant,
}

impl Traced {
    /// Its trace and its own span.
    pub fn ids(&self) -> (u128, u64) {
        (self.context.ids.trace, self.context.ids.span)
    }
}

/// How a try ended.
pub struct Tried<'a> {
    pub target: &'a Target,
    pub host: &'a Host,
    /// Nothing where no answer came.
    pub status: Option<u16>,
    pub flags: ResponseFlags,
    pub retries: u32,
}

fn tracer(hcm: &Hcm) -> Option<(&Tracing, &Tracer)> {
    let tracing = hcm.tracing.as_deref()?;
    Some((tracing, tracing.tracer.as_ref()?))
}

/// Finds or begins the request's trace and writes the context that goes upstream. Nothing without a tracer.
pub fn begin(
    connection: &HttpConnection,
    hcm: &Hcm,
    decision: &Decision,
    request: &mut Request,
) -> Option<Traced> {
    let (tracing, tracer) = tracer(hcm)?;
    let worker = &connection.worker;
    let server = connection.direction == Direction::Inbound;
    let told = SpanContext::extract(&request.headers, tracer.headers);
    if connection.direction == Direction::Outbound {
        worker.heed_context(told.is_some());
    }
    let (context, shared) = match told {
        Some((ids, sampled)) => {
            let parent = SpanContext { ids, sampled: sampled.unwrap_or(decision.trace.sampled) };
            // Zipkin lets the server's side share the client's span.
            let shared = server && tracer.shared;
            (if shared { parent } else { worker.with_rng(|rng| parent.child(rng)) }, shared)
        }
        None => {
            let stated = SpanContext::extract_sampling(&request.headers);
            let sampled = stated.unwrap_or(decision.trace.sampled);
            (worker.with_rng(|rng| SpanContext::root(tracer.wide, sampled, rng)), false)
        }
    };
    if tracing.propagates {
        context.inject(&mut request.headers, tracer.headers);
    }
    if context.sampled {
        connection.stats.tracing_sampled.inc();
    } else {
        connection.stats.tracing_not_traceable.inc();
    }
    Some(Traced {
        context,
        kind: if server || tracing.spawn_upstream_span { SpanKind::Server } else { SpanKind::Client },
        shared,
        state: request.headers.known_str(Known::Tracestate).unwrap_or_default().to_owned(),
        attempt: None,
        _in_service: (server && tracing.propagates).then(|| worker.serving.begin(worker.index)),
    })
}

impl Traced {
    /// Begins the span of a try and tells the upstream of it, where each try has its own.
    pub fn begin_try(&mut self, worker: &Worker, hcm: &Hcm, headers: &mut Headers) {
        let Some((tracing, tracer)) = tracer(hcm).filter(|(tracing, _)| tracing.spawn_upstream_span) else {
            return;
        };
        let context = worker.with_rng(|rng| self.context.child(rng));
        if tracing.propagates {
            context.inject(headers, tracer.headers);
        }
        self.attempt = Some(Box::new(Attempt { context, wall: SystemTime::now(), started: Instant::now() }));
    }

    /// Where several tries are under way: turns to another of them.
    pub fn turn_to(&mut self, attempt: &mut Option<Box<Attempt>>) {
        std::mem::swap(&mut self.attempt, attempt);
    }

    /// Ends the span of the try that is under way, if there is one.
    pub fn end_try(&mut self, worker: &Worker, hcm: &Hcm, tried: &Tried<'_>) {
        let Some(attempt) = self.attempt.take().filter(|attempt| attempt.context.sampled) else { return };
        let Some((_, tracer)) = tracer(hcm) else { return };
        let span = Span {
            ids: attempt.context.ids,
            kind: SpanKind::Client,
            name: format!("router {} egress", tried.target.stat_name),
            start: attempt.wall,
            duration: attempt.started.elapsed(),
            service: service(worker, tracer),
            local: None,
            shared: false,
            state: self.state.clone(),
            failed: tried.status.is_none_or(|status| status >= 500),
            tags: tried.tags(),
        };
        worker.report(&tracer.collector, span);
    }

    /// Keeps the finished span for the next batch.
    pub fn report(
        &self,
        worker: &Worker,
        hcm: &Hcm,
        request: &Request,
        entry: &LogEntry<'_>,
        decision: Option<&Decision>,
    ) {
        let Some((tracing, tracer)) = tracer(hcm).filter(|_| self.context.sampled) else { return };
        let operation = decision.and_then(|d| d.operation.as_ref());
        let name = operation.map_or_else(|| request.authority.clone(), |o| o.to_string());
        let mut tags = standard_tags(request, entry, tracing.max_path_tag_length as usize);
        let own = tracing.custom_tags.iter();
        tags.extend(own.filter_map(|t| Some((t.tag.to_string(), tag_value(&t.value, request, entry)?))));
        let span = Span {
            ids: self.context.ids,
            kind: self.kind,
            name,
            start: entry.start,
            duration: entry.times.total.unwrap_or_default(),
            service: service(worker, tracer),
            local: Some(entry.connection.local),
            shared: self.shared,
            state: self.state.clone(),
            failed: entry.response_code >= 500 || entry.response_code == 0,
            tags,
        };
        worker.report(&tracer.collector, span);
    }
}

fn service(worker: &Worker, tracer: &Tracer) -> Arc<str> {
    if tracer.service.is_empty() { worker.node.service.as_str().into() } else { tracer.service.clone() }
}

impl Tried<'_> {
    fn tags(&self) -> Vec<(String, String)> {
        let address = self.host.address().to_string();
        let mut tags: Vec<(String, String)> = vec![
            ("component".into(), "proxy".into()),
            ("upstream_cluster".into(), self.target.name.to_string()),
            ("upstream_cluster.name".into(), self.target.stat_name.to_string()),
            ("upstream_address".into(), address.clone()),
            ("peer.address".into(), address),
            ("http.status_code".into(), self.status.unwrap_or_default().to_string()),
            ("response_flags".into(), self.flags.to_string()),
        ];
        if self.retries > 0 {
            tags.push(("retry.count".into(), self.retries.to_string()));
        }
        tags
    }
}

fn standard_tags(request: &Request, entry: &LogEntry<'_>, limit: usize) -> Vec<(String, String)> {
    let header = |name: Known| request.headers.known_str(name).unwrap_or_default().to_owned();
    let mut path = request.headers.known_str(Known::XEnvoyOriginalPath).unwrap_or(&request.path).to_owned();
    let mut end = path.len().min(if limit == 0 { 256 } else { limit });
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    path.truncate(end);
    let mut tags: Vec<(String, String)> = vec![
        ("component".into(), "proxy".into()),
        ("guid:x-request-id".into(), header(Known::XRequestId)),
        ("http.url".into(), format!("{}://{}{}", request.scheme, request.authority, path)),
        ("http.method".into(), request.method.to_string()),
        ("http.protocol".into(), request.version.as_str().into()),
        ("http.status_code".into(), entry.response_code.to_string()),
        ("response_flags".into(), entry.flags.to_string()),
        ("response_size".into(), entry.bytes_sent.to_string()),
        ("request_size".into(), entry.bytes_received.to_string()),
        ("user_agent".into(), header(Known::UserAgent)),
        ("peer.address".into(), entry.downstream_remote.ip().to_string()),
        ("upstream_cluster".into(), entry.upstream.cluster_raw.into()),
        ("upstream_cluster.name".into(), entry.upstream.cluster.into()),
    ];
    tags.retain(|(_, value)| !value.is_empty());
    if let Some(host) = entry.upstream.host {
        tags.push(("upstream_address".into(), host.to_string()));
    }
    tags
}

fn tag_value(value: &TagValue, request: &Request, entry: &LogEntry<'_>) -> Option<String> {
    let or = |found: Option<String>, default: &Arc<str>| {
        found.or_else(|| (!default.is_empty()).then(|| default.to_string()))
    };
    match value {
        TagValue::Literal(text) => Some(text.to_string()),
        TagValue::Environment(name, default) => or(std::env::var(&**name).ok(), default),
        TagValue::RequestHeader(name, default) => {
            or(request.value(name).map(|v| String::from_utf8_lossy(&v).into_owned()), default)
        }
        TagValue::Metadata(filter, path, default) => {
            let found = request.metadata.get(filter, path);
            or(found.map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)), default)
        }
        TagValue::Format(format) => {
            let mut text = String::new();
            format.render(entry, &mut text);
            Some(text)
        }
    }
}
