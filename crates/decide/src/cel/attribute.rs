//! Envoy's attributes over a log entry.

use serde_json::{Map, Value};

use crate::headers::{HeaderName, Headers, Known};
use crate::log::LogEntry;

/// An attribute and, for maps, the keys below it.
#[derive(Debug)]
pub(super) struct Path {
    get: fn(&LogEntry<'_>) -> Option<Value>,
    headers: Option<(Side, Option<HeaderName>)>,
    keys: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
enum Side {
    Request,
    Response,
    Trailers,
}

fn none(_: &LogEntry<'_>) -> Option<Value> {
    None
}

impl Path {
    /// From `["request", "headers", "x-user"]`.
    pub(super) fn new(segments: &[String]) -> Result<Self, String> {
        let unknown = || format!("{} is no attribute that this proxy knows", segments.join("."));
        let [root, field, keys @ ..] = segments else { return Err(unknown()) };
        let side = match (root.as_str(), field.as_str()) {
            ("request", "headers") => Some(Side::Request),
            ("response", "headers") => Some(Side::Response),
            ("response", "trailers") => Some(Side::Trailers),
            _ => None,
        };
        if let Some(side) = side {
            let key = match keys {
                [] => None,
                [key] => Some(HeaderName::from(key.as_str())),
                _ => return Err(unknown()),
            };
            return Ok(Self { get: none, headers: Some((side, key)), keys: Vec::new() });
        }
        let get = scalar(root, field).ok_or_else(unknown)?;
        if !keys.is_empty() && (root.as_str(), field.as_str()) != ("metadata", "filter_metadata") {
            return Err(unknown());
        }
        Ok(Self { get, headers: None, keys: keys.to_vec() })
    }

    pub(super) fn value(&self, entry: &LogEntry<'_>) -> Option<Value> {
        if let Some((side, key)) = &self.headers {
            return headers(entry, *side, key.as_ref());
        }
        if let [filter, path @ ..] = self.keys.as_slice() {
            let metadata = &entry.request?.metadata;
            return match path {
                [] => metadata.filter(filter).map(|m| Value::Object(m.clone())),
                path => metadata.get(filter, path).cloned(),
            };
        }
        (self.get)(entry)
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

fn scalar(root: &str, field: &str) -> Option<fn(&LogEntry<'_>) -> Option<Value>> {
    Some(match (root, field) {
        ("request", "path") => |e| e.request.map(|r| r.path.clone().into()),
        ("request", "url_path") => |e| e.request.map(|r| r.path_only().into()),
        ("request", "query") => |e| e.request.map(|r| r.query().into()),
        ("request", "host") => |e| e.request.map(|r| r.authority.clone().into()),
        ("request", "scheme") => |e| e.request.map(|r| r.scheme.to_string().into()),
        ("request", "method") => |e| e.request.map(|r| r.method.as_str().into()),
        ("request", "protocol") => |e| e.request.map(|r| r.version.as_str().into()),
        ("request", "id") => |e| header(e, Known::XRequestId),
        ("request", "referer") => |e| header(e, Known::Referer),
        ("request", "useragent") => |e| header(e, Known::UserAgent),
        ("request", "size") => |e| Some(e.bytes_received.into()),
        ("request", "total_size") => |e| Some((e.bytes_received + e.request_header_bytes).into()),
        // Seconds; CEL's durations compare as numbers here.
        ("request", "duration") | ("response", "duration") => {
            |e| e.times.total.map(|d| d.as_secs_f64().into())
        }
        ("response", "code") => |e| (e.response_code != 0).then(|| e.response_code.into()),
        ("response", "code_details") => |e| filled(e.response_code_details),
        ("response", "flags") => |e| {
            let bits = crate::flags::ResponseFlags::ALL.iter().zip(0u32..);
            Some(
                bits.filter(|((f, _, _), _)| e.flags.has(*f)).map(|(_, bit)| 1u64 << bit).sum::<u64>().into(),
            )
        },
        ("response", "grpc_status") => |e| e.grpc_status().map(Into::into),
        ("response", "size") => |e| Some(e.bytes_sent.into()),
        ("response", "total_size") => {
            |e| Some((e.bytes_sent + e.response_header_bytes + e.response_trailer_bytes).into())
        }
        ("source", "address") => |e| Some(e.downstream_remote.to_string().into()),
        ("source", "port") => |e| Some(e.downstream_remote.port().into()),
        ("destination", "address") => |e| Some(e.connection.local.to_string().into()),
        ("destination", "port") => |e| Some(e.connection.local.port().into()),
        ("connection", "id") => |e| Some(e.connection.id.into()),
        ("connection", "mtls") => |e| Some(e.connection.tls.as_ref().is_some_and(|t| t.peer_verified).into()),
        ("connection", "requested_server_name") => |e| Some((*e.connection.server_name).into()),
        ("connection", "tls_version") => |e| e.connection.tls.as_ref().and_then(|t| filled(&t.version)),
        ("connection", "uri_san_peer_certificate") => {
            |e| e.connection.tls.as_ref().and_then(|t| t.peer_uris.first()).map(|u| (**u).into())
        }
        ("connection", "dns_san_peer_certificate") => {
            |e| e.connection.tls.as_ref().and_then(|t| t.peer_dns.first()).map(|u| (**u).into())
        }
        ("connection", "subject_peer_certificate") => {
            |e| e.connection.tls.as_ref().and_then(|t| filled(&t.peer_subject))
        }
        ("connection", "uri_san_local_certificate") => {
            |e| e.connection.tls.as_ref().and_then(|t| t.local_uris.first()).map(|u| (**u).into())
        }
        ("connection", "termination_details") => |e| filled(e.connection_termination_details),
        ("upstream", "address") => |e| e.upstream.host.map(|a| a.to_string().into()),
        ("upstream", "port") => |e| e.upstream.host.and_then(upstream::Address::port).map(Into::into),
        ("upstream", "local_address") => |e| e.upstream.local.map(|a| a.to_string().into()),
        ("upstream", "transport_failure_reason") => |e| filled(e.upstream.transport_failure),
        ("upstream", "request_attempt_count") => |e| Some(e.upstream.attempts.into()),
        ("xds", "cluster_name") => |e| filled(e.upstream.cluster_raw),
        ("xds", "route_name") => |e| filled(e.route_name),
        ("xds", "filter_chain_name") => |e| filled(e.filter_chain),
        ("metadata", "filter_metadata") => none,
        _ => return None,
    })
}
