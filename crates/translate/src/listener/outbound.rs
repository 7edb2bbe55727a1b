//! Outbound listeners: one for each port of HTTP, one for each address of TCP.

pub(crate) mod address;

use std::collections::{BTreeMap, BTreeSet};
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
use crate::view::Door;

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
    // The oldest first: where two want the same, it wins.
    let mut order: Vec<_> = services.iter().collect();
    order.sort_by_key(|visible| (visible.service.created, &visible.service.key));
    let mut planner = Planner { context, telemetry, plans: BTreeMap::new(), taken: BTreeSet::new() };
    let passes: &[bool] = if services.declares_ports() { &[true, false] } else { &[false] };
    for declared in passes {
        for visible in &order {
            let doors = visible.doors().filter(|door| door.declared == *declared);
            doors.for_each(|door| planner.add(&visible.service, &door));
        }
        // What a listener of a port's own takes, the one for all other ports leaves to it.
        planner.taken.extend(planner.plans.keys().cloned());
    }
    let mut plans = planner.plans;
    plans.retain(|(_, port), _| *port != super::OUTBOUND_PORT && *port != super::INBOUND_PORT);
    plans
}

struct Planner<'a> {
    context: &'a Context<'a>,
    telemetry: Option<&'a Telemetry>,
    plans: BTreeMap<(String, u32), Plan>,
    /// The places at which nothing is added any more.
    taken: BTreeSet<(String, u32)>,
}

impl Planner<'_> {
    fn at(&mut self, address: &str, port: u32, change: impl FnOnce(&mut Plan)) {
        let place = (address.to_owned(), port);
        if !self.taken.contains(&place) {
            change(self.plans.entry(place).or_default());
        }
    }

    fn add(&mut self, service: &Arc<Service>, door: &Door<'_>) {
        let any = wildcard(self.context);
        let bind = door.address();
        if door.protocol == Protocol::Udp || bind.is_some_and(|bind| !address::usable(self.context, bind)) {
            return;
        }
        let number = door.port.number;
        let addresses = match (door.bind, bind) {
            (_, Some(bind)) => vec![bind.into()],
            (Some(_), None) => Vec::new(),
            (None, None) => address::of(self.context, service),
        };
        match door.protocol.handling() {
            Handling::Http => {
                let routes = bind.map_or_else(|| number.to_string(), |bind| format!("{number}.{bind}"));
                self.at(bind.unwrap_or(any), number, |plan| plan.routes = Some(routes));
            }
            Handling::Detect if addresses.is_empty() => {
                self.at(any, number, |plan| plan.routes = Some(number.to_string()));
            }
            handling => {
                if handling == Handling::Detect {
                    for address in addresses.iter().filter(|address| !address.contains('/')) {
                        self.at(address, number, |plan| {
                            let name = || format!("{}:{number}", service.key.host);
                            plan.routes.get_or_insert_with(name);
                        });
                    }
                }
                match self.telemetry {
                    Some(telemetry) => self.add_tcp(telemetry, service, door, &addresses),
                    // The place is taken all the same.
                    None if door.declared => {
                        let places = addresses.iter().map(|address| &**address);
                        let places: Vec<_> =
                            places.chain(Some(any).filter(|_| addresses.is_empty())).collect();
                        places.into_iter().for_each(|address| self.at(address, number, |_| {}));
                    }
                    None => {}
                }
            }
        }
    }

    fn add_tcp(
        &mut self,
        telemetry: &Telemetry,
        service: &Arc<Service>,
        door: &Door<'_>,
        addresses: &[Arc<str>],
    ) {
        let context = self.context;
        let any = wildcard(context);
        let port = ServicePort { protocol: door.protocol, ..door.port.clone() };
        let chains = |by_name| tcp::chains(context, telemetry, service, &port, by_name);
        if addresses.is_empty() {
            if service.headless && door.bind.is_none() {
                // Each endpoint is an address of its own.
                for address in endpoint_addresses(context, service, &port) {
                    self.at(&address, port.number, |plan| plan.take(chains(false)));
                }
                return;
            }
            self.at(any, port.number, |plan| plan.take(chains(true)));
            return;
        }
        for address in addresses {
            if address.contains('/') {
                // A block of addresses: any address's listener, by the block.
                let blocks: Vec<_> = tcp::cidr(address).into_iter().collect();
                let within = chains(false).into_iter().map(|mut chain| {
                    if chain.subnets.is_empty() {
                        chain.subnets.clone_from(&blocks);
                    }
                    chain
                });
                self.at(any, port.number, |plan| plan.take(within.collect()));
                continue;
            }
            // Several services may be behind an address that is not their own.
            self.at(address, port.number, |plan| plan.take(chains(door.bind.is_some())));
        }
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
