//! A proxy as if it were connected: its node, what it would be given, and the plan made of that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, bail};
use decide::{NodeFacts, Plan};
use model::{Snapshot, Workload};
use proto::istio::NameTable;
use proto::{Delta, ResourceType};
use translate::{ISTIO_EXTENSIONS, Interception, Node, NodeKind, Scope, Translator};

pub(super) struct Proxy {
    pub(super) node: Node,
    pub(super) plan: Plan,
    pub(super) facts: NodeFacts,
    /// What the proxy itself would refuse of its configuration.
    pub(super) rejected: Vec<String>,
    /// `spiffe://…`
    pub(super) identity: String,
    names: BTreeMap<String, Vec<IpAddr>>,
    domain: Arc<str>,
}

impl Proxy {
    pub(super) fn of(snapshot: &Snapshot, workload: &Workload) -> anyhow::Result<Self> {
        let node = node(snapshot, workload)?;
        let (translator, scope) = (Translator::new(), Scope::of(&node));
        let mut plan = Plan::new();
        let mut rejected = Vec::new();
        for of in [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route]
        {
            let set = translator.set(snapshot, &scope, of);
            let delta =
                Delta { resource_type: of, changed: set.iter().cloned().collect(), removed: Vec::new() };
            let (next, rejections) = plan.apply(&delta);
            plan = next;
            rejected.extend(rejections.iter().map(ToString::to_string));
        }
        let table = translator.set(snapshot, &scope, ResourceType::NameTable);
        let mut names = BTreeMap::new();
        for resource in table.iter() {
            let table: NameTable = prost::Message::decode(resource.body.clone()).context("the name table")?;
            for (host, info) in table.table {
                names.insert(host, info.ips.iter().filter_map(|ip| ip.parse().ok()).collect());
            }
        }
        let trust = snapshot.mesh().value.trust_domain();
        let identity = format!("spiffe://{trust}/ns/{}/sa/{}", node.namespace, node.service_account);
        let domain = Arc::clone(snapshot.domain());
        Ok(Self { node, plan, facts: NodeFacts::default(), rejected, identity, names, domain })
    }

    pub(super) fn is_gateway(&self) -> bool {
        self.node.kind == NodeKind::Router
    }

    pub(super) fn ip(&self) -> IpAddr {
        self.node.addresses.first().copied().unwrap_or_else(|| [127, 0, 0, 1].into())
    }

    /// A name as the agent would resolve it, search domains included.
    pub(super) fn look_up(&self, host: &str) -> Option<IpAddr> {
        let (namespace, domain) = (&self.node.namespace, &self.domain);
        let searched = [
            host.to_owned(),
            format!("{host}.{namespace}.svc.{domain}"),
            format!("{host}.svc.{domain}"),
            format!("{host}.{domain}"),
        ];
        searched.iter().find_map(|name| self.names.get(name)?.first().copied())
    }

    /// A gateway is reached by its service's port, and listens on the port behind it.
    pub(super) fn listening(&self, snapshot: &Snapshot, address: SocketAddr) -> SocketAddr {
        if !self.is_gateway() {
            return address;
        }
        let selects = |service: &&Arc<model::Service>| {
            !service.selector.is_empty()
                && service.selector.iter().all(|(k, v)| self.node.labels.get(k) == Some(v))
        };
        let mut services = snapshot.services().in_namespace(&self.node.namespace).iter().filter(selects);
        let target = services.find_map(|s| s.port(u32::from(address.port())).map(|port| port.target));
        let port = target.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        SocketAddr::new(address.ip(), port.unwrap_or(address.port()))
    }
}

fn node(snapshot: &Snapshot, workload: &Workload) -> anyhow::Result<Node> {
    let addresses: Vec<IpAddr> = workload.addresses.iter().filter_map(|a| a.parse().ok()).collect();
    let Some(first) = addresses.first() else {
        bail!("workload {} has no IP address, so it can have no proxy", workload.name);
    };
    let (namespace, name) = (&workload.name.namespace, &workload.name.name);
    let gateway = snapshot.gateways().iter().any(|gateway| {
        let selector = &gateway.spec.selector;
        !selector.is_empty() && selector.iter().all(|(k, v)| workload.labels.get(k) == Some(v))
    });
    let (kind, word) = if gateway { (NodeKind::Router, "router") } else { (NodeKind::Sidecar, "sidecar") };
    let dns_domain = format!("{namespace}.svc.{}", snapshot.domain());
    let account =
        if workload.service_account.is_empty() { "default".into() } else { workload.service_account.clone() };
    Ok(Node {
        id: format!("{word}~{first}~{name}.{namespace}~{dns_domain}").into(),
        kind,
        name: Arc::clone(name),
        namespace: Arc::clone(namespace),
        dns_domain: dns_domain.into(),
        service_account: account,
        cluster: model::Settings::default().home,
        network: workload.network.clone().unwrap_or_else(|| "".into()),
        mesh_id: "".into(),
        labels: Arc::clone(&workload.labels),
        locality: workload.locality.clone().unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").into(),
        features: BTreeSet::from([ISTIO_EXTENSIONS.to_owned()]),
        interception: if gateway { Interception::None } else { Interception::Redirect },
        dns_capture: !gateway,
        http10: false,
        machine: workload.node.clone().unwrap_or_else(|| "".into()),
        register: None,
        addresses,
    })
}
