//! TCP proxying: filters, and the chains that services and VirtualServices ask for.

use std::sync::Arc;

use api::networking as net;
use model::{Service, ServicePort};
use proto::pb::envoy::config::accesslog::v3::AccessLog;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::config::listener::v3 as pb;
use proto::pb::envoy::extensions::filters::network::tcp_proxy::v3 as proxy_pb;
use proto::pb::envoy::r#type::v3 as hash_pb;

use crate::build::Context;
use crate::cluster::{self, BLACK_HOLE, PASSTHROUGH};
use crate::destination_rule::{Rule, policy};
use crate::encode::{any, duration, seconds, u32v};
use crate::route::{Destination, destination};
use crate::scope::Facet;
use crate::telemetry::Telemetry;
use crate::view::VirtualService;

pub(crate) fn network_filter(name: &str, config: proto::pb::google::protobuf::Any) -> pb::Filter {
    pb::Filter { name: name.into(), config_type: Some(pb::filter::ConfigType::TypedConfig(config)) }
}

pub(crate) fn to(cluster: &str) -> proxy_pb::tcp_proxy::ClusterSpecifier {
    proxy_pb::tcp_proxy::ClusterSpecifier::Cluster(cluster.into())
}

pub(crate) fn proxy(
    stat_prefix: &str,
    to: proxy_pb::tcp_proxy::ClusterSpecifier,
    access_log: Vec<AccessLog>,
) -> pb::Filter {
    let proxy = proxy_pb::TcpProxy {
        stat_prefix: stat_prefix.into(),
        cluster_specifier: Some(to),
        access_log,
        ..Default::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", any(&proxy))
}

/// Where connections to nothing known go: through, or nowhere.
pub(crate) fn fallback(context: &Context<'_>, telemetry: &Telemetry) -> pb::FilterChain {
    let cluster = if context.services().registry_only { BLACK_HOLE } else { PASSTHROUGH };
    let mut filters = telemetry.network_filters();
    filters.push(proxy(cluster, to(cluster), telemetry.tcp_logs()));
    pb::FilterChain { filters, ..Default::default() }
}

/// One way that connections to a service may go.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    pub(crate) server_names: Vec<String>,
    pub(crate) subnets: Vec<core::CidrRange>,
    filter: pb::Filter,
}

impl Chain {
    /// Whether every connection matches.
    pub(crate) fn is_default(&self) -> bool {
        self.server_names.is_empty() && self.subnets.is_empty()
    }

    pub(crate) fn into_pb(self, telemetry: &Telemetry) -> pb::FilterChain {
        let condition = pb::FilterChainMatch {
            server_names: self.server_names.clone(),
            prefix_ranges: self.subnets.clone(),
            ..Default::default()
        };
        let mut filters = telemetry.network_filters();
        filters.push(self.filter);
        pb::FilterChain {
            filter_chain_match: (condition != pb::FilterChainMatch::default()).then_some(condition),
            filters,
            transport_socket_connect_timeout: Some(seconds(15)),
            ..Default::default()
        }
    }
}

/// Where connections are matched.
pub(crate) struct Place<'a> {
    pub(crate) port: u32,
    pub(crate) gateways: &'a [&'a str],
}

/// The ways of a service's port: by VirtualServices, then straight to it. `by_name` asks for a match on the service's
/// own name where its address cannot tell it apart.
pub(crate) fn chains(
    context: &Context<'_>,
    telemetry: &Telemetry,
    service: &Arc<Service>,
    port: &ServicePort,
    by_name: bool,
) -> Vec<Chain> {
    let place = Place { port: port.number, gateways: &["mesh"] };
    let views = context.virtual_services();
    let mut chains = Vec::new();
    for rules in &views.mesh {
        let services = context.services();
        let meant = rules.hosts.iter().any(|host| {
            **host == *service.key.host
                || services.matching(host).iter().any(|visible| visible.service.key == service.key)
        });
        if !meant {
            continue;
        }
        if port.protocol.is_tls() {
            chains.extend(tls(context, telemetry, rules, &place));
        }
        chains.extend(tcp(context, telemetry, rules, &place));
    }
    let unfinished = chains.iter().all(|chain| !chain.is_default());
    if unfinished {
        let named = by_name && port.protocol.is_tls();
        let own = if named { vec![service.key.host.to_string()] } else { Vec::new() };
        if chains.iter().all(|chain| chain.server_names != own || own.is_empty()) {
            let cluster = cluster::name(port.number, "", &service.key.host);
            let lone = Destination {
                cluster,
                service: Some(Arc::clone(service)),
                host: Arc::clone(&service.key.host),
                port: port.number,
                subset: String::new(),
            };
            chains.push(Chain {
                server_names: own,
                subnets: Vec::new(),
                filter: weighted(context, telemetry, &[(lone, 1)]),
            });
        }
    }
    chains
}

/// The TLS routes of a VirtualService that apply at a place.
pub(crate) fn tls(
    context: &Context<'_>,
    telemetry: &Telemetry,
    rules: &VirtualService,
    place: &Place<'_>,
) -> Vec<Chain> {
    let mut chains = Vec::new();
    for route in &rules.spec.tls {
        for condition in &route.r#match {
            let applies = here(&condition.gateways, place)
                && (condition.port == 0 || condition.port == place.port)
                && source(context, &condition.source_labels, &condition.source_namespace);
            if applies {
                chains.push(Chain {
                    server_names: condition.sni_hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
                    subnets: subnets(&condition.destination_subnets),
                    filter: routed(context, telemetry, rules, &route.weighted(), place),
                });
            }
        }
    }
    // `*` as a server name is any: Envoy writes that by naming none.
    for chain in &mut chains {
        if chain.server_names.iter().any(|name| name == "*") {
            chain.server_names.clear();
        }
    }
    chains
}

/// The TCP routes of a VirtualService that apply at a place, up to the first that takes everything.
pub(crate) fn tcp(
    context: &Context<'_>,
    telemetry: &Telemetry,
    rules: &VirtualService,
    place: &Place<'_>,
) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    for route in &rules.spec.tcp {
        let conditions: Vec<_> = if route.r#match.is_empty() {
            vec![Vec::new()]
        } else {
            let applying = route.r#match.iter().filter(|condition| {
                here(&condition.gateways, place)
                    && (condition.port == 0 || condition.port == place.port)
                    && source(context, &condition.source_labels, &condition.source_namespace)
            });
            applying.map(|condition| subnets(&condition.destination_subnets)).collect()
        };
        for subnets in conditions {
            let chain = Chain {
                server_names: Vec::new(),
                subnets,
                filter: routed(context, telemetry, rules, &route.weighted(), place),
            };
            let last = chain.is_default();
            chains.push(chain);
            if last {
                return chains;
            }
        }
    }
    chains
}

fn here(gateways: &[String], place: &Place<'_>) -> bool {
    gateways.is_empty()
        || gateways.iter().any(|gateway| {
            place
                .gateways
                .iter()
                .any(|own| own == gateway || own.rsplit_once('/').is_some_and(|(_, name)| name == gateway))
        })
}

fn source(context: &Context<'_>, labels: &api::StringMap, namespace: &str) -> bool {
    (namespace.is_empty() || *context.reader.facets(Facet::Namespace).namespace == *namespace)
        && (labels.is_empty() || {
            let own = &context.reader.facets(Facet::Labels).labels;
            labels.iter().all(|(key, value)| own.get(key) == Some(value))
        })
}

fn subnets(list: &[String]) -> Vec<core::CidrRange> {
    list.iter().filter_map(|text| cidr(text)).collect()
}

/// `10.0.0.0/8`, or one address.
pub(crate) fn cidr(text: &str) -> Option<core::CidrRange> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse().ok()?)),
        None => (text, None),
    };
    let ip: std::net::IpAddr = address.parse().ok()?;
    let whole = if ip.is_ipv4() { 32 } else { 128 };
    let length = length.unwrap_or(whole);
    (length <= whole)
        .then(|| core::CidrRange { address_prefix: ip.to_string(), prefix_len: Some(u32v(length)) })
}

fn routed(
    context: &Context<'_>,
    telemetry: &Telemetry,
    rules: &VirtualService,
    to: &[(&net::RouteDestination, u32)],
    place: &Place<'_>,
) -> pb::Filter {
    let to: Vec<_> = to
        .iter()
        .map(|(to, weight)| (destination(context, rules, &to.destination, place.port), *weight))
        .collect();
    weighted(context, telemetry, &to)
}

fn weighted(context: &Context<'_>, telemetry: &Telemetry, to: &[(Destination, u32)]) -> pb::Filter {
    use proxy_pb::tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight};
    let mut proxy = proxy_pb::TcpProxy { access_log: telemetry.tcp_logs(), ..Default::default() };
    if let Some((first, _)) = to.first() {
        proxy.stat_prefix.clone_from(&first.cluster);
        limits(context, &mut proxy, first);
    }
    proxy.cluster_specifier = Some(match to {
        [(only, _)] => ClusterSpecifier::Cluster(only.cluster.clone()),
        [] => ClusterSpecifier::Cluster(BLACK_HOLE.into()),
        several => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: several
                .iter()
                .map(|(to, weight)| ClusterWeight {
                    name: to.cluster.clone(),
                    weight: *weight,
                    metadata_match: None,
                })
                .collect(),
        }),
    });
    network_filter("envoy.filters.network.tcp_proxy", any(&proxy))
}

/// What the destination's rule says of connections rather than of hosts.
fn limits(context: &Context<'_>, proxy: &mut proxy_pb::TcpProxy, to: &Destination) {
    let Some(service) = &to.service else { return };
    let rule = Rule::of(context, service);
    let policy = policy(context, rule.as_ref(), to.port, &to.subset);
    let tcp = policy.connection_pool.as_ref().and_then(|pool| pool.tcp.as_ref());
    if let Some(tcp) = tcp {
        proxy.idle_timeout = tcp.idle_timeout.map(|idle| duration(idle.as_std()));
        proxy.max_downstream_connection_duration =
            tcp.max_connection_duration.map(|age| duration(age.as_std()));
    }
    let hash = policy.load_balancer.as_ref().and_then(|lb| lb.consistent_hash.as_ref());
    if hash.and_then(|hash| hash.use_source_ip).unwrap_or_default() {
        proxy.hash_policy.push(hash_pb::HashPolicy {
            policy_specifier: Some(hash_pb::hash_policy::PolicySpecifier::SourceIp(Default::default())),
        });
    }
}
