//! Who asks for configuration: the xDS node, read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use base::Locality;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::google::protobuf::{Struct, value::Kind as ValueKind};

/// The client feature by which a proxy says that it knows Istio's own extensions.
pub const ISTIO_EXTENSIONS: &str = "istio.extensions";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NodeKind {
    /// Beside a workload.
    Sidecar,
    /// At the edge: a gateway.
    Router,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Interception {
    #[default]
    Redirect,
    Tproxy,
    /// Nothing is captured: listeners bind to ports.
    None,
}

/// A proxy, as it describes itself. What of it must agree with its certificate is checked by the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `sidecar~10.0.0.1~reviews-v1.default~default.svc.cluster.local`
    pub id: Arc<str>,
    pub kind: NodeKind,
    /// The workload's addresses, the first of them the primary one.
    pub addresses: Vec<IpAddr>,
    /// The Pod's or WorkloadEntry's name.
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub dns_domain: Arc<str>,
    pub service_account: Arc<str>,
    pub cluster: Arc<str>,
    pub network: Arc<str>,
    pub mesh_id: Arc<str>,
    pub labels: Arc<BTreeMap<String, String>>,
    pub locality: Locality,
    pub version: Arc<str>,
    pub features: BTreeSet<String>,
    pub interception: Interception,
    /// The agent answers DNS, so that hosts without addresses get one.
    pub dns_capture: bool,
    pub http10: bool,
    /// The machine of the cluster that it runs on, where there is one.
    pub machine: Arc<str>,
    /// The WorkloadGroup in its namespace by which it asks to be registered.
    pub register: Option<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error("node id {0:?} is not TYPE~IP~NAME.NAMESPACE~DOMAIN; the proxy's bootstrap must set it so")]
    Shape(String),
    #[error("node type {0:?} is not supported; write sidecar or router")]
    Kind(String),
    #[error("node address {0:?} is not an IP address; set INSTANCE_IPS or the second part of the id")]
    Address(String),
    #[error("node {0:?} names no namespace: set NAMESPACE in its metadata or NAME.NAMESPACE in its id")]
    Namespace(String),
}

impl Node {
    /// From the node of a discovery request.
    pub fn from_proto(node: &core::Node) -> Result<Self, NodeError> {
        let mut parts = node.id.splitn(4, '~');
        let (Some(kind), Some(address), Some(workload), Some(domain)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NodeError::Shape(node.id.clone()));
        };
        let kind = match kind {
            "sidecar" => NodeKind::Sidecar,
            "router" => NodeKind::Router,
            other => return Err(NodeError::Kind(other.into())),
        };
        let meta = Metadata(node.metadata.as_ref());
        let addresses = addresses(meta.text("INSTANCE_IPS"), address)?;
        let (name, id_namespace) = match workload.rsplit_once('.') {
            Some((name, namespace)) => (name, Some(namespace)),
            None => (workload, None),
        };
        let namespace = meta.text("NAMESPACE").or(id_namespace).filter(|namespace| !namespace.is_empty());
        let locality = node.locality.as_ref().map(|locality| Locality {
            region: locality.region.clone(),
            zone: locality.zone.clone(),
            subzone: locality.sub_zone.clone(),
        });
        let labels = Arc::new(meta.map("LABELS"));
        Ok(Self {
            id: node.id.as_str().into(),
            kind,
            addresses,
            name: name.into(),
            namespace: namespace.ok_or_else(|| NodeError::Namespace(node.id.clone()))?.into(),
            dns_domain: domain.into(),
            service_account: meta.text("SERVICE_ACCOUNT").unwrap_or("default").into(),
            cluster: meta.text("CLUSTER_ID").unwrap_or("Kubernetes").into(),
            network: meta
                .text("NETWORK")
                .or_else(|| label(&labels, "topology.istio.io/network"))
                .unwrap_or("")
                .into(),
            mesh_id: meta.text("MESH_ID").unwrap_or("").into(),
            locality: locality.filter(|l| !l.region.is_empty()).unwrap_or_else(|| by_labels(&labels)),
            labels,
            version: meta.text("ISTIO_VERSION").or_else(|| meta.text("MIZZEN_VERSION")).unwrap_or("").into(),
            features: node.client_features.iter().cloned().collect(),
            interception: match meta.text("INTERCEPTION_MODE") {
                Some("NONE") => Interception::None,
                Some("TPROXY") => Interception::Tproxy,
                _ => Interception::Redirect,
            },
            dns_capture: meta.flag("DNS_CAPTURE"),
            http10: meta.flag("HTTP10"),
            machine: meta.text("NODE_NAME").unwrap_or("").into(),
            register: meta.text("AUTO_REGISTER_GROUP").filter(|group| !group.is_empty()).map(Into::into),
        })
    }
}

fn addresses(listed: Option<&str>, in_id: &str) -> Result<Vec<IpAddr>, NodeError> {
    let text = listed.filter(|list| !list.is_empty()).unwrap_or(in_id);
    let parse = |one: &str| one.trim().parse().map_err(|_| NodeError::Address(one.into()));
    text.split(',').map(parse).collect()
}

fn label<'a>(labels: &'a BTreeMap<String, String>, key: &str) -> Option<&'a str> {
    labels.get(key).map(String::as_str)
}

fn by_labels(labels: &BTreeMap<String, String>) -> Locality {
    if let Some(own) = label(labels, "istio-locality") {
        return Locality::parse(&own.replace('.', "/"));
    }
    let part = |key| label(labels, key).unwrap_or_default().to_owned();
    Locality {
        region: part("topology.kubernetes.io/region"),
        zone: part("topology.kubernetes.io/zone"),
        subzone: part("topology.istio.io/subzone"),
    }
}

/// The node's metadata: what is missing or of another type is not there.
struct Metadata<'a>(Option<&'a Struct>);

impl<'a> Metadata<'a> {
    fn value(&self, key: &str) -> Option<&'a ValueKind> {
        self.0?.fields.get(key)?.kind.as_ref()
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        match self.value(key)? {
            ValueKind::StringValue(text) => Some(text),
            _ => None,
        }
    }

    fn flag(&self, key: &str) -> bool {
        match self.value(key) {
            Some(ValueKind::BoolValue(flag)) => *flag,
            Some(ValueKind::StringValue(text)) => matches!(text.as_str(), "true" | "1" | "True" | "TRUE"),
            _ => false,
        }
    }

    fn map(&self, key: &str) -> BTreeMap<String, String> {
        let Some(ValueKind::StructValue(map)) = self.value(key) else { return BTreeMap::new() };
        let text = |(key, value): (&String, &proto::pb::google::protobuf::Value)| match &value.kind {
            Some(ValueKind::StringValue(text)) => Some((key.clone(), text.clone())),
            _ => None,
        };
        map.fields.iter().filter_map(text).collect()
    }
}
