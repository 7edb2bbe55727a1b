//! What the registries said, kept as they said it, with the reverse lookups that deriving needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahash::AHashMap;
use base::{Locality, NamespacedName};

use crate::service::ServiceKey;
use crate::source::{ClusterId, KubeService, Labels, Namespace, Node, Slice, Workload, WorkloadKind};

type InCluster<T> = (ClusterId, T);
type WorkloadId = (ClusterId, WorkloadKind, Arc<str>);

#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Kubernetes Services by name, then cluster.
    pub(crate) services: BTreeMap<NamespacedName, BTreeMap<ClusterId, KubeService>>,
    /// Services of a namespace by the first pair of their selector.
    by_selector: AHashMap<(Arc<str>, String), BTreeSet<Arc<str>>>,
    /// Slices by the Service they belong to.
    slices: AHashMap<InCluster<NamespacedName>, BTreeMap<Arc<str>, Slice>>,
    slice_owner: AHashMap<InCluster<NamespacedName>, Arc<str>>,
    /// Services whose slices name a Pod.
    pod_users: AHashMap<InCluster<NamespacedName>, BTreeSet<Arc<str>>>,
    workloads: AHashMap<Arc<str>, BTreeMap<WorkloadId, Arc<Workload>>>,
    /// Workloads of a namespace by each of their labels.
    by_label: AHashMap<(Arc<str>, String), BTreeSet<WorkloadId>>,
    nodes: AHashMap<InCluster<Arc<str>>, Node>,
    pub(crate) namespaces: BTreeMap<Arc<str>, BTreeMap<ClusterId, Namespace>>,
}

impl Facts {
    pub(crate) fn put_service(&mut self, cluster: &ClusterId, service: KubeService) {
        let name = service.name.clone();
        self.drop_service(cluster, &name);
        if let Some(pair) = service.selector.iter().next() {
            let at = (Arc::clone(&name.namespace), joined(pair));
            self.by_selector.entry(at).or_default().insert(Arc::clone(&name.name));
        }
        self.services.entry(name).or_default().insert(Arc::clone(cluster), service);
    }

    pub(crate) fn drop_service(&mut self, cluster: &ClusterId, name: &NamespacedName) {
        let Some(clusters) = self.services.get_mut(name) else { return };
        let gone = clusters.remove(cluster);
        let pair = gone.as_ref().and_then(|service| service.selector.iter().next()).map(joined);
        let first = |service: &KubeService| service.selector.iter().next().map(joined);
        let kept = clusters.values().any(|service| first(service) == pair);
        if clusters.is_empty() {
            self.services.remove(name);
        }
        let Some(pair) = pair.filter(|_| !kept) else { return };
        let at = (Arc::clone(&name.namespace), pair);
        if let Some(names) = self.by_selector.get_mut(&at) {
            names.remove(&name.name);
            if names.is_empty() {
                self.by_selector.remove(&at);
            }
        }
    }

    /// The Services whose selectors mean a workload with these labels.
    pub(crate) fn services_selecting<'a>(
        &'a self,
        namespace: &Arc<str>,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a KubeService> {
        let namespace = Arc::clone(namespace);
        labels
            .iter()
            .filter_map(move |pair| {
                let names = self.by_selector.get(&(Arc::clone(&namespace), joined(pair)))?;
                Some((Arc::clone(&namespace), names))
            })
            .flat_map(|(namespace, names)| {
                names.iter().map(move |name| NamespacedName::new(Arc::clone(&namespace), Arc::clone(name)))
            })
            .filter_map(|name| self.services.get(&name))
            .flat_map(BTreeMap::values)
            .filter(|service| selects(&service.selector, labels))
    }

    /// The Services that the slice belonged or belongs to.
    pub(crate) fn put_slice(&mut self, cluster: &ClusterId, slice: Slice) -> Vec<NamespacedName> {
        let mut touched = self.drop_slice(cluster, &slice.name);
        let owner = NamespacedName::new(Arc::clone(&slice.name.namespace), Arc::clone(&slice.service));
        for pod in slice.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref()) {
            let pod = NamespacedName::new(Arc::clone(&owner.namespace), Arc::clone(pod));
            self.pod_users.entry((Arc::clone(cluster), pod)).or_default().insert(Arc::clone(&slice.service));
        }
        let name = slice.name.clone();
        self.slice_owner.insert((Arc::clone(cluster), name.clone()), Arc::clone(&slice.service));
        self.slices.entry((Arc::clone(cluster), owner.clone())).or_default().insert(name.name, slice);
        touched.push(owner);
        touched
    }

    pub(crate) fn drop_slice(&mut self, cluster: &ClusterId, name: &NamespacedName) -> Vec<NamespacedName> {
        let Some(owner) = self.slice_owner.remove(&(Arc::clone(cluster), name.clone())) else {
            return Vec::new();
        };
        let owner = NamespacedName::new(Arc::clone(&name.namespace), owner);
        let at = (Arc::clone(cluster), owner.clone());
        if let Some(slices) = self.slices.get_mut(&at) {
            slices.remove(&name.name);
            if slices.is_empty() {
                self.slices.remove(&at);
            }
        }
        vec![owner]
    }

    pub(crate) fn slices(
        &self,
        cluster: &ClusterId,
        service: &NamespacedName,
    ) -> impl Iterator<Item = &Slice> {
        self.slices.get(&(Arc::clone(cluster), service.clone())).into_iter().flat_map(BTreeMap::values)
    }

    /// Replaces or removes a workload and returns what was there.
    pub(crate) fn set_workload(
        &mut self,
        cluster: &ClusterId,
        kind: WorkloadKind,
        name: &NamespacedName,
        workload: Option<&Arc<Workload>>,
    ) -> Option<Arc<Workload>> {
        let key = (Arc::clone(cluster), kind, Arc::clone(&name.name));
        let all = self.workloads.entry(Arc::clone(&name.namespace)).or_default();
        let old = match workload {
            Some(workload) => all.insert(key.clone(), Arc::clone(workload)),
            None => all.remove(&key),
        };
        for pair in old.iter().flat_map(|old| old.labels.iter()) {
            let at = (Arc::clone(&name.namespace), joined(pair));
            if let Some(labelled) = self.by_label.get_mut(&at) {
                labelled.remove(&key);
                if labelled.is_empty() {
                    self.by_label.remove(&at);
                }
            }
        }
        for pair in workload.iter().flat_map(|workload| workload.labels.iter()) {
            let at = (Arc::clone(&name.namespace), joined(pair));
            self.by_label.entry(at).or_default().insert(key.clone());
        }
        old
    }

    /// The workloads that a selector means; an empty selector means none.
    pub(crate) fn workloads_selected<'a>(
        &'a self,
        namespace: &Arc<str>,
        selector: &'a Labels,
    ) -> impl Iterator<Item = (&'a ClusterId, &'a Arc<Workload>)> {
        let all = self.workloads.get(namespace);
        // The rarest label leaves the fewest to look at.
        let candidates = selector
            .iter()
            .map(|pair| self.by_label.get(&(Arc::clone(namespace), joined(pair))))
            .min_by_key(|labelled| labelled.map_or(0, BTreeSet::len))
            .flatten();
        candidates
            .into_iter()
            .flatten()
            .filter_map(move |id| Some((&id.0, all?.get(id)?)))
            .filter(|(_, workload)| selects(selector, &workload.labels))
    }

    pub(crate) fn workload(
        &self,
        cluster: &ClusterId,
        kind: WorkloadKind,
        name: &NamespacedName,
    ) -> Option<&Arc<Workload>> {
        self.workloads.get(&name.namespace)?.get(&(Arc::clone(cluster), kind, Arc::clone(&name.name)))
    }

    /// Services whose slices name the Pod.
    pub(crate) fn users_of(&self, cluster: &ClusterId, pod: &NamespacedName) -> Vec<NamespacedName> {
        let users = self.pod_users.get(&(Arc::clone(cluster), pod.clone()));
        let name = |user: &Arc<str>| NamespacedName::new(Arc::clone(&pod.namespace), Arc::clone(user));
        users.into_iter().flatten().map(name).collect()
    }

    /// Whether that changed anything.
    pub(crate) fn set_node(&mut self, cluster: &ClusterId, name: &Arc<str>, node: Option<Node>) -> bool {
        let key = (Arc::clone(cluster), Arc::clone(name));
        match node {
            Some(node) => self.nodes.insert(key, node.clone()).is_none_or(|old| old != node),
            None => self.nodes.remove(&key).is_some(),
        }
    }

    pub(crate) fn locality_of(&self, cluster: &ClusterId, workload: &Workload) -> Locality {
        workload.locality.clone().unwrap_or_else(|| {
            workload.node.as_ref().map(|node| self.node_locality(cluster, node)).unwrap_or_default()
        })
    }

    pub(crate) fn node_locality(&self, cluster: &ClusterId, node: &Arc<str>) -> Locality {
        self.nodes
            .get(&(Arc::clone(cluster), Arc::clone(node)))
            .map(|node| node.locality.clone())
            .unwrap_or_default()
    }

    pub(crate) fn set_namespace(
        &mut self,
        cluster: &ClusterId,
        name: &Arc<str>,
        namespace: Option<Namespace>,
    ) -> bool {
        let clusters = self.namespaces.entry(Arc::clone(name)).or_default();
        let changed = match namespace {
            Some(namespace) => {
                clusters.insert(Arc::clone(cluster), namespace.clone()).is_none_or(|old| old != namespace)
            }
            None => clusters.remove(cluster).is_some(),
        };
        if clusters.is_empty() {
            self.namespaces.remove(name);
        }
        changed
    }

    /// The network that a cluster's workloads are in unless they say otherwise.
    pub(crate) fn network_of(&self, cluster: &ClusterId, root: &str) -> Arc<str> {
        self.namespaces
            .get(root)
            .and_then(|clusters| clusters.get(cluster))
            .and_then(|namespace| namespace.labels.get("topology.istio.io/network"))
            .map_or_else(|| "".into(), |network| network.as_str().into())
    }
}

fn joined((key, value): (&String, &String)) -> String {
    format!("{key}={value}")
}

/// Whether a workload with `labels` is one that a Service with `selector` means; an empty selector means none.
pub(crate) fn selects(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The key of a Kubernetes Service.
pub(crate) fn kube_key(name: &NamespacedName, domain: &str) -> ServiceKey {
    ServiceKey::new(format!("{}.{}.svc.{domain}", name.name, name.namespace), Arc::clone(&name.namespace))
}
