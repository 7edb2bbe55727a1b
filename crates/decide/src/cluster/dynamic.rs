//! `envoy.clusters.dynamic_forward_proxy`: the endpoint is whoever the request names.

use std::sync::Arc;
use std::time::Duration;

use proto::pb::envoy::config::cluster::v3 as pb;
use proto::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3 as dynamic;
use proto::pb::envoy::extensions::common::dynamic_forward_proxy::v3 as common;

use super::{DnsFamily, HttpSettings, family};
use crate::refusal::{Refusal, Taken, Within};
use crate::wire::{duration, number, unpack};

pub(super) const NAME: &str = "envoy.clusters.dynamic_forward_proxy";

/// How names are kept that requests bring; caches of one name are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameCache {
    pub name: Arc<str>,
    pub family: DnsFamily,
    /// Where a record does not say; and however short its life is, not more often than the least.
    pub refresh: Duration,
    pub least_refresh: Duration,
    pub failure_refresh: Duration,
    /// Names that nobody asks for are forgotten.
    pub unused: Duration,
    pub max_hosts: usize,
    pub max_pending: u32,
    pub timeout: Duration,
}

pub(super) fn compile(custom: &pb::cluster::CustomClusterType) -> Taken<(NameCache, bool)> {
    use dynamic::cluster_config::ClusterImplementationSpecifier as Specifier;
    let config =
        custom.typed_config.as_ref().ok_or_else(|| Refusal::new("is missing").under("typedConfig"))?;
    let config: dynamic::ClusterConfig = unpack(config).within("typedConfig")?;
    match &config.cluster_implementation_specifier {
        Some(Specifier::DnsCacheConfig(own)) => {
            let cache = cache(own).within("dnsCacheConfig").within("typedConfig")?;
            Ok((cache, config.allow_insecure_cluster_options))
        }
        _ => Err(Refusal::new("is missing").under("dnsCacheConfig").under("typedConfig")),
    }
}

/// A name that TLS is spoken to must be sent and proven, unless somebody insists.
pub(super) fn secure(message: &pb::Cluster, insecure: bool, http: &mut HttpSettings) -> Taken<()> {
    let untold = message.upstream_http_protocol_options.is_none()
        && message.typed_extension_protocol_options.is_empty();
    if untold {
        http.auto_sni = true;
        http.auto_san_validation = true;
    } else if message.transport_socket.is_some() && !insecure && !(http.auto_sni && http.auto_san_validation)
    {
        let reason = "must set autoSni and autoSanValidation, or allowInsecureClusterOptions";
        return Err(Refusal::new(reason).under("upstreamHttpProtocolOptions"));
    }
    Ok(())
}

pub(crate) fn cache(config: &common::DnsCacheConfig) -> Taken<NameCache> {
    if config.name.is_empty() {
        return Err(Refusal::new("is empty").under("name"));
    }
    let or = |value, field: &str, seconds| {
        Ok::<_, Refusal>(duration(value, field)?.unwrap_or(Duration::from_secs(seconds)))
    };
    let failure = match &config.dns_failure_refresh_rate {
        Some(rate) => duration(&rate.base_interval, "baseInterval").within("dnsFailureRefreshRate")?,
        None => None,
    };
    let refresh = or(&config.dns_refresh_rate, "dnsRefreshRate", 60)?;
    let breaker = config.dns_cache_circuit_breaker.as_ref().and_then(|b| number(&b.max_pending_requests));
    Ok(NameCache {
        name: config.name.as_str().into(),
        family: family(config.dns_lookup_family)?,
        refresh,
        least_refresh: or(&config.dns_min_refresh_rate, "dnsMinRefreshRate", 5)?,
        failure_refresh: failure.unwrap_or(refresh),
        unused: or(&config.host_ttl, "hostTtl", 300)?,
        max_hosts: number(&config.max_hosts).unwrap_or(1024) as usize,
        max_pending: breaker.unwrap_or(1024),
        timeout: Some(or(&config.dns_query_timeout, "dnsQueryTimeout", 5)?)
            .filter(|timeout| !timeout.is_zero())
            .unwrap_or(Duration::from_secs(60)),
    })
}
