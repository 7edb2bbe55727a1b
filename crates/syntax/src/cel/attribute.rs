//! Envoy's attributes, by name.

macro_rules! fields {
    ($($field:ident = $root:literal . $name:literal),* $(,)?) => {
        /// An attribute that is one value.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Field { $($field),* }

        impl Field {
            fn of(root: &str, name: &str) -> Option<Self> {
                match (root, name) {
                    $(($root, $name) => Some(Self::$field),)*
                    _ => None,
                }
            }
        }
    };
}

fields! {
    RequestPath = "request"."path",
    RequestUrlPath = "request"."url_path",
    RequestQuery = "request"."query",
    RequestHost = "request"."host",
    RequestScheme = "request"."scheme",
    RequestMethod = "request"."method",
    RequestProtocol = "request"."protocol",
    RequestId = "request"."id",
    RequestReferer = "request"."referer",
    RequestUserAgent = "request"."useragent",
    RequestSize = "request"."size",
    RequestTotalSize = "request"."total_size",
    RequestDuration = "request"."duration",
    ResponseDuration = "response"."duration",
    ResponseCode = "response"."code",
    ResponseCodeDetails = "response"."code_details",
    ResponseFlags = "response"."flags",
    ResponseGrpcStatus = "response"."grpc_status",
    ResponseSize = "response"."size",
    ResponseTotalSize = "response"."total_size",
    SourceAddress = "source"."address",
    SourcePort = "source"."port",
    DestinationAddress = "destination"."address",
    DestinationPort = "destination"."port",
    ConnectionId = "connection"."id",
    ConnectionMtls = "connection"."mtls",
    ConnectionServerName = "connection"."requested_server_name",
    ConnectionTlsVersion = "connection"."tls_version",
    ConnectionPeerUri = "connection"."uri_san_peer_certificate",
    ConnectionPeerDns = "connection"."dns_san_peer_certificate",
    ConnectionPeerSubject = "connection"."subject_peer_certificate",
    ConnectionLocalUri = "connection"."uri_san_local_certificate",
    ConnectionTerminationDetails = "connection"."termination_details",
    UpstreamAddress = "upstream"."address",
    UpstreamPort = "upstream"."port",
    UpstreamLocalAddress = "upstream"."local_address",
    UpstreamTransportFailureReason = "upstream"."transport_failure_reason",
    UpstreamAttempts = "upstream"."request_attempt_count",
    XdsClusterName = "xds"."cluster_name",
    XdsRouteName = "xds"."route_name",
    XdsFilterChainName = "xds"."filter_chain_name",
}

/// Whose headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Headers {
    Request,
    Response,
    Trailers,
}

/// An attribute and, for maps, the keys below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// All headers, or one of them.
    Headers(Headers, Option<String>),
    /// `metadata.filter_metadata`, and the keys below.
    Metadata(Vec<String>),
    Field(Field),
}

impl Attribute {
    /// From `["request", "headers", "x-user"]`.
    pub(super) fn new(segments: &[String]) -> Result<Self, String> {
        let unknown = || format!("{} is no attribute that this proxy knows", segments.join("."));
        let [root, field, keys @ ..] = segments else { return Err(unknown()) };
        let headers = match (root.as_str(), field.as_str()) {
            ("request", "headers") => Headers::Request,
            ("response", "headers") => Headers::Response,
            ("response", "trailers") => Headers::Trailers,
            ("metadata", "filter_metadata") => return Ok(Self::Metadata(keys.to_vec())),
            (root, field) => {
                let field = Field::of(root, field).filter(|_| keys.is_empty());
                return field.map(Self::Field).ok_or_else(unknown);
            }
        };
        match keys {
            [] => Ok(Self::Headers(headers, None)),
            [key] => Ok(Self::Headers(headers, Some(key.clone()))),
            _ => Err(unknown()),
        }
    }
}
