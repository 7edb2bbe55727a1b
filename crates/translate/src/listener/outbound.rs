//! Outbound listeners: one for each port of HTTP, one for each address of TCP.

pub(crate) mod address;

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Handling, Key, Protocol, Service, ServicePort};
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::config::listener::v3 as pb;

use super::http::{self, Routes};
use super::tcp::{self, Chain};
use super::{base, chain, wildcard};
use crate::build::Context;
use crate::encode::{boolv, duration, seconds};
use crate::node::Interception;
use crate::scope::Facet;
use crate::telemetry::{Side, Telemetry};

/// What is to listen at one address and port.
#[derive(Debug, Default)]
struct Plan {
    /// The route configuration for HTTP, where there is any.
    routes: Option<String>,
    /// TCP ways by server name or address.
    chains: Vec<Chain>,
    /// What takes every other connection; the oldest service that wants it.
    default: Option<Chain>,
}

pub(crate) fn all(context: &Context<'_>) -> Vec<pb::Listener> {
    let telemetry = Telemetry::of(context, Side::Client);
    let plans = plans(context, Some(&telemetry));
    plans
        .into_iter()
        .map(|((address, port), plan)| listener(context, &telemetry, &address, port, plan))
        .collect()
}

/// The route configurations that the listeners ask for.
pub(crate) fn route_names(context: &Context<'_>) -> Vec<String> {
    let mut names: Vec<_> = plans(context, None).into_values().filter_map(|plan| plan.routes).collect();
    names.sort();
    names.dedup();
    names
}

/// Without telemetry only what routes need is planned.
fn plans(context: &Context<'_>, telemetry: Option<&Telemetry>) -> BTreeMap<(String, u32), Plan> {
    let services = context.services();
    let any = wildcard(context);
    // The oldest first: where two want the same, it wins.
    let mut order: Vec<_> = services.iter().collect();
    order.sort_by_key(|visible| (visible.service.created, &visible.service.key));
    let mut plans: BTreeMap<(String, u32), Plan> = BTreeMap::new();
    for visible in order {
        let service = &visible.service;
        for port in visible.ports().filter(|port| port.protocol != Protocol::Udp) {
            let vips = address::of(context, service);
            match port.protocol.handling() {
                Handling::Http => {
                    plans.entry((any.into(), port.number)).or_default().routes =
                        Some(port.number.to_string());
                }
                Handling::Detect if vips.is_empty() => {
                    plans.entry((any.into(), port.number)).or_default().routes =
                        Some(port.number.to_string());
                }
                handling => {
                    let Some(telemetry) = telemetry else {
                        if handling == Handling::Detect {
                            for vip in vips.iter().filter(|vip| !vip.contains('/')) {
                                plans.entry((vip.to_string(), port.number)).or_default().routes =
                                    Some(format!("{}:{}", service.key.host, port.number));
                            }
                        }
                        continue;
                    };
                    tcp_plans(context, telemetry, (service, port), &vips, &mut plans);
                }
            }
        }
    }
    plans.retain(|(_, port), _| *port != super::OUTBOUND_PORT && *port != super::INBOUND_PORT);
    plans
}

fn tcp_plans(
    context: &Context<'_>,
    telemetry: &Telemetry,
    (service, port): (&Arc<Service>, &ServicePort),
    vips: &[Arc<str>],
    plans: &mut BTreeMap<(String, u32), Plan>,
) {
    let any = wildcard(context);
    let chains = |by_name| tcp::chains(context, telemetry, service, port, by_name);
    if vips.is_empty() {
        if service.headless {
            // Each endpoint is an address of its own.
            for address in endpoint_addresses(context, service, port) {
                plans.entry((address, port.number)).or_default().take(chains(false));
            }
            return;
        }
        plans.entry((any.into(), port.number)).or_default().take(chains(true));
        return;
    }
    for vip in vips {
        if vip.contains('/') {
            // A block of addresses: any address's listener, by the block.
            let blocks: Vec<_> = tcp::cidr(vip).into_iter().collect();
            let within = chains(false).into_iter().map(|mut chain| {
                if chain.subnets.is_empty() {
                    chain.subnets.clone_from(&blocks);
                }
                chain
            });
            plans.entry((any.into(), port.number)).or_default().take(within.collect());
            continue;
        }
        let plan = plans.entry((vip.to_string(), port.number)).or_default();
        if port.protocol == Protocol::Detect {
            plan.routes = Some(format!("{}:{}", service.key.host, port.number));
        }
        plan.take(chains(false));
    }
}

impl Plan {
    fn take(&mut self, chains: Vec<Chain>) {
        for chain in chains {
            if chain.is_default() {
                self.default.get_or_insert(chain);
                continue;
            }
            let known =
                |other: &Chain| other.server_names == chain.server_names && other.subnets == chain.subnets;
            if !self.chains.iter().any(known) {
                self.chains.push(chain);
            }
        }
    }
}

fn endpoint_addresses(context: &Context<'_>, service: &Service, port: &ServicePort) -> Vec<String> {
    let endpoints = context.reader.read(Key::Endpoints(service.key.clone())).endpoints(&service.key);
    let serving = endpoints
        .iter()
        .flat_map(|endpoints| &endpoints.all)
        .filter(|endpoint| endpoint.port_name == port.name && address::usable(context, &endpoint.address));
    let mut addresses: Vec<_> = serving.map(|endpoint| endpoint.address.to_string()).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

#[allow(deprecated)]
fn listener(
    context: &Context<'_>,
    telemetry: &Telemetry,
    address: &str,
    port: u32,
    plan: Plan,
) -> pb::Listener {
    let name = format!("{address}_{port}");
    let mut listener = base(context, name, address, port);
    let captured = context.reader.facets(Facet::Interception).interception != Interception::None;
    listener.bind_to_port = captured.then(|| boolv(false));
    listener.traffic_direction = core::TrafficDirection::Outbound as i32;
    let by_name = plan.chains.iter().any(|chain| !chain.server_names.is_empty());
    if by_name {
        listener.listener_filters.push(chain::tls_inspector(&[]));
    }
    let on_any = address == wildcard(context);
    if let Some(routes) = plan.routes {
        listener.listener_filters.push(chain::http_inspector(&[]));
        let stat_prefix = format!("outbound_{address}_{port};");
        listener.filter_chains.push(pb::FilterChain {
            filter_chain_match: Some(pb::FilterChainMatch {
                transport_protocol: "raw_buffer".into(),
                application_protocols: chain::names(&["http/1.1", "h2c"]),
                ..Default::default()
            }),
            filters: vec![http::manager(context, telemetry, stat_prefix, Routes::Named(routes))],
            transport_socket_connect_timeout: Some(seconds(15)),
            ..Default::default()
        });
    }
    listener.filter_chains.extend(plan.chains.into_iter().map(|chain| chain.into_pb(telemetry)));
    match plan.default {
        // Alone, it is the only way and needs no match; else it takes what the others leave.
        Some(default) if listener.filter_chains.is_empty() => {
            listener.filter_chains.push(default.into_pb(telemetry));
        }
        Some(default) => listener.default_filter_chain = Some(default.into_pb(telemetry)),
        None if on_any => {
            listener.default_filter_chain = Some(pb::FilterChain {
                name: "PassthroughFilterChain".into(),
                filter_chain_match: Some(Default::default()),
                ..tcp::fallback(context, telemetry)
            });
        }
        None => {}
    }
    let timeout = context.mesh().value.protocol_detection_timeout;
    listener.listener_filters_timeout =
        Some(timeout.map_or(seconds(0), |timeout| duration(timeout.as_std())));
    listener.continue_on_listener_filters_timeout = true;
    listener
}
