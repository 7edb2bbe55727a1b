//! What of a node its configuration may depend on. Nodes of one scope share every byte.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use base::Locality;

use crate::node::{ISTIO_EXTENSIONS, Interception, Node, NodeKind};

/// The equivalence class of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Scope(Arc<Inner>);

#[derive(Debug, PartialEq, Eq)]
struct Inner {
    facets: Facets,
    /// One hash for each facet, in the order of the bits of [`Facet`].
    hashes: [u64; FACETS],
}

/// The parts of a scope, each of which is read and remembered on its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Facets {
    pub kind: NodeKind,
    pub namespace: Arc<str>,
    pub labels: Arc<BTreeMap<String, String>>,
    pub locality: Locality,
    pub network: Arc<str>,
    pub cluster: Arc<str>,
    pub ip: IpMode,
    pub interception: Interception,
    pub dns_capture: bool,
    /// Istio's own extensions may be sent.
    pub extensions: bool,
    pub http10: bool,
    /// Of `x.y.svc.cluster.local`, the part from `svc` on.
    pub domain: Arc<str>,
    pub mesh_id: Arc<str>,
    /// The machine of the cluster that it runs on.
    pub machine: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IpMode {
    V4,
    V6,
    Dual,
}

/// A set of facets, as bits.
pub(crate) type Mask = u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Facet {
    Kind,
    Namespace,
    Labels,
    Locality,
    Network,
    Cluster,
    Ip,
    Interception,
    DnsCapture,
    Extensions,
    Http10,
    Domain,
    MeshId,
    Machine,
}

const FACETS: usize = 14;

impl Facet {
    pub(crate) const fn bit(self) -> Mask {
        1 << self as u32
    }
}

impl Scope {
    pub fn of(node: &Node) -> Self {
        let v4 = node.addresses.iter().any(std::net::IpAddr::is_ipv4);
        let v6 = node.addresses.iter().any(std::net::IpAddr::is_ipv6);
        let domain = node.dns_domain.split_once("svc.").map_or("cluster.local", |(_, domain)| domain);
        Self::new(Facets {
            kind: node.kind,
            namespace: Arc::clone(&node.namespace),
            labels: Arc::clone(&node.labels),
            locality: node.locality.clone(),
            network: Arc::clone(&node.network),
            cluster: Arc::clone(&node.cluster),
            ip: match (v4, v6) {
                (true, true) => IpMode::Dual,
                (false, true) => IpMode::V6,
                _ => IpMode::V4,
            },
            interception: node.interception,
            dns_capture: node.dns_capture,
            extensions: node.features.contains(ISTIO_EXTENSIONS),
            http10: node.http10,
            domain: domain.into(),
            mesh_id: Arc::clone(&node.mesh_id),
            machine: Arc::clone(&node.machine),
        })
    }

    pub fn new(facets: Facets) -> Self {
        let hashes = [
            hash(&facets.kind),
            hash(&facets.namespace),
            hash(&facets.labels),
            hash(&facets.locality),
            hash(&facets.network),
            hash(&facets.cluster),
            hash(&facets.ip),
            hash(&facets.interception),
            hash(&facets.dns_capture),
            hash(&facets.extensions),
            hash(&facets.http10),
            hash(&facets.domain),
            hash(&facets.mesh_id),
            hash(&facets.machine),
        ];
        Self(Arc::new(Inner { facets, hashes }))
    }

    pub fn facets(&self) -> &Facets {
        &self.0.facets
    }

    /// Equal for scopes that agree in every facet of the mask.
    pub(crate) fn hash_under(&self, mask: Mask) -> u64 {
        let mut hash = u64::from(mask);
        for (at, facet) in self.0.hashes.iter().enumerate() {
            if mask & (1 << at) != 0 {
                hash = (hash.rotate_left(7) ^ facet).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            }
        }
        hash
    }
}

impl PartialEq for Scope {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for Scope {}

impl Hash for Scope {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hashes.hash(state);
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
