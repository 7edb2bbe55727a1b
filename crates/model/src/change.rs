//! The only way into the world: one fact that a registry learned.

use std::fmt;

use api::mesh::MeshConfig;
use api::networking::{
    DestinationRule, Gateway, ProxyConfig, ServiceEntry, Sidecar, VirtualService, WorkloadGroup,
};
use api::security::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};
use api::telemetry::Telemetry;
use base::NamespacedName;

use crate::config::Config;
use crate::source::{ClusterId, KeySet, KubeService, Namespace, Node, Slice, TlsSecret, Workload};

/// A fact, and the cluster from which it was learned.
#[derive(Debug, Clone)]
pub struct Change {
    pub cluster: ClusterId,
    pub action: Action,
}

// Changes are made, taken and gone: boxing each would cost more than their size does.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
pub enum Action {
    /// The thing is there and looks like this.
    Upsert(Object),
    /// The thing is gone.
    Delete(ObjectRef),
}

#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
pub enum Object {
    Service(KubeService),
    Slice(Slice),
    Pod(Workload),
    WorkloadEntry(Workload),
    Namespace(Namespace),
    Node(Node),
    Secret(TlsSecret),
    KeySet(KeySet),
    Mesh(Box<MeshConfig>),
    /// The roots that the mesh's authority announces, in PEM.
    Roots(std::sync::Arc<str>),
    VirtualService(Config<VirtualService>),
    DestinationRule(Config<DestinationRule>),
    Gateway(Config<Gateway>),
    ServiceEntry(Config<ServiceEntry>),
    Sidecar(Config<Sidecar>),
    WorkloadGroup(Config<WorkloadGroup>),
    ProxyConfig(Config<ProxyConfig>),
    AuthorizationPolicy(Config<AuthorizationPolicy>),
    PeerAuthentication(Config<PeerAuthentication>),
    RequestAuthentication(Config<RequestAuthentication>),
    Telemetry(Config<Telemetry>),
}

/// Which thing: cluster-scoped kinds have an empty namespace; there is one `Mesh` and one `Roots`, whose names do not
/// matter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    pub kind: Kind,
    pub name: NamespacedName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Service,
    Slice,
    Pod,
    WorkloadEntry,
    Namespace,
    Node,
    Secret,
    KeySet,
    Mesh,
    Roots,
    VirtualService,
    DestinationRule,
    Gateway,
    ServiceEntry,
    Sidecar,
    WorkloadGroup,
    ProxyConfig,
    AuthorizationPolicy,
    PeerAuthentication,
    RequestAuthentication,
    Telemetry,
}

impl Change {
    pub fn upsert(cluster: impl Into<ClusterId>, object: Object) -> Self {
        Self { cluster: cluster.into(), action: Action::Upsert(object) }
    }

    pub fn delete(cluster: impl Into<ClusterId>, kind: Kind, name: NamespacedName) -> Self {
        Self { cluster: cluster.into(), action: Action::Delete(ObjectRef { kind, name }) }
    }
}

impl Object {
    pub fn reference(&self) -> ObjectRef {
        let cluster_scoped =
            |name: &std::sync::Arc<str>| NamespacedName::new("", std::sync::Arc::clone(name));
        let (kind, name) = match self {
            Self::Service(it) => (Kind::Service, it.name.clone()),
            Self::Slice(it) => (Kind::Slice, it.name.clone()),
            Self::Pod(it) => (Kind::Pod, it.name.clone()),
            Self::WorkloadEntry(it) => (Kind::WorkloadEntry, it.name.clone()),
            Self::Namespace(it) => (Kind::Namespace, cluster_scoped(&it.name)),
            Self::Node(it) => (Kind::Node, cluster_scoped(&it.name)),
            Self::Secret(it) => (Kind::Secret, it.name.clone()),
            Self::KeySet(it) => (Kind::KeySet, it.name.clone()),
            Self::Mesh(_) => (Kind::Mesh, NamespacedName::new("", "mesh")),
            Self::Roots(_) => (Kind::Roots, NamespacedName::new("", "roots")),
            Self::VirtualService(it) => (Kind::VirtualService, it.name.clone()),
            Self::DestinationRule(it) => (Kind::DestinationRule, it.name.clone()),
            Self::Gateway(it) => (Kind::Gateway, it.name.clone()),
            Self::ServiceEntry(it) => (Kind::ServiceEntry, it.name.clone()),
            Self::Sidecar(it) => (Kind::Sidecar, it.name.clone()),
            Self::WorkloadGroup(it) => (Kind::WorkloadGroup, it.name.clone()),
            Self::ProxyConfig(it) => (Kind::ProxyConfig, it.name.clone()),
            Self::AuthorizationPolicy(it) => (Kind::AuthorizationPolicy, it.name.clone()),
            Self::PeerAuthentication(it) => (Kind::PeerAuthentication, it.name.clone()),
            Self::RequestAuthentication(it) => (Kind::RequestAuthentication, it.name.clone()),
            Self::Telemetry(it) => (Kind::Telemetry, it.name.clone()),
        };
        ObjectRef { kind, name }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}
