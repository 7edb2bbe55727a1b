//! The one writer: takes changes, yields snapshots.
//!
//! A change marks what it may touch; what is marked is derived again at the end of the batch and replaces what the
//! snapshot has only where it differs. An endpoint's change so touches one entry of one map.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahash::AHashMap;
use api::mesh::MeshConfig;
use api::networking as net;
use api::security as sec;
use api::telemetry::Telemetry;
use base::NamespacedName;

use crate::change::{Action, Change, Kind, Object, ObjectRef};
use crate::config::{Config, Configs};
use crate::derive::{Derive, accounts};
use crate::facts::{Facts, kube_key, selects};
use crate::rules::RuleIndex;
use crate::service::{Accounts, Endpoints, ServiceKey};
use crate::snapshot::{Inner, NetworkGateway, Revised, Services, Snapshot};
use crate::source::{ClusterId, KeySet, Labels, Workload, WorkloadKind};

/// What the world cannot learn from any registry.
#[derive(Debug, Clone)]
pub struct Settings {
    /// DNS domain of Kubernetes services.
    pub domain: Arc<str>,
    /// Namespace whose policies act on the whole mesh, unless MeshConfig names another.
    pub root_namespace: Arc<str>,
    /// The cluster that resources without one of their own count as being in.
    pub home: ClusterId,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
            home: "Kubernetes".into(),
        }
    }
}

#[derive(Debug)]
pub struct World {
    settings: Settings,
    revision: u64,
    facts: Facts,
    configs: Tables,
    mesh: BTreeMap<ClusterId, MeshConfig>,
    discovery: Discovery,
    inner: Inner,
    snapshot: Snapshot,
}

/// Which namespaces the mesh looks at, as `discoverySelectors` say; all where nothing is said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Discovery {
    /// Those that are known and not looked at.
    hidden: BTreeSet<Arc<str>>,
    /// Namespaces of which nothing is known have no labels.
    unknown_hidden: bool,
    known: BTreeSet<Arc<str>>,
}

impl Discovery {
    fn new(mesh: &MeshConfig, facts: &Facts) -> Self {
        if mesh.discovery_selectors.is_empty() {
            return Self::default();
        }
        let mut discovery = Self { unknown_hidden: !mesh.discovers(&Labels::default()), ..Self::default() };
        for (name, clusters) in &facts.namespaces {
            let looked_at = clusters.values().any(|namespace| mesh.discovers(&namespace.labels));
            let names = if looked_at { &mut discovery.known } else { &mut discovery.hidden };
            names.insert(Arc::clone(name));
        }
        discovery
    }

    fn admits(&self, namespace: &str) -> bool {
        if self.unknown_hidden { self.known.contains(namespace) } else { !self.hidden.contains(namespace) }
    }
}

/// What a batch of changes may have touched.
#[derive(Debug, Default)]
struct Dirty {
    services: BTreeSet<ServiceKey>,
    endpoints: BTreeSet<ServiceKey>,
    all_services: bool,
    namespaces: bool,
    mesh: bool,
    kinds: BTreeSet<Kind>,
}

/// Users' resources of a kind: by name, then cluster; the lowest cluster's is in force.
#[derive(Debug)]
struct Table<T> {
    by_name: BTreeMap<NamespacedName, BTreeMap<ClusterId, Arc<Config<T>>>>,
    /// Namespaces from which something went, with the revision at which it did.
    gone: BTreeMap<Arc<str>, u64>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { by_name: BTreeMap::new(), gone: BTreeMap::new() }
    }
}

impl<T: PartialEq> Table<T> {
    /// Whether that changed anything.
    fn put(&mut self, revision: u64, cluster: &ClusterId, mut config: Config<T>) -> bool {
        let clusters = self.by_name.entry(config.name.clone()).or_default();
        config.revision = revision;
        if let Some(old) =
            clusters.get(cluster).filter(|o| o.created == config.created && o.spec == config.spec)
        {
            if old.generation == config.generation {
                return false;
            }
            // Written otherwise, and means the same: nothing is to be derived from it again.
            config.revision = old.revision;
        }
        clusters.insert(Arc::clone(cluster), Arc::new(config));
        true
    }

    fn delete(&mut self, revision: u64, cluster: &ClusterId, name: &NamespacedName) -> bool {
        let Some(clusters) = self.by_name.get_mut(name) else { return false };
        let gone = clusters.remove(cluster).is_some();
        if clusters.is_empty() {
            self.by_name.remove(name);
        }
        if gone {
            self.gone.insert(Arc::clone(&name.namespace), revision);
        }
        gone
    }

    fn index(&self, revision: u64, discovery: &Discovery) -> Arc<Configs<T>> {
        let looked_at = self.by_name.iter().filter(|(name, _)| discovery.admits(&name.namespace));
        let in_force = looked_at.filter_map(|(_, clusters)| clusters.values().next());
        Arc::new(Configs::new(revision, in_force, &self.gone))
    }
}

macro_rules! tables {
    ($($field:ident: $kind:ident = $type:ty,)*) => {
        #[derive(Debug, Default)]
        struct Tables { $($field: Table<$type>,)* }

        impl Tables {
            const KINDS: &[Kind] = &[$(Kind::$kind,)*];

            /// Takes a resource of a user's kind; whether that changed anything.
            fn put(&mut self, revision: u64, cluster: &ClusterId, object: Object) -> bool {
                match object {
                    $(Object::$kind(config) => self.$field.put(revision, cluster, config),)*
                    _ => false,
                }
            }

            fn delete(&mut self, revision: u64, cluster: &ClusterId, at: &ObjectRef) -> bool {
                match at.kind {
                    $(Kind::$kind => self.$field.delete(revision, cluster, &at.name),)*
                    _ => false,
                }
            }

            fn index_into(
                &self,
                kinds: &BTreeSet<Kind>,
                discovery: &Discovery,
                revision: u64,
                inner: &mut Inner,
            ) {
                $(if kinds.contains(&Kind::$kind) {
                    inner.$field = self.$field.index(revision, discovery);
                })*
            }
        }

        impl Inner {
            fn empty(settings: &Settings) -> Self {
                Self {
                    id: 0,
                    domain: Arc::clone(&settings.domain),
                    root_namespace: Arc::clone(&settings.root_namespace),
                    mesh: Arc::default(),
                    roots: Arc::default(),
                    services: Arc::default(),
                    endpoints: crate::Map::default(),
                    accounts: crate::Map::default(),
                    workloads: crate::Map::default(),
                    secrets: crate::Map::default(),
                    key_sets: Arc::default(),
                    namespaces: Arc::default(),
                    networks: Arc::default(),
                    rules: Arc::default(),
                    $($field: Arc::default(),)*
                }
            }
        }
    };
}

tables! {
    virtual_services: VirtualService = net::VirtualService,
    destination_rules: DestinationRule = net::DestinationRule,
    gateways: Gateway = net::Gateway,
    service_entries: ServiceEntry = net::ServiceEntry,
    sidecars: Sidecar = net::Sidecar,
    workload_groups: WorkloadGroup = net::WorkloadGroup,
    proxy_configs: ProxyConfig = net::ProxyConfig,
    authorization_policies: AuthorizationPolicy = sec::AuthorizationPolicy,
    peer_authentications: PeerAuthentication = sec::PeerAuthentication,
    request_authentications: RequestAuthentication = sec::RequestAuthentication,
    telemetries: Telemetry = Telemetry,
}

impl World {
    pub fn new(settings: Settings) -> Self {
        let inner = Inner::empty(&settings);
        Self {
            snapshot: Snapshot::new(inner.clone()),
            settings,
            revision: 0,
            facts: Facts::default(),
            configs: Tables::default(),
            mesh: BTreeMap::new(),
            discovery: Discovery::default(),
            inner,
        }
    }

    /// The world as of the last batch.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    /// Takes a batch of changes. The snapshot is the one before, to the pointer, when nothing changed.
    pub fn apply(&mut self, changes: Vec<Change>) -> Snapshot {
        let mut dirty = Dirty::default();
        let before = self.revision;
        for change in changes {
            match change.action {
                Action::Upsert(object) => self.upsert(&change.cluster, object, &mut dirty),
                Action::Delete(at) => self.delete(&change.cluster, &at, &mut dirty),
            }
        }
        self.derive(dirty);
        if self.revision != before {
            self.inner.id = self.revision;
            self.snapshot = Snapshot::new(self.inner.clone());
        }
        self.snapshot()
    }

    fn next(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    fn upsert(&mut self, cluster: &ClusterId, object: Object, dirty: &mut Dirty) {
        match object {
            Object::Service(service) => {
                let key = kube_key(&service.name, &self.settings.domain);
                self.facts.put_service(cluster, service);
                dirty.services.insert(key);
            }
            Object::Slice(slice) => {
                for owner in self.facts.put_slice(cluster, slice) {
                    dirty.endpoints.insert(kube_key(&owner, &self.settings.domain));
                }
            }
            Object::Pod(workload) => {
                self.set_workload(cluster, WorkloadKind::Pod, Some(workload), None, dirty)
            }
            Object::WorkloadEntry(workload) => {
                self.set_workload(cluster, WorkloadKind::WorkloadEntry, Some(workload), None, dirty);
            }
            Object::Namespace(namespace) => {
                let name = Arc::clone(&namespace.name);
                if self.facts.set_namespace(cluster, &name, Some(namespace)) {
                    self.namespace_changed(&name, dirty);
                }
            }
            Object::Node(node) => {
                let name = Arc::clone(&node.name);
                dirty.all_services |= self.facts.set_node(cluster, &name, Some(node));
            }
            Object::Secret(secret) => {
                let known = self.inner.secrets.get(&secret.name);
                if known.is_none_or(|known| known.1 != secret) {
                    let revision = self.next();
                    self.inner.secrets.insert(secret.name.clone(), Arc::new((revision, secret)));
                }
            }
            Object::Mesh(mesh) => {
                if self.mesh.get(cluster) != Some(&*mesh) {
                    self.mesh.insert(Arc::clone(cluster), *mesh);
                    dirty.mesh = true;
                }
            }
            Object::KeySet(set) => self.set_keys(&set.name.clone(), Some(set)),
            Object::Roots(pem) => self.set_roots(pem),
            config => self.upsert_config(cluster, config, dirty),
        }
    }

    fn set_roots(&mut self, pem: Arc<str>) {
        if self.inner.roots.value != pem {
            let revision = self.next();
            self.inner.roots = Arc::new(Revised { revision, value: pem });
        }
    }

    fn set_keys(&mut self, name: &NamespacedName, set: Option<KeySet>) {
        if self.inner.key_sets.value.get(name).map(|entry| &entry.value) == set.as_ref() {
            return;
        }
        let revision = self.next();
        let all = Arc::make_mut(&mut self.inner.key_sets);
        all.revision = revision;
        match set {
            Some(value) => drop(all.value.insert(name.clone(), Revised { revision, value })),
            None => drop(all.value.remove(name)),
        }
    }

    fn upsert_config(&mut self, cluster: &ClusterId, config: Object, dirty: &mut Dirty) {
        let at = config.reference();
        if at.kind == Kind::ServiceEntry {
            self.entry_hosts(&at.name, dirty);
        }
        if !self.configs.put(self.revision + 1, cluster, config) {
            return;
        }
        self.next();
        if at.kind == Kind::ServiceEntry {
            self.entry_hosts(&at.name, dirty);
        }
        dirty.kinds.insert(at.kind);
    }

    fn delete(&mut self, cluster: &ClusterId, at: &ObjectRef, dirty: &mut Dirty) {
        match at.kind {
            Kind::Service => {
                self.facts.drop_service(cluster, &at.name);
                dirty.services.insert(kube_key(&at.name, &self.settings.domain));
            }
            Kind::Slice => {
                for owner in self.facts.drop_slice(cluster, &at.name) {
                    dirty.endpoints.insert(kube_key(&owner, &self.settings.domain));
                }
            }
            Kind::Pod => self.set_workload(cluster, WorkloadKind::Pod, None, Some(&at.name), dirty),
            Kind::WorkloadEntry => {
                self.set_workload(cluster, WorkloadKind::WorkloadEntry, None, Some(&at.name), dirty);
            }
            Kind::Namespace => {
                if self.facts.set_namespace(cluster, &at.name.name, None) {
                    self.namespace_changed(&at.name.name, dirty);
                }
            }
            Kind::Node => dirty.all_services |= self.facts.set_node(cluster, &at.name.name, None),
            Kind::Secret => {
                if self.inner.secrets.remove(&at.name).is_some() {
                    self.next();
                }
            }
            Kind::KeySet => self.set_keys(&at.name, None),
            Kind::Mesh => dirty.mesh |= self.mesh.remove(cluster).is_some(),
            Kind::Roots => self.set_roots("".into()),
            kind => {
                if kind == Kind::ServiceEntry {
                    self.entry_hosts(&at.name, dirty);
                }
                if self.configs.delete(self.revision + 1, cluster, at) {
                    self.next();
                    dirty.kinds.insert(kind);
                }
            }
        }
    }

    /// Marks the services that a ServiceEntry declares at this moment.
    fn entry_hosts(&self, name: &NamespacedName, dirty: &mut Dirty) {
        let clusters = self.configs.service_entries.by_name.get(name);
        for entry in clusters.into_iter().flat_map(BTreeMap::values) {
            for host in &entry.spec.hosts {
                dirty
                    .services
                    .insert(ServiceKey::new(host.to_ascii_lowercase(), Arc::clone(&name.namespace)));
            }
        }
    }

    fn namespace_changed(&self, name: &Arc<str>, dirty: &mut Dirty) {
        dirty.namespaces = true;
        // The root namespace's label names the cluster's network, which endpoints carry.
        dirty.all_services |= *name == self.inner.root_namespace;
    }

    fn set_workload(
        &mut self,
        cluster: &ClusterId,
        kind: WorkloadKind,
        workload: Option<Workload>,
        gone: Option<&NamespacedName>,
        dirty: &mut Dirty,
    ) {
        let Some(name) = workload.as_ref().map(|workload| &workload.name).or(gone).cloned() else { return };
        let new = workload.map(Arc::new);
        let old = self.facts.set_workload(cluster, kind, &name, new.as_ref());
        if old == new {
            return;
        }
        self.next();
        match &new {
            Some(workload) => drop(self.inner.workloads.insert(name.clone(), Arc::clone(workload))),
            None => drop(self.inner.workloads.remove(&name)),
        }
        if kind == WorkloadKind::Pod {
            for service in self.facts.users_of(cluster, &name) {
                dirty.endpoints.insert(kube_key(&service, &self.settings.domain));
            }
        }
        for labels in [&old, &new].into_iter().flatten().map(|workload| &workload.labels) {
            self.selected_by(kind, &name.namespace, labels, dirty);
        }
    }

    /// Marks the services whose selectors mean a workload with these labels.
    fn selected_by(&self, kind: WorkloadKind, namespace: &Arc<str>, labels: &Labels, dirty: &mut Dirty) {
        if kind == WorkloadKind::WorkloadEntry {
            for service in self.facts.services_selecting(namespace, labels) {
                dirty.endpoints.insert(kube_key(&service.name, &self.settings.domain));
            }
        }
        for entry in self.inner.service_entries.in_namespace(namespace) {
            let Some(selector) = &entry.spec.workload_selector else { continue };
            if selects(&selector.labels, labels) {
                for host in &entry.spec.hosts {
                    let key = ServiceKey::new(host.to_ascii_lowercase(), Arc::clone(&entry.name.namespace));
                    dirty.endpoints.insert(key);
                }
            }
        }
    }

    fn derive(&mut self, mut dirty: Dirty) {
        if dirty.mesh {
            self.derive_mesh(&mut dirty);
        }
        if dirty.namespaces {
            let revision = self.next();
            let labels = |clusters: &BTreeMap<_, crate::Namespace>| {
                clusters.values().next().map(|namespace| Arc::clone(&namespace.labels)).unwrap_or_default()
            };
            let value =
                self.facts.namespaces.iter().map(|(name, all)| (Arc::clone(name), labels(all))).collect();
            self.inner.namespaces = Arc::new(Revised { revision, value });
        }
        if dirty.mesh || dirty.namespaces {
            self.derive_discovery(&mut dirty);
        }
        if !dirty.kinds.is_empty() {
            let revision = self.next();
            self.configs.index_into(&dirty.kinds, &self.discovery, revision, &mut self.inner);
            if dirty.kinds.contains(&Kind::DestinationRule) {
                self.index_rules();
            }
        }
        if dirty.all_services {
            dirty.services.extend(self.inner.services.iter().map(|service| service.key.clone()));
        }
        let services = self.inner.services.revision;
        self.derive_services(&mut dirty);
        self.derive_endpoints(&dirty);
        if self.inner.services.revision != services {
            self.derive_networks();
        }
    }

    fn derive_mesh(&mut self, dirty: &mut Dirty) {
        let value = self.mesh.values().next().cloned().unwrap_or_default();
        let revision = self.next();
        self.inner.root_namespace = if value.root_namespace.is_empty() {
            Arc::clone(&self.settings.root_namespace)
        } else {
            value.root_namespace.as_str().into()
        };
        self.inner.mesh = Arc::new(Revised { revision, value });
        dirty.all_services = true;
        self.index_rules();
    }

    /// Namespaces that come into sight or go out of it do so with everything in them.
    fn derive_discovery(&mut self, dirty: &mut Dirty) {
        let discovery = Discovery::new(&self.inner.mesh.value, &self.facts);
        if discovery == self.discovery {
            return;
        }
        let before = std::mem::replace(&mut self.discovery, discovery);
        let turned = |namespace: &str| before.admits(namespace) != self.discovery.admits(namespace);
        let services = self.facts.services.keys().filter(|name| turned(&name.namespace));
        dirty.services.extend(services.map(|name| kube_key(name, &self.settings.domain)));
        for name in self.configs.service_entries.by_name.keys().filter(|name| turned(&name.namespace)) {
            self.entry_hosts(name, dirty);
        }
        dirty.kinds.extend(Tables::KINDS);
    }

    fn index_rules(&mut self) {
        let export = &self.inner.mesh.value.default_destination_rule_export_to;
        let index = RuleIndex::new(&self.inner.destination_rules, &self.inner.domain, export);
        self.inner.rules = Arc::new(index);
    }

    fn derive_services(&mut self, dirty: &mut Dirty) {
        let mut changed: Option<AHashMap<_, _>> = None;
        for key in &dirty.services {
            let looked_at = self.discovery.admits(&key.namespace);
            let new = looked_at.then(|| self.deriver().service(key)).flatten();
            let old = self.inner.services.get(key);
            let same = match (&new, old) {
                (Some(new), Some(old)) => {
                    let mut new = new.clone();
                    new.revision = old.revision;
                    new == **old
                }
                (None, None) => true,
                _ => false,
            };
            if same {
                continue;
            }
            self.revision += 1;
            let all = changed.get_or_insert_with(|| self.inner.services.by_key().clone());
            match new {
                Some(mut service) => {
                    service.revision = self.revision;
                    all.insert(key.clone(), Arc::new(service));
                }
                None => drop(all.remove(key)),
            }
        }
        dirty.endpoints.append(&mut dirty.services);
        if let Some(all) = changed {
            let revision = self.next();
            self.inner.services = Arc::new(Services::new(revision, all));
        }
    }

    fn derive_endpoints(&mut self, dirty: &Dirty) {
        for key in &dirty.endpoints {
            let Some(service) = self.inner.services.get(key).map(Arc::clone) else {
                if self.inner.endpoints.remove(key).is_some() {
                    self.next();
                }
                self.inner.accounts.remove(key);
                continue;
            };
            let all = self.deriver().endpoints(&service);
            if self.inner.endpoints.get(key).is_some_and(|old| old.all == all) {
                continue;
            }
            let accounts = accounts(&all);
            if self.inner.accounts.get(key).is_none_or(|old| old.all != accounts) {
                let revision = self.next();
                self.inner.accounts.insert(key.clone(), Arc::new(Accounts { revision, all: accounts }));
            }
            let revision = self.next();
            self.inner.endpoints.insert(key.clone(), Arc::new(Endpoints { revision, all }));
        }
    }

    /// Services labelled with a network are the door of it when they have a port 15443 and an address outside.
    fn derive_networks(&mut self) {
        let mut found = BTreeSet::new();
        for service in self.inner.services.iter() {
            let Some(network) = service.labels.get("topology.istio.io/network") else { continue };
            let Some(port) = service.port(15443) else { continue };
            for address in service.external_addresses.iter().map(Arc::clone) {
                found.insert(NetworkGateway { network: network.as_str().into(), address, port: port.number });
            }
        }
        let value: Vec<_> = found.into_iter().collect();
        if self.inner.networks.value != value {
            let revision = self.next();
            self.inner.networks = Arc::new(Revised { revision, value });
        }
    }

    fn deriver(&self) -> Derive<'_> {
        Derive {
            facts: &self.facts,
            entries: &self.inner.service_entries,
            domain: &self.settings.domain,
            root: &self.inner.root_namespace,
            default_export: &self.inner.mesh.value.default_service_export_to,
            home: &self.settings.home,
        }
    }
}
