//! Facts as registries learn them: services, slices, workloads, nodes, namespaces, secrets.
//!
//! These are inputs of the world; what translation reads is derived from them (`service`, `endpoint`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use api::security::{JwtRule, KeySource};
use base::{Locality, NamespacedName};

pub type ClusterId = Arc<str>;
pub type Labels = BTreeMap<String, String>;

/// A Kubernetes Service, reduced to what the mesh reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeService {
    pub name: NamespacedName,
    /// Seconds since 1970; the older of two that conflict wins.
    pub created: i64,
    pub labels: Arc<Labels>,
    pub selector: Labels,
    pub cluster_ips: Vec<IpAddr>,
    /// Where it is reached from outside: `externalIPs`, and what a load balancer was given.
    pub external_addresses: Vec<Arc<str>>,
    /// `clusterIP: None`: names resolve to the endpoints themselves.
    pub headless: bool,
    /// `type: ExternalName`.
    pub external_name: Option<Arc<str>>,
    pub ports: Vec<KubePort>,
    /// Annotation `networking.istio.io/exportTo`, comma-separated.
    pub export_to: Vec<String>,
    /// `trafficDistribution: PreferClose` and its successors.
    pub prefer_close: bool,
    /// `internalTrafficPolicy: Local`.
    pub node_local: bool,
    pub publish_not_ready: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubePort {
    pub name: Arc<str>,
    pub number: u32,
    pub target: TargetPort,
    /// `TCP`, `UDP` or `SCTP`.
    pub transport: Arc<str>,
    pub app_protocol: Option<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    Number(u32),
    Name(Arc<str>),
}

/// A Kubernetes EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    pub name: NamespacedName,
    /// The Service's name (label `kubernetes.io/service-name`), in the slice's namespace.
    pub service: Arc<str>,
    /// Port name to number.
    pub ports: Vec<(Arc<str>, u32)>,
    pub endpoints: Vec<SliceEndpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    pub addresses: Vec<Arc<str>>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub node: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
    /// The Pod that the address belongs to.
    pub pod: Option<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WorkloadKind {
    Pod,
    WorkloadEntry,
}

/// Something that runs: a Pod or a WorkloadEntry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub kind: WorkloadKind,
    pub name: NamespacedName,
    /// IP addresses, or one DNS name or `unix://` path of a WorkloadEntry.
    pub addresses: Vec<Arc<str>>,
    pub labels: Arc<Labels>,
    pub service_account: Arc<str>,
    pub locality: Option<Locality>,
    pub node: Option<Arc<str>>,
    pub network: Option<Arc<str>>,
    pub weight: Option<u32>,
    /// WorkloadEntry `ports`, or a Pod's named container ports.
    pub ports: BTreeMap<String, u32>,
    /// What owns it: the Deployment's name, or its own.
    pub workload_name: Arc<str>,
    pub ready: bool,
    pub host_network: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    pub name: Arc<str>,
    pub labels: Arc<Labels>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: Arc<str>,
    pub locality: Locality,
}

/// Bytes that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Sensitive(Arc<[u8]>);

impl Sensitive {
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes themselves, for whoever serves them to their owner.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A Secret (or ConfigMap) that a gateway may name in `credentialName`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSecret {
    pub name: NamespacedName,
    /// PEM chain, leaf first: `tls.crt` or `cert`.
    pub certificate: Option<Arc<[u8]>>,
    /// PEM: `tls.key` or `key`.
    pub private_key: Option<Sensitive>,
    /// PEM roots that clients' certificates must lead to: `ca.crt` or `cacert`.
    pub roots: Option<Arc<[u8]>>,
    /// PEM revocation list: `ca.crl` or `crl`.
    pub revoked: Option<Arc<[u8]>>,
}

/// The keys of an issuer of tokens, as they were last fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySet {
    /// Of [`KeySet::name_for`].
    pub name: NamespacedName,
    /// A JSON Web Key Set; nothing where none has been fetched.
    pub keys: Option<Arc<str>>,
    /// Why the last try to fetch them failed.
    pub fault: Option<Arc<str>>,
}

impl KeySet {
    /// What the keys of a rule are known by: by which field and what stands there. Nothing for keys that stand in it.
    pub fn name_for(rule: &JwtRule) -> Option<NamespacedName> {
        match rule.key_source() {
            KeySource::Inline(_) => None,
            KeySource::Uri(uri) => Some(NamespacedName::new("jwksUri", uri)),
            KeySource::Issuer(issuer) => Some(NamespacedName::new("issuer", issuer)),
        }
    }
}
