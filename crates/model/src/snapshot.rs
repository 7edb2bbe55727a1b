//! The world at one moment: immutable, cheap to clone, indexed for the lookups that translation makes.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::AHashMap;
use api::mesh::MeshConfig;
use api::networking::{
    DestinationRule, Gateway, ProxyConfig, ServiceEntry, Sidecar, VirtualService, WorkloadGroup,
};
use api::security::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};
use api::telemetry::Telemetry;
use base::NamespacedName;

use crate::Kind;
use crate::config::{Config, Configs};
use crate::map::Map;
use crate::rules::RuleIndex;
use crate::service::{Accounts, Endpoints, Service, ServiceKey};
use crate::source::{KeySet, Labels, TlsSecret, Workload};

/// Cheap to clone: a handful of `Arc`s.
#[derive(Debug, Clone)]
pub struct Snapshot(Arc<Inner>);

#[derive(Debug, Clone)]
pub(crate) struct Inner {
    pub(crate) id: u64,
    pub(crate) domain: Arc<str>,
    pub(crate) root_namespace: Arc<str>,
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) roots: Arc<Revised<Arc<str>>>,
    pub(crate) services: Arc<Services>,
    pub(crate) endpoints: Map<ServiceKey, Arc<Endpoints>>,
    pub(crate) accounts: Map<ServiceKey, Arc<Accounts>>,
    pub(crate) workloads: Map<NamespacedName, Arc<Workload>>,
    pub(crate) secrets: Map<NamespacedName, Arc<(u64, TlsSecret)>>,
    pub(crate) key_sets: Arc<Revised<BTreeMap<NamespacedName, Revised<KeySet>>>>,
    pub(crate) namespaces: Arc<Revised<AHashMap<Arc<str>, Arc<Labels>>>>,
    /// Networks that have a gateway, with the addresses of its 15443 door.
    pub(crate) networks: Arc<Revised<Vec<NetworkGateway>>>,
    pub(crate) rules: Arc<RuleIndex>,
    pub(crate) virtual_services: Arc<Configs<VirtualService>>,
    pub(crate) destination_rules: Arc<Configs<DestinationRule>>,
    pub(crate) gateways: Arc<Configs<Gateway>>,
    pub(crate) service_entries: Arc<Configs<ServiceEntry>>,
    pub(crate) sidecars: Arc<Configs<Sidecar>>,
    pub(crate) workload_groups: Arc<Configs<WorkloadGroup>>,
    pub(crate) proxy_configs: Arc<Configs<ProxyConfig>>,
    pub(crate) authorization_policies: Arc<Configs<AuthorizationPolicy>>,
    pub(crate) peer_authentications: Arc<Configs<PeerAuthentication>>,
    pub(crate) request_authentications: Arc<Configs<RequestAuthentication>>,
    pub(crate) telemetries: Arc<Configs<Telemetry>>,
}

/// A value with the revision of its last change.
#[derive(Debug, Clone, Default)]
pub struct Revised<T> {
    pub revision: u64,
    pub value: T,
}

pub type Mesh = Revised<MeshConfig>;

/// The way into another network: mutual TLS passed through by server name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkGateway {
    pub network: Arc<str>,
    pub address: Arc<str>,
    pub port: u32,
}

/// All services, ordered by host and namespace.
#[derive(Debug, Default)]
pub struct Services {
    pub revision: u64,
    all: Vec<Arc<Service>>,
    by_key: AHashMap<ServiceKey, Arc<Service>>,
    by_host: AHashMap<Arc<str>, Vec<Arc<Service>>>,
    by_namespace: AHashMap<Arc<str>, Vec<Arc<Service>>>,
}

impl Services {
    pub(crate) fn new(revision: u64, by_key: AHashMap<ServiceKey, Arc<Service>>) -> Self {
        let mut all: Vec<_> = by_key.values().cloned().collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        let mut by_host: AHashMap<_, Vec<_>> = AHashMap::new();
        let mut by_namespace: AHashMap<_, Vec<_>> = AHashMap::new();
        for service in &all {
            by_host.entry(Arc::clone(&service.key.host)).or_default().push(Arc::clone(service));
            by_namespace.entry(Arc::clone(&service.key.namespace)).or_default().push(Arc::clone(service));
        }
        Self { revision, all, by_key, by_host, by_namespace }
    }

    pub(crate) fn by_key(&self) -> &AHashMap<ServiceKey, Arc<Service>> {
        &self.by_key
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.all.iter()
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn get(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.by_key.get(key)
    }

    /// The services of that host name, in every namespace.
    pub fn with_host(&self, host: &str) -> &[Arc<Service>] {
        self.by_host.get(host).map_or(&[], Vec::as_slice)
    }

    pub fn in_namespace(&self, namespace: &str) -> &[Arc<Service>] {
        self.by_namespace.get(namespace).map_or(&[], Vec::as_slice)
    }
}

/// Something that can be read, so that "what was read" can be remembered and compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    Mesh,
    Roots,
    /// The set of services: any that comes, changes or goes, but not its endpoints.
    Services,
    Service(ServiceKey),
    Endpoints(ServiceKey),
    Accounts(ServiceKey),
    /// The DestinationRules that speak for a service to callers of a namespace.
    Rules(Arc<str>, ServiceKey),
    /// All resources of a kind.
    Kind(Kind),
    /// All resources of a kind in a namespace.
    KindIn(Kind, Arc<str>),
    /// One resource.
    Config(Kind, NamespacedName),
    Secret(NamespacedName),
    KeySet(NamespacedName),
    Namespaces,
    Networks,
}

/// What differs between two snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    pub endpoints: Vec<ServiceKey>,
    pub accounts: Vec<ServiceKey>,
    pub services: Vec<ServiceKey>,
    pub secrets: Vec<NamespacedName>,
    /// Kinds of users' resources of which any changed; `Mesh`, `Roots`, `KeySet`, `Namespace` and `Gateway` networks included.
    pub kinds: Vec<Kind>,
}

impl Diff {
    /// Whether nothing but endpoints differs: the fast lane.
    pub fn only_endpoints(&self) -> bool {
        self.accounts.is_empty()
            && self.services.is_empty()
            && self.secrets.is_empty()
            && self.kinds.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.only_endpoints() && self.endpoints.is_empty()
    }
}

macro_rules! configs {
    ($($field:ident: $kind:ident,)*) => {
        impl Snapshot {
            $(pub fn $field(&self) -> &Arc<Configs<$kind>> {
                &self.0.$field
            })*

            fn kind_revision(&self, kind: Kind) -> u64 {
                match kind {
                    $(Kind::$kind => self.0.$field.revision,)*
                    _ => 0,
                }
            }

            fn kind_revision_in(&self, kind: Kind, namespace: &str) -> u64 {
                match kind {
                    $(Kind::$kind => self.0.$field.revision_in(namespace),)*
                    _ => 0,
                }
            }

            fn config_revision(&self, kind: Kind, name: &NamespacedName) -> u64 {
                match kind {
                    $(Kind::$kind => self.0.$field.get(name).map_or(0, |config| config.revision),)*
                    _ => 0,
                }
            }

            fn kinds_that_differ(&self, newer: &Self) -> Vec<Kind> {
                let mut kinds = Vec::new();
                $(if self.0.$field.revision != newer.0.$field.revision { kinds.push(Kind::$kind) })*
                if self.0.mesh.revision != newer.0.mesh.revision { kinds.push(Kind::Mesh) }
                if self.0.roots.revision != newer.0.roots.revision { kinds.push(Kind::Roots) }
                if self.0.key_sets.revision != newer.0.key_sets.revision { kinds.push(Kind::KeySet) }
                if self.0.namespaces.revision != newer.0.namespaces.revision
                    || self.0.networks.revision != newer.0.networks.revision { kinds.push(Kind::Namespace) }
                kinds
            }
        }
    };
}

configs! {
    virtual_services: VirtualService,
    destination_rules: DestinationRule,
    gateways: Gateway,
    service_entries: ServiceEntry,
    sidecars: Sidecar,
    workload_groups: WorkloadGroup,
    proxy_configs: ProxyConfig,
    authorization_policies: AuthorizationPolicy,
    peer_authentications: PeerAuthentication,
    request_authentications: RequestAuthentication,
    telemetries: Telemetry,
}

impl Snapshot {
    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    /// Grows with every snapshot that a world yields.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The DNS domain of Kubernetes services: `cluster.local` unless configured.
    pub fn domain(&self) -> &Arc<str> {
        &self.0.domain
    }

    pub fn root_namespace(&self) -> &Arc<str> {
        &self.0.root_namespace
    }

    pub fn mesh(&self) -> &Arc<Mesh> {
        &self.0.mesh
    }

    /// The roots that workloads trust, in PEM; empty where nobody announced any.
    pub fn roots(&self) -> &Arc<str> {
        &self.0.roots.value
    }

    pub fn services(&self) -> &Arc<Services> {
        &self.0.services
    }

    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.0.services.get(key)
    }

    pub fn endpoints(&self, key: &ServiceKey) -> Option<&Arc<Endpoints>> {
        self.0.endpoints.get(key)
    }

    pub fn accounts(&self, key: &ServiceKey) -> Option<&Arc<Accounts>> {
        self.0.accounts.get(key)
    }

    /// Pods and WorkloadEntries in no order, for status and display.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.0.workloads.iter().map(|(_, workload)| workload)
    }

    /// A Pod or WorkloadEntry by its name; where both exist, the WorkloadEntry.
    pub fn workload(&self, name: &NamespacedName) -> Option<&Arc<Workload>> {
        self.0.workloads.get(name)
    }

    pub fn secret(&self, name: &NamespacedName) -> Option<&TlsSecret> {
        self.0.secrets.get(name).map(|entry| &entry.1)
    }

    /// The keys of an issuer, by [`KeySet::name_for`].
    pub fn key_set(&self, name: &NamespacedName) -> Option<&KeySet> {
        self.0.key_sets.value.get(name).map(|entry| &entry.value)
    }

    pub fn key_sets(&self) -> impl Iterator<Item = &KeySet> {
        self.0.key_sets.value.values().map(|entry| &entry.value)
    }

    /// A namespace's labels.
    pub fn namespace(&self, name: &str) -> Option<&Arc<Labels>> {
        self.0.namespaces.value.get(name)
    }

    pub fn network_gateways(&self) -> &[NetworkGateway] {
        &self.0.networks.value
    }

    /// The DestinationRules that speak for a service to callers of `client`, oldest first.
    pub fn rules(&self, client: &str, service: &ServiceKey) -> Vec<&Arc<Config<DestinationRule>>> {
        self.0.rules.lookup(client, service, &self.0.root_namespace)
    }

    /// Equal revisions of a key in two snapshots mean equal contents.
    pub fn revision(&self, key: &Key) -> u64 {
        match key {
            Key::Mesh => self.0.mesh.revision,
            Key::Roots => self.0.roots.revision,
            Key::Services => self.0.services.revision,
            Key::Service(key) => self.service(key).map_or(0, |service| service.revision),
            Key::Endpoints(key) => self.endpoints(key).map_or(0, |endpoints| endpoints.revision),
            Key::Accounts(key) => self.accounts(key).map_or(0, |accounts| accounts.revision),
            Key::Rules(client, service) => {
                if self.0.destination_rules.is_empty() {
                    return 0;
                }
                // Revisions are unique, so that mixing them tells lists apart.
                self.rules(client, service).iter().fold(0, |hash: u64, rule| {
                    (hash.rotate_left(5) ^ rule.revision).wrapping_mul(0x9E37_79B9_7F4A_7C15)
                })
            }
            Key::Kind(kind) => self.kind_revision(*kind),
            Key::KindIn(kind, namespace) => self.kind_revision_in(*kind, namespace),
            Key::Config(kind, name) => self.config_revision(*kind, name),
            Key::Secret(name) => self.0.secrets.get(name).map_or(0, |entry| entry.0),
            Key::KeySet(name) => self.0.key_sets.value.get(name).map_or(0, |entry| entry.revision),
            Key::Namespaces => self.0.namespaces.revision,
            Key::Networks => self.0.networks.revision,
        }
    }

    /// What a newer snapshot of the same world has changed.
    pub fn diff(&self, newer: &Self) -> Diff {
        if Arc::ptr_eq(&self.0, &newer.0) {
            return Diff::default();
        }
        let mut diff = Diff { kinds: self.kinds_that_differ(newer), ..Diff::default() };
        let (old, new) = (&self.0, &newer.0);
        old.endpoints.differences(
            &new.endpoints,
            |a, b| a.revision == b.revision,
            |key| {
                diff.endpoints.push(key.clone());
            },
        );
        old.accounts.differences(
            &new.accounts,
            |a, b| a.revision == b.revision,
            |key| {
                diff.accounts.push(key.clone());
            },
        );
        old.secrets.differences(&new.secrets, |a, b| a.0 == b.0, |key| diff.secrets.push(key.clone()));
        if old.services.revision != new.services.revision {
            let changed = |service: &&Arc<Service>| {
                old.services.get(&service.key).is_none_or(|before| before.revision != service.revision)
            };
            diff.services = new.services.iter().filter(changed).map(|service| service.key.clone()).collect();
            let gone = old.services.iter().filter(|service| new.services.get(&service.key).is_none());
            diff.services.extend(gone.map(|service| service.key.clone()));
        }
        for keys in [&mut diff.endpoints, &mut diff.accounts, &mut diff.services] {
            keys.sort_unstable();
        }
        diff.secrets.sort_unstable();
        diff
    }
}
