//! Envoy's command operators: which there are, and what they take.

use super::Fault;
use crate::TimeFormat;

/// What an operator stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    Header {
        whose: Whose,
        name: String,
        alternative: Option<String>,
    },
    Query(Option<String>),
    StartTime(TimeFormat),
    /// When the peer's certificate begins to be valid, or ends.
    PeerTime {
        format: TimeFormat,
        end: bool,
    },
    DynamicMetadata {
        filter: String,
        path: Vec<String>,
    },
    FilterState {
        key: String,
        field: Option<String>,
    },
    GrpcStatus(GrpcForm),
    CommonDuration(Point, Point, Unit),
    Tls(Side, TlsField),
    Field(Field),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Request,
    /// The path without its query: `%REQ_WITHOUT_QUERY(…)%`, `%PATH(NQ)%`.
    RequestWithoutQuery,
    Response,
    Trailer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrpcForm {
    CamelCase,
    SnakeCase,
    Number,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Downstream,
    Upstream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    Start,
    LastRequest,
    UpstreamTxFirst,
    UpstreamTxLast,
    UpstreamRxFirst,
    UpstreamRxLast,
    DownstreamTxFirst,
    DownstreamTxLast,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

macro_rules! table {
    ($(#[$doc:meta])* $enum:ident, $all:ident { $($variant:ident = $name:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $enum { $($variant),* }

        const $all: &[(&str, $enum)] = &[$(($name, $enum::$variant)),*];
    };
}

table! {
    /// Operators that take nothing.
    Field, FIELDS {
        ResponseCode = "RESPONSE_CODE",
        ResponseFlags = "RESPONSE_FLAGS",
        ResponseFlagsLong = "RESPONSE_FLAGS_LONG",
        BytesReceived = "BYTES_RECEIVED",
        BytesSent = "BYTES_SENT",
        RequestHeadersBytes = "REQUEST_HEADERS_BYTES",
        ResponseHeadersBytes = "RESPONSE_HEADERS_BYTES",
        ResponseTrailersBytes = "RESPONSE_TRAILERS_BYTES",
        UpstreamWireBytesSent = "UPSTREAM_WIRE_BYTES_SENT",
        UpstreamWireBytesReceived = "UPSTREAM_WIRE_BYTES_RECEIVED",
        Duration = "DURATION",
        RequestDuration = "REQUEST_DURATION",
        RequestTxDuration = "REQUEST_TX_DURATION",
        ResponseDuration = "RESPONSE_DURATION",
        ResponseTxDuration = "RESPONSE_TX_DURATION",
        DownstreamHandshakeDuration = "DOWNSTREAM_HANDSHAKE_DURATION",
        UpstreamConnectionPoolReadyDuration = "UPSTREAM_CONNECTION_POOL_READY_DURATION",
        RoundtripDuration = "ROUNDTRIP_DURATION",
        UpstreamRequestAttemptCount = "UPSTREAM_REQUEST_ATTEMPT_COUNT",
        UpstreamHost = "UPSTREAM_HOST",
        UpstreamRemoteAddress = "UPSTREAM_REMOTE_ADDRESS",
        UpstreamRemoteAddressWithoutPort = "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        UpstreamRemotePort = "UPSTREAM_REMOTE_PORT",
        UpstreamLocalAddress = "UPSTREAM_LOCAL_ADDRESS",
        UpstreamLocalAddressWithoutPort = "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        UpstreamLocalPort = "UPSTREAM_LOCAL_PORT",
        UpstreamConnectionId = "UPSTREAM_CONNECTION_ID",
        DownstreamRemoteAddress = "DOWNSTREAM_REMOTE_ADDRESS",
        DownstreamRemoteAddressWithoutPort = "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        DownstreamRemotePort = "DOWNSTREAM_REMOTE_PORT",
        DownstreamDirectRemoteAddress = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
        DownstreamDirectRemoteAddressWithoutPort = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
        DownstreamDirectRemotePort = "DOWNSTREAM_DIRECT_REMOTE_PORT",
        DownstreamLocalAddress = "DOWNSTREAM_LOCAL_ADDRESS",
        DownstreamDirectLocalAddress = "DOWNSTREAM_DIRECT_LOCAL_ADDRESS",
        DownstreamLocalAddressWithoutPort = "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        DownstreamLocalPort = "DOWNSTREAM_LOCAL_PORT",
        ConnectionId = "CONNECTION_ID",
        LocalReplyBody = "LOCAL_REPLY_BODY",
        GrpcStatusNumber = "GRPC_STATUS_NUMBER",
        AccessLogType = "ACCESS_LOG_TYPE",
        Protocol = "PROTOCOL",
        UpstreamProtocol = "UPSTREAM_PROTOCOL",
        ResponseCodeDetails = "RESPONSE_CODE_DETAILS",
        ConnectionTerminationDetails = "CONNECTION_TERMINATION_DETAILS",
        UpstreamTransportFailureReason = "UPSTREAM_TRANSPORT_FAILURE_REASON",
        DownstreamTransportFailureReason = "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
        UpstreamCluster = "UPSTREAM_CLUSTER",
        UpstreamClusterRaw = "UPSTREAM_CLUSTER_RAW",
        UpstreamHostName = "UPSTREAM_HOST_NAME",
        UpstreamHostNameWithoutPort = "UPSTREAM_HOST_NAME_WITHOUT_PORT",
        RequestedServerName = "REQUESTED_SERVER_NAME",
        RouteName = "ROUTE_NAME",
        VirtualClusterName = "VIRTUAL_CLUSTER_NAME",
        FilterChainName = "FILTER_CHAIN_NAME",
        ListenerName = "LISTENER_NAME",
        Hostname = "HOSTNAME",
        StreamId = "STREAM_ID",
        TraceId = "TRACE_ID",
    }
}

table! {
    /// What is asked of a side's certificates and connection, after `DOWNSTREAM_` or `UPSTREAM_`.
    TlsField, TLS_FIELDS {
        PeerSubject = "PEER_SUBJECT",
        PeerIssuer = "PEER_ISSUER",
        PeerUri = "PEER_URI_SAN",
        PeerDns = "PEER_DNS_SAN",
        PeerSerial = "PEER_SERIAL",
        PeerFingerprint = "PEER_FINGERPRINT_256",
        PeerCert = "PEER_CERT",
        LocalSubject = "LOCAL_SUBJECT",
        LocalUri = "LOCAL_URI_SAN",
        LocalDns = "LOCAL_DNS_SAN",
        Version = "TLS_VERSION",
        Cipher = "TLS_CIPHER",
        SessionId = "TLS_SESSION_ID",
    }
}

/// Operators that take an argument, perhaps.
const WITH_ARGUMENTS: [&str; 16] = [
    "REQ",
    "RESP",
    "TRAILER",
    "REQ_WITHOUT_QUERY",
    "PATH",
    "QUERY_PARAM",
    "QUERY_PARAMS",
    "START_TIME",
    "START_TIME_LOCAL",
    "DOWNSTREAM_PEER_CERT_V_START",
    "DOWNSTREAM_PEER_CERT_V_END",
    "DYNAMIC_METADATA",
    "FILTER_STATE",
    "UPSTREAM_FILTER_STATE",
    "GRPC_STATUS",
    "COMMON_DURATION",
];

/// The names of all operators.
pub fn names() -> impl Iterator<Item = String> {
    let tls = [("DOWNSTREAM_", Side::Downstream), ("UPSTREAM_", Side::Upstream)].into_iter().flat_map(
        |(prefix, side)| {
            let fields = TLS_FIELDS.iter().filter(move |(_, field)| field.is_of(side));
            fields.map(move |(name, _)| format!("{prefix}{name}"))
        },
    );
    let others = FIELDS.iter().map(|(name, _)| *name).chain(WITH_ARGUMENTS);
    others.map(str::to_owned).chain(tls)
}

fn in_table<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

fn tls(name: &str) -> Option<Operator> {
    let (side, field) = match name.strip_prefix("DOWNSTREAM_") {
        Some(field) => (Side::Downstream, field),
        None => (Side::Upstream, name.strip_prefix("UPSTREAM_")?),
    };
    let field = in_table(TLS_FIELDS, field).filter(|field| field.is_of(side))?;
    Some(Operator::Tls(side, field))
}

impl TlsField {
    /// Of upstreams Envoy tells less.
    fn is_of(self, side: Side) -> bool {
        side == Side::Downstream
            || !matches!(self, Self::PeerSerial | Self::PeerFingerprint | Self::LocalSubject)
    }
}

impl Operator {
    pub(super) fn parse(name: &str, argument: Option<&str>) -> Result<Self, Fault> {
        if let Some(operator) = in_table(FIELDS, name).map(Self::Field).or_else(|| tls(name)) {
            return match argument {
                None => Ok(operator),
                Some(_) => Err(format!("%{name}% takes no argument").into()),
            };
        }
        let needed = || argument.ok_or_else(|| format!("%{name}% needs an argument in parentheses"));
        let time = || TimeFormat::parse(argument.unwrap_or_default());
        Ok(match name {
            "REQ" => header(Whose::Request, name, needed()?)?,
            "RESP" => header(Whose::Response, name, needed()?)?,
            "TRAILER" => header(Whose::Trailer, name, needed()?)?,
            "REQ_WITHOUT_QUERY" => header(Whose::RequestWithoutQuery, name, needed()?)?,
            "PATH" => path(argument.unwrap_or("WQ"))?,
            "QUERY_PARAM" => Self::Query(Some(needed()?.into())),
            "QUERY_PARAMS" if argument.is_none() => Self::Query(None),
            "QUERY_PARAMS" => return Err("%QUERY_PARAMS% takes no argument".to_owned().into()),
            "START_TIME" | "START_TIME_LOCAL" => {
                let format = time()?;
                if argument.is_some_and(|argument| argument.contains("%n")) {
                    let argument = argument.unwrap_or_default();
                    return Err(format!("%{name}({argument})%: a time holds no line feed").into());
                }
                Self::StartTime(format)
            }
            "DOWNSTREAM_PEER_CERT_V_START" => Self::PeerTime { format: time()?, end: false },
            "DOWNSTREAM_PEER_CERT_V_END" => Self::PeerTime { format: time()?, end: true },
            "DYNAMIC_METADATA" => {
                let mut parts = needed()?.split(':').map(str::to_owned);
                Self::DynamicMetadata { filter: parts.next().unwrap_or_default(), path: parts.collect() }
            }
            "FILTER_STATE" | "UPSTREAM_FILTER_STATE" => filter_state(needed()?)?,
            "ENVIRONMENT" => {
                return Err("%ENVIRONMENT% is not supported: deciding reads no environment"
                    .to_owned()
                    .into());
            }
            "GRPC_STATUS" => Self::GrpcStatus(match argument {
                None | Some("CAMEL_STRING") => GrpcForm::CamelCase,
                Some("SNAKE_STRING") => GrpcForm::SnakeCase,
                Some("NUMBER") => GrpcForm::Number,
                Some(other) => {
                    let text = format!("%GRPC_STATUS({other})%: write CAMEL_STRING, SNAKE_STRING or NUMBER");
                    return Err(text.into());
                }
            }),
            "COMMON_DURATION" => common_duration(needed()?)?,
            other => {
                let reason = format!("%{other}% is no operator that this proxy knows");
                return Err(Fault { reason, unknown: Some(other.to_owned()) });
            }
        })
    }

    /// Whether `:12` may follow.
    pub(super) fn takes_length(&self) -> bool {
        match self {
            Self::Header { .. }
            | Self::Query(_)
            | Self::DynamicMetadata { .. }
            | Self::FilterState { .. } => true,
            Self::StartTime(_)
            | Self::PeerTime { .. }
            | Self::GrpcStatus(_)
            | Self::CommonDuration(..)
            | Self::Tls(..)
            | Self::Field(_) => false,
        }
    }
}

/// `X-NAME` or `X-NAME?ALTERNATIVE`.
fn header(whose: Whose, operator: &str, argument: &str) -> Result<Operator, Fault> {
    let mut names = argument.split('?');
    let (name, alternative) = (names.next().unwrap_or_default(), names.next());
    if names.next().is_some() {
        return Err(format!("%{operator}({argument})%: one alternative is taken, no more").into());
    }
    for name in std::iter::once(name).chain(alternative) {
        let token = name.strip_prefix(':').unwrap_or(name);
        let known = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if token.is_empty() || !token.bytes().all(known) {
            return Err(format!("%{operator}({argument})%: {name:?} is no header name").into());
        }
    }
    Ok(Operator::Header { whose, name: name.into(), alternative: alternative.map(str::to_owned) })
}

fn path(argument: &str) -> Result<Operator, Fault> {
    const ORIGINAL: &str = "x-envoy-original-path";
    let (query, which) = argument.split_once(':').unwrap_or((argument, "ORIG_OR_PATH"));
    let (name, alternative) = match which {
        "PATH" => (":path", None),
        "ORIG" => (ORIGINAL, None),
        "ORIG_OR_PATH" => (ORIGINAL, Some(":path")),
        other => return Err(format!("%PATH(…:{other})%: write PATH, ORIG or ORIG_OR_PATH").into()),
    };
    let whose = match query {
        "WQ" => Whose::Request,
        "NQ" => Whose::RequestWithoutQuery,
        other => return Err(format!("%PATH({other})%: write WQ or NQ").into()),
    };
    Ok(Operator::Header { whose, name: name.into(), alternative: alternative.map(str::to_owned) })
}

fn filter_state(argument: &str) -> Result<Operator, Fault> {
    let mut parts = argument.splitn(3, ':');
    let key = parts.next().unwrap_or_default();
    let field = match (parts.next(), parts.next()) {
        (None | Some("TYPED" | "PLAIN"), None) => None,
        (Some("FIELD"), Some(field)) => Some(field.into()),
        _ => {
            let text = "write KEY, KEY:PLAIN, KEY:TYPED or KEY:FIELD:NAME";
            return Err(format!("%FILTER_STATE({argument})%: {text}").into());
        }
    };
    Ok(Operator::FilterState { key: key.into(), field })
}

fn common_duration(argument: &str) -> Result<Operator, Fault> {
    let parts: Vec<_> = argument.split(':').collect();
    let [from, to, unit] = parts.as_slice() else {
        return Err(format!("%COMMON_DURATION({argument})%: write START:END:UNIT").into());
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
                let text = format!("%COMMON_DURATION%: {other} is no point in time that this proxy knows");
                return Err(Fault::from(text));
            }
        })
    };
    let unit = match *unit {
        "ms" => Unit::Milliseconds,
        "us" => Unit::Microseconds,
        "ns" => Unit::Nanoseconds,
        other => return Err(format!("%COMMON_DURATION%: the unit {other} must be ms, us or ns").into()),
    };
    Ok(Operator::CommonDuration(point(from)?, point(to)?, unit))
}
