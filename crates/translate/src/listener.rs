//! Listeners of sidecars.

pub(crate) mod chain;
pub(crate) mod http;
pub(crate) mod inbound;
pub(crate) mod outbound;
pub(crate) mod tcp;

use proto::Resource;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::config::listener::v3 as pb;

use crate::build::Context;
use crate::encode::{boolv, socket_address, u32v};
use crate::scope::{Facet, IpMode};
use crate::telemetry::{Side, Telemetry};
use crate::translator::resource;

/// The listeners that take the workload's own calls.
pub(crate) fn outbound_all(context: &Context<'_>) -> Vec<Resource> {
    let mut listeners: Vec<pb::Listener> = outbound::all(context);
    listeners.push(virtual_outbound(context));
    listeners.iter().map(|listener| resource(listener.name.as_str(), listener)).collect()
}

/// The listener that takes calls to the workload.
pub(crate) fn inbound_all(context: &Context<'_>) -> Vec<Resource> {
    let listener = inbound::listener(context);
    vec![resource(listener.name.as_str(), &listener)]
}

/// The address that stands for every address.
pub(crate) fn wildcard(context: &Context<'_>) -> &'static str {
    if context.reader.facets(Facet::Ip).ip == IpMode::V6 { "::" } else { "0.0.0.0" }
}

/// On every address of the other IP version as well, where the workload has both.
pub(crate) fn also_v6(context: &Context<'_>, address: &str, port: u32) -> Vec<pb::AdditionalAddress> {
    if address == "0.0.0.0" && context.reader.facets(Facet::Ip).ip == IpMode::Dual {
        vec![pb::AdditionalAddress { address: Some(socket_address("::", port)), ..Default::default() }]
    } else {
        Vec::new()
    }
}

pub(crate) fn base(context: &Context<'_>, name: String, address: &str, port: u32) -> pb::Listener {
    pb::Listener {
        name,
        address: Some(socket_address(address, port)),
        additional_addresses: also_v6(context, address, port),
        traffic_direction: core::TrafficDirection::Outbound as i32,
        ..Default::default()
    }
}

pub(crate) const OUTBOUND_PORT: u32 = 15001;
pub(crate) const INBOUND_PORT: u32 = 15006;

/// Where captured outbound connections come in and are handed to the listener that they wanted.
#[allow(deprecated)]
fn virtual_outbound(context: &Context<'_>) -> pb::Listener {
    let telemetry = Telemetry::of(context, Side::Client);
    let mut listener = base(context, "virtualOutbound".into(), wildcard(context), OUTBOUND_PORT);
    listener.use_original_dst = Some(boolv(true));
    listener.filter_chains = vec![
        chain::black_hole("virtualOutbound-blackhole", OUTBOUND_PORT, Vec::new()),
        pb::FilterChain { name: "virtualOutbound-catchall-tcp".into(), ..tcp::fallback(context, &telemetry) },
    ];
    listener.access_log = telemetry.listener_logs();
    listener.max_connections_to_accept_per_socket_event = Some(u32v(1));
    listener
}
