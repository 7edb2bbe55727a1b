//! Entries of Envoy's own access log service (`envoy.data.accesslog.v3`).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::config::core::v3::address::Address as Kind;
use proto::pb::envoy::data::accesslog::v3 as pb;
use proto::pb::envoy::data::accesslog::v3::http_access_log_entry::HttpVersion;
use proto::pb::envoy::data::accesslog::v3::tls_properties::certificate_properties::{
    SubjectAltName, subject_alt_name::San,
};
use proto::pb::envoy::data::accesslog::v3::tls_properties::{CertificateProperties, TlsVersion};
use proto::pb::google::protobuf as wkt;
use upstream::Address;

use super::export::LogRecord;
use crate::connection::{Connection, TlsInfo};
use crate::ext_authz::struct_of;
use crate::flags::ResponseFlags as Flags;
use crate::headers::{HeaderName, Headers, Known};
use crate::log::LogEntry;
use crate::request::{Method, Request, Version};

/// Which kind of entry, and what it tells besides.
#[derive(Debug, Clone)]
pub(super) enum EntryFormat {
    Http(Arc<Additional>),
    Tcp,
}

#[derive(Debug)]
pub(super) struct Additional {
    request: Vec<HeaderName>,
    response: Vec<HeaderName>,
    trailers: Vec<HeaderName>,
}

impl EntryFormat {
    pub(super) fn http(request: &[String], response: &[String], trailers: &[String]) -> Self {
        let names = |names: &[String]| {
            names.iter().map(|name| HeaderName::from(name.to_ascii_lowercase().as_str())).collect()
        };
        Self::Http(Arc::new(Additional {
            request: names(request),
            response: names(response),
            trailers: names(trailers),
        }))
    }

    pub(super) fn record(&self, entry: &LogEntry<'_>) -> LogRecord {
        match self {
            Self::Http(additional) => LogRecord::Http(Box::new(http(entry, additional))),
            Self::Tcp => LogRecord::Tcp(Box::new(pb::TcpAccessLogEntry {
                common_properties: Some(common(entry)),
                connection_properties: Some(pb::ConnectionProperties {
                    received_bytes: entry.bytes_received,
                    sent_bytes: entry.bytes_sent,
                }),
            })),
        }
    }
}

fn http(entry: &LogEntry<'_>, additional: &Additional) -> pb::HttpAccessLogEntry {
    let version = entry.request.map(|request| request.version).or(entry.protocol);
    pb::HttpAccessLogEntry {
        common_properties: Some(common(entry)),
        protocol_version: match version {
            None => HttpVersion::ProtocolUnspecified,
            Some(Version::Http10) => HttpVersion::Http10,
            Some(Version::Http11) => HttpVersion::Http11,
            Some(Version::Http2) => HttpVersion::Http2,
        }
        .into(),
        request: Some(entry.request.map_or_else(Default::default, |r| request(entry, r, additional))),
        response: Some(pb::HttpResponseProperties {
            response_code: (entry.response_code != 0)
                .then(|| wkt::UInt32Value { value: u32::from(entry.response_code) }),
            response_headers_bytes: entry.response_header_bytes,
            response_body_bytes: entry.bytes_sent,
            response_headers: told(entry.response_headers, &additional.response),
            response_trailers: told(entry.response_trailers, &additional.trailers),
            response_code_details: entry.response_code_details.to_owned(),
            ..Default::default()
        }),
    }
}

fn request(entry: &LogEntry<'_>, request: &Request, additional: &Additional) -> pb::HttpRequestProperties {
    let text = |name: Known| request.headers.known_str(name).unwrap_or_default().to_owned();
    pb::HttpRequestProperties {
        request_method: method(&request.method).into(),
        scheme: request.scheme.to_string(),
        authority: request.authority.to_string(),
        path: request.path.to_string(),
        user_agent: text(Known::UserAgent),
        referer: text(Known::Referer),
        forwarded_for: text(Known::XForwardedFor),
        request_id: text(Known::XRequestId),
        original_path: text(Known::XEnvoyOriginalPath),
        request_headers_bytes: entry.request_header_bytes,
        request_body_bytes: entry.bytes_received,
        request_headers: told(Some(&request.headers), &additional.request),
        ..Default::default()
    }
}

fn method(method: &Method) -> core::RequestMethod {
    use core::RequestMethod as M;
    match method {
        Method::Get => M::Get,
        Method::Head => M::Head,
        Method::Post => M::Post,
        Method::Put => M::Put,
        Method::Delete => M::Delete,
        Method::Connect => M::Connect,
        Method::Options => M::Options,
        Method::Trace => M::Trace,
        Method::Patch => M::Patch,
        Method::Other(_) => M::MethodUnspecified,
    }
}

/// Those of the headers that are there; several of one name in one, as Envoy has them.
fn told(headers: Option<&Headers>, names: &[HeaderName]) -> HashMap<String, String> {
    let Some(headers) = headers.filter(|_| !names.is_empty()) else { return HashMap::new() };
    let value = |name: &HeaderName| {
        let value = headers.joined(name)?;
        Some((name.as_str().to_owned(), String::from_utf8_lossy(&value).into_owned()))
    };
    names.iter().filter_map(value).collect()
}

fn common(entry: &LogEntry<'_>) -> pb::AccessLogCommon {
    let connection = entry.connection;
    let (times, upstream) = (&entry.times, &entry.upstream);
    let is_http = entry.request.is_some() || entry.protocol.is_some();
    pb::AccessLogCommon {
        downstream_remote_address: Some(socket(entry.downstream_remote)),
        downstream_direct_remote_address: Some(socket(connection.direct_remote)),
        downstream_local_address: Some(socket(connection.local)),
        tls_properties: connection.tls.as_deref().map(|tls| tls_properties(connection, tls)),
        start_time: Some(timestamp(entry)),
        time_to_last_rx_byte: times.last_request_byte.map(duration),
        time_to_first_upstream_tx_byte: times.first_upstream_tx.map(duration),
        time_to_last_upstream_tx_byte: times.last_upstream_tx.map(duration),
        time_to_first_upstream_rx_byte: times.first_upstream_rx.map(duration),
        time_to_last_upstream_rx_byte: times.last_upstream_rx.map(duration),
        time_to_first_downstream_tx_byte: times.first_downstream_tx.map(duration),
        time_to_last_downstream_tx_byte: times.last_downstream_tx.map(duration),
        upstream_remote_address: upstream.host.map(address),
        upstream_local_address: upstream.local.map(socket),
        upstream_cluster: upstream.cluster.to_owned(),
        response_flags: (!entry.flags.is_empty()).then(|| flags(entry.flags)),
        metadata: metadata(entry),
        upstream_transport_failure_reason: upstream.transport_failure.to_owned(),
        route_name: entry.route_name.to_owned(),
        duration: times.total.map(duration),
        upstream_request_attempt_count: upstream.attempts,
        connection_termination_details: entry.connection_termination_details.to_owned(),
        stream_id: entry.stream_id().to_owned(),
        downstream_transport_failure_reason: entry.downstream_transport_failure.to_owned(),
        upstream_wire_bytes_sent: entry.upstream_wire_bytes_sent,
        upstream_wire_bytes_received: entry.upstream_wire_bytes_received,
        access_log_type: if is_http {
            pb::AccessLogType::DownstreamEnd
        } else {
            pb::AccessLogType::TcpConnectionEnd
        }
        .into(),
        ..Default::default()
    }
}

fn metadata(entry: &LogEntry<'_>) -> Option<core::Metadata> {
    let metadata = entry.request.map(|request| &request.metadata).or(entry.metadata)?;
    let filter_metadata: HashMap<_, _> =
        metadata.iter().map(|(filter, fields)| (filter.to_string(), struct_of(fields))).collect();
    (!filter_metadata.is_empty()).then(|| core::Metadata { filter_metadata, ..Default::default() })
}

fn timestamp(entry: &LogEntry<'_>) -> wkt::Timestamp {
    let since = entry.start.duration_since(UNIX_EPOCH).unwrap_or_default();
    wkt::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos().cast_signed(),
    }
}

fn duration(duration: Duration) -> wkt::Duration {
    wkt::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().cast_signed(),
    }
}

fn socket(address: SocketAddr) -> core::Address {
    socket_address(address.ip().to_canonical().to_string(), address.port())
}

fn socket_address(address: String, port: u16) -> core::Address {
    let port = core::socket_address::PortSpecifier::PortValue(u32::from(port));
    let socket = core::SocketAddress { address, port_specifier: Some(port), ..Default::default() };
    core::Address { address: Some(Kind::SocketAddress(socket)) }
}

fn address(address: &Address) -> core::Address {
    match address {
        Address::Socket(address) => socket(*address),
        Address::Name(name, port) => socket_address(name.to_string(), *port),
        Address::Pipe(path) => {
            let pipe = core::Pipe { path: path.to_string(), mode: 0 };
            core::Address { address: Some(Kind::Pipe(pipe)) }
        }
    }
}

fn tls_properties(connection: &Connection, tls: &TlsInfo) -> pb::TlsProperties {
    let sans = |uris: &[Arc<str>], dns: &[Arc<str>]| {
        let uris = uris.iter().map(|uri| San::Uri(uri.to_string()));
        let dns = dns.iter().map(|name| San::Dns(name.to_string()));
        uris.chain(dns).map(|san| SubjectAltName { san: Some(san) }).collect()
    };
    pb::TlsProperties {
        tls_version: match &*tls.version {
            "TLSv1.2" => TlsVersion::TlSv12,
            "TLSv1.3" => TlsVersion::TlSv13,
            _ => TlsVersion::VersionUnspecified,
        }
        .into(),
        tls_cipher_suite: cipher_id(&tls.cipher).map(|value| wkt::UInt32Value { value }),
        tls_sni_hostname: connection.server_name.to_string(),
        local_certificate_properties: Some(CertificateProperties {
            subject_alt_name: sans(&tls.local_uris, &tls.local_dns),
            subject: tls.local_subject.to_string(),
            issuer: String::new(),
        }),
        peer_certificate_properties: Some(CertificateProperties {
            subject_alt_name: sans(&tls.peer_uris, &tls.peer_dns),
            subject: tls.peer_subject.to_string(),
            issuer: tls.peer_issuer.to_string(),
        }),
        tls_session_id: tls.session_id.to_string(),
        ja3_fingerprint: String::new(),
    }
}

/// The number of a cipher suite that goes by OpenSSL's name: IANA's registry of TLS cipher suites.
fn cipher_id(name: &str) -> Option<u32> {
    Some(match name {
        "TLS_AES_128_GCM_SHA256" => 0x1301,
        "TLS_AES_256_GCM_SHA384" => 0x1302,
        "TLS_CHACHA20_POLY1305_SHA256" => 0x1303,
        "ECDHE-ECDSA-AES128-GCM-SHA256" => 0xc02b,
        "ECDHE-ECDSA-AES256-GCM-SHA384" => 0xc02c,
        "ECDHE-RSA-AES128-GCM-SHA256" => 0xc02f,
        "ECDHE-RSA-AES256-GCM-SHA384" => 0xc030,
        "ECDHE-RSA-CHACHA20-POLY1305" => 0xcca8,
        "ECDHE-ECDSA-CHACHA20-POLY1305" => 0xcca9,
        _ => return None,
    })
}

fn flags(flags: Flags) -> pb::ResponseFlags {
    use pb::response_flags::{Unauthorized, unauthorized::Reason};
    let has = |flag| flags.has(flag);
    pb::ResponseFlags {
        failed_local_healthcheck: has(Flags::FAILED_LOCAL_HEALTH_CHECK),
        no_healthy_upstream: has(Flags::NO_HEALTHY_UPSTREAM),
        upstream_request_timeout: has(Flags::UPSTREAM_REQUEST_TIMEOUT),
        local_reset: has(Flags::LOCAL_RESET),
        upstream_remote_reset: has(Flags::UPSTREAM_REMOTE_RESET),
        upstream_connection_failure: has(Flags::UPSTREAM_CONNECTION_FAILURE),
        upstream_connection_termination: has(Flags::UPSTREAM_CONNECTION_TERMINATION),
        upstream_overflow: has(Flags::UPSTREAM_OVERFLOW),
        no_route_found: has(Flags::NO_ROUTE_FOUND),
        delay_injected: has(Flags::DELAY_INJECTED),
        fault_injected: has(Flags::FAULT_INJECTED),
        rate_limited: has(Flags::RATE_LIMITED),
        unauthorized_details: has(Flags::UNAUTHORIZED_EXTERNAL_SERVICE)
            .then_some(Unauthorized { reason: Reason::ExternalService.into() }),
        rate_limit_service_error: has(Flags::RATELIMIT_SERVICE_ERROR),
        downstream_connection_termination: has(Flags::DOWNSTREAM_CONNECTION_TERMINATION),
        upstream_retry_limit_exceeded: has(Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED),
        stream_idle_timeout: has(Flags::STREAM_IDLE_TIMEOUT),
        invalid_envoy_request_headers: has(Flags::INVALID_REQUEST_HEADERS),
        downstream_protocol_error: has(Flags::DOWNSTREAM_PROTOCOL_ERROR),
        upstream_max_stream_duration_reached: has(Flags::UPSTREAM_MAX_STREAM_DURATION),
        response_from_cache_filter: has(Flags::RESPONSE_FROM_CACHE),
        no_filter_config_found: has(Flags::NO_FILTER_CONFIG),
        duration_timeout: has(Flags::DURATION_TIMEOUT),
        upstream_protocol_error: has(Flags::UPSTREAM_PROTOCOL_ERROR),
        no_cluster_found: has(Flags::NO_CLUSTER_FOUND),
        overload_manager: has(Flags::OVERLOAD_MANAGER),
        dns_resolution_failure: has(Flags::DNS_FAILURE),
        downstream_remote_reset: has(Flags::DOWNSTREAM_REMOTE_RESET),
    }
}
