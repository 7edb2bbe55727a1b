//! The endpoints of a cluster as they were assigned: plain data, no state.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use base::Locality;

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    Socket(SocketAddr),
    /// A name that the proxy resolves: clusters of type STRICT_DNS and LOGICAL_DNS.
    Name(Arc<str>, u16),
    /// A Unix domain socket.
    Pipe(Arc<str>),
}

impl Address {
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket(address) => Some(*address),
            _ => None,
        }
    }

    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Socket(address) => Some(address.port()),
            Self::Name(_, port) => Some(*port),
            Self::Pipe(_) => None,
        }
    }

    /// From a host and a port: a socket address when the host is an IP address, else a name.
    pub fn parse(host: &str, port: u16) -> Self {
        match host.parse::<IpAddr>() {
            Ok(ip) => Self::Socket(SocketAddr::new(ip, port)),
            Err(_) => Self::Name(host.into(), port),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => write!(f, "{address}"),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
            Self::Pipe(path) => f.write_str(path),
        }
    }
}

/// What the control plane says of an endpoint's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Health {
    #[default]
    Healthy,
    Degraded,
    /// UNHEALTHY and TIMEOUT.
    Unhealthy,
    /// DRAINING: no new requests, as unhealthy.
    Draining,
}

/// One endpoint as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub address: Address,
    /// The name for host rewriting (`auto_host_rewrite`); empty when none was given.
    pub hostname: Arc<str>,
    /// At least 1.
    pub weight: u32,
    pub health: Health,
    /// Metadata of `envoy.transport_socket_match`, sorted by key: `tlsMode: istio`.
    pub transport_labels: Arc<[(Box<str>, Box<str>)]>,
    /// Istio's `workload;namespace;canonical;revision;cluster` (metadata `istio.workload`); empty when there is none.
    pub workload: Arc<str>,
    /// Metadata of `envoy.lb`, sorted by key: by it subsets are made.
    pub lb_labels: Arc<[LbLabel]>,
    /// How it is checked, where that is not as any other.
    pub check: EndpointCheck,
}

/// One field of an endpoint's metadata for load balancing.
#[derive(Debug, Clone, PartialEq)]
pub struct LbLabel {
    pub key: Box<str>,
    /// As JSON.
    pub value: Box<str>,
    /// Of a list, each as JSON.
    pub items: Vec<Box<str>>,
}

/// What an endpoint says of its active health checks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EndpointCheck {
    pub disabled: bool,
    /// In place of the endpoint's own.
    pub address: Option<Address>,
    /// The authority of checks; empty when none was given.
    pub hostname: Arc<str>,
}

impl Endpoint {
    /// A healthy endpoint of weight 1 without metadata.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            hostname: Arc::from(""),
            weight: 1,
            health: Health::Healthy,
            transport_labels: Arc::from([]),
            workload: Arc::from(""),
            lb_labels: Arc::from([]),
            check: EndpointCheck::default(),
        }
    }

    pub fn transport_label(&self, key: &str) -> Option<&str> {
        self.transport_labels.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
    }
}

/// Endpoints of one locality and priority.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalityGroup {
    pub locality: Arc<Locality>,
    /// 0 is preferred.
    pub priority: u32,
    /// Only honoured with [`crate::LocalityLb::Weighted`].
    pub weight: u32,
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// All endpoints of a cluster: Envoy's `ClusterLoadAssignment`.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    pub groups: Vec<LocalityGroup>,
    /// Percent; 140 unless configured.
    pub overprovisioning_factor: u32,
    /// Requests to drop on purpose (`policy.dropOverloads`), of a million: flag `DO`.
    pub drop_per_million: u32,
}

impl Default for Assignment {
    fn default() -> Self {
        Self { groups: Vec::new(), overprovisioning_factor: 140, drop_per_million: 0 }
    }
}

impl Assignment {
    /// One locality, one priority.
    pub fn of(endpoints: Vec<Endpoint>) -> Self {
        let endpoints = endpoints.into_iter().map(Arc::new).collect();
        Self {
            groups: vec![LocalityGroup { locality: Arc::default(), priority: 0, weight: 1, endpoints }],
            ..Self::default()
        }
    }

    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.groups.iter().flat_map(|g| &g.endpoints)
    }

    pub fn is_empty(&self) -> bool {
        self.endpoints().next().is_none()
    }
}
