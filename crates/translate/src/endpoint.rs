//! Load assignments: which addresses stand behind a cluster, near ones first.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::networking as net;
use base::Locality;
use model::{Endpoint, Health, Key, Service, ServicePort};
use proto::Resource;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::config::endpoint::v3 as pb;

use crate::build::Context;
use crate::cluster::{Discovery, Target, targets};
use crate::destination_rule::{Rule, locality, policy};
use crate::encode::{fields, socket_address, text, u32v};
use crate::locality::Preference;
use crate::peer;
use crate::scope::Facet;
use crate::translator::{Part, resource};

pub(crate) fn all(context: &Context<'_>) -> Vec<Resource> {
    targets(context)
        .iter()
        .filter(|target| target.discovery == Discovery::Eds)
        .filter_map(|target| {
            let part = Part::Endpoints {
                service: target.service.key.clone(),
                port: target.port,
                subset: Arc::clone(&target.subset),
                sni_dnat: target.sni_dnat,
            };
            context.part(&part, |context| build(context, target))
        })
        .collect()
}

fn build(context: &Context<'_>, target: &Target) -> Option<Resource> {
    let key = &target.service.key;
    let service = context.reader.read(Key::Service(key.clone())).service(key)?;
    let port = service.port(target.port)?;
    // A door leads into its own network: passing on to another door would go round in circles.
    let reach = if target.sni_dnat { Reach::Own } else { Reach::All };
    let assignment = reached_assignment(context, service, port, &target.subset, &target.name(), reach);
    Some(resource(target.name(), &assignment))
}

/// The assignment of one port and subset, as a scope is to see it.
pub(crate) fn assignment(
    context: &Context<'_>,
    service: &Service,
    port: &ServicePort,
    subset: &str,
    name: &str,
) -> pb::ClusterLoadAssignment {
    reached_assignment(context, service, port, subset, name, Reach::All)
}

/// Which endpoints count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    All,
    /// Those of the scope's own network.
    Own,
}

fn reached_assignment(
    context: &Context<'_>,
    service: &Service,
    port: &ServicePort,
    subset: &str,
    name: &str,
    reach: Reach,
) -> pb::ClusterLoadAssignment {
    let rule = Rule::of(context, service);
    let policy = policy(context, rule.as_ref(), port.number, subset);
    let labels = rule.as_ref().and_then(|rule| rule.subset(subset)).map(|subset| &subset.labels);
    let all = context.reader.read(Key::Endpoints(service.key.clone())).endpoints(&service.key);
    // `internalTrafficPolicy: Local`: only what runs on the caller's machine.
    let machine = service.node_local.then(|| Arc::clone(&context.reader.facets(Facet::Machine).machine));
    let own_cluster = context
        .mesh()
        .value
        .is_cluster_local(&service.key.host)
        .then(|| Arc::clone(&context.reader.facets(Facet::Cluster).cluster));
    let mut reached: Vec<Reached> = all
        .iter()
        .flat_map(|endpoints| &endpoints.all)
        .filter(|endpoint| endpoint.port_name == port.name && endpoint.health == Health::Healthy)
        .filter(|endpoint| {
            machine.as_ref().is_none_or(|here| endpoint.node.as_ref().map_or("", |node| node) == &**here)
        })
        .filter(|endpoint| own_cluster.as_ref().is_none_or(|own| endpoint.cluster == *own))
        .filter(|endpoint| {
            labels.is_none_or(|wanted| wanted.iter().all(|(k, v)| endpoint.labels.get(k) == Some(v)))
        })
        .map(|endpoint| Reached::directly(context, endpoint))
        .collect();
    // A subset that no rule defines has no endpoints; its cluster does not exist either.
    if !subset.is_empty() && labels.is_none() {
        reached.clear();
    }
    let reached = across_networks(context, reached, reach);
    pb::ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: grouped(context, service, &policy, reached),
        ..Default::default()
    }
}

/// An endpoint, or the door of the network behind which it lies.
struct Reached<'a> {
    endpoint: &'a Endpoint,
    address: Arc<str>,
    port: u32,
    weight: u32,
    mutual_tls: bool,
}

impl<'a> Reached<'a> {
    fn directly(context: &Context<'_>, endpoint: &'a Endpoint) -> Self {
        Self {
            endpoint,
            address: Arc::clone(&endpoint.address),
            port: endpoint.port,
            weight: endpoint.weight,
            mutual_tls: endpoint.mutual_tls && !peer::disabled(context, endpoint),
        }
    }
}

/// Endpoints in another network are reached by its gateways, which need the server name of mutual TLS.
fn across_networks<'a>(context: &Context<'_>, all: Vec<Reached<'a>>, reach: Reach) -> Vec<Reached<'a>> {
    if all.iter().all(|reached| reached.endpoint.network.is_empty()) {
        return all;
    }
    let own = own_network(context);
    let gateways = context.reader.read(Key::Networks).network_gateways();
    let mut near = Vec::new();
    let mut far: BTreeMap<(Locality, Arc<str>, u32), Reached<'a>> = BTreeMap::new();
    for reached in all {
        let network = &reached.endpoint.network;
        if network.is_empty() || own.is_empty() || **network == *own {
            near.push(reached);
            continue;
        }
        let doors: Vec<_> = gateways.iter().filter(|gateway| gateway.network == *network).collect();
        if doors.is_empty() {
            // No door is known: perhaps the networks are routed to each other.
            near.push(reached);
        } else if reached.mutual_tls && reach == Reach::All {
            for door in doors {
                let at = (reached.endpoint.locality.clone(), Arc::clone(&door.address), door.port);
                let entry = far.entry(at).or_insert_with(|| Reached {
                    endpoint: reached.endpoint,
                    address: Arc::clone(&door.address),
                    port: door.port,
                    weight: 0,
                    mutual_tls: true,
                });
                entry.weight += reached.weight;
            }
        }
    }
    near.extend(far.into_values());
    near
}

/// The network that the scope is in: as its node says, else as the root namespace's label says of its cluster.
fn own_network<'a>(context: &Context<'a>) -> &'a str {
    let told = &context.reader.facets(Facet::Network).network;
    if !told.is_empty() {
        return told;
    }
    let root = context.reader.read(Key::Mesh).root_namespace();
    let labels = context.reader.read(Key::Namespaces).namespace(root);
    labels.and_then(|labels| labels.get("topology.istio.io/network")).map_or("", String::as_str)
}

fn grouped(
    context: &Context<'_>,
    service: &Service,
    policy: &net::TrafficPolicy,
    reached: Vec<Reached<'_>>,
) -> Vec<pb::LocalityLbEndpoints> {
    let preference = preference(context, service, policy);
    let mut groups: BTreeMap<(String, u32), Vec<Reached<'_>>> = BTreeMap::new();
    for reached in reached {
        let priority = preference.priority(&reached.endpoint.locality, &reached.endpoint.labels);
        groups.entry((reached.endpoint.locality.to_string(), priority)).or_default().push(reached);
    }
    // Envoy wants priorities without gaps.
    let mut used: Vec<u32> = groups.keys().map(|(_, priority)| *priority).collect();
    used.sort_unstable();
    used.dedup();
    let weights = preference.weights(groups.keys().map(|(name, _)| name.as_str()));
    groups
        .into_iter()
        .filter_map(|((name, priority), members)| {
            let sum: u32 = members.iter().map(|reached| reached.weight).sum();
            let weight = match &weights {
                Some(weights) => *weights.get(&name)?,
                None => sum,
            };
            let locality = &members[0].endpoint.locality;
            Some(pb::LocalityLbEndpoints {
                locality: Some(self::locality_proto(locality)),
                lb_endpoints: members.iter().map(lb_endpoint).collect(),
                load_balancing_weight: Some(u32v(weight)),
                priority: used.iter().position(|known| *known == priority).unwrap_or(0) as u32,
                ..Default::default()
            })
        })
        .collect()
}

fn preference(context: &Context<'_>, service: &Service, policy: &net::TrafficPolicy) -> Preference {
    let (setting, asked) = locality(context, policy);
    let Some(setting) = setting else { return Preference::None };
    if !setting.distribute.is_empty() {
        let own = &context.reader.facets(Facet::Locality).locality;
        return Preference::shares(&setting.distribute, own).unwrap_or(Preference::None);
    }
    // Istio wants outlier detection as well; a rule that asks is enough here, by readiness.
    if !asked && policy.outlier_detection.is_none() && !service.prefer_close {
        return Preference::None;
    }
    if setting.failover_priority.is_empty() {
        let own = &context.reader.facets(Facet::Locality).locality;
        Preference::near(own, &setting.failover)
    } else {
        Preference::by_labels(&setting.failover_priority, &context.reader.facets(Facet::Labels).labels)
    }
}

fn locality_proto(locality: &Locality) -> core::Locality {
    core::Locality {
        region: locality.region.clone(),
        zone: locality.zone.clone(),
        sub_zone: locality.subzone.clone(),
    }
}

fn lb_endpoint(reached: &Reached<'_>) -> pb::LbEndpoint {
    let mut metadata = core::Metadata::default();
    if reached.mutual_tls {
        metadata
            .filter_metadata
            .insert("envoy.transport_socket_match".into(), fields([("tlsMode", text("istio"))]));
    }
    metadata.filter_metadata.insert("istio".into(), fields([("workload", text(workload(reached.endpoint)))]));
    pb::LbEndpoint {
        health_status: core::HealthStatus::Healthy as i32,
        metadata: Some(metadata),
        load_balancing_weight: Some(u32v(reached.weight)),
        host_identifier: Some(pb::lb_endpoint::HostIdentifier::Endpoint(pb::Endpoint {
            address: Some(socket_address(&reached.address, reached.port)),
            ..Default::default()
        })),
    }
}

/// What telemetry wants to know: `workload;namespace;canonical name;canonical revision;cluster`.
fn workload(endpoint: &Endpoint) -> String {
    let label = |keys: &[&str]| keys.iter().find_map(|key| endpoint.labels.get(*key)).cloned();
    let name = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
        .unwrap_or_else(|| endpoint.workload.to_string());
    let revision = label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"])
        .unwrap_or_default();
    let Endpoint { workload, namespace, cluster, .. } = endpoint;
    format!("{workload};{namespace};{name};{revision};{cluster}")
}
