//! Spans as OTLP has them, and the frame that gRPC puts round a message.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use decide::{Headers, Known};
use prost::Message;
use proto::opentelemetry::{self as pb, attribute};

use super::span::{Span, SpanKind};

/// The body of an export: spans by the service that they go by.
pub fn encode_otlp(spans: &[Span]) -> Bytes {
    let mut services: Vec<(&Arc<str>, Vec<pb::Span>)> = Vec::new();
    for span in spans {
        match services.iter_mut().find(|(service, _)| *service == &span.service) {
            Some((_, own)) => own.push(written(span)),
            None => services.push((&span.service, vec![written(span)])),
        }
    }
    let resource_spans = services.into_iter().map(|(service, spans)| of_service(service, spans)).collect();
    pb::ExportRequest { resource_spans }.encode_to_vec().into()
}

fn of_service(service: &str, spans: Vec<pb::Span>) -> pb::ResourceSpans {
    let attributes = [
        ("service.name", service),
        ("telemetry.sdk.language", "rust"),
        ("telemetry.sdk.name", "mizzen"),
        ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
    ];
    let scope = pb::InstrumentationScope {
        name: "mizzen-proxy".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..Default::default()
    };
    pb::ResourceSpans {
        resource: Some(pb::Resource { attributes: attributes.map(|(k, v)| attribute(k, v)).into() }),
        scope_spans: vec![pb::ScopeSpans { scope: Some(scope), spans }],
    }
}

fn written(span: &Span) -> pb::Span {
    let nanos = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let bytes = |id: u64| Bytes::copy_from_slice(&id.to_be_bytes());
    let kind = match span.kind {
        SpanKind::Client => pb::SpanKind::Client,
        SpanKind::Server => pb::SpanKind::Server,
    };
    let failed = || pb::Status { code: pb::StatusCode::Error as i32, ..Default::default() };
    pb::Span {
        trace_id: Bytes::copy_from_slice(&span.ids.trace.to_be_bytes()),
        span_id: bytes(span.ids.span),
        trace_state: span.state.clone(),
        parent_span_id: span.ids.parent.map(bytes).unwrap_or_default(),
        name: span.name.clone(),
        kind: kind as i32,
        start_time_unix_nano: nanos(span.start),
        end_time_unix_nano: nanos(span.start + span.duration),
        attributes: span.tags.iter().map(|(k, v)| attribute(k, v)).collect(),
        status: span.failed.then(failed),
    }
}

/// A message as gRPC sends it, uncompressed.
pub fn grpc_frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// The reason, where gRPC's status says that the call failed.
pub fn refused_by(trailers: &Headers) -> Option<String> {
    let status = trailers.known_str(Known::GrpcStatus)?;
    let reason = trailers.known_str(Known::GrpcMessage).unwrap_or_default();
    (status != "0").then(|| format!("gRPC status {status} {reason}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::trace::context::Ids;

    #[test]
    fn spans_are_grouped_by_service_and_keep_ids_times_and_failures() {
        let span = |service: &str, parent| Span {
            ids: Ids { trace: 0x0102, span: 7, parent },
            kind: SpanKind::Server,
            name: "reviews:9080/*".into(),
            start: UNIX_EPOCH + Duration::from_nanos(1_000),
            duration: Duration::from_nanos(500),
            service: service.into(),
            state: "vendor=1".into(),
            failed: parent.is_some(),
            local: None,
            shared: false,
            tags: vec![("http.method".into(), "GET".into())],
        };
        let body = encode_otlp(&[span("a", None), span("b", Some(6)), span("a", None)]);
        let request = pb::ExportRequest::decode(body).unwrap();
        let sizes: Vec<_> = request.resource_spans.iter().map(|r| r.scope_spans[0].spans.len()).collect();
        assert_eq!(sizes, [2, 1]);
        let failed = &request.resource_spans[1].scope_spans[0].spans[0];
        assert_eq!((failed.trace_id.len(), &failed.trace_id[14..]), (16, &[1, 2][..]));
        assert_eq!(
            (&failed.span_id[..], &failed.parent_span_id[..]),
            (&7u64.to_be_bytes()[..], &6u64.to_be_bytes()[..])
        );
        assert_eq!((failed.start_time_unix_nano, failed.end_time_unix_nano), (1_000, 1_500));
        assert_eq!(failed.status.as_ref().unwrap().code, pb::StatusCode::Error as i32);
        assert_eq!(failed.trace_state, "vendor=1");
        let root = &request.resource_spans[0].scope_spans[0].spans[0];
        assert!(root.parent_span_id.is_empty() && root.status.is_none());
    }

    #[test]
    fn a_frame_is_a_flag_a_length_and_the_message() {
        assert_eq!(&grpc_frame(b"abc")[..], b"\0\0\0\0\x03abc");
    }
}
