//! Active health checks: what is asked of a host, and what its answer means. When it is asked: [`upstream::CheckConfig`].

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, SystemTime};

use ::upstream::{CheckConfig, CheckResult, Endpoint};
use bytes::{Bytes, BytesMut};
use prost::Message;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::r#type::v3 as types;
use proto::pb::google::protobuf::value::Kind;

use super::UpstreamProtocol;
use crate::connection::Connection;
use crate::headers::Known;
use crate::log::{LogEntry, UpstreamEntry};
use crate::matching::StringMatcher;
use crate::refusal::{Refusal, Taken, Within, each};
use crate::request::{Method, Request, Response};
use crate::route::Mutations;
use crate::wire::{duration, flag, number};

/// The check of a cluster.
#[derive(Debug, Clone)]
pub struct HealthCheck {
    pub reuse_connection: bool,
    /// ALPN to offer in place of the transport's own.
    pub alpn: Option<Vec<Vec<u8>>>,
    /// Labels by which the transport is chosen, in place of the endpoint's.
    pub transport_labels: Option<Vec<(Box<str>, Box<str>)>>,
    pub kind: CheckKind,
}

#[derive(Debug, Clone)]
pub enum CheckKind {
    Http(Box<HttpCheck>),
    /// Without `receive` a connection is all that is asked for.
    Tcp {
        send: Option<Bytes>,
        receive: Vec<Bytes>,
    },
    Grpc(Box<GrpcCheck>),
}

#[derive(Debug, Clone)]
pub struct HttpCheck {
    pub http2: bool,
    /// The body of the request.
    pub send: Option<Bytes>,
    /// Of the answer's body so much is looked at.
    pub body_limit: usize,
    host: Box<str>,
    path: Box<str>,
    method: Method,
    expected: Vec<Range<u16>>,
    retriable: Vec<Range<u16>>,
    receive: Vec<Bytes>,
    mutations: Mutations,
    service_name: Option<StringMatcher>,
}

#[derive(Debug, Clone)]
pub struct GrpcCheck {
    service: String,
    authority: Box<str>,
    mutations: Mutations,
}

/// Where the configuration says "no limit": what a health check answers is small.
const LARGEST_BODY: usize = 1 << 20;
const USER_AGENT: &str = "Envoy/HC";

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

impl HttpCheck {
    pub fn request(&self, cluster: &str, endpoint: &Endpoint, secure: bool) -> Request {
        let authority = authority(endpoint, &self.host, cluster);
        let mut request = Request::new(self.method.clone(), authority, &*self.path);
        request.scheme = if secure { "https" } else { "http" }.into();
        request.headers.set(Known::UserAgent, USER_AGENT);
        mutate(&self.mutations, &mut request, cluster, endpoint);
        if let Some(body) = &self.send {
            request.headers.set(Known::ContentLength, body.len().to_string());
        }
        request
    }

    /// Whether the answer's service name is looked at; that is counted.
    pub fn verifies(&self, response: &Response) -> bool {
        self.service_name.is_some() && self.expects(response.status)
    }

    pub fn judge(&self, response: &Response, body: &[u8]) -> CheckResult {
        if !contains_in_order(body, &self.receive) {
            return CheckResult::Unhealthy { retriable: false };
        }
        if !self.expects(response.status) {
            let retriable = self.retriable.iter().any(|range| range.contains(&response.status));
            return CheckResult::Unhealthy { retriable };
        }
        let name = response.headers.get_str("x-envoy-upstream-healthchecked-cluster");
        if self.service_name.as_ref().is_some_and(|m| !m.matches(name.unwrap_or_default().as_bytes())) {
            return CheckResult::Unhealthy { retriable: false };
        }
        CheckResult::Healthy { degraded: response.headers.get_str("x-envoy-degraded").is_some() }
    }

    fn expects(&self, status: u16) -> bool {
        self.expected.iter().any(|range| range.contains(&status))
    }
}

impl GrpcCheck {
    pub fn request(&self, cluster: &str, endpoint: &Endpoint, secure: bool, timeout: Duration) -> Request {
        let authority = authority(endpoint, &self.authority, cluster);
        let mut request = Request::new(Method::Post, authority, "/grpc.health.v1.Health/Check");
        request.scheme = if secure { "https" } else { "http" }.into();
        request.headers.set(Known::Te, "trailers");
        request.headers.set(Known::ContentType, "application/grpc");
        request.headers.set(Known::UserAgent, USER_AGENT);
        mutate(&self.mutations, &mut request, cluster, endpoint);
        let millis = timeout.as_millis().clamp(1, 99_999_999);
        request.headers.set(Known::GrpcTimeout, format!("{millis}m"));
        request
    }

    /// The request's message, in its frame.
    pub fn message(&self) -> Bytes {
        let message = HealthCheckRequest { service: self.service.clone() }.encode_to_vec();
        let mut frame = BytesMut::with_capacity(5 + message.len());
        frame.extend_from_slice(&[0]);
        frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
        frame.extend_from_slice(&message);
        frame.freeze()
    }

    pub fn judge(&self, response: &Response, body: &[u8], grpc_status: Option<u32>) -> CheckResult {
        let serving = || {
            let length = u32::from_be_bytes(body.get(1..5)?.try_into().ok()?) as usize;
            let message = body.get(5..)?;
            let whole = body.first() == Some(&0) && message.len() == length;
            HealthCheckResponse::decode(message).ok().filter(|m| whole && m.status == SERVING)
        };
        let healthy = response.status == 200 && grpc_status == Some(0) && serving().is_some();
        if healthy {
            CheckResult::Healthy { degraded: false }
        } else {
            CheckResult::Unhealthy { retriable: false }
        }
    }
}

/// The endpoint's own name for checks, the check's, the cluster's.
fn authority(endpoint: &Endpoint, host: &str, cluster: &str) -> String {
    [&*endpoint.check.hostname, host, cluster]
        .into_iter()
        .find(|name| !name.is_empty())
        .unwrap_or("")
        .to_owned()
}

fn mutate(mutations: &Mutations, request: &mut Request, cluster: &str, endpoint: &Endpoint) {
    if mutations.is_empty() {
        return;
    }
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let connection = Connection::new(local, local);
    let upstream = UpstreamEntry {
        cluster,
        cluster_raw: cluster,
        host: Some(&endpoint.address),
        host_name: &endpoint.hostname,
        ..UpstreamEntry::default()
    };
    let before = request.clone();
    let entry =
        LogEntry { request: Some(&before), upstream, ..LogEntry::new(&connection, SystemTime::now()) };
    mutations.apply_to_request(request, &entry);
}

/// Whether all parts are found one after the other, with anything between them.
pub fn contains_in_order(text: &[u8], parts: &[Bytes]) -> bool {
    let mut rest = text;
    parts.iter().all(|part| {
        let at = if part.is_empty() { Some(0) } else { rest.windows(part.len()).position(|w| w == part) };
        at.map(|at| rest = &rest[at + part.len()..]).is_some()
    })
}

/// The one check of a cluster, and how often it is made.
pub(super) fn compile(
    checks: &[core::HealthCheck],
    protocol: UpstreamProtocol,
    drop_removed: bool,
) -> Taken<Option<(HealthCheck, CheckConfig)>> {
    let check = match checks {
        [] => return Ok(None),
        [check] => check,
        _ => return Err(Refusal::new("takes one check").under("healthChecks")),
    };
    let both = config(check, drop_removed).and_then(|config| Ok((health_check(check, protocol)?, config)));
    both.map(Some).at("healthChecks", 0)
}

fn config(check: &core::HealthCheck, drop_removed: bool) -> Taken<CheckConfig> {
    let missing = |field: &str| Refusal::new("must be greater than 0").under(field);
    let required =
        |value, field: &str| duration(value, field)?.filter(|d| !d.is_zero()).ok_or_else(|| missing(field));
    let positive = |value, field: &str| match duration(value, field)? {
        Some(d) if d.is_zero() => Err(missing(field)),
        d => Ok(d),
    };
    let count = |value, field: &str| number(value).ok_or_else(|| Refusal::new("is missing").under(field));
    let interval = required(&check.interval, "interval")?;
    let no_traffic =
        positive(&check.no_traffic_interval, "noTrafficInterval")?.unwrap_or(Duration::from_secs(60));
    let unhealthy = positive(&check.unhealthy_interval, "unhealthyInterval")?.unwrap_or(interval);
    Ok(CheckConfig {
        timeout: required(&check.timeout, "timeout")?,
        interval,
        initial_jitter: duration(&check.initial_jitter, "initialJitter")?.unwrap_or_default(),
        interval_jitter: duration(&check.interval_jitter, "intervalJitter")?.unwrap_or_default(),
        interval_jitter_percent: check.interval_jitter_percent,
        unhealthy_threshold: count(&check.unhealthy_threshold, "unhealthyThreshold")?,
        healthy_threshold: count(&check.healthy_threshold, "healthyThreshold")?,
        no_traffic_interval: no_traffic,
        no_traffic_healthy_interval: positive(
            &check.no_traffic_healthy_interval,
            "noTrafficHealthyInterval",
        )?
        .unwrap_or(no_traffic),
        unhealthy_interval: unhealthy,
        unhealthy_edge_interval: positive(&check.unhealthy_edge_interval, "unhealthyEdgeInterval")?
            .unwrap_or(unhealthy),
        healthy_edge_interval: positive(&check.healthy_edge_interval, "healthyEdgeInterval")?
            .unwrap_or(interval),
        drop_removed,
    })
}

fn health_check(check: &core::HealthCheck, protocol: UpstreamProtocol) -> Taken<HealthCheck> {
    use core::health_check::HealthChecker as Checker;
    let kind = match &check.health_checker {
        Some(Checker::HttpHealthCheck(http)) => {
            CheckKind::Http(Box::new(self::http(http).within("httpHealthCheck")?))
        }
        Some(Checker::TcpHealthCheck(tcp)) => CheckKind::Tcp {
            send: tcp
                .send
                .as_ref()
                .map(|p| payload(p).within("send").within("tcpHealthCheck"))
                .transpose()?,
            receive: each(&tcp.receive, "receive", payload).within("tcpHealthCheck")?,
        },
        Some(Checker::GrpcHealthCheck(_)) if protocol != UpstreamProtocol::Http2 => {
            return Err(Refusal::new("needs a cluster that speaks HTTP/2").under("grpcHealthCheck"));
        }
        Some(Checker::GrpcHealthCheck(grpc)) => CheckKind::Grpc(Box::new(GrpcCheck {
            service: grpc.service_name.clone(),
            authority: grpc.authority.as_str().into(),
            mutations: Mutations::compile(&grpc.initial_metadata, &[], ("initialMetadata", ""))
                .within("grpcHealthCheck")?,
        })),
        Some(Checker::CustomHealthCheck(_)) => return Err(Refusal::unsupported("customHealthCheck")),
        None => return Err(Refusal::new("needs httpHealthCheck, tcpHealthCheck or grpcHealthCheck")),
    };
    let alpn = check.tls_options.as_ref().map(|o| &o.alpn_protocols).filter(|p| !p.is_empty());
    Ok(HealthCheck {
        reuse_connection: flag(&check.reuse_connection, true),
        alpn: alpn.map(|protocols| protocols.iter().map(|p| p.as_bytes().to_vec()).collect()),
        transport_labels: check.transport_socket_match_criteria.as_ref().map(|criteria| {
            let text = |kind: &Option<Kind>| match kind {
                Some(Kind::StringValue(text)) => Some(text.as_str().into()),
                _ => None,
            };
            let fields = criteria.fields.iter();
            fields.filter_map(|(key, value)| Some((key.as_str().into(), text(&value.kind)?))).collect()
        }),
        kind,
    })
}

fn http(http: &core::health_check::HttpHealthCheck) -> Taken<HttpCheck> {
    use core::RequestMethod as M;
    if http.path.is_empty() || !http.path.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Refusal::new("must be a path, without blanks").under("path"));
    }
    let method = match M::try_from(http.method) {
        Ok(M::MethodUnspecified | M::Get) => Method::Get,
        Ok(M::Connect) | Err(_) => {
            return Err(Refusal::new("cannot be used for health checks").under("method"));
        }
        Ok(other) => Method::new(other.as_str_name()),
    };
    let send = http.send.as_ref().map(|p| payload(p).within("send")).transpose()?;
    if send.is_some() && matches!(method, Method::Get | Method::Head | Method::Delete | Method::Trace) {
        return Err(
            Refusal::new(format_args!("{method} has no body; use POST, PUT, PATCH or OPTIONS")).under("send")
        );
    }
    let http2 = match types::CodecClientType::try_from(http.codec_client_type) {
        Ok(types::CodecClientType::Http1) => false,
        Ok(types::CodecClientType::Http2) => true,
        _ => return Err(Refusal::new("must be HTTP1 or HTTP2").under("codecClientType")),
    };
    let body_limit = match http.response_buffer_size.as_ref().map_or(1024, |n| n.value) {
        0 => LARGEST_BODY,
        n => usize::try_from(n).unwrap_or(LARGEST_BODY).min(LARGEST_BODY),
    };
    let receive = each(&http.receive, "receive", payload)?;
    if receive.iter().map(Bytes::len).sum::<usize>() > body_limit {
        return Err(Refusal::new("is longer than responseBufferSize").under("receive"));
    }
    let mut expected = each(&http.expected_statuses, "expectedStatuses", statuses)?;
    if expected.is_empty() {
        expected.push(200..201);
    }
    let names = ("requestHeadersToAdd", "requestHeadersToRemove");
    Ok(HttpCheck {
        http2,
        send,
        body_limit: if receive.is_empty() { 0 } else { body_limit },
        host: http.host.as_str().into(),
        path: http.path.as_str().into(),
        method,
        expected,
        retriable: each(&http.retriable_statuses, "retriableStatuses", statuses)?,
        receive,
        mutations: Mutations::compile(&http.request_headers_to_add, &http.request_headers_to_remove, names)?,
        service_name: http
            .service_name_matcher
            .as_ref()
            .map(|m| StringMatcher::compile(m).within("serviceNameMatcher"))
            .transpose()?,
    })
}

fn statuses(range: &types::Int64Range) -> Taken<Range<u16>> {
    match (u16::try_from(range.start), u16::try_from(range.end)) {
        (Ok(start), Ok(end)) if start >= 100 && end <= 600 && start < end => Ok(start..end),
        _ => Err(Refusal::new("must be a range of statuses from 100 to 600, its end not included")),
    }
}

/// Hexadecimal digits, or bytes.
fn payload(payload: &core::health_check::Payload) -> Taken<Bytes> {
    use core::health_check::payload::Payload;
    match &payload.payload {
        Some(Payload::Binary(bytes)) => Ok(bytes.clone().into()),
        Some(Payload::Text(text)) => {
            let digits = text.as_bytes().chunks(2).map(|pair| {
                let text = std::str::from_utf8(pair).ok().filter(|t| t.len() == 2)?;
                u8::from_str_radix(text, 16).ok()
            });
            let bytes: Option<Vec<u8>> = digits.collect();
            let wrong = || Refusal::new("must be hexadecimal digits, two for each byte").under("text");
            bytes.filter(|b| !b.is_empty()).map(Bytes::from).ok_or_else(wrong)
        }
        None => Err(Refusal::new("needs text or binary")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(json: serde_json::Value) -> Taken<HttpCheck> {
        let bytes =
            proto::json::from_value("envoy.config.core.v3.HealthCheck.HttpHealthCheck", &json).unwrap();
        http(&core::health_check::HttpHealthCheck::decode(&bytes[..]).unwrap())
    }

    #[test]
    fn answers_are_judged_by_status_body_and_service() {
        let check = checked(serde_json::json!({
            "path": "/healthz",
            "expectedStatuses": [{"start": 200, "end": 300}],
            "retriableStatuses": [{"start": 503, "end": 504}],
            "receive": [{"text": "6f6b"}, {"binary": "IQ=="}],
            "serviceNameMatcher": {"prefix": "reviews"},
        }))
        .unwrap();
        let healthy = CheckResult::Healthy { degraded: false };
        let unhealthy = CheckResult::Unhealthy { retriable: false };
        for (status, headers, body, expected) in [
            (200, &[("x-envoy-upstream-healthchecked-cluster", "reviews-v1")][..], "all ok!", healthy),
            (204, &[("x-envoy-upstream-healthchecked-cluster", "ratings")], "ok!", unhealthy),
            (200, &[], "ok!", unhealthy),
            (200, &[("x-envoy-upstream-healthchecked-cluster", "reviews")], "! ok", unhealthy),
            (503, &[], "ok!", CheckResult::Unhealthy { retriable: true }),
            (500, &[], "ok!", unhealthy),
            (
                200,
                &[("x-envoy-upstream-healthchecked-cluster", "reviews"), ("x-envoy-degraded", "")],
                "ok!",
                CheckResult::Healthy { degraded: true },
            ),
        ] {
            let mut response = Response::new(status);
            headers.iter().for_each(|(name, value)| response.headers.append(*name, (*value).to_owned()));
            assert_eq!(check.judge(&response, body.as_bytes()), expected, "{status} {headers:?} {body}");
        }
    }

    #[test]
    fn what_cannot_be_checked_is_refused_by_name() {
        for (json, field) in [
            (serde_json::json!({"path": ""}), "path"),
            (serde_json::json!({"path": "/a b"}), "path"),
            (serde_json::json!({"path": "/", "method": "CONNECT"}), "method"),
            (serde_json::json!({"path": "/", "send": {"text": "00"}}), "send"),
            (serde_json::json!({"path": "/", "receive": [{"text": "0"}]}), "receive[0].text"),
            (
                serde_json::json!({"path": "/", "expectedStatuses": [{"start": 99, "end": 200}]}),
                "expectedStatuses[0]",
            ),
            (serde_json::json!({"path": "/", "codecClientType": "HTTP3"}), "codecClientType"),
        ] {
            assert_eq!(checked(json.clone()).unwrap_err().field(), field, "{json}");
        }
    }

    #[test]
    fn grpc_wants_a_serving_message_and_status_zero() {
        let check = GrpcCheck { service: "a".into(), authority: "".into(), mutations: Mutations::default() };
        assert_eq!(&check.message()[..], [0, 0, 0, 0, 3, 10, 1, b'a']);
        let ok = Response::new(200);
        for (body, status, healthy) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], Some(0), true),
            (&[0, 0, 0, 0, 2, 8, 2], Some(0), false),
            (&[1, 0, 0, 0, 2, 8, 1], Some(0), false),
            (&[0, 0, 0, 0, 9, 8, 1], Some(0), false),
            (&[0, 0, 0, 0, 2, 8, 1], Some(14), false),
            (&[0, 0, 0, 0, 2, 8, 1], None, false),
            (&[], Some(0), false),
        ] {
            let judged = check.judge(&ok, body, status);
            assert_eq!(matches!(judged, CheckResult::Healthy { .. }), healthy, "{body:?} {status:?}");
        }
    }
}
