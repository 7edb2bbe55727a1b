//! Gateways: listeners and routes of proxies at the mesh's edge.

mod tls;

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::Resource;
use proto::pb::envoy::config::listener::v3 as pb;
use proto::pb::envoy::config::route::v3 as route_pb;

use crate::build::Context;
use crate::cluster;
use crate::encode::{seconds, u32v};
use crate::listener::http::{self, Routes};
use crate::listener::{base, chain, tcp, wildcard};
use crate::rbac;
use crate::route::{assemble, http as http_route, wrap};
use crate::servers::{self, Served, Way};
use crate::telemetry::{Side, Telemetry};
use crate::translator::resource;

/// Bind address and port, with the servers there.
type ByListener = BTreeMap<(String, u32), Vec<Served>>;

fn by_listener(context: &Context<'_>) -> ByListener {
    let mut all: ByListener = BTreeMap::new();
    for served in servers::all(context) {
        let bind = match served.server.bind.as_str() {
            "" => wildcard(context).to_owned(),
            bind => bind.to_owned(),
        };
        all.entry((bind, served.port)).or_default().push(served);
    }
    all
}

pub(crate) fn listeners(context: &Context<'_>) -> Vec<Resource> {
    let telemetry = Telemetry::of(context, Side::Gateway);
    by_listener(context)
        .iter()
        .filter_map(|((bind, port), served)| listener(context, &telemetry, bind, *port, served))
        .map(|listener| resource(listener.name.as_str(), &listener))
        .collect()
}

fn listener(
    context: &Context<'_>,
    telemetry: &Telemetry,
    bind: &str,
    port: u32,
    served: &[Served],
) -> Option<pb::Listener> {
    let mut listener = base(context, format!("{bind}_{port}"), bind, port);
    let stat_prefix = || format!("outbound_{bind}_{port};");
    // All plaintext HTTP of a port is one route configuration.
    if let Some(first) = served.iter().find(|served| served.way() == Way::Http) {
        let routes = Routes::Named(first.routes());
        listener.filter_chains.push(pb::FilterChain {
            filters: vec![http::manager(context, telemetry, stat_prefix(), routes)],
            transport_socket_connect_timeout: Some(seconds(15)),
            ..Default::default()
        });
    }
    let mut looks_into_tls = false;
    for served in served {
        let chains = match served.way() {
            Way::Http => continue,
            Way::Https => {
                let routes = Routes::Named(served.routes());
                vec![terminated(
                    context,
                    served,
                    vec![http::manager(context, telemetry, stat_prefix(), routes)],
                )]
            }
            Way::TlsToTcp | Way::Tcp => bytes(context, telemetry, served),
            Way::Passthrough => passthrough(context, telemetry, served),
            Way::AutoPassthrough => auto_passthrough(context, telemetry, served),
        };
        looks_into_tls |= served.way() != Way::Tcp;
        for chain in chains {
            // The older gateway keeps what two ask for.
            let taken = |other: &pb::FilterChain| other.filter_chain_match == chain.filter_chain_match;
            if !listener.filter_chains.iter().any(taken) {
                listener.filter_chains.push(chain);
            }
        }
    }
    if looks_into_tls {
        listener.listener_filters.push(chain::tls_inspector(&[]));
    }
    listener.access_log = telemetry.listener_logs();
    listener.max_connections_to_accept_per_socket_event = Some(u32v(1));
    (!listener.filter_chains.is_empty()).then_some(listener)
}

/// A chain in which TLS ends, for the server's hosts.
fn terminated(context: &Context<'_>, served: &Served, filters: Vec<pb::Filter>) -> pb::FilterChain {
    pb::FilterChain {
        filter_chain_match: Some(by_name(served.hosts.iter().map(|(_, host)| host))),
        filters,
        transport_socket: served.server.tls.as_ref().map(|tls| tls::socket(context, tls, served.way())),
        transport_socket_connect_timeout: Some(seconds(15)),
        ..Default::default()
    }
}

fn by_name<'a>(hosts: impl Iterator<Item = &'a Arc<str>>) -> pb::FilterChainMatch {
    let mut names: Vec<String> = hosts.map(ToString::to_string).collect();
    if names.iter().any(|name| name == "*") {
        names.clear();
    }
    names.sort();
    names.dedup();
    pb::FilterChainMatch { server_names: names, ..Default::default() }
}

fn guarded(context: &Context<'_>, mut chain: pb::FilterChain) -> pb::FilterChain {
    let mut filters = rbac::tcp(context);
    filters.append(&mut chain.filters);
    chain.filters = filters;
    chain
}

/// TCP, or TLS that ends here with bytes inside: the first way that a VirtualService gives.
fn bytes(context: &Context<'_>, telemetry: &Telemetry, served: &Served) -> Vec<pb::FilterChain> {
    let gateway = served.gateway.to_string();
    let place = tcp::Place { port: served.server.port.number, gateways: &[&gateway] };
    let views = context.virtual_services();
    let mut chains = Vec::new();
    for rules in views.of_gateway(&served.gateway) {
        let agreed = rules.hosts.iter().any(|host| !served.agree(&rules.name.namespace, host).is_empty());
        if agreed {
            chains.extend(tcp::tcp(context, telemetry, rules, &place));
        }
    }
    chains
        .into_iter()
        .map(|chain| {
            let mut chain = guarded(context, chain.into_pb(telemetry));
            if served.way() == Way::TlsToTcp {
                let terminated = terminated(context, served, Vec::new());
                let subnets = chain.filter_chain_match.map(|own| own.prefix_ranges).unwrap_or_default();
                chain.filter_chain_match = terminated
                    .filter_chain_match
                    .map(|own| pb::FilterChainMatch { prefix_ranges: subnets, ..own });
                chain.transport_socket = terminated.transport_socket;
            }
            chain
        })
        .collect()
}

/// TLS that passes through, by the server names of VirtualServices' TLS routes.
fn passthrough(context: &Context<'_>, telemetry: &Telemetry, served: &Served) -> Vec<pb::FilterChain> {
    let gateway = served.gateway.to_string();
    let place = tcp::Place { port: served.server.port.number, gateways: &[&gateway] };
    let views = context.virtual_services();
    let mut chains = Vec::new();
    for rules in views.of_gateway(&served.gateway) {
        for mut chain in tcp::tls(context, telemetry, rules, &place) {
            if chain.server_names.is_empty() {
                chain.server_names = served.hosts.iter().map(|(_, host)| host.to_string()).collect();
            } else {
                chain.server_names.retain(|name| !served.agree(&rules.name.namespace, name).is_empty());
                if chain.server_names.is_empty() {
                    continue;
                }
            }
            if chain.server_names.iter().any(|name| name == "*") {
                chain.server_names.clear();
            }
            chains.push(guarded(context, chain.into_pb(telemetry)));
        }
    }
    chains
}

/// The mesh's own TLS passes through to the service that its server name says. Only services of the server's hosts.
fn auto_passthrough(context: &Context<'_>, telemetry: &Telemetry, served: &Served) -> Vec<pb::FilterChain> {
    const MESH: [&str; 5] = ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];
    cluster::targets(context)
        .iter()
        .filter(|target| target.sni_dnat)
        .filter(|target| {
            let key = &target.service.key;
            served.hosts.iter().any(|(namespace, host)| {
                (namespace == "*" || *namespace == *key.namespace)
                    && host.strip_prefix('*').map_or(**host == *key.host, |suffix| key.host.ends_with(suffix))
            })
        })
        .map(|target| {
            let name = target.name();
            let mut filters = telemetry.network_filters();
            filters.push(tcp::proxy(&name, tcp::to(&name), telemetry.tcp_logs()));
            pb::FilterChain {
                filter_chain_match: Some(pb::FilterChainMatch {
                    server_names: vec![name],
                    application_protocols: chain::names(&MESH),
                    ..Default::default()
                }),
                filters,
                transport_socket_connect_timeout: Some(seconds(15)),
                ..Default::default()
            }
        })
        .collect()
}

pub(crate) fn routes(context: &Context<'_>) -> Vec<Resource> {
    let mut by_name: BTreeMap<String, Vec<Served>> = BTreeMap::new();
    for served in by_listener(context).into_values().flatten() {
        if matches!(served.way(), Way::Http | Way::Https) {
            by_name.entry(served.routes()).or_default().push(served);
        }
    }
    by_name.iter().map(|(name, served)| route(context, name, served)).collect()
}

#[derive(Default)]
struct Host {
    port: u32,
    routes: Vec<route_pb::Route>,
    redirect: bool,
}

fn route(context: &Context<'_>, name: &str, served: &[Served]) -> Resource {
    let views = context.virtual_services();
    let mut hosts: BTreeMap<Arc<str>, Host> = BTreeMap::new();
    for served in served {
        let gateway = served.gateway.to_string();
        let port = served.server.port.number;
        for rules in views.of_gateway(&served.gateway) {
            let agreed: Vec<_> =
                rules.hosts.iter().flat_map(|host| served.agree(&rules.name.namespace, host)).collect();
            if agreed.is_empty() || rules.spec.http.is_empty() {
                continue;
            }
            let place = http_route::Place { port, gateways: &[&gateway] };
            let routes = http_route::routes(context, rules, &place);
            for host in agreed {
                let entry = hosts.entry(host).or_insert_with(|| Host { port, ..Host::default() });
                entry.redirect |= served.https_redirect();
                entry.routes.extend(routes.iter().cloned());
            }
        }
        if served.https_redirect() {
            for (_, host) in &served.hosts {
                let entry = hosts.entry(Arc::clone(host)).or_insert_with(|| Host { port, ..Host::default() });
                entry.redirect = true;
            }
        }
    }
    if hosts.is_empty() {
        // Nothing is served here: answered 404.
        let port = served.first().map_or(0, |served| served.server.port.number);
        let nothing = wrap(format!("blackhole:{port}"), vec!["*".into()], Vec::new());
        return assemble(name, &[resource("", &nothing)]);
    }
    let written: Vec<Resource> = hosts
        .into_iter()
        .map(|(domain, host)| {
            let (mut specific, general): (Vec<_>, Vec<_>) =
                host.routes.into_iter().partition(|route| !http_route::takes_everything(route));
            specific.extend(general);
            let mut written = wrap(format!("{domain}:{}", host.port), vec![domain.to_string()], specific);
            if host.redirect {
                written.require_tls = route_pb::virtual_host::TlsRequirementType::All as i32;
            }
            resource("", &written)
        })
        .collect();
    assemble(name, &written)
}
