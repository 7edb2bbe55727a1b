//! Listeners from LDS.

use std::sync::Arc;
use std::time::Duration;

use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::config::listener::v3 as pb;
use proto::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;

use super::chain_match::{ChainIndex, ChainMatch};
use super::{Direction, Listener, ListenerFilter, ListenerFilterKind, PortPredicate};
use crate::access_log::compile_logs;
use crate::cluster::keepalive;
use crate::network::compile_chain;
use crate::plan::Ids;
use crate::refusal::{Refusal, Taken, Within, each};
use crate::wire::{address, duration, flag, number, type_of, unpack};

pub(crate) fn compile_listener(message: &pb::Listener, ids: &mut Ids) -> Taken<Listener> {
    if message.name.is_empty() {
        return Err(Refusal::new("is empty").under("name"));
    }
    let mut addresses = vec![address(&message.address).within("address")?];
    addresses.extend(each(&message.additional_addresses, "additionalAddresses", |a| {
        address(&a.address).within("address")
    })?);
    let matches = each(&message.filter_chains, "filterChains", |c| match &c.filter_chain_match {
        Some(m) => ChainMatch::compile(m).within("filterChainMatch"),
        None => Ok(ChainMatch::default()),
    })?;
    let matcher = ChainIndex::new(matches.clone())?;
    let chains = message
        .filter_chains
        .iter()
        .zip(matches)
        .enumerate()
        .map(|(i, (chain, matches))| compile_chain(chain, matches, ids).at("filterChains", i).map(Arc::new))
        .collect::<Taken<Vec<_>>>()?;
    let default_chain = message
        .default_filter_chain
        .as_ref()
        .map(|c| compile_chain(c, ChainMatch::default(), ids).within("defaultFilterChain").map(Arc::new))
        .transpose()?;
    if chains.is_empty() && default_chain.is_none() {
        return Err(Refusal::new("a listener needs a filter chain").under("filterChains"));
    }
    let wait = duration(&message.listener_filters_timeout, "listenerFiltersTimeout")?
        .unwrap_or(Duration::from_secs(15));
    let bind = message
        .bind_to_port
        .as_ref()
        .or(message.deprecated_v1.as_ref().and_then(|d| d.bind_to_port.as_ref()));
    // A colon would part a counter's name.
    let stat_prefix = match (message.stat_prefix.as_str(), addresses.first()) {
        ("", Some(address)) => address.to_string().replace(':', "_"),
        (prefix, _) => prefix.to_owned(),
    };
    Ok(Listener {
        name: message.name.as_str().into(),
        stat_prefix: stat_prefix.into(),
        addresses,
        bind_to_port: bind.is_none_or(|b| b.value),
        use_original_dst: flag(&message.use_original_dst, false),
        direction: match core::TrafficDirection::try_from(message.traffic_direction) {
            Ok(core::TrafficDirection::Inbound) => Direction::Inbound,
            Ok(core::TrafficDirection::Outbound) => Direction::Outbound,
            _ => Direction::Unspecified,
        },
        filters: each(&message.listener_filters, "listenerFilters", listener_filter)?,
        filters_timeout: Some(wait).filter(|d| !d.is_zero()),
        continue_on_timeout: message.continue_on_listener_filters_timeout,
        chains,
        default_chain,
        access_log: compile_logs(&message.access_log, "accessLog")?,
        per_connection_buffer_limit: number(&message.per_connection_buffer_limit_bytes).unwrap_or(1 << 20),
        transparent: flag(&message.transparent, false),
        freebind: flag(&message.freebind, false),
        backlog: number(&message.tcp_backlog_size),
        tcp_keepalive: message.tcp_keepalive.as_ref().map(keepalive),
        matcher,
    })
}

fn listener_filter(filter: &pb::ListenerFilter) -> Taken<ListenerFilter> {
    let any = match &filter.config_type {
        Some(pb::listener_filter::ConfigType::TypedConfig(any)) => any,
        Some(pb::listener_filter::ConfigType::ConfigDiscovery(_)) => {
            return Err(Refusal::unsupported("configDiscovery"));
        }
        None => return Err(Refusal::new("is missing").under("typedConfig")),
    };
    let kind = match type_of(any) {
        "envoy.extensions.filters.listener.original_dst.v3.OriginalDst" => {
            ListenerFilterKind::OriginalDestination
        }
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" => ListenerFilterKind::TlsInspector,
        "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector" => {
            ListenerFilterKind::HttpInspector
        }
        "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol" => {
            let config: ProxyProtocol = unpack(any).within("typedConfig")?;
            ListenerFilterKind::ProxyProtocol { optional: config.allow_requests_without_proxy_protocol }
        }
        other => {
            return Err(Refusal::new(format_args!("listener filter {other} is not supported by this proxy"))
                .under("typedConfig"));
        }
    };
    let disabled =
        filter.filter_disabled.as_ref().map(|p| predicate(p).within("filterDisabled")).transpose()?;
    Ok(ListenerFilter { kind, disabled })
}

fn predicate(p: &pb::ListenerFilterChainMatchPredicate) -> Taken<PortPredicate> {
    use pb::listener_filter_chain_match_predicate::Rule;
    Ok(match p.rule.as_ref().ok_or_else(|| Refusal::new("is empty"))? {
        Rule::OrMatch(set) => PortPredicate::Or(each(&set.rules, "rules", predicate).within("orMatch")?),
        Rule::AndMatch(set) => PortPredicate::And(each(&set.rules, "rules", predicate).within("andMatch")?),
        Rule::NotMatch(inner) => PortPredicate::Not(Box::new(predicate(inner).within("notMatch")?)),
        Rule::AnyMatch(true) => PortPredicate::Any,
        Rule::AnyMatch(false) => return Err(Refusal::new("must be true").under("anyMatch")),
        Rule::DestinationPortRange(range) => {
            let wrong = || Refusal::new("must be within 0..65536").under("destinationPortRange");
            let start = u16::try_from(range.start).map_err(|_| wrong())?;
            PortPredicate::Range(start, u32::try_from(range.end).map_err(|_| wrong())?)
        }
    })
}
