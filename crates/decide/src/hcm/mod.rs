//! The HTTP connection manager: what is done to every request before it is routed, and which filters it passes.

mod address;
mod compile;
mod filter;
mod path;
mod prelude;
mod reply;
mod request_id;
mod scope;
mod tracer;
mod xfcc;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::access_log::AccessLog;
use crate::collector::Collector;
use crate::origin::Origin;
use crate::plan::RouteTableId;
use crate::refusal::Taken;
use crate::route::RouteTable;
use crate::wire::Chance;

pub(crate) use address::AddressPolicy;
pub(crate) use compile::compile_hcm;
pub(crate) use filter::{AlpnOverrides, FilterKind, HttpFilter};
pub(crate) use path::PathPolicy;
pub(crate) use path::{Canonical, EscapedSlashes};
pub use reply::FinishedReply;
pub(crate) use reply::{ReplyMap, percent_encode};
pub(crate) use request_id::RequestIdPolicy;
pub use scope::ScopedRoutes;
pub(crate) use scope::{Scope, ScopeKey, ScopeTable, compile_scope};
pub(crate) use xfcc::XfccPolicy;

/// A compiled `HttpConnectionManager`.
#[derive(Debug, Clone)]
pub struct Hcm {
    pub stat_prefix: Arc<str>,
    pub codec: Codec,
    pub routes: RouteSource,
    pub timeouts: HttpTimeouts,
    pub limits: HttpLimits,
    pub http1: Http1Options,
    pub http2: Http2Options,
    pub access_log: Vec<AccessLog>,
    pub tracing: Option<Arc<Tracing>>,
    /// Answer `Expect: 100-continue` by letting the upstream do it.
    pub proxy_100_continue: bool,
    pub(crate) server_name: Bytes,
    pub(crate) server_header: ServerHeader,
    pub(crate) filters: Vec<HttpFilter>,
    pub(crate) addresses: AddressPolicy,
    pub(crate) request_id: RequestIdPolicy,
    pub(crate) xfcc: XfccPolicy,
    pub(crate) path: PathPolicy,
    pub(crate) strip_port: StripPort,
    pub(crate) strip_trailing_dot: bool,
    pub(crate) via: Bytes,
    /// Lower case, and whether it is enabled.
    pub(crate) upgrades: Vec<(Box<str>, bool)>,
    pub(crate) replies: ReplyMap,
    pub(crate) scheme: Option<Box<str>>,
    pub(crate) router: RouterOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Codec {
    /// By ALPN, else by the first bytes.
    #[default]
    Auto,
    Http1,
    Http2,
}

/// Where routes come from.
#[derive(Debug, Clone)]
pub enum RouteSource {
    /// By RDS: [`crate::Plan::route_table`].
    Rds {
        id: RouteTableId,
        /// The key of that name of that source.
        name: Arc<str>,
        origin: Origin,
    },
    Inline(Arc<RouteTable>),
    /// Each request's by its scope.
    Scoped(Arc<ScopedRoutes>),
}

/// Nothing is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpTimeouts {
    /// Of a connection without requests: 1 h unless configured.
    pub idle: Option<Duration>,
    /// Of a stream without progress: 5 min unless configured.
    pub stream_idle: Option<Duration>,
    /// Until the request's headers have arrived.
    pub request_headers: Option<Duration>,
    pub max_connection: Option<Duration>,
    pub max_stream: Option<Duration>,
    /// Wait for the client to close: 1 s unless configured.
    pub delayed_close: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// 60 KiB unless configured.
    pub max_header_bytes: usize,
    /// 100 unless configured.
    pub max_headers: usize,
    pub max_requests_per_connection: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Http1Options {
    pub accept_http10: bool,
    pub(crate) default_host: Box<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Http2Options {
    pub max_concurrent_streams: Option<u32>,
    pub initial_stream_window: Option<u32>,
    pub initial_connection_window: Option<u32>,
    /// Extended CONNECT (WebSocket over HTTP/2).
    pub allow_connect: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ServerHeader {
    #[default]
    Overwrite,
    AppendIfAbsent,
    PassThrough,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum StripPort {
    #[default]
    No,
    /// The listener's own port.
    Matching,
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RouterOptions {
    pub(crate) suppress_envoy_headers: bool,
    pub(crate) respect_expected_timeout: bool,
}

/// How requests are traced.
#[derive(Debug, Clone)]
pub struct Tracing {
    pub sampling: Sampling,
    pub custom_tags: Vec<CustomTag>,
    pub tracer: Option<Tracer>,
    pub max_path_tag_length: u32,
    /// A span of its own for each try upstream, below that of the request.
    pub spawn_upstream_span: bool,
    /// Whether upstreams are told of the trace.
    pub propagates: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    pub client: Chance,
    pub random: Chance,
    pub overall: Chance,
}

#[derive(Debug, Clone)]
pub struct CustomTag {
    pub tag: Arc<str>,
    pub value: TagValue,
}

#[derive(Debug, Clone)]
pub enum TagValue {
    Literal(Arc<str>),
    /// An environment variable, and what stands for it.
    Environment(Arc<str>, Arc<str>),
    RequestHeader(crate::headers::HeaderName, Arc<str>),
    /// Dynamic metadata: filter, path, and what stands for it.
    Metadata(Arc<str>, Vec<Box<str>>, Arc<str>),
    /// An operator format.
    Format(crate::format::Format),
}

/// Who takes spans, and what requests are told of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracer {
    pub collector: Arc<Collector>,
    pub headers: TraceHeaders,
    /// Trace ids of 128 bits.
    pub wide: bool,
    /// Whether the server's side of a call reports under the id of the client's (Zipkin's shared spans).
    pub shared: bool,
    /// The name that spans go by; the proxy's own where it is empty.
    pub service: Arc<str>,
}

/// Which headers carry a trace's context onward; all are understood on receipt, those of the tracer first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceHeaders {
    B3,
    B3AndW3c,
    W3c,
}

/// The origin that CORS allowed, and the policy that did.
#[derive(Debug, Clone)]
pub(crate) struct CorsAnswer {
    pub(crate) origin: Bytes,
    pub(crate) policy: Arc<crate::filters::CorsPolicy>,
}

impl Hcm {
    /// What filters show of their state, by names below the connection manager's.
    pub fn gauges(&self) -> impl Iterator<Item = (&'static str, i64)> {
        self.filters.iter().flat_map(|filter| match &filter.kind {
            FilterKind::Gradient(gradient) => gradient.gauges().to_vec(),
            _ => Vec::new(),
        })
    }

    /// Whether a stats filter of Istio's is in the chain.
    pub fn counts_istio_stats(&self) -> bool {
        self.filters.iter().any(|f| matches!(f.kind, FilterKind::IstioStats))
    }

    /// Whether peers' metadata is asked of, or given to, upstreams.
    pub fn asks_upstream_peer(&self) -> bool {
        self.filters.iter().any(|f| matches!(&f.kind, FilterKind::PeerMetadata(p) if p.upstream_discovery))
    }

    /// Names of the HTTP filters, in order.
    pub fn filter_names(&self) -> impl Iterator<Item = &str> {
        self.filters.iter().map(|f| &*f.name)
    }
}

impl Sampling {
    pub(crate) fn of_route(t: &proto::pb::envoy::config::route::v3::Tracing) -> Taken<Self> {
        let share = |p: &Option<_>| p.as_ref().map_or(Ok(Chance::ALWAYS), Chance::of);
        Ok(Self {
            client: share(&t.client_sampling)?,
            random: share(&t.random_sampling)?,
            overall: share(&t.overall_sampling)?,
        })
    }
}
