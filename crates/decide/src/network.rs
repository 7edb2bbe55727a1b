//! Network filters: what happens to a connection's bytes before and instead of HTTP.

mod compile;

use std::sync::Arc;
use std::time::Duration;

use crate::access_log::AccessLog;
use crate::rbac::Rbac;
use crate::route::{ClusterRef, NetworkHash};

pub(crate) use compile::{compile_chain, is_metadata_exchange};

/// A filter that lets the connection through to the next, or closes it.
#[derive(Debug, Clone)]
pub enum NetworkFilter {
    Rbac(Arc<Rbac>),
    /// Exchange peer metadata when `istio-peer-exchange` was selected by ALPN.
    MetadataExchange,
    /// Count for Istio's metrics.
    Stats,
    /// At most so many connections at once through this filter; more are closed after the delay.
    ConnectionLimit {
        max: u64,
        delay: Option<Duration>,
    },
    /// The cluster is called as the server name says: AUTO_PASSTHROUGH.
    SniCluster,
    /// Facts set for later filters and the log, each with its value already literal.
    SetFilterState(Vec<(Arc<str>, crate::format::Format)>),
}

/// Forward bytes.
#[derive(Debug, Clone)]
pub struct TcpProxy {
    pub stat_prefix: Arc<str>,
    /// With their weights; one of them for each connection.
    pub clusters: Vec<(ClusterRef, u32)>,
    pub total_weight: u64,
    /// One hour unless configured; nothing when zero was written.
    pub idle_timeout: Option<Duration>,
    pub max_duration: Option<Duration>,
    pub max_connect_attempts: u32,
    pub access_log: Vec<AccessLog>,
    pub hash: Vec<NetworkHash>,
}
