//! The ports on which the scope's own workload serves, and as part of which services.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::networking as net;
use model::{Key, Origin, Protocol, Service};

use crate::build::Context;
use crate::scope::Facet;

/// A port of the workload.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    /// On which the application listens.
    pub(crate) port: u32,
    pub(crate) protocol: Protocol,
    /// The oldest service that has it, and its port there; none for a port that only a Sidecar declares.
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) service_port: u32,
    /// Where a Sidecar's ingress sends it instead.
    pub(crate) endpoint: Option<String>,
    pub(crate) pool: Option<net::ConnectionPoolSettings>,
}

/// Ordered by port, each once. A Sidecar's ingress, where there is one, replaces what the services say.
pub(crate) fn all(context: &Context<'_>) -> Vec<Instance> {
    let by_service = by_service(context);
    let services = context.services();
    let ingress =
        services.sidecar.as_ref().map(|sidecar| &sidecar.spec.ingress).filter(|list| !list.is_empty());
    let Some(ingress) = ingress else { return by_service.into_values().collect() };
    let declared = ingress.iter().filter_map(|listener| {
        let port = listener.port.as_ref()?;
        let known = by_service.get(&port.number);
        Some(Instance {
            port: port.number,
            protocol: Protocol::named(&port.protocol).unwrap_or(Protocol::Detect),
            service: known.and_then(|known| known.service.clone()),
            service_port: known.map_or(port.number, |known| known.service_port),
            endpoint: Some(listener.default_endpoint.clone()).filter(|endpoint| !endpoint.is_empty()),
            pool: listener.connection_pool.clone(),
        })
    });
    declared.collect()
}

fn by_service(context: &Context<'_>) -> BTreeMap<u32, Instance> {
    let facets = context.reader.facets(Facet::Namespace);
    let labels = &context.reader.facets(Facet::Labels).labels;
    let snapshot = context.reader.read(Key::Services);
    let mut own: Vec<&Arc<Service>> = snapshot
        .services()
        .in_namespace(&facets.namespace)
        .iter()
        .filter(|service| {
            !service.selector.is_empty() && service.selector.iter().all(|(k, v)| labels.get(k) == Some(v))
        })
        .collect();
    // Kubernetes' own before ServiceEntries, then by age and name.
    own.sort_by_key(|service| (service.origin != Origin::Kubernetes, service.created, service.key.clone()));
    let mut instances = BTreeMap::new();
    for service in own {
        for port in service.ports.iter().filter(|port| port.protocol != Protocol::Udp) {
            let target = match port.target {
                0 if service.origin == Origin::Kubernetes => named_target(context, service, &port.name),
                0 => Some(port.number),
                number => Some(number),
            };
            let Some(target) = target else { continue };
            instances.entry(target).or_insert_with(|| Instance {
                port: target,
                protocol: port.protocol,
                service: Some(Arc::clone(service)),
                service_port: port.number,
                endpoint: None,
                pool: None,
            });
        }
    }
    instances
}

/// A target port that is a name is known by the endpoints of workloads like this one.
fn named_target(context: &Context<'_>, service: &Service, port_name: &str) -> Option<u32> {
    let labels = &context.reader.facets(Facet::Labels).labels;
    let endpoints = context.reader.read(Key::Endpoints(service.key.clone())).endpoints(&service.key)?;
    let mut named = endpoints.all.iter().filter(|endpoint| &*endpoint.port_name == port_name);
    let alike = named.clone().find(|endpoint| *endpoint.labels == **labels);
    alike.or_else(|| named.next()).map(|endpoint| endpoint.port)
}
