//! Services and their endpoints as translation reads them: merged over clusters, derived, never written by people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use base::{Locality, NamespacedName};

use crate::source::{ClusterId, Labels};
use crate::{Protocol, Visibility};

/// A service is its host name within its namespace; the same pair in two clusters is one service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    pub host: Arc<str>,
    pub namespace: Arc<str>,
}

impl ServiceKey {
    pub fn new(host: impl Into<Arc<str>>, namespace: impl Into<Arc<str>>) -> Self {
        Self { host: host.into(), namespace: namespace.into() }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.host)
    }
}

/// Where a service was declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Kubernetes,
    /// The ServiceEntry of that name, in the service's namespace.
    ServiceEntry(Arc<str>),
}

/// How a proxy finds the addresses behind a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// Endpoints are known and pushed.
    Endpoints,
    /// Resolve the endpoints' names, use every answer.
    Dns,
    /// Resolve and use one answer.
    DnsRoundRobin,
    /// Where the caller wanted to go (headless, `resolution: NONE`).
    Original,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    pub name: Arc<str>,
    pub number: u32,
    pub protocol: Protocol,
    /// The number that endpoints listen on unless they say otherwise; 0 when only they know (a named target).
    pub target: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Changes whenever anything else here does; never reused within a process.
    pub revision: u64,
    pub key: ServiceKey,
    /// The Service's name, or the host of a ServiceEntry.
    pub name: Arc<str>,
    pub origin: Origin,
    pub created: i64,
    pub labels: Arc<Labels>,
    pub ports: Vec<ServicePort>,
    /// Virtual addresses by cluster. Text, since a ServiceEntry may write a CIDR block.
    pub addresses: BTreeMap<ClusterId, Vec<Arc<str>>>,
    /// Where it is reached from outside of its network.
    pub external_addresses: Vec<Arc<str>>,
    /// Given to a ServiceEntry without addresses, so that TCP to it can be told apart and names resolve.
    pub auto_address: Option<IpAddr>,
    pub resolution: Resolution,
    pub headless: bool,
    pub mesh_external: bool,
    pub visibility: Visibility,
    pub selector: Labels,
    /// The name that an `ExternalName` service stands for.
    pub external_name: Option<Arc<str>>,
    /// SANs beside those of the endpoints' accounts (`subjectAltNames` of a ServiceEntry).
    pub subject_alt_names: Vec<String>,
    pub prefer_close: bool,
    pub node_local: bool,
}

impl Service {
    pub fn port(&self, number: u32) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Virtual addresses as seen from `cluster`: its own, else those of any that has the service.
    pub fn addresses_in(&self, cluster: &str) -> &[Arc<str>] {
        self.addresses
            .get(cluster)
            .filter(|own| !own.is_empty())
            .or_else(|| self.addresses.values().find(|some| !some.is_empty()))
            .map_or(&[], Vec::as_slice)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Health {
    Healthy,
    Unhealthy,
    Draining,
}

/// One address behind one port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// An IP address, a DNS name or `unix://` path.
    pub address: Arc<str>,
    pub port: u32,
    /// The name of the service's port that this serves.
    pub port_name: Arc<str>,
    pub cluster: ClusterId,
    pub network: Arc<str>,
    pub locality: Locality,
    pub weight: u32,
    pub health: Health,
    /// It has a sidecar (or an equal) that takes the mesh's mutual TLS.
    pub mutual_tls: bool,
    /// It takes HBONE on 15008.
    pub hbone: bool,
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
    pub labels: Arc<Labels>,
    pub workload: Arc<str>,
    pub node: Option<Arc<str>>,
}

/// All endpoints of a service, sorted, over all of its ports and clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    pub revision: u64,
    pub all: Vec<Endpoint>,
}

/// The service accounts that a service's endpoints run as: `namespace/account`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accounts {
    pub revision: u64,
    pub all: BTreeSet<NamespacedName>,
}
