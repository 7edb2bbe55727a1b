//! What happens to one request, and why.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base::Random;
use bytes::Bytes;
use upstream::{Labels, Priority};

use crate::cluster::Cluster;
use crate::ext_authz::HeaderChange;
use crate::filters::{BodyFilter, BodyPasses, CsrfCounts};
use crate::flags::ResponseFlags;
use crate::hcm::CorsAnswer;
use crate::headers::{Headers, Known};
use crate::machine::Count;
use crate::metadata::PeerMetadata;
use crate::plan::ClusterId;
use crate::request::Request;
use crate::route::{ForwardAction, Retry, RouteTable, VirtualHost};
use crate::shed::{Ended, Permit};

/// The route that a request took: kept alive by the request, whatever the configuration becomes.
#[derive(Debug, Clone)]
pub struct Matched {
    pub table: Arc<RouteTable>,
    pub virtual_host: Arc<VirtualHost>,
    /// Index into the virtual host's routes.
    pub index: usize,
}

impl Matched {
    pub fn route(&self) -> &crate::route::Route {
        &self.virtual_host.routes[self.index]
    }
}

/// What was decided. Together with the changed request, all that the proxy needs, and all that `explain` shows.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The route, when one matched.
    pub matched: Option<Matched>,
    pub outcome: Outcome,
    /// Flags so far: `DI`, `FI`, `NR`, `NC`, …
    pub flags: ResponseFlags,
    /// The RBAC filter's verdict that let the request through or not: policy names by what they did.
    pub policies: Vec<PolicyHit>,
    /// Whether the request wants another protocol on its connection, and the route or the connection manager lets it.
    pub upgrade: bool,
    /// How many RBAC filters with rules let the request through.
    pub rbac_allowed: u32,
    /// What the filters that verify tokens did.
    pub jwt: crate::jwt::Counts,
    /// What the CSRF filter counted.
    pub csrf: CsrfCounts,
    /// The whole body of the request is there.
    pub buffered: bool,
    /// What is to be done to the request's body, further to what was asked for.
    pub body_filters: Vec<BodyFilter>,
    /// The length that the client told of the body is no more that of what goes upstream.
    pub resized: bool,
    pub(crate) bodies: BodyPasses,
    /// What the client's sidecar said of itself (`x-envoy-peer-metadata`), and whether it asked for an answer.
    pub peer: Option<Arc<PeerMetadata>>,
    pub peer_wants_answer: bool,
    /// The client's address by `x-forwarded-for` where that is trusted.
    pub remote: std::net::SocketAddr,
    /// Whether the request is from inside, by Envoy's rule.
    pub internal: bool,
    /// `x-request-id`, as it went upstream.
    pub request_id: Arc<str>,
    pub trace: TraceDecision,
    /// The span's name.
    pub operation: Option<Arc<str>>,
    /// Values of `set-cookie` that consistent hashing needs.
    pub set_cookies: Vec<String>,
    /// What filters counted.
    pub counts: Vec<Count>,
    pub(crate) permits: Vec<Arc<Permit>>,
    /// Counts as an answer of the cluster that the route leads to.
    pub charged: Option<u16>,
    pub(crate) cors: Option<CorsAnswer>,
    /// Headers that filters want in the answer, filter by filter.
    pub(crate) answers: Vec<Vec<HeaderChange>>,
    /// Set by the weighted cluster that was drawn.
    pub(crate) weighted: Option<usize>,
    /// Where the route would have led, had the request not been answered here.
    pub(crate) meant: Option<Arc<Cluster>>,
}

/// Whether spans of this request are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TraceDecision {
    /// The tracer is configured and the request is to be traced.
    pub sampled: bool,
    /// Why, for the request id: by chance, forced by header, or by a client's trace id.
    pub forced: bool,
}

/// A policy that matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyHit {
    pub policy: Arc<str>,
    pub allowed: bool,
    /// Dry run or audit: it decided nothing.
    pub shadow: bool,
}

#[derive(Debug, Clone)]
pub enum Outcome {
    Forward(Box<Forward>),
    /// The proxy answers by itself.
    Reply(Box<LocalReply>),
    /// Close the connection without an answer.
    Reset,
}

/// Where and how to send the request.
#[derive(Debug, Clone)]
pub struct Forward {
    pub cluster: Arc<Cluster>,
    pub priority: Priority,
    /// For consistent hashing.
    pub hash: Option<u64>,
    /// Until the response is complete; nothing is for ever.
    pub timeout: Option<Duration>,
    /// What the client is answered then: 504, unless it asked for another status.
    pub timeout_status: u16,
    pub idle_timeout: Option<Duration>,
    pub max_stream_duration: Option<Duration>,
    pub per_try_timeout: Option<Duration>,
    /// What the upstream was told of the time that it has.
    pub expected: Option<Expected>,
    /// A try that takes longer than that goes on, and another is made beside it.
    pub hedge: bool,
    pub retry: Option<Arc<Retry>>,
    pub mirrors: Vec<Mirror>,
    pub host_rewrite: HostRewriteLater,
    /// An upgrade (WebSocket, CONNECT) that the route lets through.
    pub upgrade: bool,
    /// Tell the upstream which try it is: `x-envoy-attempt-count`.
    pub attempt_count: bool,
    /// ALPN to offer upstream instead of the transport's own: from `istio.alpn`.
    pub alpn: Option<Arc<[Arc<str>]>>,
    /// What is wanted of hosts, where the cluster has subsets.
    pub subset: Arc<Labels>,
    /// Whom a cluster for any host is to look up; nothing where no filter said.
    pub dynamic: Option<Arc<str>>,
    /// Where an original-destination cluster goes, when a header said so.
    pub original_destination: Option<std::net::SocketAddr>,
}

/// How long the upstream has for its answer, and where it is told so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub time: Duration,
    pub(crate) by_header: bool,
    pub(crate) by_grpc: bool,
}

impl Expected {
    /// No time at all would be all the time that there is.
    pub fn at_most(self, left: Duration) -> Self {
        Self { time: self.time.min(left).max(Duration::from_millis(1)), ..self }
    }

    pub fn announce(self, request: &mut Request) {
        let millis = self.time.as_millis();
        if self.by_header {
            request.headers.set(Known::XEnvoyExpectedRqTimeoutMs, millis.to_string());
        }
        if self.by_grpc {
            request.headers.set(Known::GrpcTimeout, format!("{}m", millis.min(99_999_999)));
        }
    }
}

/// Host rewriting that needs to know the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostRewriteLater {
    #[default]
    None,
    /// The authority becomes the chosen endpoint's host name.
    Auto,
}

/// A copy of the request to send and forget.
#[derive(Debug, Clone)]
pub struct Mirror {
    pub cluster: Arc<Cluster>,
    /// The authority with `-shadow`, unless that is off.
    pub authority: String,
    pub trace_sampled: Option<bool>,
}

/// An answer of the proxy's own.
#[derive(Debug, Clone)]
pub struct LocalReply {
    pub status: u16,
    pub headers: Headers,
    pub body: Bytes,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: std::borrow::Cow<'static, str>,
    pub flags: ResponseFlags,
    /// For gRPC requests, instead of what the status stands for.
    pub grpc_status: Option<u32>,
    /// What the configuration says to answer: no error.
    pub direct: bool,
    /// The connection ends with this answer, where it carries one request at a time.
    pub close: bool,
    /// Of a filter, who looked at the body while the router was at work.
    pub of_filter: bool,
}

impl LocalReply {
    pub fn new(status: u16, body: impl Into<Bytes>, details: &'static str) -> Self {
        Self {
            status,
            headers: Headers::new(),
            body: body.into(),
            details: details.into(),
            flags: ResponseFlags::NONE,
            grpc_status: None,
            direct: false,
            close: false,
            of_filter: false,
        }
    }

    pub fn with_flags(mut self, flags: ResponseFlags) -> Self {
        self.flags.insert(flags);
        self
    }
}

impl Decision {
    /// Tells filters that count what is under way how the request ended; what they count of that comes back.
    pub fn end<R: Random + ?Sized>(&self, ended: &Ended, now: Instant, rng: &mut R) -> Vec<Count> {
        self.permits.iter().filter_map(|permit| permit.end(ended, now, rng)).collect()
    }

    /// Whether a filter waits to be told.
    pub fn is_counted(&self) -> bool {
        !self.permits.is_empty()
    }

    pub fn forward(&self) -> Option<&Forward> {
        match &self.outcome {
            Outcome::Forward(forward) => Some(forward),
            Outcome::Reply(_) | Outcome::Reset => None,
        }
    }

    /// Where the request goes, or where its route would have led had it not been answered here: by a fault, a policy.
    pub fn destination(&self) -> Option<&Arc<Cluster>> {
        self.forward().map(|forward| &forward.cluster).or(self.meant.as_ref())
    }

    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.forward().map(|f| f.cluster.id)
    }

    /// The route's name for logs; empty when it has none or none matched.
    pub fn route_name(&self) -> &str {
        self.matched.as_ref().map_or("", |m| &m.route().name)
    }

    /// The route's forwarding action, when it has one.
    pub fn action(&self) -> Option<&ForwardAction> {
        self.matched.as_ref().and_then(|m| m.route().action.forward())
    }
}
