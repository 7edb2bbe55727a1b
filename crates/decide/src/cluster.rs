//! Clusters: where requests go, and how connections are made there. Plain data, compiled from CDS and EDS.

mod assignment;
mod check;
mod compile;
mod dynamic;
mod policies;
mod subset;
mod typed;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::upstream::{Assignment, ClusterSettings, Endpoint};

use crate::origin::Origin;
use crate::plan::ClusterId;
use crate::tls::UpstreamTransport;

pub(crate) use assignment::compile_assignment;
pub use check::{CheckKind, GrpcCheck, HealthCheck, HttpCheck, contains_in_order};
use compile::family;
pub(crate) use compile::{compile_cluster, keepalive};
pub use dynamic::NameCache;
pub(crate) use dynamic::cache as name_cache;
pub(crate) use subset::{LB, learned, merged, wanted};

/// A compiled cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub id: ClusterId,
    pub name: Arc<str>,
    /// For statistics; the name when none was given.
    pub stat_name: Arc<str>,
    pub discovery: Discovery,
    pub connect_timeout: Duration,
    pub per_connection_buffer_limit: u32,
    /// Balancing, outliers and breakers, for [`::upstream::ClusterState`].
    pub settings: ClusterSettings,
    /// How hosts are checked; how often, the settings say.
    pub health_check: Option<Arc<HealthCheck>>,
    /// Used when none of `transport_matches` does.
    pub transport: UpstreamTransport,
    pub transport_matches: Vec<TransportMatch>,
    pub http: HttpSettings,
    pub bind: Option<BindConfig>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// `istio.metadata_exchange`: say who we are over TCP when `istio-peer-exchange` was selected.
    pub metadata_exchange: bool,
    pub metadata: ClusterMetadata,
}

/// How endpoints are found.
#[derive(Debug, Clone)]
pub enum Discovery {
    /// As written.
    Static(Arc<Assignment>),
    /// Assigned by EDS under this name: [`crate::Plan::assignment`].
    Eds {
        /// The key of that name of that source.
        service_name: Arc<str>,
        origin: Origin,
    },
    /// Every name resolved, every address an endpoint.
    StrictDns { assignment: Arc<Assignment>, dns: DnsSettings },
    /// One name; each new connection goes to its first address at that time.
    LogicalDns { assignment: Arc<Assignment>, dns: DnsSettings },
    /// The endpoint is where the connection wanted to go.
    OriginalDestination {
        /// `useHttpHeader`: this header's address instead (`x-envoy-original-dst-host` by default).
        header: Option<Arc<str>>,
        port_override: Option<u16>,
    },
    /// Stands for other clusters: the first that can serve does.
    Aggregate { clusters: Arc<[Arc<str>]> },
    /// Whoever the request names.
    Dynamic { cache: Arc<NameCache> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsSettings {
    pub refresh: Duration,
    pub jitter: Duration,
    /// A record's own time to live counts before `refresh`.
    pub respect_ttl: bool,
    pub family: DnsFamily,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DnsFamily {
    /// IPv6 first, IPv4 when there is none.
    #[default]
    Auto,
    V4Only,
    V6Only,
    V4Preferred,
    /// Both.
    All,
}

/// A transport for endpoints whose metadata has all these labels.
#[derive(Debug, Clone)]
pub struct TransportMatch {
    pub name: Arc<str>,
    pub labels: Vec<(Box<str>, Box<str>)>,
    pub transport: UpstreamTransport,
}

/// Which HTTP to speak upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpstreamProtocol {
    #[default]
    Http1,
    Http2,
    /// What the client speaks.
    Downstream,
    /// What ALPN selects.
    Alpn,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct HttpSettings {
    pub protocol: UpstreamProtocol,
    /// Of a connection without requests; one hour unless configured, nothing when zero was written.
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub max_stream_duration: Option<Duration>,
    pub max_requests_per_connection: Option<u32>,
    pub max_concurrent_streams: Option<u32>,
    pub initial_stream_window: Option<u32>,
    pub initial_connection_window: Option<u32>,
    pub keepalive: Option<Http2Keepalive>,
    /// `autoSni`: SNI from the request's authority.
    pub auto_sni: bool,
    /// `autoSanValidation`: the server's certificate must be for the name that is sent.
    pub auto_san_validation: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Keepalive {
    pub interval: Option<Duration>,
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

/// Where connections come from, and with what options.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BindConfig {
    pub source: Option<SocketAddr>,
    pub options: Vec<SocketOption>,
    pub freebind: bool,
}

/// `setsockopt` with an integer or bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOption {
    pub level: i32,
    pub name: i32,
    pub value: SocketValue,
    pub state: SocketState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketValue {
    Int(i32),
    Bytes(Vec<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketState {
    Prebind,
    Bound,
    Listening,
}

/// What telemetry says of a cluster: Istio's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterMetadata {
    pub services: Vec<ServiceRef>,
    pub subset: Arc<str>,
    /// The resource that configured it: `/apis/networking.istio.io/v1/namespaces/…`.
    pub config: Arc<str>,
    pub external: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceRef {
    pub host: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
}

impl Cluster {
    /// The transport for an endpoint, by the endpoint's metadata.
    pub fn transport_for(&self, endpoint: &Endpoint) -> &UpstreamTransport {
        self.transport_matches
            .iter()
            .find(|m| m.labels.iter().all(|(k, v)| endpoint.transport_label(k) == Some(&**v)))
            .map_or(&self.transport, |m| &m.transport)
    }

    /// Endpoints written in the cluster itself.
    pub fn own_assignment(&self) -> Option<&Arc<Assignment>> {
        match &self.discovery {
            Discovery::Static(a)
            | Discovery::StrictDns { assignment: a, .. }
            | Discovery::LogicalDns { assignment: a, .. } => Some(a),
            Discovery::Eds { .. }
            | Discovery::OriginalDestination { .. }
            | Discovery::Aggregate { .. }
            | Discovery::Dynamic { .. } => None,
        }
    }
}
