//! The virtual addresses of a service that a scope can use.

use std::net::IpAddr;
use std::sync::Arc;

use model::Service;

use crate::build::Context;
use crate::scope::{Facet, IpMode};

/// As seen from the scope's cluster; an automatic one where the agent answers DNS and the service has no other.
pub(crate) fn of(context: &Context<'_>, service: &Service) -> Vec<Arc<str>> {
    let declared = if service.addresses.len() > 1 {
        service.addresses_in(&context.reader.facets(Facet::Cluster).cluster)
    } else {
        service.addresses_in("")
    };
    let mut usable: Vec<Arc<str>> =
        declared.iter().filter(|address| self::usable(context, address)).map(Arc::clone).collect();
    if declared.is_empty()
        && let Some(auto) = service.auto_address
        && context.reader.facets(Facet::DnsCapture).dns_capture
    {
        usable.push(auto.to_string().into());
    }
    usable
}

/// Whether it stands for every address.
pub(crate) fn is_unspecified(address: &str) -> bool {
    address.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

/// Whether it is an address, or a block of them, of an IP version that the workload has.
pub(crate) fn usable(context: &Context<'_>, address: &str) -> bool {
    let bare = address.split_once('/').map_or(address, |(bare, _)| bare);
    let Ok(ip) = bare.parse::<IpAddr>() else { return false };
    if ip.is_unspecified() {
        return false;
    }
    match context.reader.facets(Facet::Ip).ip {
        IpMode::V4 => ip.is_ipv4(),
        IpMode::V6 => ip.is_ipv6(),
        IpMode::Dual => true,
    }
}
