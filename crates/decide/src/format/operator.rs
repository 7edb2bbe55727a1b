//! Envoy's command operators: what each comes to. Which there are, `syntax` knows.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde_json::Value;
use syntax::TimeFormat;
use syntax::format::{Field, GrpcForm, Operator as Written, Point, Side, TlsField, Unit, Whose};

use super::value::Rendered;
use crate::connection::TlsInfo;
use crate::headers::{HeaderName, Headers};
use crate::log::LogEntry;
use crate::metadata::PeerMetadata;

#[derive(Debug, Clone)]
pub(super) enum Operator {
    Request(HeaderName, Option<HeaderName>),
    Response(HeaderName, Option<HeaderName>),
    Trailer(HeaderName, Option<HeaderName>),
    RequestWithoutQuery(HeaderName, Option<HeaderName>),
    Query(Option<Box<str>>),
    StartTime(TimeFormat),
    PeerTime(TimeFormat, fn(&TlsInfo) -> Option<i64>),
    DynamicMetadata { filter: Box<str>, path: Vec<Box<str>> },
    FilterState { key: Box<str>, field: Option<Box<str>> },
    GrpcStatus(GrpcForm),
    CommonDuration(Point, Point, Unit),
    Simple(fn(&LogEntry<'_>) -> Owned),
    Borrowed(for<'a> fn(&'a LogEntry<'a>) -> &'a str),
    Tls(Side, TlsField),
}

/// A value without borrows, for operators that are one function.
pub(super) enum Owned {
    Missing,
    Number(u64),
    Signed(i64),
    Text(String),
    Address(SocketAddr),
    Flags(crate::flags::ResponseFlags),
}

fn without_port(address: SocketAddr) -> Owned {
    Owned::Text(address.ip().to_string())
}

fn port(address: SocketAddr) -> Owned {
    Owned::Number(u64::from(address.port()))
}

fn millis(duration: Option<Duration>) -> Owned {
    duration.map_or(Owned::Missing, |d| Owned::Number(d.as_millis() as u64))
}

fn between(from: Option<Duration>, to: Option<Duration>) -> Option<Duration> {
    Some(to?.saturating_sub(from?))
}

fn host(entry: &LogEntry<'_>, part: fn(SocketAddr) -> Owned) -> Owned {
    match entry.upstream.host {
        None => Owned::Missing,
        Some(address) => address.socket().map_or_else(|| Owned::Text(address.to_string()), part),
    }
}

/// The host, where a connection to it was made.
fn connected(entry: &LogEntry<'_>, part: fn(SocketAddr) -> Owned) -> Owned {
    if entry.upstream.local.is_some() { host(entry, part) } else { Owned::Missing }
}

/// The host's name, or its address where it has none.
fn host_name(entry: &LogEntry<'_>, part: fn(SocketAddr) -> Owned) -> Owned {
    match entry.upstream.host_name {
        "" => host(entry, part),
        name => Owned::Text(name.to_owned()),
    }
}

fn optional(address: Option<SocketAddr>, part: fn(SocketAddr) -> Owned) -> Owned {
    address.map_or(Owned::Missing, part)
}

impl From<Written> for Operator {
    fn from(written: Written) -> Self {
        match written {
            Written::Header { whose, name, alternative } => {
                let make = match whose {
                    Whose::Request => Self::Request,
                    Whose::RequestWithoutQuery => Self::RequestWithoutQuery,
                    Whose::Response => Self::Response,
                    Whose::Trailer => Self::Trailer,
                };
                make(HeaderName::from(name.as_str()), alternative.as_deref().map(HeaderName::from))
            }
            Written::Query(name) => Self::Query(name.map(Into::into)),
            Written::StartTime(format) => Self::StartTime(format),
            Written::PeerTime { format, end: false } => Self::PeerTime(format, |t| t.peer_not_before),
            Written::PeerTime { format, end: true } => Self::PeerTime(format, |t| t.peer_not_after),
            Written::DynamicMetadata { filter, path } => Self::DynamicMetadata {
                filter: filter.into(),
                path: path.into_iter().map(Into::into).collect(),
            },
            Written::FilterState { key, field } => {
                Self::FilterState { key: key.into(), field: field.map(Into::into) }
            }
            Written::GrpcStatus(form) => Self::GrpcStatus(form),
            Written::CommonDuration(from, to, unit) => Self::CommonDuration(from, to, unit),
            Written::Tls(side, field) => Self::Tls(side, field),
            Written::Field(field) => Self::of(field),
        }
    }
}

impl Operator {
    fn of(field: Field) -> Self {
        use Field as F;
        match field {
            F::ResponseCode => Self::Simple(|e| Owned::Number(u64::from(e.response_code))),
            F::ResponseFlags => Self::Simple(|e| Owned::Flags(e.flags)),
            F::ResponseFlagsLong => Self::Simple(|e| {
                let mut out = String::new();
                _ = e.flags.write_long(&mut out);
                Owned::Text(out)
            }),
            F::BytesReceived => Self::Simple(|e| Owned::Number(e.bytes_received)),
            F::BytesSent => Self::Simple(|e| Owned::Number(e.bytes_sent)),
            F::RequestHeadersBytes => Self::Simple(|e| Owned::Number(e.request_header_bytes)),
            F::ResponseHeadersBytes => Self::Simple(|e| Owned::Number(e.response_header_bytes)),
            F::ResponseTrailersBytes => Self::Simple(|e| Owned::Number(e.response_trailer_bytes)),
            F::UpstreamWireBytesSent => Self::Simple(|e| Owned::Number(e.upstream_wire_bytes_sent)),
            F::UpstreamWireBytesReceived => Self::Simple(|e| Owned::Number(e.upstream_wire_bytes_received)),
            F::Duration => Self::Simple(|e| millis(e.times.total)),
            F::RequestDuration => Self::Simple(|e| millis(e.times.last_request_byte)),
            F::RequestTxDuration => Self::Simple(|e| millis(e.times.last_upstream_tx)),
            F::ResponseDuration => Self::Simple(|e| millis(e.times.first_upstream_rx)),
            F::ResponseTxDuration => {
                Self::Simple(|e| millis(between(e.times.first_upstream_rx, e.times.last_downstream_tx)))
            }
            F::DownstreamHandshakeDuration => Self::Simple(|e| millis(e.times.handshake)),
            F::UpstreamConnectionPoolReadyDuration => Self::Simple(|e| millis(e.times.pool_ready)),
            F::RoundtripDuration => Self::Simple(|_| Owned::Missing),
            F::UpstreamRequestAttemptCount => Self::Simple(|e| Owned::Number(u64::from(e.upstream.attempts))),
            F::UpstreamHost => Self::Simple(|e| host(e, Owned::Address)),
            F::UpstreamRemoteAddress => Self::Simple(|e| connected(e, Owned::Address)),
            F::UpstreamRemoteAddressWithoutPort => Self::Simple(|e| connected(e, without_port)),
            F::UpstreamRemotePort => Self::Simple(|e| connected(e, port)),
            F::UpstreamHostName => Self::Simple(|e| host_name(e, Owned::Address)),
            F::UpstreamHostNameWithoutPort => Self::Simple(|e| host_name(e, without_port)),
            F::UpstreamLocalAddress => Self::Simple(|e| optional(e.upstream.local, Owned::Address)),
            F::UpstreamLocalAddressWithoutPort => Self::Simple(|e| optional(e.upstream.local, without_port)),
            F::UpstreamLocalPort => Self::Simple(|e| optional(e.upstream.local, port)),
            F::UpstreamConnectionId => {
                Self::Simple(|e| e.upstream.connection_id.map_or(Owned::Missing, Owned::Number))
            }
            F::DownstreamRemoteAddress => Self::Simple(|e| Owned::Address(e.downstream_remote)),
            F::DownstreamRemoteAddressWithoutPort => Self::Simple(|e| without_port(e.downstream_remote)),
            F::DownstreamRemotePort => Self::Simple(|e| port(e.downstream_remote)),
            F::DownstreamDirectRemoteAddress => Self::Simple(|e| Owned::Address(e.connection.direct_remote)),
            F::DownstreamDirectRemoteAddressWithoutPort => {
                Self::Simple(|e| without_port(e.connection.direct_remote))
            }
            F::DownstreamDirectRemotePort => Self::Simple(|e| port(e.connection.direct_remote)),
            F::DownstreamLocalAddress | F::DownstreamDirectLocalAddress => {
                Self::Simple(|e| Owned::Address(e.connection.local))
            }
            F::DownstreamLocalAddressWithoutPort => Self::Simple(|e| without_port(e.connection.local)),
            F::DownstreamLocalPort => Self::Simple(|e| port(e.connection.local)),
            F::ConnectionId => Self::Simple(|e| Owned::Number(e.connection.id)),
            // Empty is a body too.
            F::LocalReplyBody => Self::Simple(|e| Owned::Text(e.local_reply_body.to_owned())),
            F::GrpcStatusNumber => Self::Simple(|e| e.grpc_status().map_or(Owned::Missing, Owned::Signed)),
            F::AccessLogType => Self::Simple(|e| {
                Owned::Text(if e.request.is_some() { "DownstreamEnd" } else { "TcpConnectionEnd" }.to_owned())
            }),
            F::Protocol => {
                Self::Borrowed(|e| e.request.map(|r| r.version).or(e.protocol).map_or("", |v| v.as_str()))
            }
            F::UpstreamProtocol => Self::Borrowed(|e| e.upstream.protocol.map_or("", |v| v.as_str())),
            F::ResponseCodeDetails => Self::Borrowed(|e| e.response_code_details),
            F::ConnectionTerminationDetails => Self::Borrowed(|e| e.connection_termination_details),
            F::UpstreamTransportFailureReason => Self::Simple(|e| one_word(e.upstream.transport_failure)),
            F::DownstreamTransportFailureReason => Self::Simple(|e| one_word(e.downstream_transport_failure)),
            F::UpstreamCluster => Self::Borrowed(|e| e.upstream.cluster),
            F::UpstreamClusterRaw => Self::Borrowed(|e| e.upstream.cluster_raw),
            F::RequestedServerName => Self::Borrowed(|e| &e.connection.server_name),
            F::RouteName => Self::Borrowed(|e| e.route_name),
            F::VirtualClusterName => Self::Borrowed(|e| e.virtual_cluster),
            F::FilterChainName => Self::Borrowed(|e| e.filter_chain),
            F::ListenerName => Self::Borrowed(|e| e.listener),
            F::Hostname => Self::Borrowed(|e| e.hostname),
            F::StreamId => Self::Borrowed(|e| e.stream_id()),
            F::TraceId => Self::Simple(|e| e.trace_id().map_or(Owned::Missing, Owned::Text)),
        }
    }

    pub(super) fn value<'a>(&'a self, entry: &'a LogEntry<'a>) -> Rendered<'a> {
        match self {
            Self::Request(name, alternative) => request_header(entry, name, alternative.as_ref()),
            Self::Response(name, alternative) => response_header(entry, name, alternative.as_ref()),
            Self::Trailer(name, alternative) => header(entry.response_trailers, name, alternative.as_ref()),
            Self::RequestWithoutQuery(name, alternative) => {
                match request_header(entry, name, alternative.as_ref()) {
                    Rendered::Text(text) => Rendered::Text(cut_query(text)),
                    other => other,
                }
            }
            Self::Query(None) => entry.request.map_or(Rendered::Missing, |r| Rendered::text(r.query())),
            Self::Query(Some(name)) => match entry.request.and_then(|r| r.query_parameter(name)) {
                Some(value) => Rendered::Text(percent_decode_str(value).decode_utf8_lossy()),
                None => Rendered::Missing,
            },
            Self::StartTime(format) => Rendered::Text(Cow::Owned(format.format(entry.start))),
            Self::PeerTime(format, field) => match entry.connection.tls.as_deref().and_then(field) {
                Some(seconds) => Rendered::Text(Cow::Owned(format.format_epoch(seconds, 0))),
                None => Rendered::Missing,
            },
            Self::DynamicMetadata { filter, path } => dynamic_metadata(entry, filter, path),
            Self::FilterState { key, field } => state(entry, key, field.as_deref()),
            Self::GrpcStatus(form) => grpc(entry, *form),
            Self::CommonDuration(from, to, unit) => duration(entry, *from, *to, *unit),
            Self::Simple(f) => match f(entry) {
                Owned::Missing => Rendered::Missing,
                Owned::Number(n) => Rendered::number(Some(n)),
                Owned::Signed(n) => Rendered::Number(n),
                Owned::Text(text) => Rendered::Text(Cow::Owned(text)),
                Owned::Address(address) => Rendered::Address(address),
                Owned::Flags(flags) => Rendered::Flags(flags),
            },
            Self::Borrowed(f) => Rendered::text(f(entry)),
            Self::Tls(side, field) => {
                let tls = match side {
                    Side::Downstream => entry.connection.tls.as_deref(),
                    Side::Upstream => entry.upstream.tls,
                };
                tls.map_or(Rendered::Missing, |tls| tls_field(tls, *field))
            }
        }
    }
}

/// As Envoy writes it: a line's words are its fields.
fn one_word(text: &str) -> Owned {
    if text.is_empty() { Owned::Missing } else { Owned::Text(text.replace(' ', "_")) }
}

fn duration<'a>(entry: &LogEntry<'_>, from: Point, to: Point, unit: Unit) -> Rendered<'a> {
    let times = &entry.times;
    let at = |point| match point {
        Point::Start => Some(Duration::ZERO),
        Point::LastRequest => times.last_request_byte,
        Point::UpstreamTxFirst => times.first_upstream_tx,
        Point::UpstreamTxLast => times.last_upstream_tx,
        Point::UpstreamRxFirst => times.first_upstream_rx,
        Point::UpstreamRxLast => times.last_upstream_rx,
        Point::DownstreamTxFirst => times.first_downstream_tx,
        Point::DownstreamTxLast => times.last_downstream_tx,
    };
    Rendered::number(between(at(from), at(to)).map(|d| match unit {
        Unit::Milliseconds => d.as_millis() as u64,
        Unit::Microseconds => d.as_micros() as u64,
        Unit::Nanoseconds => d.as_nanos() as u64,
    }))
}

fn request_header<'a>(
    entry: &'a LogEntry<'a>,
    name: &'a HeaderName,
    alternative: Option<&'a HeaderName>,
) -> Rendered<'a> {
    let Some(request) = entry.request else { return Rendered::Missing };
    // Of repeated lines the first is told, as Envoy does.
    let first = |name: &'a HeaderName| match request.headers.get(name) {
        Some(value) => Some(Cow::Borrowed(&value[..])),
        None => request.value(name),
    };
    Rendered::bytes(first(name).or_else(|| alternative.and_then(first)))
}

fn response_header<'a>(
    entry: &'a LogEntry<'a>,
    name: &'a HeaderName,
    alternative: Option<&'a HeaderName>,
) -> Rendered<'a> {
    use crate::headers::Known;
    let is_status = |name: &HeaderName| name.known() == Some(Known::PseudoStatus);
    match header(entry.response_headers, name, alternative) {
        Rendered::Missing
            if entry.response_code != 0 && (is_status(name) || alternative.is_some_and(is_status)) =>
        {
            Rendered::Text(Cow::Owned(entry.response_code.to_string()))
        }
        rendered => rendered,
    }
}

fn header<'a>(
    headers: Option<&'a Headers>,
    name: &'a HeaderName,
    alternative: Option<&'a HeaderName>,
) -> Rendered<'a> {
    let Some(headers) = headers else { return Rendered::Missing };
    let first = headers.get(name).or_else(|| alternative.and_then(|a| headers.get(a)));
    Rendered::bytes(first.map(|value| Cow::Borrowed(&value[..])))
}

fn cut_query(text: Cow<'_, str>) -> Cow<'_, str> {
    match text.find('?') {
        None => text,
        Some(at) => match text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[..at]),
            Cow::Owned(mut text) => {
                text.truncate(at);
                Cow::Owned(text)
            }
        },
    }
}

fn dynamic_metadata<'a>(entry: &'a LogEntry<'a>, filter: &str, path: &[Box<str>]) -> Rendered<'a> {
    let Some(metadata) = entry.request.map(|r| &r.metadata).or(entry.metadata) else {
        return Rendered::Missing;
    };
    let value = if path.is_empty() {
        metadata.filter(filter).map(|map| Value::Object(map.clone()))
    } else {
        metadata.get(filter, path).cloned()
    };
    match value {
        None => Rendered::Missing,
        Some(Value::String(text)) => Rendered::Text(Cow::Owned(text)),
        Some(value) => Rendered::Json(value),
    }
}

/// Filter state by name; the peers that Istio's filters leave there are known by theirs.
fn state<'a>(entry: &'a LogEntry<'a>, key: &str, field: Option<&str>) -> Rendered<'a> {
    let peer = match key {
        "downstream_peer" | "wasm.downstream_peer" => entry.downstream_peer,
        "upstream_peer" | "wasm.upstream_peer" => entry.upstream.peer,
        _ => None,
    };
    if let Some(peer) = peer {
        return peer_field(peer, field);
    }
    match entry.filter_state.iter().find(|(name, _)| &**name == key) {
        Some((_, text)) if field.is_none() => Rendered::text(text),
        _ => Rendered::Missing,
    }
}

fn peer_field<'a>(peer: &'a PeerMetadata, field: Option<&str>) -> Rendered<'a> {
    let text = match field {
        None => return Rendered::Text(Cow::Owned(format!("{}.{}", peer.workload, peer.namespace))),
        Some("workload") => Some(peer.workload.as_str()),
        Some("namespace") => Some(peer.namespace.as_str()),
        Some("cluster") => Some(peer.cluster.as_str()),
        Some("name") => Some(peer.name.as_str()),
        Some("service") => peer.canonical_service(),
        Some("revision") => peer.canonical_revision(),
        Some("app") => peer.app(),
        Some("version") => peer.version(),
        Some(_) => None,
    };
    text.map_or(Rendered::Missing, Rendered::text)
}

const GRPC: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

fn grpc<'a>(entry: &LogEntry<'_>, form: GrpcForm) -> Rendered<'a> {
    let Some(status) = entry.grpc_status() else { return Rendered::Missing };
    let names = usize::try_from(status).ok().and_then(|status| GRPC.get(status));
    match (form, names) {
        (GrpcForm::CamelCase, Some((camel, _))) => Rendered::text(camel),
        (GrpcForm::SnakeCase, Some((_, snake))) => Rendered::text(snake),
        _ => Rendered::Number(status),
    }
}

fn tls_field(tls: &TlsInfo, field: TlsField) -> Rendered<'_> {
    let list = |items: &[std::sync::Arc<str>]| match items {
        [] => Rendered::Missing,
        items => Rendered::Text(Cow::Owned(items.join(","))),
    };
    match field {
        TlsField::PeerSubject => Rendered::text(&tls.peer_subject),
        TlsField::PeerIssuer => Rendered::text(&tls.peer_issuer),
        TlsField::PeerUri => list(&tls.peer_uris),
        TlsField::PeerDns => list(&tls.peer_dns),
        TlsField::PeerSerial => Rendered::text(&tls.peer_serial),
        TlsField::PeerFingerprint => Rendered::text(&tls.peer_fingerprint),
        TlsField::PeerCert => Rendered::text(&tls.peer_pem),
        TlsField::LocalSubject => Rendered::text(&tls.local_subject),
        TlsField::LocalUri => list(&tls.local_uris),
        TlsField::LocalDns => list(&tls.local_dns),
        TlsField::Version => Rendered::text(&tls.version),
        TlsField::Cipher => Rendered::text(&tls.cipher),
        TlsField::SessionId => Rendered::text(&tls.session_id),
    }
}
