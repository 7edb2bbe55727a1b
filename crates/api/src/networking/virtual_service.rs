//! VirtualService: which requests and connections go where.

use std::collections::BTreeMap;

use crate::common::{Percent, PortSelector, StringMap, StringMatch};
use crate::duration::Duration;
use crate::message::{keyword, message};

message! {
    /// Routes for the traffic to a set of hosts.
    pub struct VirtualService {
        /// Hosts to which the routes apply: DNS names, with a wildcard label in front, or IP addresses.
        pub hosts: Vec<String>,
        /// Gateways, as [namespace/]name, and `mesh` for sidecars; only `mesh` when absent.
        pub gateways: Vec<String>,
        /// Routes for HTTP, tried in order.
        pub http: Vec<HttpRoute>,
        /// Routes for TLS that is passed through, by server name, tried in order.
        pub tls: Vec<TlsRoute>,
        /// Routes for other TCP, tried in order.
        pub tcp: Vec<TcpRoute>,
        /// Namespaces that see this resource: `.`, `*` or names.
        pub export_to: Vec<String>,
    }

    /// A service, or a subset of one.
    #[schemars(extend("required" = ["host"]))]
    pub struct Destination {
        /// Name of the service; a short name is looked up in the resource's own namespace.
        pub host: String,
        /// Subset that a DestinationRule for the host defines.
        pub subset: String,
        /// Port of the service; needed where it has several.
        pub port: Option<PortSelector>,
    }

    /// What happens to HTTP requests that match.
    pub struct HttpRoute {
        /// Name, for logs and for people.
        pub name: String,
        /// Conditions, one of which must hold; none means any request.
        pub r#match: Vec<HttpMatchRequest>,
        /// Weighted destinations.
        pub route: Vec<HttpRouteDestination>,
        /// Answer with a redirect instead.
        pub redirect: Option<HttpRedirect>,
        /// Answer with a fixed response instead.
        pub direct_response: Option<HttpDirectResponse>,
        /// Another VirtualService that holds the routes.
        pub delegate: Option<Delegate>,
        /// Change path or authority before forwarding.
        pub rewrite: Option<HttpRewrite>,
        /// How long the whole request may take; unlimited when absent.
        pub timeout: Option<Duration>,
        /// When and how often to try again.
        pub retries: Option<HttpRetry>,
        /// Faults to inject.
        pub fault: Option<HttpFaultInjection>,
        /// One destination that gets copies of the requests.
        pub mirror: Option<Destination>,
        /// Destinations that get copies of the requests.
        pub mirrors: Vec<HttpMirrorPolicy>,
        /// Deprecated: write mirrorPercentage.
        pub mirror_percent: Option<u32>,
        /// Deprecated: write mirrorPercentage.
        #[serde(rename = "mirror_percent")]
        pub mirror_percent_by_proto_name: Option<u32>,
        /// Share of requests that `mirror` gets; all when absent.
        pub mirror_percentage: Option<Percent>,
        /// Cross-origin resource sharing.
        pub cors_policy: Option<CorsPolicy>,
        /// Header changes.
        pub headers: Option<Headers>,
    }

    /// The name of another VirtualService.
    pub struct Delegate {
        /// Its name.
        pub name: String,
        /// Its namespace; the same when absent.
        pub namespace: String,
    }

    /// Header changes in both directions.
    pub struct Headers {
        /// Before the request is forwarded.
        pub request: Option<HeaderOperations>,
        /// Before the response is returned.
        pub response: Option<HeaderOperations>,
    }

    /// Header changes in one direction.
    pub struct HeaderOperations {
        /// Headers to overwrite.
        pub set: StringMap,
        /// Headers to append.
        pub add: StringMap,
        /// Headers to take away.
        pub remove: Vec<String>,
    }

    /// Where TLS connections with matching server names go, undecrypted.
    #[schemars(extend("required" = ["match"]))]
    pub struct TlsRoute {
        /// Conditions, one of which must hold.
        pub r#match: Vec<TlsMatchAttributes>,
        /// Weighted destinations.
        pub route: Vec<RouteDestination>,
    }

    /// Where TCP connections that match go.
    pub struct TcpRoute {
        /// Conditions, one of which must hold; none means any connection.
        pub r#match: Vec<L4MatchAttributes>,
        /// Weighted destinations.
        pub route: Vec<RouteDestination>,
    }

    /// Conditions on an HTTP request, all of which must hold.
    pub struct HttpMatchRequest {
        /// Name, for logs and for people.
        pub name: String,
        /// The path.
        pub uri: Option<StringMatch>,
        /// The scheme.
        pub scheme: Option<StringMatch>,
        /// The method.
        pub method: Option<StringMatch>,
        /// The authority or Host header.
        pub authority: Option<StringMatch>,
        /// Headers, by lower-case name.
        pub headers: BTreeMap<String, StringMatch>,
        /// Port that was called.
        pub port: u32,
        /// Labels that the caller must carry.
        pub source_labels: StringMap,
        /// Gateways at which the condition applies, instead of the resource's own list.
        pub gateways: Vec<String>,
        /// Query parameters, by name.
        pub query_params: BTreeMap<String, StringMatch>,
        /// Compare `uri` without regard to case; not for regular expressions.
        pub ignore_uri_case: bool,
        /// Headers that must not match.
        pub without_headers: BTreeMap<String, StringMatch>,
        /// Namespace of the caller.
        pub source_namespace: String,
        /// Name under which statistics of the route are kept.
        pub stat_prefix: String,
    }

    /// One of several HTTP destinations.
    #[schemars(extend("required" = ["destination"]))]
    pub struct HttpRouteDestination {
        /// The service.
        pub destination: Destination,
        /// Share of the traffic, relative to the sum.
        #[schemars(range(min = 0))]
        pub weight: i32,
        /// Header changes for this destination.
        pub headers: Option<Headers>,
    }

    /// One of several TCP or TLS destinations.
    #[schemars(extend("required" = ["destination"]))]
    pub struct RouteDestination {
        /// The service.
        pub destination: Destination,
        /// Share of the traffic, relative to the sum.
        #[schemars(range(min = 0))]
        pub weight: i32,
    }

    /// Conditions on a TCP connection, all of which must hold.
    pub struct L4MatchAttributes {
        /// Networks of the address that was called.
        pub destination_subnets: Vec<String>,
        /// Port that was called.
        pub port: u32,
        /// Network of the caller.
        pub source_subnet: String,
        /// Labels that the caller must carry.
        pub source_labels: StringMap,
        /// Gateways at which the condition applies.
        pub gateways: Vec<String>,
        /// Namespace of the caller.
        pub source_namespace: String,
    }

    /// Conditions on a TLS connection, all of which must hold.
    #[schemars(extend("required" = ["sniHosts"]))]
    pub struct TlsMatchAttributes {
        /// Server names; each must be covered by the resource's hosts.
        pub sni_hosts: Vec<String>,
        /// Networks of the address that was called.
        pub destination_subnets: Vec<String>,
        /// Port that was called.
        pub port: u32,
        /// Labels that the caller must carry.
        pub source_labels: StringMap,
        /// Gateways at which the condition applies.
        pub gateways: Vec<String>,
        /// Namespace of the caller.
        pub source_namespace: String,
    }

    /// An answer that sends the caller elsewhere.
    #[schemars(extend("x-oneof" = [["port", "derivePort"]]))]
    pub struct HttpRedirect {
        /// New path.
        pub uri: String,
        /// New authority.
        pub authority: String,
        /// New port.
        pub port: Option<u32>,
        /// Where a new port comes from.
        pub derive_port: Option<RedirectPortSelection>,
        /// New scheme.
        pub scheme: String,
        /// Status: 301 (when absent), 302, 303, 307 or 308.
        pub redirect_code: u32,
        /// What replaces the prefix that was matched.
        pub prefix_rewrite: String,
    }

    /// A fixed answer.
    #[schemars(extend("required" = ["status"]))]
    pub struct HttpDirectResponse {
        /// Status, from 100 to 599.
        pub status: u32,
        /// Body; none when absent.
        pub body: Option<HttpBody>,
    }

    /// A body.
    #[schemars(extend("x-oneof" = [["string", "bytes"]]))]
    pub struct HttpBody {
        /// As text.
        pub string: Option<String>,
        /// In base64.
        #[schemars(extend("format" = "byte"))]
        pub bytes: Option<String>,
    }

    /// Changes of path and authority.
    pub struct HttpRewrite {
        /// What replaces the path, or the prefix that was matched.
        pub uri: String,
        /// New authority.
        pub authority: String,
        /// Change of the path by a regular expression.
        pub uri_regex_rewrite: Option<RegexRewrite>,
    }

    /// A substitution.
    pub struct RegexRewrite {
        /// RE2 expression.
        #[serde(rename = "match")]
        pub pattern: String,
        /// Replacement, in which `\1` stands for the first group.
        pub rewrite: String,
    }

    /// When and how often to try again.
    pub struct HttpRetry {
        /// Tries after the first one; 0 turns retries off.
        #[schemars(range(min = 0))]
        pub attempts: i32,
        /// How long one try may take.
        pub per_try_timeout: Option<Duration>,
        /// Conditions, separated by commas, or status codes.
        pub retry_on: String,
        /// Whether other localities may be tried.
        pub retry_remote_localities: Option<bool>,
        /// Whether endpoints that were tried are left out; so when absent.
        pub retry_ignore_previous_hosts: Option<bool>,
        /// Pause before the first retry; 25 ms when absent.
        pub backoff: Option<Duration>,
    }

    /// Cross-origin resource sharing.
    pub struct CorsPolicy {
        /// Deprecated: write allowOrigins with exact.
        pub allow_origin: Vec<String>,
        /// Origins that may call.
        pub allow_origins: Vec<StringMatch>,
        /// Methods allowed.
        pub allow_methods: Vec<String>,
        /// Request headers allowed.
        pub allow_headers: Vec<String>,
        /// Response headers that scripts may read.
        pub expose_headers: Vec<String>,
        /// How long a preflight may be cached.
        pub max_age: Option<Duration>,
        /// Whether credentials may be sent.
        pub allow_credentials: Option<bool>,
        /// What happens to preflights from other origins.
        pub unmatched_preflights: UnmatchedPreflights,
    }

    /// Faults to inject.
    pub struct HttpFaultInjection {
        /// Slow some requests down.
        pub delay: Option<FaultDelay>,
        /// Answer some requests with an error.
        pub abort: Option<FaultAbort>,
    }

    /// A delay before forwarding.
    #[schemars(extend("x-oneof" = [["fixedDelay", "exponentialDelay"]]))]
    pub struct FaultDelay {
        /// Deprecated: write percentage.
        pub percent: i32,
        /// How long.
        pub fixed_delay: Option<Duration>,
        /// Mean of an exponential distribution.
        pub exponential_delay: Option<Duration>,
        /// Share of requests; all when absent.
        pub percentage: Option<Percent>,
    }

    /// An error in place of forwarding.
    #[schemars(extend("x-oneof" = [["httpStatus", "grpcStatus", "http2Error"]]))]
    pub struct FaultAbort {
        /// HTTP status, from 200 to 599.
        pub http_status: Option<i32>,
        /// gRPC status, by name.
        pub grpc_status: Option<String>,
        /// HTTP/2 error, by name.
        pub http2_error: Option<String>,
        /// Share of requests; all when absent.
        pub percentage: Option<Percent>,
    }

    /// A destination that gets copies.
    #[schemars(extend("required" = ["destination"]))]
    pub struct HttpMirrorPolicy {
        /// The service.
        pub destination: Destination,
        /// Share of requests; all when absent.
        pub percentage: Option<Percent>,
    }
}

keyword! {
    /// Where the port of a redirect comes from.
    pub enum RedirectPortSelection {
        #[default]
        FromProtocolDefault,
        FromRequestPort,
    }

    /// What happens to preflights from origins that are not listed.
    pub enum UnmatchedPreflights {
        #[default]
        Unspecified,
        Forward,
        Ignore,
    }
}

/// The gateway name that stands for every sidecar.
pub const MESH_GATEWAY: &str = "mesh";

impl VirtualService {
    /// The gateways, with the default filled in.
    pub fn gateways(&self) -> impl Iterator<Item = &str> {
        let default = self.gateways.is_empty().then_some(MESH_GATEWAY);
        self.gateways.iter().map(String::as_str).chain(default)
    }
}

/// How a name of `headers` begins that asks about a verified token instead.
pub const CLAIMS_AS_HEADERS: &str = "@request.auth.claims";

/// The way to the claim that a name of `headers` asks about: `@request.auth.claims[a][b]` or `@request.auth.claims.a.b`.
pub fn routing_claim(name: &str) -> Option<Vec<&str>> {
    let (start, rest) = name.split_at_checked(CLAIMS_AS_HEADERS.len())?;
    if !start.eq_ignore_ascii_case(CLAIMS_AS_HEADERS) {
        return None;
    }
    let path: Vec<&str> = match rest.strip_prefix('.') {
        Some(path) => path.split('.').collect(),
        None => rest.strip_prefix('[')?.strip_suffix(']')?.split("][").collect(),
    };
    path.iter().all(|name| !name.is_empty()).then_some(path)
}

impl HttpRoute {
    /// Everything that gets copies, old spellings included, with its share in percent.
    pub fn mirror_policies(&self) -> Vec<(&Destination, f64)> {
        let share = self.mirror_percentage.as_ref().map(|percent| percent.value);
        let old = self.mirror_percent.or(self.mirror_percent_by_proto_name).map(f64::from);
        let single = self.mirror.iter().map(|to| (to, share.or(old).unwrap_or(100.0)));
        let several = self.mirrors.iter().map(|mirror| {
            (&mirror.destination, mirror.percentage.as_ref().map_or(100.0, |percent| percent.value))
        });
        single.chain(several).collect()
    }

    /// The destinations that get traffic, with relative weights: a single destination needs none.
    pub fn weighted(&self) -> Vec<(&HttpRouteDestination, u32)> {
        let weights = effective_weights(self.route.iter().map(|to| to.weight));
        self.route.iter().zip(weights).filter(|(_, weight)| *weight > 0).collect()
    }
}

impl TlsRoute {
    /// The destinations that get traffic, with relative weights.
    pub fn weighted(&self) -> Vec<(&RouteDestination, u32)> {
        weighted(&self.route)
    }
}

impl TcpRoute {
    /// The destinations that get traffic, with relative weights.
    pub fn weighted(&self) -> Vec<(&RouteDestination, u32)> {
        weighted(&self.route)
    }
}

fn weighted(route: &[RouteDestination]) -> Vec<(&RouteDestination, u32)> {
    let weights = effective_weights(route.iter().map(|to| to.weight));
    route.iter().zip(weights).filter(|(_, weight)| *weight > 0).collect()
}

/// A lone destination gets everything, whatever its weight.
fn effective_weights(weights: impl ExactSizeIterator<Item = i32>) -> Vec<u32> {
    let lone = weights.len() == 1;
    weights.map(|weight| if lone { weight.max(1) } else { weight.max(0) }.unsigned_abs()).collect()
}

impl FaultDelay {
    /// Share of requests in percent, old spelling included.
    pub fn share(&self) -> f64 {
        let old = if self.percent > 0 { f64::from(self.percent) } else { 100.0 };
        self.percentage.as_ref().map_or(old, |percent| percent.value)
    }
}

impl FaultAbort {
    /// Share of requests in percent.
    pub fn share(&self) -> f64 {
        self.percentage.as_ref().map_or(100.0, |percent| percent.value)
    }
}

impl HttpRedirect {
    /// The status, with the default filled in.
    pub fn code(&self) -> u32 {
        if self.redirect_code == 0 { 301 } else { self.redirect_code }
    }
}

impl HttpRetry {
    /// The default that acts where no rule says otherwise.
    pub const DEFAULT_ATTEMPTS: i32 = 2;
    /// See [`HttpRetry::DEFAULT_ATTEMPTS`].
    pub const DEFAULT_RETRY_ON: &str =
        "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
    /// See [`HttpRetry::DEFAULT_ATTEMPTS`].
    pub const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);

    /// The conditions of `retryOn` and its status codes, apart.
    pub fn conditions(&self) -> (Vec<&str>, Vec<u32>) {
        let text = if self.retry_on.is_empty() { Self::DEFAULT_RETRY_ON } else { &self.retry_on };
        let (mut conditions, mut codes) = (Vec::new(), Vec::new());
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.parse() {
                Ok(code) => codes.push(code),
                Err(_) => conditions.push(part),
            }
        }
        if !codes.is_empty() && !conditions.contains(&"retriable-status-codes") {
            conditions.push("retriable-status-codes");
        }
        (conditions, codes)
    }
}

impl CorsPolicy {
    /// The origins that may call, old spelling included.
    pub fn origins(&self) -> Vec<StringMatch> {
        let old = self.allow_origin.iter().map(|origin| match origin.as_str() {
            "*" => StringMatch::regex(".*"),
            origin => StringMatch::exact(origin),
        });
        if self.allow_origins.is_empty() { old.collect() } else { self.allow_origins.clone() }
    }
}
