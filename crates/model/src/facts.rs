//! What the registries said, kept as they said it, with the reverse lookups that deriving needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahash::AHashMap;
use base::{Locality, NamespacedName};

use crate::service::ServiceKey;
use crate::source::{ClusterId, KubeService, Labels, Namespace, Node, Slice, Workload, WorkloadKind};

type InCluster<T> = (ClusterId, T);

#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Kubernetes Services by name, then cluster.
    pub(crate) services: BTreeMap<NamespacedName, BTreeMap<ClusterId, KubeService>>,
    service_names: AHashMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Slices by the Service they belong to.
    slices: AHashMap<InCluster<NamespacedName>, BTreeMap<Arc<str>, Slice>>,
    slice_owner: AHashMap<InCluster<NamespacedName>, Arc<str>>,
    /// Services whose slices name a Pod.
    pod_users: AHashMap<InCluster<NamespacedName>, BTreeSet<Arc<str>>>,
    workloads: AHashMap<Arc<str>, BTreeMap<(ClusterId, WorkloadKind, Arc<str>), Arc<Workload>>>,
    nodes: AHashMap<InCluster<Arc<str>>, Node>,
    pub(crate) namespaces: BTreeMap<Arc<str>, BTreeMap<ClusterId, Namespace>>,
}

impl Facts {
    pub(crate) fn put_service(&mut self, cluster: &ClusterId, service: KubeService) {
        let name = service.name.clone();
        self.service_names.entry(Arc::clone(&name.namespace)).or_default().insert(Arc::clone(&name.name));
        self.services.entry(name).or_default().insert(Arc::clone(cluster), service);
    }

    pub(crate) fn drop_service(&mut self, cluster: &ClusterId, name: &NamespacedName) {
        let Some(clusters) = self.services.get_mut(name) else { return };
        clusters.remove(cluster);
        if clusters.is_empty() {
            self.services.remove(name);
            if let Some(names) = self.service_names.get_mut(&name.namespace) {
                names.remove(&name.name);
            }
        }
    }

    pub(crate) fn services_in(&self, namespace: &str) -> impl Iterator<Item = &KubeService> {
        let names = self.service_names.get(namespace);
        names
            .into_iter()
            .flat_map(move |names| {
                names.iter().filter_map(move |name| {
                    self.services.get(&NamespacedName::new(namespace, Arc::clone(name)))
                })
            })
            .flat_map(BTreeMap::values)
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
        workload: Option<Arc<Workload>>,
    ) -> Option<Arc<Workload>> {
        let all = self.workloads.entry(Arc::clone(&name.namespace)).or_default();
        let key = (Arc::clone(cluster), kind, Arc::clone(&name.name));
        match workload {
            Some(workload) => all.insert(key, workload),
            None => all.remove(&key),
        }
    }

    pub(crate) fn workloads_in(&self, namespace: &str) -> impl Iterator<Item = (&ClusterId, &Arc<Workload>)> {
        self.workloads
            .get(namespace)
            .into_iter()
            .flatten()
            .map(|((cluster, _, _), workload)| (cluster, workload))
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

/// Whether a workload with `labels` is one that a Service with `selector` means; an empty selector means none.
pub(crate) fn selects(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The key of a Kubernetes Service.
pub(crate) fn kube_key(name: &NamespacedName, domain: &str) -> ServiceKey {
    ServiceKey::new(format!("{}.{}.svc.{domain}", name.name, name.namespace), Arc::clone(&name.namespace))
}
