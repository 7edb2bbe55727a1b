//! Spans on their way to collectors: in batches, through clusters as any request.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use decide::{Collector, CollectorProtocol, Known, Request};
use upstream::{Pick, Priority};

use crate::cluster::{HttpProtocol, Lease, TlsOverride, Want};
use crate::trace::{Span, encode_otlp, encode_zipkin, grpc_frame, refused_by};
use crate::wire::{BodyLength, Frame, H2ClientStream, RequestHead, Reset, Upstream, h2_request_of};
use crate::worker::Worker;

/// A batch that is not taken in this time is lost, where the collector says nothing else.
const WITHIN: Duration = Duration::from_secs(5);

/// Sends what is waiting, one batch to each collector.
pub async fn send_spans(worker: &Rc<Worker>) {
    let mut waiting = std::mem::take(&mut *worker.spans.borrow_mut());
    while let Some((collector, _)) = waiting.first() {
        let collector: Arc<Collector> = collector.clone();
        let (batch, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(to, _)| *to == collector);
        waiting = rest;
        let spans: Vec<Span> = batch.into_iter().map(|(_, span)| span).collect();
        let limit = collector.timeout.filter(|limit| !limit.is_zero()).unwrap_or(WITHIN);
        let sent = tokio::time::timeout(limit, post(worker, &collector, &spans)).await;
        let count = spans.len() as u64;
        match sent.unwrap_or_else(|_| Err("it does not answer in time".into())) {
            Ok(()) => worker.stats.spans_sent.add(count),
            Err(reason) => {
                worker.stats.spans_dropped.add(count);
                tracing::debug!(cluster = %collector.cluster, count, reason, "spans are lost");
            }
        }
    }
}

/// A request with its body.
struct Message {
    head: RequestHead,
    body: Bytes,
}

fn message(collector: &Collector, spans: &[Span]) -> Message {
    let (content_type, body) = match collector.protocol {
        CollectorProtocol::ZipkinJson => ("application/json", Bytes::from(encode_zipkin(spans))),
        CollectorProtocol::OtlpHttp => ("application/x-protobuf", encode_otlp(spans)),
        CollectorProtocol::OtlpGrpc => ("application/grpc", grpc_frame(&encode_otlp(spans))),
    };
    let mut request = Request::new(decide::Method::Post, &*collector.authority, &*collector.path);
    request.scheme = "http".into();
    request.headers.append(Known::ContentType, content_type);
    if collector.protocol == CollectorProtocol::OtlpGrpc {
        request.headers.append(Known::Te, "trailers");
    } else {
        request.headers.append(Known::ContentLength, body.len().to_string());
    }
    for (name, value) in &collector.headers {
        request.headers.append(name.clone(), value.to_string());
    }
    Message { head: RequestHead { request, body: BodyLength::Known(body.len() as u64) }, body }
}

async fn post(worker: &Worker, collector: &Collector, spans: &[Span]) -> Result<(), String> {
    let cluster = worker.cluster(&collector.cluster).ok_or("there is no such cluster")?;
    let host = worker.with_rng(|rng| cluster.pick(&Pick::default(), rng)).ok_or("it has no healthy host")?;
    let Message { head, body } = message(collector, spans);
    let grpc = collector.protocol == CollectorProtocol::OtlpGrpc;
    let want = Want {
        host: &host,
        http2: grpc || cluster.target().protocol == HttpProtocol::Http2,
        by_alpn: false,
        tls: TlsOverride::default(),
        priority: Priority::Default,
        fresh: false,
        careful: true,
    };
    let lost = |reset: Reset| format!("{reset:?}");
    let (mut upstream, h1, _h2) = match cluster.acquire(&want).await.map_err(|e| e.to_string())? {
        Lease::H1(mut lease) => {
            let mut client = lease.client.take().ok_or("its connection is gone")?;
            client.send_head(&head);
            (Upstream::H1(client), Some(lease), None)
        }
        Lease::H2(lease) => {
            let mut sender = lease.send.clone().ready().await.map_err(|e| e.to_string())?;
            let mut request = h2_request_of(&head).map_err(lost)?;
            request.headers_mut().remove("host");
            let (response, stream) = sender.send_request(request, false).map_err(|e| e.to_string())?;
            (Upstream::H2(H2ClientStream::new(response, stream, false)), None, Some(lease))
        }
    };
    upstream.send_data(body);
    upstream.send_end(None);
    let answer = poll_fn(|cx| {
        let _ = upstream.poll_flush(cx);
        upstream.poll_head(cx)
    })
    .await
    .map_err(lost)?;
    let trailers = rest(&mut upstream).await.map_err(lost)?;
    if let (Some(lease), Upstream::H1(client)) = (h1, upstream) {
        lease.release(client, None);
    }
    if answer.response.status / 100 != 2 {
        return Err(format!("it answers {}", answer.response.status));
    }
    let status =
        trailers.as_ref().filter(|t| t.contains(Known::GrpcStatus)).unwrap_or(&answer.response.headers);
    match refused_by(status) {
        Some(reason) if grpc => Err(reason),
        _ => Ok(()),
    }
}

/// Reads an answer to its end; what comes back is its trailers.
async fn rest(upstream: &mut Upstream) -> Result<Option<decide::Headers>, Reset> {
    poll_fn(|cx| {
        loop {
            let _ = upstream.poll_flush(cx);
            match upstream.poll_body(cx) {
                Poll::Ready(Ok(Frame::Data(_))) => {}
                Poll::Ready(Ok(Frame::Trailers(trailers))) => return Poll::Ready(Ok(Some(trailers))),
                Poll::Ready(Ok(Frame::End)) => return Poll::Ready(Ok(None)),
                Poll::Ready(Err(reset)) => return Poll::Ready(Err(reset)),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}
