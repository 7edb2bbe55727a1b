//! What an access log line (and a header with operators) can tell of a request or connection: plain data.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use upstream::Address;

use crate::connection::{Connection, TlsInfo};
use crate::flags::ResponseFlags;
use crate::headers::Headers;
use crate::metadata::{DynamicMetadata, PeerMetadata};
use crate::request::{Request, Version};

/// One finished (or, for headers, running) request or TCP connection. Everything that is not known yet is empty.
#[derive(Debug, Clone)]
pub struct LogEntry<'a> {
    pub connection: &'a Connection,
    pub start: SystemTime,
    /// The client as decided: by `x-forwarded-for` where that is trusted.
    pub downstream_remote: SocketAddr,
    /// As it was sent upstream; nothing for plain TCP.
    pub request: Option<&'a Request>,
    /// What a client spoke whose request could not be read.
    pub protocol: Option<Version>,
    /// What network filters found of a connection of plain TCP.
    pub metadata: Option<&'a DynamicMetadata>,
    pub response_headers: Option<&'a Headers>,
    pub response_trailers: Option<&'a Headers>,
    /// 0 is none: written as `0`, as Envoy does.
    pub response_code: u16,
    pub response_code_details: &'a str,
    pub flags: ResponseFlags,
    /// Body bytes of the request, or bytes from the client.
    pub bytes_received: u64,
    /// Body bytes of the response, or bytes to the client.
    pub bytes_sent: u64,
    pub request_header_bytes: u64,
    pub response_header_bytes: u64,
    pub response_trailer_bytes: u64,
    pub upstream_wire_bytes_sent: u64,
    pub upstream_wire_bytes_received: u64,
    pub times: Times,
    pub route_name: &'a str,
    pub virtual_cluster: &'a str,
    pub filter_chain: &'a str,
    pub listener: &'a str,
    pub upstream: UpstreamEntry<'a>,
    pub connection_termination_details: &'a str,
    pub downstream_transport_failure: &'a str,
    /// Body of a response that the proxy made itself.
    pub local_reply_body: &'a str,
    /// The request's own span and its trace.
    pub span: Option<(u128, u64)>,
    /// This machine's name.
    pub hostname: &'a str,
    /// By name, already as text.
    pub filter_state: &'a [(Arc<str>, String)],
    pub downstream_peer: Option<&'a PeerMetadata>,
    /// Whether the request's trace is sampled.
    pub sampled: bool,
}

/// Durations since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// Until the end: `%DURATION%`.
    pub total: Option<Duration>,
    /// Until the request's last byte was received.
    pub last_request_byte: Option<Duration>,
    pub first_upstream_tx: Option<Duration>,
    pub last_upstream_tx: Option<Duration>,
    /// Until the response's first byte arrived from upstream.
    pub first_upstream_rx: Option<Duration>,
    pub last_upstream_rx: Option<Duration>,
    /// Until the response's first byte was sent.
    pub first_downstream_tx: Option<Duration>,
    pub last_downstream_tx: Option<Duration>,
    pub handshake: Option<Duration>,
    /// Spent waiting for a connection.
    pub pool_ready: Option<Duration>,
}

/// The upstream end.
#[derive(Debug, Clone, Copy, Default)]
pub struct UpstreamEntry<'a> {
    /// For observability: the alternative name where there is one.
    pub cluster: &'a str,
    pub cluster_raw: &'a str,
    pub host: Option<&'a Address>,
    pub host_name: &'a str,
    pub local: Option<SocketAddr>,
    /// Tries in all; 0 when none was made.
    pub attempts: u32,
    pub transport_failure: &'a str,
    pub tls: Option<&'a TlsInfo>,
    pub protocol: Option<Version>,
    pub connection_id: Option<u64>,
    pub peer: Option<&'a PeerMetadata>,
}

impl<'a> LogEntry<'a> {
    pub fn new(connection: &'a Connection, start: SystemTime) -> Self {
        Self {
            connection,
            start,
            downstream_remote: connection.remote,
            request: None,
            protocol: None,
            metadata: None,
            response_headers: None,
            response_trailers: None,
            response_code: 0,
            response_code_details: "",
            flags: ResponseFlags::NONE,
            bytes_received: 0,
            bytes_sent: 0,
            request_header_bytes: 0,
            response_header_bytes: 0,
            response_trailer_bytes: 0,
            upstream_wire_bytes_sent: 0,
            upstream_wire_bytes_received: 0,
            times: Times::default(),
            route_name: "",
            virtual_cluster: "",
            filter_chain: "",
            listener: "",
            upstream: UpstreamEntry::default(),
            connection_termination_details: "",
            downstream_transport_failure: "",
            local_reply_body: "",
            span: None,
            hostname: "",
            filter_state: &[],
            downstream_peer: None,
            sampled: false,
        }
    }

    /// What the request goes by: its `x-request-id`.
    pub fn stream_id(&self) -> &str {
        self.request.and_then(|r| r.headers.known_str(crate::headers::Known::XRequestId)).unwrap_or_default()
    }

    /// As tracers write it: in 16 digits where it has no more.
    pub fn trace_id(&self) -> Option<String> {
        let (trace, _) = self.span?;
        Some(if trace >> 64 == 0 { format!("{trace:016x}") } else { format!("{trace:032x}") })
    }

    /// The gRPC status that the answer carried, or that its HTTP status stands for; -1 for one that is none.
    pub fn grpc_status(&self) -> Option<i64> {
        let of = |headers: Option<&Headers>| {
            let status = headers?.known(crate::headers::Known::GrpcStatus)?;
            let number = std::str::from_utf8(status).ok().and_then(|s| s.parse::<u32>().ok());
            Some(number.map_or(-1, i64::from))
        };
        of(self.response_trailers).or_else(|| of(self.response_headers)).or_else(|| {
            self.request
                .filter(|r| r.is_grpc())
                .and((self.response_code != 0).then(|| i64::from(grpc_of_http(self.response_code))))
        })
    }
}

/// The gRPC project's "HTTP to gRPC Status Code Mapping".
pub fn grpc_of_http(status: u16) -> u32 {
    match status {
        200 => 0,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}
