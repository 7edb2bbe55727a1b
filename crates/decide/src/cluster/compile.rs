//! Clusters from CDS.

use std::sync::Arc;
use std::time::Duration;

use ::upstream::{
    ClusterSettings, HashKey, LbKind, LbPolicy, LocalityLb, MaglevConfig, OutlierConfig, RetryBudget,
    RingHashConfig, SlowStart, Thresholds, ZoneAware,
};
use proto::pb::envoy::config::cluster::v3 as pb;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::clusters::aggregate::v3::ClusterConfig;
use proto::pb::google::protobuf::value::Kind;

use super::assignment::text_of;
use super::dynamic;
use super::policies;
use super::typed::http_settings;
use super::{
    BindConfig, Cluster, ClusterMetadata, Discovery, DnsFamily, DnsSettings, ServiceRef, SocketOption,
    SocketState, SocketValue, TcpKeepalive, TransportMatch, compile_assignment,
};
use crate::network::is_metadata_exchange;
use crate::origin::Origin;
use crate::plan::Ids;
use crate::refusal::{Refusal, Taken, Within, each};
use crate::tls;
use crate::wire::{duration, flag, number, unpack};

pub(crate) fn compile_cluster(message: &pb::Cluster, ids: &mut Ids) -> Taken<Cluster> {
    if message.name.is_empty() {
        return Err(Refusal::new("is empty").under("name"));
    }
    for (filter, i) in message.filters.iter().zip(0..) {
        let known = filter.typed_config.as_ref().is_some_and(is_metadata_exchange);
        if !known {
            return Err(Refusal::new(format_args!("upstream filter {} is not supported", filter.name))
                .under(format_args!("filters[{i}]")));
        }
    }
    let name: Arc<str> = message.name.as_str().into();
    let stat_name = match message.alt_stat_name.trim_end_matches(';') {
        "" => Arc::clone(&name),
        alt => alt.into(),
    };
    let (mut http, discovery) = (http_settings(message)?, discovery(message)?);
    if let (Discovery::Dynamic { .. }, Some(pb::cluster::ClusterDiscoveryType::ClusterType(custom))) =
        (&discovery, &message.cluster_discovery_type)
    {
        let (_, insecure) = dynamic::compile(custom).within("clusterType")?;
        dynamic::secure(message, insecure, &mut http)?;
    }
    let dynamic = matches!(discovery, Discovery::Eds { .. } | Discovery::StrictDns { .. });
    let drop_removed = message.ignore_health_on_host_removal || !dynamic;
    let (health_check, check) =
        super::check::compile(&message.health_checks, http.protocol, drop_removed)?.unzip();
    let knows = !matches!(
        discovery,
        Discovery::OriginalDestination { .. } | Discovery::Aggregate { .. } | Discovery::Dynamic { .. }
    );
    if health_check.is_some() && !knows {
        let reason = "are for clusters that know their endpoints; remove them";
        return Err(Refusal::new(reason).under("healthChecks"));
    }
    Ok(Cluster {
        id: ids.cluster(&name),
        discovery,
        connect_timeout: duration(&message.connect_timeout, "connectTimeout")?
            .unwrap_or(Duration::from_secs(5)),
        per_connection_buffer_limit: number(&message.per_connection_buffer_limit_bytes).unwrap_or(1 << 20),
        settings: ClusterSettings {
            lb: lb_policy(message)?,
            subsets: super::subset::compile(message)?,
            outlier: message
                .outlier_detection
                .as_ref()
                .map(|o| outlier(o).within("outlierDetection").map(Arc::new))
                .transpose()?,
            check: check.map(Arc::new),
            thresholds: thresholds(message)?,
        },
        health_check: health_check.map(Arc::new),
        transport: tls::upstream(&message.transport_socket).within("transportSocket")?,
        transport_matches: each(
            &message.transport_socket_matches,
            "transportSocketMatches",
            transport_match,
        )?,
        http,
        bind: message
            .upstream_bind_config
            .as_ref()
            .map(|b| bind(b).within("upstreamBindConfig"))
            .transpose()?,
        tcp_keepalive: message
            .upstream_connection_options
            .as_ref()
            .and_then(|o| o.tcp_keepalive.as_ref())
            .map(keepalive),
        metadata_exchange: !message.filters.is_empty(),
        metadata: message.metadata.as_ref().map(metadata).unwrap_or_default(),
        stat_name,
        name,
    })
}

fn discovery(message: &pb::Cluster) -> Taken<Discovery> {
    use pb::cluster::{ClusterDiscoveryType, DiscoveryType};
    let kind = match &message.cluster_discovery_type {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => {
            DiscoveryType::try_from(*kind).map_err(|_| Refusal::new("unknown").under("type"))?
        }
        Some(ClusterDiscoveryType::ClusterType(custom)) if custom.name == AGGREGATE => {
            return aggregate(message, custom).within("clusterType");
        }
        Some(ClusterDiscoveryType::ClusterType(custom)) if custom.name == dynamic::NAME => {
            let (cache, _) = dynamic::compile(custom).within("clusterType")?;
            return Ok(Discovery::Dynamic { cache: Arc::new(cache) });
        }
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            return Err(Refusal::new(format_args!("cluster type {} is not supported", custom.name))
                .under("clusterType"));
        }
    };
    let assignment = || match &message.load_assignment {
        Some(a) => compile_assignment(a).within("loadAssignment").map(Arc::new),
        None => Ok(Arc::default()),
    };
    Ok(match kind {
        DiscoveryType::Static => Discovery::Static(assignment()?),
        DiscoveryType::StrictDns => Discovery::StrictDns { assignment: assignment()?, dns: dns(message)? },
        DiscoveryType::LogicalDns => Discovery::LogicalDns { assignment: assignment()?, dns: dns(message)? },
        DiscoveryType::Eds => {
            let eds = message.eds_cluster_config.as_ref();
            let origin = Origin::of(&eds.and_then(|c| c.eds_config.clone()))
                .within("edsConfig")
                .within("edsClusterConfig")?;
            let service = message.eds_cluster_config.as_ref().map_or("", |c| c.service_name.as_str());
            let name = if service.is_empty() { &message.name } else { service };
            Discovery::Eds { service_name: origin.key(&name.into()), origin }
        }
        DiscoveryType::OriginalDst => original_destination(message)?,
    })
}

const AGGREGATE: &str = "envoy.clusters.aggregate";

fn aggregate(message: &pb::Cluster, custom: &pb::cluster::CustomClusterType) -> Taken<Discovery> {
    if message.lb_policy != pb::cluster::LbPolicy::ClusterProvided as i32 {
        return Err(Refusal::new("needs lbPolicy CLUSTER_PROVIDED"));
    }
    let config =
        custom.typed_config.as_ref().ok_or_else(|| Refusal::new("is missing").under("typedConfig"))?;
    let config: ClusterConfig = unpack(config).within("typedConfig")?;
    if config.clusters.is_empty() {
        return Err(Refusal::new("is empty").under("clusters").under("typedConfig"));
    }
    if config.clusters.contains(&message.name) {
        return Err(Refusal::new("names the cluster itself").under("clusters").under("typedConfig"));
    }
    Ok(Discovery::Aggregate { clusters: config.clusters.iter().map(|name| name.as_str().into()).collect() })
}

fn original_destination(message: &pb::Cluster) -> Taken<Discovery> {
    let Some(pb::cluster::LbConfig::OriginalDstLbConfig(config)) = &message.lb_config else {
        return Ok(Discovery::OriginalDestination { header: None, port_override: None });
    };
    let header = config.use_http_header.then(|| match config.http_header_name.as_str() {
        "" => Arc::from("x-envoy-original-dst-host"),
        name => Arc::from(name),
    });
    let port_override = number(&config.upstream_port_override).and_then(|p| u16::try_from(p).ok());
    Ok(Discovery::OriginalDestination { header, port_override })
}

pub(super) fn family(family: i32) -> Taken<DnsFamily> {
    use pb::cluster::DnsLookupFamily;
    Ok(match DnsLookupFamily::try_from(family) {
        Ok(DnsLookupFamily::Auto) => DnsFamily::Auto,
        Ok(DnsLookupFamily::V4Only) => DnsFamily::V4Only,
        Ok(DnsLookupFamily::V6Only) => DnsFamily::V6Only,
        Ok(DnsLookupFamily::V4Preferred) => DnsFamily::V4Preferred,
        Ok(DnsLookupFamily::All) => DnsFamily::All,
        Err(_) => return Err(Refusal::new("unknown").under("dnsLookupFamily")),
    })
}

fn dns(message: &pb::Cluster) -> Taken<DnsSettings> {
    Ok(DnsSettings {
        refresh: duration(&message.dns_refresh_rate, "dnsRefreshRate")?.unwrap_or(Duration::from_secs(5)),
        jitter: duration(&message.dns_jitter, "dnsJitter")?.unwrap_or_default(),
        respect_ttl: message.respect_dns_ttl,
        family: family(message.dns_lookup_family)?,
    })
}

fn lb_policy(message: &pb::Cluster) -> Taken<LbPolicy> {
    use pb::cluster::common_lb_config::LocalityConfigSpecifier;
    let mut policy = LbPolicy {
        kind: lb_kind(message)?,
        slow_start: slow_start(message)?,
        locality: LocalityLb::ZoneAware(ZoneAware::default()),
        ..LbPolicy::default()
    };
    if let Some(common) = &message.common_lb_config {
        policy.panic_threshold = common.healthy_panic_threshold.as_ref().map_or(50.0, |p| p.value);
        match &common.locality_config_specifier {
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
                policy.locality = LocalityLb::Weighted
            }
            Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zone)) => {
                let taken = policies::zone_aware(&zone.routing_enabled, &zone.min_cluster_size);
                let zones = taken.within("zoneAwareLbConfig").within("commonLbConfig")?;
                policy.locality = LocalityLb::ZoneAware(zones);
                policy.fail_on_panic = zone.fail_traffic_on_panic;
            }
            None => {}
        }
    }
    policies::apply(message, &mut policy)?;
    Ok(policy)
}

fn lb_kind(message: &pb::Cluster) -> Taken<LbKind> {
    use pb::cluster::{LbConfig, LbPolicy as Policy};
    let kind = Policy::try_from(message.lb_policy).map_err(|_| Refusal::new("unknown").under("lbPolicy"))?;
    Ok(match (kind, &message.lb_config) {
        (Policy::RoundRobin, _) => LbKind::RoundRobin,
        (Policy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(c))) => {
            LbKind::LeastRequest { choices: number(&c.choice_count).unwrap_or(2).max(2) }
        }
        (Policy::LeastRequest, _) => LbKind::LeastRequest { choices: 2 },
        (Policy::Random, _) => LbKind::Random,
        (Policy::RingHash, config) => LbKind::RingHash(ring_hash(message, config)?),
        (Policy::Maglev, config) => LbKind::Maglev(maglev(message, config)?),
        (Policy::ClusterProvided, _) => LbKind::OriginalDestination,
        // Whatever the list says.
        (Policy::LoadBalancingPolicyConfig, _) => LbKind::RoundRobin,
    })
}

fn slow_start(message: &pb::Cluster) -> Taken<Option<SlowStart>> {
    use pb::cluster::LbConfig;
    let (config, field) = match &message.lb_config {
        Some(LbConfig::RoundRobinLbConfig(c)) => (&c.slow_start_config, "roundRobinLbConfig"),
        Some(LbConfig::LeastRequestLbConfig(c)) => (&c.slow_start_config, "leastRequestLbConfig"),
        _ => return Ok(None),
    };
    let Some(c) = config else { return Ok(None) };
    policies::slow_start(&c.slow_start_window, &c.aggression, &c.min_weight_percent)
        .within("slowStartConfig")
        .within(field)
}

fn hash_key(message: &pb::Cluster) -> HashKey {
    let by_name = message
        .common_lb_config
        .as_ref()
        .and_then(|c| c.consistent_hashing_lb_config.as_ref())
        .is_some_and(|c| c.use_hostname_for_hashing);
    if by_name { HashKey::Hostname } else { HashKey::Address }
}

fn ring_hash(message: &pb::Cluster, config: &Option<pb::cluster::LbConfig>) -> Taken<RingHashConfig> {
    let mut ring = RingHashConfig { key: hash_key(message), ..RingHashConfig::default() };
    if let Some(pb::cluster::LbConfig::RingHashLbConfig(c)) = config {
        if c.hash_function != 0 {
            return Err(Refusal::new("only XX_HASH is supported")
                .under("hashFunction")
                .under("ringHashLbConfig"));
        }
        if let Some(size) = &c.minimum_ring_size {
            ring.minimum_size = size.value.min(8 << 20);
        }
        if let Some(size) = &c.maximum_ring_size {
            ring.maximum_size = size.value.min(8 << 20);
        }
    }
    Ok(ring)
}

fn maglev(message: &pb::Cluster, config: &Option<pb::cluster::LbConfig>) -> Taken<MaglevConfig> {
    let mut maglev = MaglevConfig { key: hash_key(message), ..MaglevConfig::default() };
    if let Some(pb::cluster::LbConfig::MaglevLbConfig(c)) = config
        && let Some(size) = &c.table_size
    {
        let prime = u32::try_from(size.value).ok().filter(|n| *n <= 5_000_011 && is_prime(*n));
        maglev.table_size = prime.ok_or_else(|| {
            Refusal::new("must be a prime of at most 5000011").under("tableSize").under("maglevLbConfig")
        })?;
    }
    Ok(maglev)
}

pub(super) fn is_prime(n: u32) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

fn outlier(o: &pb::OutlierDetection) -> Taken<OutlierConfig> {
    let d = OutlierConfig::default();
    let or = |value: &Option<_>, default: u32| number(value).unwrap_or(default);
    Ok(OutlierConfig {
        consecutive_5xx: or(&o.consecutive_5xx, d.consecutive_5xx),
        enforce_5xx: or(&o.enforcing_consecutive_5xx, d.enforce_5xx),
        consecutive_gateway: or(&o.consecutive_gateway_failure, d.consecutive_gateway),
        enforce_gateway: or(&o.enforcing_consecutive_gateway_failure, d.enforce_gateway),
        split_local_origin: o.split_external_local_origin_errors,
        consecutive_local: or(&o.consecutive_local_origin_failure, d.consecutive_local),
        enforce_local: or(&o.enforcing_consecutive_local_origin_failure, d.enforce_local),
        interval: duration(&o.interval, "interval")?.unwrap_or(d.interval),
        base_ejection_time: duration(&o.base_ejection_time, "baseEjectionTime")?
            .unwrap_or(d.base_ejection_time),
        max_ejection_time: duration(&o.max_ejection_time, "maxEjectionTime")?.unwrap_or(d.max_ejection_time),
        max_ejection_jitter: duration(&o.max_ejection_time_jitter, "maxEjectionTimeJitter")?
            .unwrap_or_default(),
        max_ejection_percent: or(&o.max_ejection_percent, d.max_ejection_percent),
        always_eject_one: flag(&o.always_eject_one_host, false),
        enforce_success_rate: or(&o.enforcing_success_rate, d.enforce_success_rate),
        enforce_local_success_rate: or(&o.enforcing_local_origin_success_rate, d.enforce_local_success_rate),
        success_rate_hosts: or(&o.success_rate_minimum_hosts, d.success_rate_hosts),
        success_rate_volume: or(&o.success_rate_request_volume, d.success_rate_volume),
        success_rate_factor: or(&o.success_rate_stdev_factor, d.success_rate_factor),
        enforce_failure_percentage: or(&o.enforcing_failure_percentage, d.enforce_failure_percentage),
        enforce_local_failure_percentage: or(
            &o.enforcing_failure_percentage_local_origin,
            d.enforce_local_failure_percentage,
        ),
        failure_percentage: or(&o.failure_percentage_threshold, d.failure_percentage),
        failure_percentage_hosts: or(&o.failure_percentage_minimum_hosts, d.failure_percentage_hosts),
        failure_percentage_volume: or(&o.failure_percentage_request_volume, d.failure_percentage_volume),
        uneject_on_check: flag(&o.successful_active_health_check_uneject_host, true),
    })
}

fn thresholds(message: &pb::Cluster) -> Taken<[Thresholds; 2]> {
    let mut result = [Thresholds::default(); 2];
    let Some(breakers) = &message.circuit_breakers else { return Ok(result) };
    for (t, i) in breakers.thresholds.iter().zip(0..) {
        let place = result.get_mut(t.priority as usize).ok_or_else(|| {
            Refusal::new("unknown priority").under(format_args!("thresholds[{i}]")).under("circuitBreakers")
        })?;
        let d = Thresholds::default();
        *place = Thresholds {
            max_connections: number(&t.max_connections).unwrap_or(d.max_connections),
            max_pending: number(&t.max_pending_requests).unwrap_or(d.max_pending),
            max_requests: number(&t.max_requests).unwrap_or(d.max_requests),
            max_retries: number(&t.max_retries).unwrap_or(d.max_retries),
            retry_budget: t.retry_budget.as_ref().map(|b| RetryBudget {
                percent: b.budget_percent.as_ref().map_or(20.0, |p| p.value),
                min_concurrency: number(&b.min_retry_concurrency).unwrap_or(3),
            }),
        };
    }
    Ok(result)
}

fn transport_match(m: &pb::cluster::TransportSocketMatch) -> Taken<TransportMatch> {
    let mut labels = Vec::new();
    for (key, value) in m.r#match.iter().flat_map(|s| &s.fields) {
        match value.kind.as_ref() {
            Some(Kind::StringValue(text)) => labels.push((key.as_str().into(), text.as_str().into())),
            _ => return Err(Refusal::new("only texts can be matched").under("match")),
        }
    }
    Ok(TransportMatch {
        name: m.name.as_str().into(),
        labels,
        transport: tls::upstream(&m.transport_socket).within("transportSocket")?,
    })
}

fn bind(bind: &core::BindConfig) -> Taken<BindConfig> {
    let source = bind
        .source_address
        .as_ref()
        .map(|s| {
            let address = core::Address { address: Some(core::address::Address::SocketAddress(s.clone())) };
            crate::wire::ip_address(&Some(address)).within("sourceAddress")
        })
        .transpose()?;
    Ok(BindConfig {
        source,
        options: each(&bind.socket_options, "socketOptions", socket_option)?,
        freebind: flag(&bind.freebind, false),
    })
}

fn socket_option(option: &core::SocketOption) -> Taken<SocketOption> {
    use core::socket_option::{SocketState as State, Value};
    let number = |n: i64, field| i32::try_from(n).map_err(|_| Refusal::new("is out of range").under(field));
    Ok(SocketOption {
        level: number(option.level, "level")?,
        name: number(option.name, "name")?,
        value: match &option.value {
            Some(Value::IntValue(n)) => SocketValue::Int(number(*n, "intValue")?),
            Some(Value::BufValue(bytes)) => SocketValue::Bytes(bytes.clone()),
            None => return Err(Refusal::new("has no value")),
        },
        state: match State::try_from(option.state) {
            Ok(State::StatePrebind) => SocketState::Prebind,
            Ok(State::StateBound) => SocketState::Bound,
            Ok(State::StateListening) => SocketState::Listening,
            Err(_) => return Err(Refusal::new("unknown").under("state")),
        },
    })
}

pub(crate) fn keepalive(k: &core::TcpKeepalive) -> TcpKeepalive {
    let seconds = |v: &Option<_>| number(v).map(|s| Duration::from_secs(u64::from(s)));
    TcpKeepalive {
        probes: number(&k.keepalive_probes),
        time: seconds(&k.keepalive_time),
        interval: seconds(&k.keepalive_interval),
    }
}

fn metadata(metadata: &core::Metadata) -> ClusterMetadata {
    let istio = metadata.filter_metadata.get("istio");
    let kind = |key: &str| istio.and_then(|f| f.fields.get(key)).and_then(|v| v.kind.as_ref());
    let services = match kind("services") {
        Some(Kind::ListValue(list)) => list
            .values
            .iter()
            .filter_map(|v| match v.kind.as_ref() {
                Some(Kind::StructValue(s)) => {
                    let text = |key: &str| match s.fields.get(key).and_then(|v| v.kind.as_ref()) {
                        Some(Kind::StringValue(text)) => Arc::from(text.as_str()),
                        _ => Arc::from(""),
                    };
                    Some(ServiceRef { host: text("host"), name: text("name"), namespace: text("namespace") })
                }
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    ClusterMetadata {
        services,
        subset: text_of(metadata, "istio", "subset").into(),
        config: text_of(metadata, "istio", "config").into(),
        external: matches!(kind("external"), Some(Kind::BoolValue(true))),
    }
}
