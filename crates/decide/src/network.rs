//! Network filters: what happens to a connection's bytes before and instead of HTTP.

mod compile;

use std::sync::Arc;
use std::time::Duration;

use proto::pb::envoy::extensions::filters::network::local_ratelimit::v3::LocalRateLimit;

use crate::access_log::AccessLog;
use crate::ext_authz::NetworkAuthz;
use crate::limit::Bucket;
use crate::rbac::Rbac;
use crate::refusal::{Refusal, Taken, Within};
use crate::route::{ClusterRef, NetworkHash};
use crate::wire::flag;

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
    /// New connections take a token each; those that find none are closed.
    RateLimit(Arc<ConnectionRateLimit>),
    /// The cluster is called as the server name says: AUTO_PASSTHROUGH.
    SniCluster,
    /// Somebody else is asked about the connection.
    Authz(Arc<NetworkAuthz>),
    /// A cluster for any host is to look the server name up, at this port.
    SniDynamicForward {
        port: u16,
    },
    /// Facts set for later filters and the log, each with its value already literal.
    SetFilterState(Vec<(Arc<str>, crate::format::Format)>),
}

/// `envoy.filters.network.local_ratelimit`: one bucket for all workers.
#[derive(Debug)]
pub struct ConnectionRateLimit {
    /// Whose `rate_limited` counts.
    pub owner: Arc<str>,
    bucket: Option<Bucket>,
}

impl ConnectionRateLimit {
    /// Whether a connection may come in now.
    pub fn admits(&self, now: std::time::Instant) -> bool {
        self.bucket.as_ref().is_none_or(|bucket| bucket.take(now).allowed)
    }

    pub(crate) fn compile(m: &LocalRateLimit) -> Taken<Self> {
        if m.stat_prefix.is_empty() {
            return Err(Refusal::new("is missing").under("statPrefix"));
        }
        let bucket =
            m.token_bucket.as_ref().ok_or_else(|| Refusal::new("is missing").under("tokenBucket"))?;
        let bucket = Bucket::compile(bucket).within("tokenBucket")?;
        let enabled = m.runtime_enabled.as_ref().is_none_or(|f| flag(&f.default_value, true));
        Ok(Self { owner: m.stat_prefix.as_str().into(), bucket: enabled.then_some(bucket) })
    }
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
