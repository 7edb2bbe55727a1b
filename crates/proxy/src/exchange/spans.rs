//! Spans of requests: begun with the decision, ended with the record, sent in batches through a cluster.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use decide::{Decision, Direction, Hcm, Known, LogEntry, Request, TagValue, TraceProvider};
use upstream::{Pick, Priority};

use super::serve::HttpConnection;
use crate::cluster::{HttpProtocol, Lease, TlsOverride, Want};
use crate::trace::{Propagation, Span, SpanContext, SpanKind, encode_spans};
use crate::wire::{BodyLength, Frame, H2ClientStream, RequestHead, Upstream, h2_request_of};
use crate::worker::Worker;

/// A request's span while it runs.
#[derive(Debug, Clone)]
pub struct Traced {
    pub context: SpanContext,
    kind: SpanKind,
    shared: bool,
}

/// Finds or begins the request's trace and writes the context that goes upstream. Nothing without a tracer.
pub fn begin(
    connection: &HttpConnection,
    hcm: &Hcm,
    decision: &Decision,
    request: &mut Request,
) -> Option<Traced> {
    let tracing = hcm.tracing.as_ref()?;
    let provider = tracing.provider.as_ref()?;
    let (propagation, wide, share) = match provider {
        TraceProvider::Zipkin { trace_id_128bit, shared_span_context, .. } => {
            (Propagation::B3, *trace_id_128bit, *shared_span_context)
        }
        TraceProvider::OpenTelemetry { .. } => (Propagation::W3c, true, false),
    };
    let stated = SpanContext::extract_sampling(&request.headers);
    let server = connection.direction == Direction::Inbound;
    let worker = &connection.worker;
    let (context, shared) = match SpanContext::extract(&request.headers) {
        Some((ids, sampled)) => {
            let parent = SpanContext { ids, sampled: sampled.unwrap_or(decision.trace.sampled) };
            // Zipkin lets the server's side share the client's span.
            if server && share { (parent, true) } else { (worker.with_rng(|rng| parent.child(rng)), false) }
        }
        None => {
            let sampled = stated.unwrap_or(decision.trace.sampled);
            (worker.with_rng(|rng| SpanContext::root(wide, sampled, rng)), false)
        }
    };
    context.inject(&mut request.headers, propagation);
    if context.sampled {
        connection.stats.tracing_sampled.inc();
    } else {
        connection.stats.tracing_not_traceable.inc();
    }
    let kind = if server { SpanKind::Server } else { SpanKind::Client };
    Some(Traced { context, kind, shared })
}

/// Keeps the finished span for the next batch.
pub fn report(
    worker: &Worker,
    hcm: &Hcm,
    traced: &Traced,
    request: &Request,
    entry: &LogEntry<'_>,
    decision: Option<&Decision>,
) {
    if !traced.context.sampled {
        return;
    }
    let Some(tracing) = &hcm.tracing else { return };
    let Some(TraceProvider::Zipkin { cluster, host, path, .. }) = &tracing.provider else {
        worker.stats.spans_dropped.inc();
        return;
    };
    let operation = decision.and_then(|d| d.operation.as_ref());
    let name = operation.map_or_else(|| request.authority.clone(), |o| o.to_string());
    let mut tags = standard_tags(request, entry, tracing.max_path_tag_length as usize);
    let own = tracing.custom_tags.iter();
    tags.extend(own.filter_map(|t| Some((t.tag.to_string(), tag_value(&t.value, request, entry)?))));
    let span = Span {
        ids: traced.context.ids,
        kind: traced.kind,
        name,
        start: entry.start,
        duration: entry.times.total.unwrap_or_default(),
        service: worker.node.service.clone(),
        local: Some(entry.connection.local),
        shared: traced.shared,
        tags,
    };
    // The host header travels with the path: one batch goes to one place.
    let place: Arc<str> = format!("{host} {path}").into();
    worker.report(cluster, &place, span);
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
    if entry.response_code >= 500 || entry.response_code == 0 {
        tags.push(("error".into(), "true".into()));
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

/// A batch that is not taken in this time is lost.
const WITHIN: Duration = Duration::from_secs(5);

/// Sends what is waiting, one batch to each collector.
pub async fn send_spans(worker: &Rc<Worker>) {
    let mut waiting = std::mem::take(&mut *worker.spans.borrow_mut());
    while let Some((cluster, place, _)) = waiting.first() {
        let (cluster, place) = (cluster.clone(), place.clone());
        let (batch, rest): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(c, p, _)| *c == cluster && *p == place);
        waiting = rest;
        let spans: Vec<Span> = batch.into_iter().map(|(_, _, span)| span).collect();
        let sent = tokio::time::timeout(WITHIN, post(worker, &cluster, &place, encode_spans(&spans))).await;
        if matches!(sent, Ok(Some(true))) {
            worker.stats.spans_sent.add(spans.len() as u64);
        } else {
            worker.stats.spans_dropped.add(spans.len() as u64);
        }
    }
}

async fn post(worker: &Worker, cluster: &str, place: &str, body: Vec<u8>) -> Option<bool> {
    let cluster = worker.cluster(cluster)?;
    let host = worker.with_rng(|rng| cluster.pick(&Pick::default(), rng))?;
    let (authority, path) = place.split_once(' ')?;
    let mut request = Request::new(decide::Method::Post, authority, path);
    request.scheme = "http".into();
    request.headers.append(Known::ContentType, "application/json");
    request.headers.append(Known::ContentLength, body.len().to_string());
    let head = RequestHead { request, body: BodyLength::Known(body.len() as u64) };
    let want = Want {
        host: &host,
        http2: cluster.target().protocol == HttpProtocol::Http2,
        by_alpn: false,
        tls: TlsOverride::default(),
        priority: Priority::Default,
        fresh: false,
        careful: true,
    };
    // A stream counts as long as its lease is held.
    let (mut upstream, lease, _stream) = match cluster.acquire(&want).await.ok()? {
        Lease::H1(mut lease) => {
            let mut client = lease.client.take()?;
            client.send_head(&head);
            (Upstream::H1(client), Some(lease), None)
        }
        Lease::H2(lease) => {
            let mut sender = lease.send.clone().ready().await.ok()?;
            let (response, stream) = sender.send_request(h2_request_of(&head).ok()?, false).ok()?;
            (Upstream::H2(H2ClientStream::new(response, stream, false)), None, Some(lease))
        }
    };
    upstream.send_data(Bytes::from(body));
    upstream.send_end(None);
    let answer = poll_fn(|cx| {
        let _ = upstream.poll_flush(cx);
        upstream.poll_head(cx)
    })
    .await
    .ok()?;
    poll_fn(|cx| {
        loop {
            match upstream.poll_body(cx) {
                Poll::Ready(Ok(Frame::Data(_))) => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
    if let (Some(lease), Upstream::H1(client)) = (lease, upstream) {
        lease.release(client, None);
    }
    Some(answer.response.status / 100 == 2)
}
