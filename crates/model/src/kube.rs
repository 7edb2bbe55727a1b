//! Kubernetes' objects as the mesh reads them: what a registry calls on everything that it watches.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::networking::WorkloadEntry;
use base::{Locality, NamespacedName};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::source::{
    KubePort, KubeService, Labels, Namespace, Node, Sensitive, Slice, SliceEndpoint, TargetPort, TlsSecret,
    Workload, WorkloadKind,
};

const EXPORT_TO: &str = "networking.istio.io/exportTo";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Which of a deployment's replicas an entry is: telemetry names the whole.
const WORKLOAD_NAME: &str = "service.istio.io/workload-name";
const LOCALITY: &str = "istio-locality";

/// The namespace and name of an object; `None` for one without a name, which no API server serves.
pub fn name(meta: &ObjectMeta) -> Option<NamespacedName> {
    Some(NamespacedName::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref()?))
}

/// When the object was made, in seconds since 1970.
pub fn created(meta: &ObjectMeta) -> i64 {
    meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
}

fn labels(meta: &ObjectMeta) -> Arc<Labels> {
    Arc::new(meta.labels.clone().unwrap_or_default())
}

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

impl KubeService {
    pub fn from_kube(service: &core::Service) -> Option<Self> {
        let meta = &service.metadata;
        let spec = service.spec.clone().unwrap_or_default();
        let ips = spec.cluster_ips.or_else(|| spec.cluster_ip.map(|ip| vec![ip])).unwrap_or_default();
        let headless = ips.iter().any(|ip| ip == "None");
        let external = spec.type_.as_deref() == Some("ExternalName");
        let near =
            |d: &String| d.starts_with("PreferClose") || d == "PreferSameZone" || d == "PreferSameNode";
        Some(Self {
            name: name(meta)?,
            created: created(meta),
            labels: labels(meta),
            selector: spec.selector.unwrap_or_default(),
            cluster_ips: ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
            external_addresses: external_addresses(service),
            headless: headless && !external,
            external_name: spec.external_name.filter(|_| external).map(Into::into),
            ports: spec.ports.unwrap_or_default().iter().map(KubePort::from_kube).collect(),
            export_to: annotation(meta, EXPORT_TO)
                .map(|list| list.split(',').map(|entry| entry.trim().to_owned()).collect())
                .unwrap_or_default(),
            prefer_close: spec.traffic_distribution.as_ref().is_some_and(near),
            node_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
        })
    }
}

/// `externalIPs`, then the addresses or names that a load balancer was given.
fn external_addresses(service: &core::Service) -> Vec<Arc<str>> {
    let spec = service.spec.as_ref();
    let listed = spec.into_iter().flat_map(|spec| spec.external_ips.iter().flatten());
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let given = balancer.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    let given = given.filter_map(|ingress| ingress.ip.as_ref().or(ingress.hostname.as_ref()));
    listed.chain(given).map(|address| address.as_str().into()).collect()
}

impl KubePort {
    fn from_kube(port: &core::ServicePort) -> Self {
        let number = number(port.port);
        Self {
            name: port.name.as_deref().unwrap_or_default().into(),
            number,
            target: match &port.target_port {
                Some(IntOrString::Int(target)) if *target > 0 => TargetPort::Number(self::number(*target)),
                Some(IntOrString::String(target)) => TargetPort::Name(target.as_str().into()),
                _ => TargetPort::Number(number),
            },
            transport: port.protocol.as_deref().unwrap_or("TCP").into(),
            app_protocol: port.app_protocol.as_deref().map(Into::into),
        }
    }
}

fn number(port: i32) -> u32 {
    u32::try_from(port).unwrap_or_default()
}

impl Slice {
    /// `None` for a slice that belongs to no Service or holds no IP addresses.
    pub fn from_kube(slice: &discovery::EndpointSlice) -> Option<Self> {
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?.as_str().into();
        if slice.address_type == "FQDN" {
            return None;
        }
        let port = |port: &discovery::EndpointPort| {
            Some((port.name.as_deref().unwrap_or_default().into(), number(port.port?)))
        };
        Some(Self {
            name: name(&slice.metadata)?,
            service,
            ports: slice.ports.iter().flatten().filter_map(port).collect(),
            endpoints: slice.endpoints.iter().flatten().map(SliceEndpoint::from_kube).collect(),
        })
    }
}

impl SliceEndpoint {
    fn from_kube(endpoint: &discovery::Endpoint) -> Self {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
        Self {
            addresses: endpoint.addresses.iter().map(|address| address.as_str().into()).collect(),
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or_default(),
            node: endpoint.node_name.as_deref().map(Into::into),
            zone: endpoint.zone.as_deref().map(Into::into),
            pod: pod.and_then(|target| target.name.as_deref()).map(Into::into),
        }
    }
}

impl Workload {
    pub fn from_pod(pod: &core::Pod) -> Option<Self> {
        let meta = &pod.metadata;
        let name = name(meta)?;
        let labels = labels(meta);
        let spec = pod.spec.clone().unwrap_or_default();
        let status = pod.status.clone().unwrap_or_default();
        let mut addresses: Vec<Arc<str>> =
            status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str().into()).collect();
        if addresses.is_empty() {
            addresses.extend(status.pod_ip.as_deref().map(Arc::from));
        }
        let container_ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        let locality = labels.get(LOCALITY).map(|text| Locality::parse(&text.replace('.', "/")));
        Some(Self {
            kind: WorkloadKind::Pod,
            workload_name: owner(meta).unwrap_or_else(|| Arc::clone(&name.name)),
            name,
            addresses,
            service_account: spec.service_account_name.as_deref().unwrap_or("default").into(),
            locality,
            node: spec.node_name.as_deref().map(Into::into),
            network: None,
            weight: None,
            ports: container_ports
                .filter_map(|port| Some((port.name.clone()?, number(port.container_port))))
                .collect(),
            ready,
            host_network: spec.host_network.unwrap_or_default(),
            labels,
        })
    }

    /// A WorkloadEntry; labels of its metadata count as well, those of its spec win. An entry whose status says
    /// `Healthy: False` is `ready: false`, which the registry sets.
    pub fn from_entry(name: NamespacedName, entry: &WorkloadEntry, meta_labels: &Labels) -> Self {
        let mut labels = meta_labels.clone();
        labels.extend(entry.labels.clone());
        let locality = (!entry.locality.is_empty()).then(|| Locality::parse(&entry.locality));
        Self {
            kind: WorkloadKind::WorkloadEntry,
            workload_name: labels
                .get(WORKLOAD_NAME)
                .map_or_else(|| Arc::clone(&name.name), |label| label.as_str().into()),
            name,
            addresses: vec![entry.address.as_str().into()],
            locality: locality.or_else(|| topology(&labels)),
            labels: Arc::new(labels),
            service_account: entry.service_account.as_str().into(),
            node: None,
            network: (!entry.network.is_empty()).then(|| entry.network.as_str().into()),
            weight: (entry.weight > 0).then_some(entry.weight),
            ports: entry
                .ports
                .iter()
                .map(|(name, number)| (name.clone(), *number))
                .collect::<BTreeMap<_, _>>(),
            ready: true,
            host_network: false,
        }
    }
}

/// The Deployment, StatefulSet and so on that a Pod belongs to.
fn owner(meta: &ObjectMeta) -> Option<Arc<str>> {
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    let template = meta.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
    match (owner.kind.as_str(), template) {
        ("ReplicaSet", Some(hash)) => {
            let name = owner.name.strip_suffix(hash.as_str()).and_then(|name| name.strip_suffix('-'));
            Some(name.unwrap_or(&owner.name).into())
        }
        _ => Some(owner.name.as_str().into()),
    }
}

fn topology(labels: &Labels) -> Option<Locality> {
    let part = |key: &str| labels.get(key).cloned().unwrap_or_default();
    let region = part("topology.kubernetes.io/region");
    (!region.is_empty()).then(|| Locality {
        region,
        zone: part("topology.kubernetes.io/zone"),
        subzone: part("topology.istio.io/subzone"),
    })
}

impl Namespace {
    pub fn from_kube(namespace: &core::Namespace) -> Option<Self> {
        Some(Self { name: namespace.metadata.name.as_deref()?.into(), labels: labels(&namespace.metadata) })
    }
}

impl Node {
    pub fn from_kube(node: &core::Node) -> Option<Self> {
        let locality = topology(&labels(&node.metadata)).unwrap_or_default();
        Some(Self { name: node.metadata.name.as_deref()?.into(), locality })
    }
}

impl TlsSecret {
    /// `None` for a Secret that holds nothing a gateway could use.
    pub fn from_kube(secret: &core::Secret) -> Option<Self> {
        let data = secret.data.as_ref()?;
        let first = |keys: [&str; 2]| keys.into_iter().find_map(|key| data.get(key)).map(|bytes| &bytes.0);
        let bytes = |keys| first(keys).map(|bytes| Arc::from(bytes.as_slice()));
        let found = Self {
            name: name(&secret.metadata)?,
            certificate: bytes(["tls.crt", "cert"]),
            private_key: first(["tls.key", "key"]).map(|key| Sensitive::new(key.as_slice())),
            roots: bytes(["ca.crt", "cacert"]),
            revoked: bytes(["ca.crl", "crl"]),
        };
        (found.certificate.is_some() || found.roots.is_some()).then_some(found)
    }
}
