//! Filter chains and network filters from their protobuf form.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::pb::envoy::config::listener::v3 as pb;
use proto::pb::envoy::extensions::filters::common::set_filter_state::v3 as state;
use proto::pb::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
use proto::pb::envoy::extensions::filters::network::direct_response::v3 as direct;
use proto::pb::envoy::extensions::filters::network::set_filter_state::v3 as set_state;
use proto::pb::envoy::extensions::filters::network::sni_dynamic_forward_proxy::v3 as sni;
use proto::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use proto::pb::google::protobuf::Any;

use super::{ConnectionRateLimit, NetworkFilter, TcpProxy};
use crate::access_log::compile_logs;
use crate::cluster::name_cache;
use crate::ext_authz::NetworkAuthz;
use crate::format::Format;
use crate::hcm::compile_hcm;
use crate::listener::{ChainMatch, FilterChain, Terminal};
use crate::plan::Ids;
use crate::rbac::Rbac;
use crate::refusal::{Refusal, Taken, Within, each};
use crate::route::NetworkHash;
use crate::tls;
use crate::wire::{DataSource, duration, number, timeout, type_of, typed_struct, unpack};

const METADATA_EXCHANGE: &str = "envoy.tcp.metadataexchange.config.MetadataExchange";

pub(crate) fn compile_chain(
    message: &pb::FilterChain,
    matches: ChainMatch,
    ids: &mut Ids,
) -> Taken<FilterChain> {
    let mut filters = Vec::new();
    let mut terminal = None;
    for (filter, i) in message.filters.iter().zip(0..) {
        if terminal.is_some() {
            return Err(
                Refusal::new("nothing may follow a terminal filter").under(format_args!("filters[{i}]"))
            );
        }
        let any = match &filter.config_type {
            Some(pb::filter::ConfigType::TypedConfig(any)) => any,
            Some(pb::filter::ConfigType::ConfigDiscovery(_)) => {
                return Err(Refusal::unsupported("configDiscovery").under(format_args!("filters[{i}]")));
            }
            None => {
                return Err(Refusal::new("is missing")
                    .under("typedConfig")
                    .under(format_args!("filters[{i}]")));
            }
        };
        match compile_filter(any, ids).within("typedConfig").at("filters", i)? {
            Compiled::Filter(filter) => filters.push(filter),
            Compiled::Terminal(t) => terminal = Some(t),
        }
    }
    Ok(FilterChain {
        name: message.name.as_str().into(),
        matches,
        transport: tls::downstream(&message.transport_socket).within("transportSocket")?,
        transport_timeout: timeout(
            &message.transport_socket_connect_timeout,
            "transportSocketConnectTimeout",
        )?,
        filters,
        terminal: terminal.unwrap_or(Terminal::Close),
    })
}

/// Whether this is `istio.metadata_exchange`'s configuration, wrapped or not.
pub(crate) fn is_metadata_exchange(any: &Any) -> bool {
    match typed_struct(any) {
        Ok(Some((name, _))) => name == METADATA_EXCHANGE,
        _ => type_of(any) == METADATA_EXCHANGE,
    }
}

enum Compiled {
    Filter(NetworkFilter),
    Terminal(Terminal),
}

fn compile_filter(any: &Any, ids: &mut Ids) -> Taken<Compiled> {
    if is_metadata_exchange(any) {
        return Ok(Compiled::Filter(NetworkFilter::MetadataExchange));
    }
    let wrapped = typed_struct(any)?;
    let name = wrapped.as_ref().map_or(type_of(any), |(name, _)| name);
    Ok(match name {
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
            if wrapped.is_none() =>
        {
            Compiled::Terminal(Terminal::Http(Arc::new(compile_hcm(&unpack(any)?, ids)?)))
        }
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" if wrapped.is_none() => {
            Compiled::Terminal(Terminal::Tcp(Arc::new(tcp_proxy(&unpack(any)?, ids)?)))
        }
        "envoy.extensions.filters.network.rbac.v3.RBAC" if wrapped.is_none() => {
            Compiled::Filter(NetworkFilter::Rbac(Arc::new(Rbac::compile_network(&unpack(any)?)?)))
        }
        "envoy.extensions.filters.network.sni_cluster.v3.SniCluster" => {
            Compiled::Filter(NetworkFilter::SniCluster)
        }
        "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz" if wrapped.is_none() => {
            Compiled::Filter(NetworkFilter::Authz(Arc::new(NetworkAuthz::compile(&unpack(any)?)?)))
        }
        "envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig" if wrapped.is_none() => {
            Compiled::Filter(sni_dynamic_forward(&unpack(any)?)?)
        }
        "envoy.extensions.filters.network.echo.v3.Echo" => Compiled::Terminal(Terminal::Echo),
        "envoy.extensions.filters.network.direct_response.v3.Config" if wrapped.is_none() => {
            let config: direct::Config = unpack(any)?;
            let body = match &config.response {
                None => Bytes::new(),
                Some(source) => DataSource::inline(source).within("response")?,
            };
            Compiled::Terminal(Terminal::DirectResponse(body))
        }
        "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit" if wrapped.is_none() => {
            let limit: ConnectionLimit = unpack(any)?;
            let max = limit.max_connections.as_ref().map_or(u64::MAX, |v| v.value);
            Compiled::Filter(NetworkFilter::ConnectionLimit { max, delay: duration(&limit.delay, "delay")? })
        }
        "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit" if wrapped.is_none() => {
            let limit = ConnectionRateLimit::compile(&unpack(any)?)?;
            Compiled::Filter(NetworkFilter::RateLimit(Arc::new(limit)))
        }
        "envoy.extensions.filters.network.set_filter_state.v3.Config" if wrapped.is_none() => {
            let config: set_state::Config = unpack(any)?;
            let values = each(&config.on_new_connection, "onNewConnection", filter_state)?;
            Compiled::Filter(NetworkFilter::SetFilterState(values))
        }
        "stats.PluginConfig" | "istio.stats.PluginConfig" => Compiled::Filter(NetworkFilter::Stats),
        other => {
            return Err(Refusal::new(format_args!("network filter {other} is not supported by this proxy"))
                .under("@type"));
        }
    })
}

fn sni_dynamic_forward(m: &sni::FilterConfig) -> Taken<NetworkFilter> {
    let cache =
        m.dns_cache_config.as_ref().ok_or_else(|| Refusal::new("is missing").under("dnsCacheConfig"))?;
    name_cache(cache).within("dnsCacheConfig")?;
    let Some(sni::filter_config::PortSpecifier::PortValue(port)) = m.port_specifier else {
        return Err(Refusal::new("is missing").under("portValue"));
    };
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(NetworkFilter::SniDynamicForward { port }),
        _ => Err(Refusal::new("must be from 1 to 65535").under("portValue")),
    }
}

fn filter_state(value: &state::FilterStateValue) -> Taken<(Arc<str>, Format)> {
    use proto::pb::envoy::config::core::v3::substitution_format_string::Format as Kind;
    use state::filter_state_value::{Key, Value};
    let key = match &value.key {
        Some(Key::ObjectKey(key)) => key.as_str().into(),
        None => return Err(Refusal::new("is missing").under("objectKey")),
    };
    let Some(Value::FormatString(format)) = &value.value else {
        return Err(Refusal::new("is missing").under("formatString"));
    };
    let text = match &format.format {
        Some(Kind::TextFormat(text)) => text.clone(),
        Some(Kind::TextFormatSource(source)) => {
            let bytes = DataSource::inline(source).within("textFormatSource").within("formatString")?;
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => return Err(Refusal::new("must be a text").under("formatString")),
    };
    Ok((key, Format::compile(&text, true).within("formatString")?))
}

fn tcp_proxy(m: &tcp::TcpProxy, ids: &mut Ids) -> Taken<TcpProxy> {
    use tcp::tcp_proxy::ClusterSpecifier;
    let clusters =
        match m.cluster_specifier.as_ref().ok_or_else(|| Refusal::new("is missing").under("cluster"))? {
            ClusterSpecifier::Cluster(name) => vec![(ids.cluster_ref(name), 1)],
            ClusterSpecifier::WeightedClusters(w) => {
                each(&w.clusters, "clusters", |c| Ok((ids.cluster_ref(&c.name), c.weight)))
                    .within("weightedClusters")?
            }
        };
    let total_weight = clusters.iter().map(|(_, w)| u64::from(*w)).sum();
    if total_weight == 0 {
        return Err(
            Refusal::new("the weights add up to zero; give one of them a weight").under("weightedClusters")
        );
    }
    let idle = duration(&m.idle_timeout, "idleTimeout")?.unwrap_or(Duration::from_secs(3600));
    Ok(TcpProxy {
        stat_prefix: m.stat_prefix.trim_end_matches(';').into(),
        clusters,
        total_weight,
        idle_timeout: Some(idle).filter(|d| !d.is_zero()),
        max_duration: timeout(&m.max_downstream_connection_duration, "maxDownstreamConnectionDuration")?,
        max_connect_attempts: number(&m.max_connect_attempts).unwrap_or(1).max(1),
        access_log: compile_logs(&m.access_log, "accessLog")?,
        hash: each(&m.hash_policy, "hashPolicy", NetworkHash::compile)?,
    })
}
