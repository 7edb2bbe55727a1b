//! Clusters towards the application that the proxy stands before.

use model::Protocol;
use proto::Resource;
use proto::pb::envoy::config::cluster::v3 as pb;
use proto::pb::envoy::config::core::v3 as core;

use super::{base, inbound_source, kind, metadata, options};
use crate::build::Context;
use crate::destination_rule::{Rule, policy};
use crate::encode::socket_address;
use crate::instance::{self, Instance};
use crate::node::Interception;
use crate::scope::{Facet, IpMode};
use crate::translator::resource;

pub(crate) fn inbound_name(port: u32) -> String {
    format!("inbound|{port}||")
}

pub(super) fn all(context: &Context<'_>) -> Vec<Resource> {
    let sidecar = context.services().sidecar.clone();
    let pool = sidecar.as_ref().and_then(|sidecar| sidecar.spec.inbound_connection_pool.as_ref());
    instance::all(context)
        .iter()
        .map(|instance| {
            let name = inbound_name(instance.port);
            resource(name.as_str(), &build(context, &name, instance, pool))
        })
        .collect()
}

fn build(
    context: &Context<'_>,
    name: &str,
    instance: &Instance,
    sidecar_pool: Option<&api::networking::ConnectionPoolSettings>,
) -> pb::Cluster {
    let rule = instance.service.as_ref().and_then(|service| Rule::of(context, service));
    let mut policy = policy(context, rule.as_ref(), instance.service_port, "");
    if let Some(pool) = instance.pool.as_ref().or(sidecar_pool) {
        policy.connection_pool = Some(pool.clone());
    }
    let mut cluster = base(name);
    cluster.connect_timeout = Some(crate::encode::duration(context.mesh().value.connect_timeout().as_std()));
    options::pools(context, &mut cluster, &policy);
    if instance.protocol != Protocol::Detect || policy.connection_pool.is_some() {
        let pool = policy.connection_pool.as_ref();
        options::http_protocol(context, &mut cluster, instance.protocol, pool, false);
    } else {
        options::as_called(&mut cluster);
    }
    cluster.common_lb_config = Some(Default::default());
    if let Some(service) = &instance.service {
        cluster.metadata = Some(metadata(service, rule.as_ref(), ""));
    }
    let captured = context.reader.facets(Facet::Interception).interception != Interception::None;
    let to_localhost = !captured || context.mesh().value.inbound_to_localhost();
    match (&instance.endpoint, to_localhost) {
        (None, false) => {
            cluster.cluster_discovery_type = kind(pb::cluster::DiscoveryType::OriginalDst);
            cluster.lb_policy = pb::cluster::LbPolicy::ClusterProvided as i32;
            // The application has one address: it never becomes stale.
            cluster.cleanup_interval = Some(crate::encode::seconds(9_223_372_035));
            cluster.upstream_bind_config = Some(bind(context));
        }
        (endpoint, _) => {
            let (address, port) = endpoint.as_deref().map_or_else(
                || (localhost(context), instance.port),
                |endpoint| application(context, endpoint),
            );
            cluster.cluster_discovery_type = kind(pb::cluster::DiscoveryType::Static);
            cluster.load_assignment = Some(one_host(name, address, port));
        }
    }
    cluster
}

fn localhost(context: &Context<'_>) -> &'static str {
    if context.reader.facets(Facet::Ip).ip == IpMode::V6 { "::1" } else { "127.0.0.1" }
}

/// Where a Sidecar's ingress says that the application listens: the path of a socket, or an address with its port.
fn application<'a>(context: &Context<'_>, endpoint: &'a str) -> (&'a str, u32) {
    let (host, port) = match endpoint.rsplit_once(':') {
        Some(parts) if !endpoint.starts_with("unix://") => parts,
        _ => return (endpoint, 0),
    };
    let address = match host.trim_start_matches('[').trim_end_matches(']') {
        "" => localhost(context),
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        address => address,
    };
    (address, port.parse().unwrap_or(0))
}

fn one_host(
    name: &str,
    address: &str,
    port: u32,
) -> proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment {
    use proto::pb::envoy::config::endpoint::v3 as ep;
    let endpoint = ep::LbEndpoint {
        host_identifier: Some(ep::lb_endpoint::HostIdentifier::Endpoint(ep::Endpoint {
            address: Some(socket_address(address, port)),
            ..Default::default()
        })),
        ..Default::default()
    };
    ep::ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: vec![ep::LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() }],
        ..Default::default()
    }
}

/// To where the caller wanted to go; inbound, from the address that capture lets through.
pub(super) fn passthrough(context: &Context<'_>, name: &str, inbound: bool) -> pb::Cluster {
    let mut cluster = base(name);
    cluster.alt_stat_name = format!("{};", super::PASSTHROUGH);
    cluster.cluster_discovery_type = kind(pb::cluster::DiscoveryType::OriginalDst);
    cluster.lb_policy = pb::cluster::LbPolicy::ClusterProvided as i32;
    options::pools(context, &mut cluster, &Default::default());
    options::as_called(&mut cluster);
    if inbound {
        cluster.upstream_bind_config = Some(bind(context));
    } else if context.extensions() {
        cluster.filters.push(options::metadata_exchange());
    }
    cluster
}

fn bind(context: &Context<'_>) -> core::BindConfig {
    core::BindConfig {
        source_address: Some(core::SocketAddress {
            address: inbound_source(context).into(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
            ..Default::default()
        }),
        ..Default::default()
    }
}
