//! Load assignments, from EDS and from clusters.

use std::sync::Arc;

use ::upstream::{Address, Assignment, Endpoint, EndpointCheck, Health, LocalityGroup};
use base::Locality;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::config::endpoint::v3 as pb;
use proto::pb::google::protobuf::value::Kind;

use crate::refusal::{Refusal, Taken, Within, each};
use crate::wire::{Chance, address, number};

pub(crate) fn compile_assignment(message: &pb::ClusterLoadAssignment) -> Taken<Assignment> {
    let mut assignment =
        Assignment { groups: each(&message.endpoints, "endpoints", group)?, ..Assignment::default() };
    if let Some(policy) = &message.policy {
        apply_policy(policy, &mut assignment).within("policy")?;
    }
    Ok(assignment)
}

fn apply_policy(policy: &pb::cluster_load_assignment::Policy, assignment: &mut Assignment) -> Taken<()> {
    assignment.overprovisioning_factor = number(&policy.overprovisioning_factor).unwrap_or(140);
    let drops = each(&policy.drop_overloads, "dropOverloads", |drop| match &drop.drop_percentage {
        Some(p) => Chance::of(p).within("dropPercentage"),
        None => Ok(Chance::NEVER),
    })?;
    if let Some(drop) = drops.into_iter().next() {
        assignment.drop_per_million = (drop.as_percent() * 10_000.0) as u32;
    }
    Ok(())
}

fn group(group: &pb::LocalityLbEndpoints) -> Taken<LocalityGroup> {
    let locality = group.locality.as_ref().map(|l| Locality {
        region: l.region.clone(),
        zone: l.zone.clone(),
        subzone: l.sub_zone.clone(),
    });
    Ok(LocalityGroup {
        locality: Arc::new(locality.unwrap_or_default()),
        priority: group.priority,
        weight: number(&group.load_balancing_weight).unwrap_or(0),
        endpoints: each(&group.lb_endpoints, "lbEndpoints", |it| endpoint(it).map(Arc::new))?,
    })
}

fn endpoint(endpoint: &pb::LbEndpoint) -> Taken<Endpoint> {
    use core::HealthStatus;
    let Some(pb::lb_endpoint::HostIdentifier::Endpoint(inner)) = &endpoint.host_identifier else {
        return Err(Refusal::new("is missing").under("endpoint"));
    };
    let health = match HealthStatus::try_from(endpoint.health_status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Health::Healthy,
        Ok(HealthStatus::Degraded) => Health::Degraded,
        Ok(HealthStatus::Draining) => Health::Draining,
        Ok(HealthStatus::Unhealthy | HealthStatus::Timeout) => Health::Unhealthy,
        Err(_) => return Err(Refusal::new("unknown health status").under("healthStatus")),
    };
    let weight = number(&endpoint.load_balancing_weight).unwrap_or(1);
    if weight == 0 {
        return Err(Refusal::new("must be at least 1").under("loadBalancingWeight"));
    }
    let mut result = Endpoint::new(address(&inner.address).within("address").within("endpoint")?);
    result.hostname = inner.hostname.as_str().into();
    if let Some(config) = &inner.health_check_config {
        result.check = check(config, &result.address).within("healthCheckConfig").within("endpoint")?;
    }
    result.weight = weight;
    result.health = health;
    if let Some(metadata) = &endpoint.metadata {
        result.transport_labels = transport_labels(metadata);
        result.lb_labels = super::subset::labels_of_endpoint(metadata);
        result.workload = text_of(metadata, "istio", "workload").into();
    }
    Ok(result)
}

/// Where an endpoint is checked: by its own address, by another port of it, or elsewhere.
fn check(config: &pb::endpoint::HealthCheckConfig, own: &Address) -> Taken<EndpointCheck> {
    let port = match u16::try_from(config.port_value) {
        Ok(0) => None,
        Ok(port) => Some(port),
        Err(_) => return Err(Refusal::new("is no port").under("portValue")),
    };
    let elsewhere = match &config.address {
        Some(_) => Some(address(&config.address).within("address")?),
        None => port.map(|_| own.clone()),
    };
    let at = |address, port: Option<u16>| match (address, port) {
        (Address::Socket(mut socket), Some(port)) => {
            socket.set_port(port);
            Address::Socket(socket)
        }
        (Address::Name(host, _), Some(port)) => Address::Name(host, port),
        (address, _) => address,
    };
    Ok(EndpointCheck {
        disabled: config.disable_active_health_check,
        address: elsewhere.map(|address| at(address, port)),
        hostname: config.hostname.as_str().into(),
    })
}

fn transport_labels(metadata: &core::Metadata) -> Arc<[(Box<str>, Box<str>)]> {
    let Some(fields) = metadata.filter_metadata.get("envoy.transport_socket_match") else {
        return Arc::from([]);
    };
    let mut labels: Vec<(Box<str>, Box<str>)> = fields
        .fields
        .iter()
        .filter_map(|(key, value)| match value.kind.as_ref() {
            Some(Kind::StringValue(text)) => Some((key.as_str().into(), text.as_str().into())),
            _ => None,
        })
        .collect();
    labels.sort();
    labels.into()
}

/// A text of some filter's metadata; empty when there is none.
pub(super) fn text_of<'a>(metadata: &'a core::Metadata, filter: &str, key: &str) -> &'a str {
    match metadata.filter_metadata.get(filter).and_then(|f| f.fields.get(key)).and_then(|v| v.kind.as_ref()) {
        Some(Kind::StringValue(text)) => text,
        _ => "",
    }
}
