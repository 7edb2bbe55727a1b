//! Spans and records of access logs on their way to collectors: in batches, through clusters as any request.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use decide::{Call, Collector, CollectorProtocol, Known, Request};

use super::call::perform;
use crate::log::Batch;
use crate::trace::{Span, encode_otlp, encode_zipkin, grpc_frame, refused_by};
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
        let count = spans.len() as u64;
        let message = match collector.protocol {
            CollectorProtocol::ZipkinJson => encode_zipkin(&spans).into(),
            CollectorProtocol::OtlpHttp | CollectorProtocol::Grpc => encode_otlp(&spans),
        };
        match deliver(worker, &collector, message).await {
            Ok(()) => worker.stats.spans_sent.add(count),
            Err(reason) => {
                worker.stats.spans_dropped.add(count);
                tracing::debug!(cluster = %collector.cluster, count, reason, "spans are lost");
            }
        }
    }
}

/// Sends a batch of records.
pub async fn send_records(worker: &Worker, Batch { to, records, .. }: Batch) {
    let counts = to.counts(&records);
    match deliver(worker, &to.collector, to.pack(records, &worker.node.wire)).await {
        Ok(()) => counts.sent.iter().for_each(|(count, by)| worker.count_by(count, *by)),
        Err(reason) => {
            let (count, by) = &counts.lost;
            tracing::debug!(cluster = %to.collector.cluster, by, reason, "records of access logs are lost");
            worker.count_by(count, *by);
        }
    }
}

fn call(collector: &Collector, message: Bytes) -> Call {
    let (content_type, body) = match collector.protocol {
        CollectorProtocol::ZipkinJson => ("application/json", message),
        CollectorProtocol::OtlpHttp => ("application/x-protobuf", message),
        CollectorProtocol::Grpc => ("application/grpc", grpc_frame(&message)),
    };
    let grpc = collector.protocol == CollectorProtocol::Grpc;
    let mut request = Request::new(decide::Method::Post, &*collector.authority, &*collector.path);
    request.scheme = "http".into();
    request.headers.append(Known::ContentType, content_type);
    if grpc {
        request.headers.append(Known::Te, "trailers");
    } else {
        request.headers.append(Known::ContentLength, body.len().to_string());
    }
    for (name, value) in &collector.headers {
        request.headers.append(name.clone(), value.clone());
    }
    let limit = collector.timeout.filter(|limit| !limit.is_zero()).unwrap_or(WITHIN);
    Call { grpc, ..Call::http(collector.cluster.clone(), request, body, Some(limit)) }
}

async fn deliver(worker: &Worker, collector: &Collector, message: Bytes) -> Result<(), String> {
    let answer = perform(worker, &call(collector, message)).await.map_err(|fault| fault.to_string())?;
    if answer.response.status / 100 != 2 {
        return Err(format!("it answers {}", answer.response.status));
    }
    let trailers = answer.trailers.as_ref().filter(|t| t.contains(Known::GrpcStatus));
    match refused_by(trailers.unwrap_or(&answer.response.headers)) {
        Some(reason) if collector.protocol == CollectorProtocol::Grpc => Err(reason),
        _ => Ok(()),
    }
}
