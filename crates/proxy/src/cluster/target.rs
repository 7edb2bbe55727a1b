//! What of a cluster's configuration a worker needs to reach its hosts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tls::ClientTls;
use upstream::Endpoint;

use crate::net::{ConnectOptions, DnsCache, Outside};

/// A cluster as compiled by the control thread; immutable.
pub struct Target {
    pub name: Arc<str>,
    /// The name that statistics carry.
    pub stat_name: Arc<str>,
    pub connect_timeout: Duration,
    pub connect: ConnectOptions,
    pub outside: Option<Outside>,
    /// By the endpoint's labels: the first that matches.
    pub transports: Vec<Transport>,
    pub protocol: HttpProtocol,
    /// How long a connection may be idle in the pool.
    pub idle_timeout: Option<Duration>,
    /// How old a connection may be that takes a request.
    pub max_age: Option<Duration>,
    pub max_requests_per_connection: Option<u32>,
    pub max_concurrent_streams: u32,
    /// Endpoints are the connections' own original destinations.
    pub original_destination: bool,
    /// The clusters that this one stands for.
    pub aggregate: Option<Arc<[Arc<str>]>>,
    /// Where requests name their hosts.
    pub names: Option<Arc<DnsCache>>,
    /// Whether peers exchange metadata on TCP connections (`istio.metadata_exchange`).
    pub exchange_metadata: bool,
    /// The compiled resource that this came of.
    pub config: Arc<decide::Cluster>,
}

/// One of a cluster's ways to carry bytes.
#[derive(Clone)]
pub struct Transport {
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// `None` is plaintext.
    pub tls: Option<Arc<ClientTls>>,
}

/// Which HTTP an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpProtocol {
    Http1,
    Http2,
    /// What the client spoke.
    Downstream,
    /// What ALPN selects.
    Alpn,
}

impl Target {
    /// Whether a connection made then is to take no more requests.
    pub fn is_too_old(&self, opened: Instant, now: Instant) -> bool {
        self.max_age.is_some_and(|most| now.saturating_duration_since(opened) >= most)
    }

    /// The transport for an endpoint, by `envoy.transport_socket_match`.
    pub fn transport(&self, endpoint: &Endpoint) -> Option<(usize, &Transport)> {
        self.transports
            .iter()
            .enumerate()
            .find(|(_, t)| t.labels.iter().all(|(k, v)| endpoint.transport_label(k) == Some(v)))
    }
}
