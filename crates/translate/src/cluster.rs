//! Clusters: towards services, towards the own application, and the special ones.

mod inbound;
mod options;

use std::sync::Arc;

use api::networking as net;
use model::{Key, Protocol, Resolution, Service, ServicePort};
use proto::Resource;
use proto::pb::envoy::config::cluster::v3 as pb;

use crate::build::Context;
use crate::destination_rule::{Rule, locality, policy};
use crate::encode::{duration, fields, flag, istio_metadata, list, object, seconds, text};
use crate::scope::{Facet, IpMode};
use crate::secret::readable;
use crate::translator::{Part, resource};
use crate::{endpoint, mtls, servers};

pub(crate) use inbound::inbound_name;
pub(crate) use options::metadata_exchange_config as metadata_exchange;

pub(crate) const BLACK_HOLE: &str = "BlackHoleCluster";
pub(crate) const PASSTHROUGH: &str = "PassthroughCluster";
pub(crate) const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";

/// How Envoy finds a cluster's hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Discovery {
    Eds,
    Dns,
    LogicalDns,
    Original,
}

/// A cluster that a scope has.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) service: Arc<Service>,
    pub(crate) port: u32,
    pub(crate) subset: Arc<str>,
    pub(crate) discovery: Discovery,
    /// For a gateway that passes mutual TLS through by server name.
    pub(crate) sni_dnat: bool,
}

impl Target {
    pub(crate) fn name(&self) -> String {
        if self.sni_dnat {
            mtls::sni(&self.service, self.port, &self.subset)
        } else {
            name(self.port, &self.subset, &self.service.key.host)
        }
    }
}

pub(crate) fn name(port: u32, subset: &str, host: &str) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

pub(crate) fn discovery(context: &Context<'_>, service: &Service) -> Discovery {
    match service.resolution {
        Resolution::Endpoints => Discovery::Eds,
        Resolution::Dns => Discovery::Dns,
        Resolution::DnsRoundRobin => Discovery::LogicalDns,
        // A gateway has no original destination to go to.
        Resolution::Original if context.is_router() => Discovery::Eds,
        Resolution::Original => Discovery::Original,
    }
}

/// Every outbound cluster of the scope.
pub(crate) fn targets(context: &Context<'_>) -> Vec<Target> {
    let services = context.services();
    let passes = context.is_router() && servers::auto_passthrough(context);
    let mut targets = Vec::new();
    for visible in services.iter() {
        let service = &visible.service;
        let discovery = discovery(context, service);
        let rule = Rule::of(context, service);
        let subsets: Vec<Arc<str>> = std::iter::once("".into())
            .chain(rule.iter().flat_map(Rule::subsets).map(|subset| subset.name.as_str().into()))
            .collect();
        for port in visible.ports().filter(|port| port.protocol != Protocol::Udp) {
            for subset in &subsets {
                for sni_dnat in [false, true] {
                    if sni_dnat && !(passes && may_pass(service)) {
                        continue;
                    }
                    targets.push(Target {
                        service: Arc::clone(service),
                        port: port.number,
                        subset: Arc::clone(subset),
                        discovery,
                        sni_dnat,
                    });
                }
            }
        }
    }
    targets
}

/// The clusters that do not depend on the own workload.
pub(crate) fn outbound_all(context: &Context<'_>) -> Vec<Resource> {
    let mut clusters: Vec<Resource> = targets(context)
        .iter()
        .filter_map(|target| {
            let part = Part::Cluster {
                service: target.service.key.clone(),
                port: target.port,
                subset: Arc::clone(&target.subset),
                sni_dnat: target.sni_dnat,
            };
            context.part(&part, |context| outbound(context, target))
        })
        .collect();
    clusters.push(resource(BLACK_HOLE, &black_hole()));
    if !context.is_router() {
        clusters.push(resource(PASSTHROUGH, &inbound::passthrough(context, PASSTHROUGH, false)));
        clusters
            .push(resource(INBOUND_PASSTHROUGH, &inbound::passthrough(context, INBOUND_PASSTHROUGH, true)));
    }
    clusters
}

/// The clusters towards the own workload.
pub(crate) fn inbound_all(context: &Context<'_>) -> Vec<Resource> {
    if context.is_router() { Vec::new() } else { inbound::all(context) }
}

fn base(name: &str) -> pb::Cluster {
    pb::Cluster {
        name: name.into(),
        alt_stat_name: format!("{name};"),
        connect_timeout: Some(seconds(10)),
        ..Default::default()
    }
}

fn black_hole() -> pb::Cluster {
    pb::Cluster { cluster_discovery_type: kind(pb::cluster::DiscoveryType::Static), ..base(BLACK_HOLE) }
}

#[allow(clippy::unnecessary_wraps)]
fn kind(of: pb::cluster::DiscoveryType) -> Option<pb::cluster::ClusterDiscoveryType> {
    Some(pb::cluster::ClusterDiscoveryType::Type(of as i32))
}

fn outbound(context: &Context<'_>, target: &Target) -> Option<Resource> {
    let key = &target.service.key;
    let service = context.reader.read(Key::Service(key.clone())).service(key)?;
    let port = service.port(target.port)?;
    let name = target.name();
    let rule = Rule::of(context, service);
    let policy = policy(context, rule.as_ref(), port.number, &target.subset);
    let mut cluster = base(&name);
    let original = options::passthrough_lb(&policy) && !context.is_router();
    let discovery = if original { Discovery::Original } else { target.discovery };
    discover(context, &mut cluster, service, (port, &target.subset), discovery);
    cluster.connect_timeout = Some(duration(context.mesh().value.connect_timeout().as_std()));
    options::load_balancer(&mut cluster, &policy, discovery);
    options::pools(context, &mut cluster, &policy);
    options::outliers(&mut cluster, policy.outlier_detection.as_ref());
    if target.sni_dnat {
        // Bytes pass through: neither TLS nor HTTP is this proxy's business.
        cluster.metadata = Some(metadata(service, rule.as_ref(), &target.subset));
        return Some(resource(name, &cluster));
    }
    let originates = |tls: &&net::ClientTlsSettings| {
        matches!(tls.mode, net::ClientTlsMode::Simple | net::ClientTlsMode::Mutual)
    };
    let nameless =
        policy.tls.as_ref().filter(originates).is_some_and(|tls| mtls::server_name(service, tls).is_none());
    options::http_protocol(context, &mut cluster, port.protocol, policy.connection_pool.as_ref(), nameless);
    if let Some(common) = &mut cluster.common_lb_config
        && let (Some(setting), asked) = locality(context, &policy)
        && (asked || !setting.distribute.is_empty())
    {
        common.locality_config_specifier =
            Some(pb::cluster::common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(
                Default::default(),
            ));
    }
    let reads_secrets = readable(context, rule.as_ref());
    secure(context, &mut cluster, service, (port, &target.subset), &policy, reads_secrets, discovery);
    cluster.metadata = Some(metadata(service, rule.as_ref(), &target.subset));
    if context.extensions() {
        cluster.filters.push(options::metadata_exchange());
    }
    Some(resource(name, &cluster))
}

fn discover(
    context: &Context<'_>,
    cluster: &mut pb::Cluster,
    service: &Service,
    (port, subset): (&ServicePort, &str),
    discovery: Discovery,
) {
    use pb::cluster::DiscoveryType;
    match discovery {
        Discovery::Eds => {
            cluster.cluster_discovery_type = kind(DiscoveryType::Eds);
            cluster.eds_cluster_config = Some(pb::cluster::EdsClusterConfig {
                eds_config: Some(crate::encode::ads()),
                service_name: cluster.name.clone(),
            });
        }
        Discovery::Original => {
            cluster.cluster_discovery_type = kind(DiscoveryType::OriginalDst);
        }
        Discovery::Dns | Discovery::LogicalDns => {
            let logical = discovery == Discovery::LogicalDns;
            cluster.cluster_discovery_type =
                kind(if logical { DiscoveryType::LogicalDns } else { DiscoveryType::StrictDns });
            let mut assignment = endpoint::assignment(context, service, port, subset, &cluster.name);
            for locality in &mut assignment.endpoints {
                // A name is not healthy before it is resolved.
                locality.lb_endpoints.iter_mut().for_each(|endpoint| endpoint.health_status = 0);
            }
            cluster.load_assignment = Some(assignment);
            options::dns(context, cluster);
        }
    }
}

/// How the connections of a cluster are secured.
fn secure(
    context: &Context<'_>,
    cluster: &mut pb::Cluster,
    service: &Service,
    (port, subset): (&ServicePort, &str),
    policy: &net::TrafficPolicy,
    reads_secrets: bool,
    discovery: Discovery,
) {
    let alpn = options::alpn(context, port.protocol);
    let at = (port.number, subset);
    match &policy.tls {
        Some(tls) => match tls.mode {
            net::ClientTlsMode::Disable => {}
            net::ClientTlsMode::IstioMutual => {
                cluster.transport_socket = Some(mtls::upstream(context, service, at, Some(tls), alpn));
            }
            net::ClientTlsMode::Simple | net::ClientTlsMode::Mutual => {
                let http2 = port.protocol.is_http2();
                cluster.transport_socket = Some(mtls::originate(context, service, tls, reads_secrets, http2));
            }
        },
        None if !context.mesh().value.auto_mtls() || service.mesh_external => {}
        None if discovery == Discovery::Original => {
            // There is no endpoint whose metadata could tell: all of them must take mutual TLS.
            let endpoints = context.reader.read(Key::Endpoints(service.key.clone())).endpoints(&service.key);
            if endpoints.is_some_and(|all| !all.all.is_empty() && all.all.iter().all(|e| e.mutual_tls)) {
                cluster.transport_socket = Some(mtls::upstream(context, service, at, None, alpn));
            }
        }
        None => {
            let istio = mtls::upstream(context, service, at, None, alpn);
            cluster.transport_socket_matches = mtls::automatic(istio);
        }
    }
}

fn metadata(
    service: &Service,
    rule: Option<&Rule>,
    subset: &str,
) -> proto::pb::envoy::config::core::v3::Metadata {
    let named = fields([
        ("host", text(&*service.key.host)),
        ("name", text(&*service.name)),
        ("namespace", text(&*service.key.namespace)),
    ]);
    let mut istio = fields([("services", list(vec![object(named)]))]);
    if let Some(rule) = rule {
        istio.fields.insert("config".into(), text(rule.path()));
    }
    if !subset.is_empty() {
        istio.fields.insert("subset".into(), text(subset));
    }
    if service.mesh_external {
        istio.fields.insert("external".into(), flag(true));
    }
    istio_metadata(istio)
}

/// The loopback address that stands for "this proxy's own connections to the application".
pub(crate) fn inbound_source(context: &Context<'_>) -> &'static str {
    if context.reader.facets(Facet::Ip).ip == IpMode::V6 { "::6" } else { "127.0.0.6" }
}

/// Whether a gateway may pass connections through to the service.
fn may_pass(service: &Service) -> bool {
    !service.mesh_external && service.resolution == Resolution::Endpoints
}
