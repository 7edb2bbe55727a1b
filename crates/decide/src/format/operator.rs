//! Envoy's command operators.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use super::TimeFormat;
use super::value::Rendered;
use crate::connection::TlsInfo;
use crate::headers::{HeaderName, Headers};
use crate::log::LogEntry;
use crate::metadata::PeerMetadata;
use crate::refusal::{Refusal, Taken};

#[derive(Debug, Clone)]
pub(super) enum Operator {
    Request(HeaderName, Option<HeaderName>),
    Response(HeaderName, Option<HeaderName>),
    Trailer(HeaderName, Option<HeaderName>),
    /// The path without its query: `%REQ_WITHOUT_QUERY(…)%`, `%PATH(NQ)%`.
    RequestWithoutQuery(HeaderName, Option<HeaderName>),
    Query(Option<Box<str>>),
    StartTime(TimeFormat),
    PeerTime(TimeFormat, fn(&TlsInfo) -> Option<i64>),
    DynamicMetadata {
        filter: Box<str>,
        path: Vec<Box<str>>,
    },
    FilterState {
        key: Box<str>,
        field: Option<Box<str>>,
    },
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

#[derive(Debug, Clone, Copy)]
pub(super) enum GrpcForm {
    CamelCase,
    SnakeCase,
    Number,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Downstream,
    Upstream,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum TlsField {
    PeerSubject,
    PeerIssuer,
    PeerUri,
    PeerDns,
    PeerSerial,
    PeerFingerprint,
    PeerCert,
    LocalSubject,
    LocalUri,
    LocalDns,
    Version,
    Cipher,
    SessionId,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Point {
    Start,
    LastRequest,
    UpstreamTxFirst,
    UpstreamTxLast,
    UpstreamRxFirst,
    UpstreamRxLast,
    DownstreamTxFirst,
    DownstreamTxLast,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Unit {
    Milliseconds,
    Microseconds,
    Nanoseconds,
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

impl Operator {
    pub(super) fn parse(name: &str, argument: Option<&str>) -> Taken<Self> {
        if let Some(operator) =
            Self::simple(name).or_else(|| Self::borrowed(name)).or_else(|| Self::tls(name))
        {
            // Envoy takes and ignores no arguments for these.
            return match argument {
                None => Ok(operator),
                Some(_) => Err(Refusal::new(format_args!("%{name}% takes no argument"))),
            };
        }
        let needed = || {
            argument.ok_or_else(|| Refusal::new(format_args!("%{name}% needs an argument in parentheses")))
        };
        Ok(match name {
            "REQ" => headers(needed()?, Self::Request),
            "RESP" => headers(needed()?, Self::Response),
            "TRAILER" => headers(needed()?, Self::Trailer),
            "REQ_WITHOUT_QUERY" => headers(needed()?, Self::RequestWithoutQuery),
            "PATH" => path(argument.unwrap_or("WQ"))?,
            "QUERY_PARAM" => Self::Query(Some(needed()?.into())),
            "QUERY_PARAMS" => Self::Query(None),
            "START_TIME" => Self::StartTime(time(argument)?),
            "START_TIME_LOCAL" => Self::StartTime(time(argument)?),
            "DOWNSTREAM_PEER_CERT_V_START" => Self::PeerTime(time(argument)?, |t| t.peer_not_before),
            "DOWNSTREAM_PEER_CERT_V_END" => Self::PeerTime(time(argument)?, |t| t.peer_not_after),
            "DYNAMIC_METADATA" => {
                let mut parts = needed()?.split(':').map(Into::into);
                Self::DynamicMetadata { filter: parts.next().unwrap_or_default(), path: parts.collect() }
            }
            "FILTER_STATE" | "UPSTREAM_FILTER_STATE" => filter_state(needed()?)?,
            "ENVIRONMENT" => {
                return Err(Refusal::new("%ENVIRONMENT% is not supported: deciding reads no environment"));
            }
            "GRPC_STATUS" => Self::GrpcStatus(match argument {
                None | Some("CAMEL_STRING") => GrpcForm::CamelCase,
                Some("SNAKE_STRING") => GrpcForm::SnakeCase,
                Some("NUMBER") => GrpcForm::Number,
                Some(other) => {
                    return Err(Refusal::new(format_args!(
                        "%GRPC_STATUS({other})%: write CAMEL_STRING, SNAKE_STRING or NUMBER"
                    )));
                }
            }),
            "COMMON_DURATION" => common_duration(needed()?)?,
            other => {
                return Err(Refusal::new(format_args!("%{other}% is no operator that this proxy knows")));
            }
        })
    }

    fn simple(name: &str) -> Option<Self> {
        let f: fn(&LogEntry<'_>) -> Owned = match name {
            "RESPONSE_CODE" => |e| Owned::Number(u64::from(e.response_code)),
            "RESPONSE_FLAGS" => |e| Owned::Flags(e.flags),
            "RESPONSE_FLAGS_LONG" => |e| {
                let mut out = String::new();
                _ = e.flags.write_long(&mut out);
                Owned::Text(out)
            },
            "BYTES_RECEIVED" => |e| Owned::Number(e.bytes_received),
            "BYTES_SENT" => |e| Owned::Number(e.bytes_sent),
            "REQUEST_HEADERS_BYTES" => |e| Owned::Number(e.request_header_bytes),
            "RESPONSE_HEADERS_BYTES" => |e| Owned::Number(e.response_header_bytes),
            "RESPONSE_TRAILERS_BYTES" => |e| Owned::Number(e.response_trailer_bytes),
            "UPSTREAM_WIRE_BYTES_SENT" => |e| Owned::Number(e.upstream_wire_bytes_sent),
            "UPSTREAM_WIRE_BYTES_RECEIVED" => |e| Owned::Number(e.upstream_wire_bytes_received),
            "DURATION" => |e| millis(e.times.total),
            "REQUEST_DURATION" => |e| millis(e.times.last_request_byte),
            "REQUEST_TX_DURATION" => |e| millis(e.times.last_upstream_tx),
            "RESPONSE_DURATION" => |e| millis(e.times.first_upstream_rx),
            "RESPONSE_TX_DURATION" => {
                |e| millis(between(e.times.first_upstream_rx, e.times.last_downstream_tx))
            }
            "DOWNSTREAM_HANDSHAKE_DURATION" => |e| millis(e.times.handshake),
            "UPSTREAM_CONNECTION_POOL_READY_DURATION" => |e| millis(e.times.pool_ready),
            "ROUNDTRIP_DURATION" => |_| Owned::Missing,
            "UPSTREAM_REQUEST_ATTEMPT_COUNT" => |e| Owned::Number(u64::from(e.upstream.attempts)),
            "UPSTREAM_HOST" => |e| host(e, Owned::Address),
            "UPSTREAM_HOST_WITHOUT_PORT" => |e| host(e, without_port),
            "UPSTREAM_REMOTE_ADDRESS" => |e| connected(e, Owned::Address),
            "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => |e| connected(e, without_port),
            "UPSTREAM_REMOTE_PORT" => |e| connected(e, port),
            "UPSTREAM_HOST_NAME" => |e| host_name(e, Owned::Address),
            "UPSTREAM_HOST_NAME_WITHOUT_PORT" => |e| host_name(e, without_port),
            "UPSTREAM_LOCAL_ADDRESS" => |e| optional(e.upstream.local, Owned::Address),
            "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => |e| optional(e.upstream.local, without_port),
            "UPSTREAM_LOCAL_PORT" => |e| optional(e.upstream.local, port),
            "UPSTREAM_CONNECTION_ID" => |e| e.upstream.connection_id.map_or(Owned::Missing, Owned::Number),
            "DOWNSTREAM_REMOTE_ADDRESS" => |e| Owned::Address(e.downstream_remote),
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => |e| without_port(e.downstream_remote),
            "DOWNSTREAM_REMOTE_PORT" => |e| port(e.downstream_remote),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => |e| Owned::Address(e.connection.direct_remote),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => |e| without_port(e.connection.direct_remote),
            "DOWNSTREAM_DIRECT_REMOTE_PORT" => |e| port(e.connection.direct_remote),
            "DOWNSTREAM_LOCAL_ADDRESS" | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS" => {
                |e| Owned::Address(e.connection.local)
            }
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => |e| without_port(e.connection.local),
            "DOWNSTREAM_LOCAL_PORT" => |e| port(e.connection.local),
            "CONNECTION_ID" => |e| Owned::Number(e.connection.id),
            // Empty is a body too.
            "LOCAL_REPLY_BODY" => |e| Owned::Text(e.local_reply_body.to_owned()),
            "GRPC_STATUS_NUMBER" => |e| e.grpc_status().map_or(Owned::Missing, Owned::Signed),
            "TRACE_SAMPLED" => |e| Owned::Text(e.sampled.to_string()),
            "ACCESS_LOG_TYPE" => |e| {
                Owned::Text(if e.request.is_some() { "DownstreamEnd" } else { "TcpConnectionEnd" }.to_owned())
            },
            _ => return None,
        };
        Some(Self::Simple(f))
    }

    fn borrowed(name: &str) -> Option<Self> {
        let f: for<'a> fn(&'a LogEntry<'a>) -> &'a str = match name {
            "PROTOCOL" => |e| e.request.map(|r| r.version).or(e.protocol).map_or("", |v| v.as_str()),
            "UPSTREAM_PROTOCOL" => |e| e.upstream.protocol.map_or("", |v| v.as_str()),
            "RESPONSE_CODE_DETAILS" => |e| e.response_code_details,
            "CONNECTION_TERMINATION_DETAILS" => |e| e.connection_termination_details,
            "UPSTREAM_TRANSPORT_FAILURE_REASON" => |e| e.upstream.transport_failure,
            "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => |e| e.downstream_transport_failure,
            "UPSTREAM_CLUSTER" => |e| e.upstream.cluster,
            "UPSTREAM_CLUSTER_RAW" => |e| e.upstream.cluster_raw,
            "REQUESTED_SERVER_NAME" => |e| &e.connection.server_name,
            "ROUTE_NAME" => |e| e.route_name,
            "VIRTUAL_CLUSTER_NAME" => |e| e.virtual_cluster,
            "FILTER_CHAIN_NAME" => |e| e.filter_chain,
            "LISTENER_NAME" => |e| e.listener,
            "HOSTNAME" => |e| e.hostname,
            "STREAM_ID" => |e| e.stream_id,
            "TRACE_ID" => |e| e.trace_id,
            _ => return None,
        };
        Some(Self::Borrowed(f))
    }

    fn tls(name: &str) -> Option<Self> {
        let (side, field) = match name.strip_prefix("DOWNSTREAM_") {
            Some(field) => (Side::Downstream, field),
            None => (Side::Upstream, name.strip_prefix("UPSTREAM_")?),
        };
        let field = match field {
            "PEER_SUBJECT" => TlsField::PeerSubject,
            "PEER_ISSUER" => TlsField::PeerIssuer,
            "PEER_URI_SAN" => TlsField::PeerUri,
            "PEER_DNS_SAN" => TlsField::PeerDns,
            "PEER_SERIAL" => TlsField::PeerSerial,
            "PEER_FINGERPRINT_256" => TlsField::PeerFingerprint,
            "PEER_CERT" => TlsField::PeerCert,
            "LOCAL_SUBJECT" => TlsField::LocalSubject,
            "LOCAL_URI_SAN" => TlsField::LocalUri,
            "LOCAL_DNS_SAN" => TlsField::LocalDns,
            "TLS_VERSION" => TlsField::Version,
            "TLS_CIPHER" => TlsField::Cipher,
            "TLS_SESSION_ID" => TlsField::SessionId,
            _ => return None,
        };
        Some(Self::Tls(side, field))
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
                Some(value) => Rendered::Text(percent_decoded(value)),
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

/// `X-NAME` or `X-NAME?ALTERNATIVE`.
fn headers(argument: &str, make: fn(HeaderName, Option<HeaderName>) -> Operator) -> Operator {
    let (name, alternative) = match argument.split_once('?') {
        Some((name, alternative)) => (name, Some(HeaderName::from(alternative))),
        None => (argument, None),
    };
    make(HeaderName::from(name), alternative)
}

fn path(argument: &str) -> Taken<Operator> {
    use crate::headers::Known;
    let (query, which) = argument.split_once(':').unwrap_or((argument, "ORIG_OR_PATH"));
    let (name, alternative) = match which {
        "PATH" => (Known::PseudoPath, None),
        "ORIG" => (Known::XEnvoyOriginalPath, None),
        "ORIG_OR_PATH" => (Known::XEnvoyOriginalPath, Some(Known::PseudoPath.into())),
        other => {
            return Err(Refusal::new(format_args!("%PATH(…:{other})%: write PATH, ORIG or ORIG_OR_PATH")));
        }
    };
    match query {
        "WQ" => Ok(Operator::Request(name.into(), alternative)),
        "NQ" => Ok(Operator::RequestWithoutQuery(name.into(), alternative)),
        other => Err(Refusal::new(format_args!("%PATH({other})%: write WQ or NQ"))),
    }
}

fn time(argument: Option<&str>) -> Taken<TimeFormat> {
    TimeFormat::parse(argument.unwrap_or_default())
}

fn filter_state(argument: &str) -> Taken<Operator> {
    let mut parts = argument.splitn(3, ':');
    let key = parts.next().unwrap_or_default();
    let field = match (parts.next(), parts.next()) {
        (None | Some("TYPED" | "PLAIN"), None) => None,
        (Some("FIELD"), Some(field)) => Some(field.into()),
        _ => {
            return Err(Refusal::new(format_args!(
                "%FILTER_STATE({argument})%: write KEY, KEY:PLAIN, KEY:TYPED or KEY:FIELD:NAME"
            )));
        }
    };
    Ok(Operator::FilterState { key: key.into(), field })
}

fn common_duration(argument: &str) -> Taken<Operator> {
    let parts: Vec<_> = argument.split(':').collect();
    let [from, to, unit] = parts.as_slice() else {
        return Err(Refusal::new(format_args!("%COMMON_DURATION({argument})%: write START:END:UNIT")));
    };
    let point = |name: &str| {
        Ok(match name {
            "DS_RX_BEG" => Point::Start,
            "DS_RX_END" => Point::LastRequest,
            "US_TX_BEG" => Point::UpstreamTxFirst,
            "US_TX_END" => Point::UpstreamTxLast,
            "US_RX_BEG" => Point::UpstreamRxFirst,
            "US_RX_END" => Point::UpstreamRxLast,
            "DS_TX_BEG" => Point::DownstreamTxFirst,
            "DS_TX_END" => Point::DownstreamTxLast,
            other => {
                return Err(Refusal::new(format_args!(
                    "%COMMON_DURATION%: {other} is no point in time that this proxy knows"
                )));
            }
        })
    };
    let unit = match *unit {
        "ms" => Unit::Milliseconds,
        "us" => Unit::Microseconds,
        "ns" => Unit::Nanoseconds,
        other => {
            return Err(Refusal::new(format_args!(
                "%COMMON_DURATION%: the unit {other} must be ms, us or ns"
            )));
        }
    };
    Ok(Operator::CommonDuration(point(from)?, point(to)?, unit))
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

/// `%20` and the like as the bytes that they stand for; what is none stays.
fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let digit = |b: &u8| char::from(*b).to_digit(16);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        match (byte, after) {
            (b'%', [high, low, after @ ..]) if digit(high).is_some() && digit(low).is_some() => {
                out.push((digit(high).unwrap_or_default() * 16 + digit(low).unwrap_or_default()) as u8);
                rest = after;
            }
            _ => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
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
