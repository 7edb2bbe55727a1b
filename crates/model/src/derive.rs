//! From facts to services and endpoints. Pure: facts in, one derived entry out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::networking as net;
use base::NamespacedName;

use crate::config::{Config, Configs};
use crate::facts::Facts;
use crate::service::{Endpoint, Health, Origin, Resolution, Service, ServiceKey, ServicePort};
use crate::source::{
    ClusterId, KubePort, KubeService, Labels, Slice, SliceEndpoint, TargetPort, Workload, WorkloadKind,
};
use crate::{Protocol, Visibility};

pub(crate) struct Derive<'a> {
    pub(crate) facts: &'a Facts,
    pub(crate) entries: &'a Configs<net::ServiceEntry>,
    pub(crate) domain: &'a str,
    pub(crate) root: &'a str,
    /// `defaultServiceExportTo` of the mesh.
    pub(crate) default_export: &'a [String],
    /// Where resources without a cluster of their own count as being.
    pub(crate) home: &'a ClusterId,
}

const TLS_MODE_LABEL: &str = "security.istio.io/tlsMode";
const TUNNEL_LABEL: &str = "networking.istio.io/tunnel";
const NETWORK_LABEL: &str = "topology.istio.io/network";

impl Derive<'_> {
    /// The Kubernetes Services behind a key, by cluster.
    fn kube(&self, key: &ServiceKey) -> Option<&BTreeMap<ClusterId, KubeService>> {
        let name = key.host.strip_suffix(self.domain)?.strip_suffix(".svc.")?;
        let name = name.strip_suffix(&*key.namespace)?.strip_suffix('.')?;
        self.facts.services.get(&NamespacedName::new(Arc::clone(&key.namespace), name))
    }

    /// The ServiceEntries that declare a key, oldest first.
    fn entries_for<'b>(
        &'b self,
        key: &'b ServiceKey,
    ) -> impl Iterator<Item = &'b Arc<Config<net::ServiceEntry>>> {
        self.entries
            .in_namespace(&key.namespace)
            .iter()
            .filter(|entry| entry.spec.hosts.iter().any(|host| host.eq_ignore_ascii_case(&key.host)))
    }

    /// The service, with revision 0.
    pub(crate) fn service(&self, key: &ServiceKey) -> Option<Service> {
        if let Some(clusters) = self.kube(key) {
            return self.kube_service(key, clusters);
        }
        let mut entries = self.entries_for(key);
        let mut service = self.entry_service(key, entries.next()?);
        for more in entries {
            for port in entry_ports(&more.spec) {
                if service.port(port.number).is_none() {
                    service.ports.push(port);
                }
            }
        }
        Some(service)
    }

    /// The oldest says what the service is; every cluster adds its addresses.
    fn kube_service(&self, key: &ServiceKey, clusters: &BTreeMap<ClusterId, KubeService>) -> Option<Service> {
        let (_, oldest) = clusters.iter().min_by_key(|(cluster, service)| (service.created, *cluster))?;
        let mut ports: Vec<ServicePort> = oldest.ports.iter().map(kube_port).collect();
        for port in clusters.values().flat_map(|service| &service.ports) {
            if !ports.iter().any(|known| known.number == port.number) {
                ports.push(kube_port(port));
            }
        }
        let text =
            |service: &KubeService| service.cluster_ips.iter().map(|ip| ip.to_string().into()).collect();
        let addresses =
            clusters.iter().map(|(cluster, service)| (Arc::clone(cluster), text(service))).collect();
        let resolution = match (&oldest.external_name, oldest.headless) {
            (Some(_), _) => Resolution::Dns,
            (None, true) => Resolution::Original,
            (None, false) => Resolution::Endpoints,
        };
        Some(Service {
            revision: 0,
            key: key.clone(),
            name: Arc::clone(&oldest.name.name),
            origin: Origin::Kubernetes,
            created: oldest.created,
            labels: Arc::clone(&oldest.labels),
            ports,
            addresses,
            external_addresses: clusters
                .values()
                .flat_map(|s| s.external_addresses.iter().cloned())
                .collect(),
            auto_address: None,
            resolution,
            headless: oldest.headless,
            mesh_external: oldest.external_name.is_some(),
            visibility: Visibility::parse(&oldest.export_to, &key.namespace, self.default_export),
            selector: oldest.selector.clone(),
            external_name: oldest.external_name.clone(),
            subject_alt_names: Vec::new(),
            prefer_close: oldest.prefer_close,
            node_local: oldest.node_local,
        })
    }

    fn entry_service(&self, key: &ServiceKey, entry: &Config<net::ServiceEntry>) -> Service {
        let spec = &entry.spec;
        let addresses: Vec<Arc<str>> = spec.addresses.iter().map(|address| address.as_str().into()).collect();
        let wildcard = key.host.starts_with('*');
        let resolution = match spec.resolution {
            net::Resolution::Static => Resolution::Endpoints,
            net::Resolution::Dns if wildcard => Resolution::Original,
            net::Resolution::Dns => Resolution::Dns,
            net::Resolution::DnsRoundRobin => Resolution::DnsRoundRobin,
            net::Resolution::None | net::Resolution::DynamicDns => Resolution::Original,
        };
        let auto = (addresses.is_empty() && !wildcard && resolution != Resolution::Original)
            .then(|| auto_address(key));
        Service {
            revision: 0,
            key: key.clone(),
            name: Arc::clone(&key.host),
            origin: Origin::ServiceEntry(Arc::clone(&entry.name.name)),
            created: entry.created,
            labels: Arc::default(),
            ports: entry_ports(spec),
            addresses: BTreeMap::from([(Arc::clone(self.home), addresses)]),
            external_addresses: Vec::new(),
            auto_address: auto,
            resolution,
            headless: false,
            mesh_external: spec.location == net::Location::MeshExternal,
            visibility: Visibility::parse(&spec.export_to, &key.namespace, self.default_export),
            selector: spec.workload_selector.as_ref().map(|s| s.labels.clone()).unwrap_or_default(),
            external_name: None,
            subject_alt_names: spec.subject_alt_names.clone(),
            prefer_close: false,
            node_local: false,
        }
    }

    /// Every endpoint of the service, sorted, each address and port once.
    pub(crate) fn endpoints(&self, service: &Service) -> Vec<Endpoint> {
        let mut found = Vec::new();
        if let Some(clusters) = self.kube(&service.key) {
            for (cluster, kube) in clusters {
                self.add_slices(service, cluster, kube, &mut found);
                self.add_workload_entries(service, cluster, kube, &mut found);
            }
            if let Some(name) = &service.external_name {
                self.add_name(service, name, &service.name, &mut found);
            }
        }
        for entry in self.entries_for(&service.key) {
            self.add_entry(service, entry, &mut found);
        }
        // The same address in two networks is two places.
        fn place(of: &Endpoint) -> (&Arc<str>, &Arc<str>, u32, &ClusterId, &Arc<str>) {
            (&of.port_name, &of.address, of.port, &of.cluster, &of.network)
        }
        found.sort_by(|a, b| place(a).cmp(&place(b)));
        found.dedup_by(|a, b| place(a) == place(b));
        found
    }

    fn add_slices(
        &self,
        service: &Service,
        cluster: &ClusterId,
        kube: &KubeService,
        found: &mut Vec<Endpoint>,
    ) {
        for slice in self.facts.slices(cluster, &kube.name) {
            for endpoint in &slice.endpoints {
                self.add_slice_endpoint(service, cluster, (kube, slice), endpoint, found);
            }
        }
    }

    fn add_slice_endpoint(
        &self,
        service: &Service,
        cluster: &ClusterId,
        (kube, slice): (&KubeService, &Slice),
        endpoint: &SliceEndpoint,
        found: &mut Vec<Endpoint>,
    ) {
        let pod = endpoint.pod.as_ref().and_then(|pod| {
            let name = NamespacedName::new(Arc::clone(&slice.name.namespace), Arc::clone(pod));
            self.facts.workload(cluster, WorkloadKind::Pod, &name)
        });
        let health =
            match (endpoint.ready || kube.publish_not_ready, endpoint.serving && endpoint.terminating) {
                (true, _) => Health::Healthy,
                (false, true) => Health::Draining,
                (false, false) => Health::Unhealthy,
            };
        let ports: Vec<(&ServicePort, u32)> = slice
            .ports
            .iter()
            .filter_map(|(name, number)| {
                Some((service.ports.iter().find(|port| port.name == *name)?, *number))
            })
            .collect();
        for address in &endpoint.addresses {
            for (port, number) in &ports {
                let mut made = match pod {
                    Some(pod) => self.of_workload(cluster, pod, port, *number, address),
                    None => self.bare(cluster, service, port, *number, address),
                };
                made.health = health;
                if made.node.is_none() {
                    made.node.clone_from(&endpoint.node);
                }
                if made.locality.is_empty()
                    && let Some(node) = &endpoint.node
                {
                    made.locality = self.facts.node_locality(cluster, node);
                }
                if made.locality.is_empty()
                    && let Some(zone) = &endpoint.zone
                {
                    made.locality.zone = zone.as_ref().into();
                }
                found.push(made);
            }
        }
    }

    /// A Service's selector selects WorkloadEntries too.
    fn add_workload_entries(
        &self,
        service: &Service,
        cluster: &ClusterId,
        kube: &KubeService,
        found: &mut Vec<Endpoint>,
    ) {
        for (home, workload) in self.facts.workloads_selected(&service.key.namespace, &kube.selector) {
            if home != cluster || workload.kind != WorkloadKind::WorkloadEntry {
                continue;
            }
            for (port, declared) in service.ports.iter().zip(&kube.ports) {
                let named = match &declared.target {
                    TargetPort::Name(name) => workload.ports.get(&**name).copied(),
                    TargetPort::Number(number) => Some(*number),
                };
                let number = workload.ports.get(&*port.name).copied().or(named).unwrap_or(port.number);
                for address in &workload.addresses {
                    found.push(self.of_workload(cluster, workload, port, number, address));
                }
            }
        }
    }

    fn add_entry(&self, service: &Service, entry: &Config<net::ServiceEntry>, found: &mut Vec<Endpoint>) {
        let spec = &entry.spec;
        if let Some(selector) = &spec.workload_selector {
            for (cluster, workload) in self.facts.workloads_selected(&service.key.namespace, &selector.labels)
            {
                for port in &service.ports {
                    let own = workload.ports.get(&*port.name).copied();
                    let number = own.unwrap_or(if port.target == 0 { port.number } else { port.target });
                    for address in &workload.addresses {
                        found.push(self.of_workload(cluster, workload, port, number, address));
                    }
                }
            }
            return;
        }
        for inline in &spec.endpoints {
            let name = NamespacedName::new(Arc::clone(&entry.name.namespace), Arc::clone(&entry.name.name));
            let workload = Workload::from_entry(name, inline, &Labels::new());
            for port in &service.ports {
                let own = workload.ports.get(&*port.name).copied();
                let number = own.unwrap_or(if port.target == 0 { port.number } else { port.target });
                for address in &workload.addresses {
                    found.push(self.of_workload(self.home, &workload, port, number, address));
                }
            }
        }
        if spec.endpoints.is_empty()
            && matches!(service.resolution, Resolution::Dns | Resolution::DnsRoundRobin)
        {
            self.add_name(service, &service.key.host, &entry.name.name, found);
        }
    }

    /// The DNS name itself is the endpoint.
    fn add_name(&self, service: &Service, name: &Arc<str>, workload: &Arc<str>, found: &mut Vec<Endpoint>) {
        for port in &service.ports {
            let number = if port.target == 0 { port.number } else { port.target };
            let mut made = self.bare(self.home, service, port, number, name);
            made.workload = Arc::clone(workload);
            made.namespace = Arc::clone(&service.key.namespace);
            found.push(made);
        }
    }

    fn bare(
        &self,
        cluster: &ClusterId,
        _service: &Service,
        port: &ServicePort,
        number: u32,
        address: &Arc<str>,
    ) -> Endpoint {
        Endpoint {
            address: Arc::clone(address),
            port: number,
            port_name: Arc::clone(&port.name),
            cluster: Arc::clone(cluster),
            network: self.facts.network_of(cluster, self.root),
            locality: base::Locality::default(),
            weight: 1,
            health: Health::Healthy,
            mutual_tls: false,
            hbone: false,
            namespace: "".into(),
            service_account: "".into(),
            labels: Arc::default(),
            workload: "".into(),
            node: None,
        }
    }

    fn of_workload(
        &self,
        cluster: &ClusterId,
        workload: &Workload,
        port: &ServicePort,
        number: u32,
        address: &Arc<str>,
    ) -> Endpoint {
        let labelled = workload.labels.get(NETWORK_LABEL).map(|network| network.as_str().into());
        let network = workload.network.clone().filter(|network| !network.is_empty()).or(labelled);
        Endpoint {
            address: Arc::clone(address),
            port: if address.starts_with("unix://") { 0 } else { number },
            port_name: Arc::clone(&port.name),
            cluster: Arc::clone(cluster),
            network: network.unwrap_or_else(|| self.facts.network_of(cluster, self.root)),
            locality: self.facts.locality_of(cluster, workload),
            weight: workload.weight.unwrap_or(1).max(1),
            health: if workload.ready { Health::Healthy } else { Health::Unhealthy },
            mutual_tls: takes_mutual_tls(workload),
            hbone: workload.labels.get(TUNNEL_LABEL).is_some_and(|tunnel| tunnel == "http"),
            namespace: Arc::clone(&workload.name.namespace),
            service_account: Arc::clone(&workload.service_account),
            labels: Arc::clone(&workload.labels),
            workload: Arc::clone(&workload.workload_name),
            node: workload.node.clone(),
        }
    }
}

/// By label; a WorkloadEntry without the label takes it if it has an account, that is, an identity.
fn takes_mutual_tls(workload: &Workload) -> bool {
    match workload.labels.get(TLS_MODE_LABEL) {
        Some(mode) => mode == "istio",
        None => workload.kind == WorkloadKind::WorkloadEntry && !workload.service_account.is_empty(),
    }
}

fn kube_port(port: &KubePort) -> ServicePort {
    let target = match &port.target {
        TargetPort::Number(0) => port.number,
        TargetPort::Number(number) => *number,
        TargetPort::Name(_) => 0,
    };
    ServicePort {
        name: Arc::clone(&port.name),
        number: port.number,
        protocol: Protocol::declared(&port.name, port.app_protocol.as_deref(), port.number, &port.transport),
        target,
    }
}

fn entry_ports(spec: &net::ServiceEntry) -> Vec<ServicePort> {
    let port = |port: &net::ServicePort| ServicePort {
        name: port.name.as_str().into(),
        number: port.number,
        protocol: Protocol::named(&port.protocol)
            .unwrap_or_else(|| Protocol::declared(&port.name, None, port.number, "TCP")),
        target: port.target_port,
    };
    spec.ports.iter().map(port).collect()
}

/// The identities behind a service, for callers to pin.
pub(crate) fn accounts(endpoints: &[Endpoint]) -> BTreeSet<NamespacedName> {
    endpoints
        .iter()
        .filter(|endpoint| !endpoint.service_account.is_empty())
        .map(|endpoint| {
            NamespacedName::new(Arc::clone(&endpoint.namespace), Arc::clone(&endpoint.service_account))
        })
        .collect()
}

/// An address of class E that stands for a host which has none; the same for the same host, always.
fn auto_address(key: &ServiceKey) -> IpAddr {
    let mut hash: u32 = 0x811C_9DC5;
    for byte in key.host.bytes().chain([b'/']).chain(key.namespace.bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    let [_, b, c, d] = (hash ^ (hash >> 15)).to_be_bytes();
    IpAddr::from([240, 240 | (b & 0x0F), c, d.clamp(1, 254)])
}
