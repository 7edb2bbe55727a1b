//! Envoy's attributes over a log entry.

use serde_json::{Map, Value};
use syntax::cel::{Attribute, Field, Headers as Side};

use crate::headers::{HeaderName, Headers, Known};
use crate::log::LogEntry;

/// An attribute, ready to be looked up.
#[derive(Debug)]
pub(super) enum Path {
    Field(fn(&LogEntry<'_>) -> Option<Value>),
    Headers(Side, Option<HeaderName>),
    Metadata(Vec<String>),
}

impl From<Attribute> for Path {
    fn from(written: Attribute) -> Self {
        match written {
            Attribute::Field(field) => Self::Field(scalar(field)),
            Attribute::Headers(side, name) => Self::Headers(side, name.as_deref().map(HeaderName::from)),
            Attribute::Metadata(keys) => Self::Metadata(keys),
        }
    }
}

impl Path {
    pub(super) fn value(&self, entry: &LogEntry<'_>) -> Option<Value> {
        match self {
            Self::Field(get) => get(entry),
            Self::Headers(side, name) => headers(entry, *side, name.as_ref()),
            Self::Metadata(keys) => {
                let (filter, path) = keys.split_first()?;
                let metadata = &entry.request?.metadata;
                match path {
                    [] => metadata.filter(filter).map(|m| Value::Object(m.clone())),
                    path => metadata.get(filter, path).cloned(),
                }
            }
        }
    }
}

fn headers(entry: &LogEntry<'_>, side: Side, key: Option<&HeaderName>) -> Option<Value> {
    let list = match side {
        Side::Request => &entry.request?.headers,
        Side::Response => entry.response_headers?,
        Side::Trailers => entry.response_trailers?,
    };
    let text = |bytes: &[u8]| Value::String(String::from_utf8_lossy(bytes).into_owned());
    match (key, side) {
        (Some(key), Side::Request) => entry.request?.value(key).map(|v| text(&v)),
        (Some(key), _) => list.joined(key).map(|v| text(&v)),
        (None, _) => Some(Value::Object(all(list))),
    }
}

fn all(list: &Headers) -> Map<String, Value> {
    list.iter()
        .map(|(name, value)| {
            (name.as_str().to_ascii_lowercase(), String::from_utf8_lossy(value).into_owned().into())
        })
        .collect()
}

fn filled(text: &str) -> Option<Value> {
    (!text.is_empty()).then(|| text.into())
}

fn header(entry: &LogEntry<'_>, name: Known) -> Option<Value> {
    entry.request?.headers.known_str(name).map(Into::into)
}

fn scalar(field: Field) -> fn(&LogEntry<'_>) -> Option<Value> {
    use Field as F;
    match field {
        F::RequestPath => |e| e.request.map(|r| r.path.clone().into()),
        F::RequestUrlPath => |e| e.request.map(|r| r.path_only().into()),
        F::RequestQuery => |e| e.request.map(|r| r.query().into()),
        F::RequestHost => |e| e.request.map(|r| r.authority.clone().into()),
        F::RequestScheme => |e| e.request.map(|r| r.scheme.to_string().into()),
        F::RequestMethod => |e| e.request.map(|r| r.method.as_str().into()),
        F::RequestProtocol => |e| e.request.map(|r| r.version.as_str().into()),
        F::RequestId => |e| header(e, Known::XRequestId),
        F::RequestReferer => |e| header(e, Known::Referer),
        F::RequestUserAgent => |e| header(e, Known::UserAgent),
        F::RequestSize => |e| Some(e.bytes_received.into()),
        F::RequestTotalSize => |e| Some((e.bytes_received + e.request_header_bytes).into()),
        // Seconds; CEL's durations compare as numbers here.
        F::RequestDuration | F::ResponseDuration => |e| e.times.total.map(|d| d.as_secs_f64().into()),
        F::ResponseCode => |e| (e.response_code != 0).then(|| e.response_code.into()),
        F::ResponseCodeDetails => |e| filled(e.response_code_details),
        F::ResponseFlags => |e| {
            let bits = crate::flags::ResponseFlags::ALL.iter().zip(0u32..);
            Some(
                bits.filter(|((f, _, _), _)| e.flags.has(*f)).map(|(_, bit)| 1u64 << bit).sum::<u64>().into(),
            )
        },
        F::ResponseGrpcStatus => |e| e.grpc_status().map(Into::into),
        F::ResponseSize => |e| Some(e.bytes_sent.into()),
        F::ResponseTotalSize => {
            |e| Some((e.bytes_sent + e.response_header_bytes + e.response_trailer_bytes).into())
        }
        F::SourceAddress => |e| Some(e.downstream_remote.to_string().into()),
        F::SourcePort => |e| Some(e.downstream_remote.port().into()),
        F::DestinationAddress => |e| Some(e.connection.local.to_string().into()),
        F::DestinationPort => |e| Some(e.connection.local.port().into()),
        F::ConnectionId => |e| Some(e.connection.id.into()),
        F::ConnectionMtls => |e| Some(e.connection.tls.as_ref().is_some_and(|t| t.peer_verified).into()),
        F::ConnectionServerName => |e| Some((*e.connection.server_name).into()),
        F::ConnectionTlsVersion => |e| e.connection.tls.as_ref().and_then(|t| filled(&t.version)),
        F::ConnectionPeerUri => {
            |e| e.connection.tls.as_ref().and_then(|t| t.peer_uris.first()).map(|u| (**u).into())
        }
        F::ConnectionPeerDns => {
            |e| e.connection.tls.as_ref().and_then(|t| t.peer_dns.first()).map(|u| (**u).into())
        }
        F::ConnectionPeerSubject => |e| e.connection.tls.as_ref().and_then(|t| filled(&t.peer_subject)),
        F::ConnectionLocalUri => {
            |e| e.connection.tls.as_ref().and_then(|t| t.local_uris.first()).map(|u| (**u).into())
        }
        F::ConnectionTerminationDetails => |e| filled(e.connection_termination_details),
        F::UpstreamAddress => |e| e.upstream.host.map(|a| a.to_string().into()),
        F::UpstreamPort => |e| e.upstream.host.and_then(upstream::Address::port).map(Into::into),
        F::UpstreamLocalAddress => |e| e.upstream.local.map(|a| a.to_string().into()),
        F::UpstreamTransportFailureReason => |e| filled(e.upstream.transport_failure),
        F::UpstreamAttempts => |e| Some(e.upstream.attempts.into()),
        F::XdsClusterName => |e| filled(e.upstream.cluster_raw),
        F::XdsRouteName => |e| filled(e.route_name),
        F::XdsFilterChainName => |e| filled(e.filter_chain),
    }
}
