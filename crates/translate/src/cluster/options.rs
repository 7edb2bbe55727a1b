//! The settings of a cluster: balancing, limits, ejection, protocols, DNS.

use std::time::Duration;

use api::networking as net;
use model::Protocol;
use proto::pb::envoy::config::cluster::v3 as pb;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use proto::pb::envoy::extensions::upstreams::http::v3 as http;
use proto::pb::envoy::r#type::v3::Percent;

use super::Discovery;
use crate::build::Context;
use crate::encode::{any, duration, fields, flag, text, typed_struct, u32v};
use crate::mtls;
use crate::scope::{Facet, IpMode};

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

pub(crate) fn passthrough_lb(policy: &net::TrafficPolicy) -> bool {
    policy.load_balancer.as_ref().and_then(|lb| lb.simple) == Some(net::SimpleLb::Passthrough)
}

pub(super) fn load_balancer(cluster: &mut pb::Cluster, policy: &net::TrafficPolicy, discovery: Discovery) {
    use pb::cluster::{LbConfig, LbPolicy};
    if discovery == Discovery::Original {
        cluster.lb_policy = LbPolicy::ClusterProvided as i32;
        return;
    }
    cluster.common_lb_config = Some(pb::cluster::CommonLbConfig {
        // Never send to hosts known to be sick because too many are.
        healthy_panic_threshold: Some(Percent { value: 0.0 }),
        ..Default::default()
    });
    cluster.lb_policy = LbPolicy::LeastRequest as i32;
    let Some(lb) = &policy.load_balancer else { return };
    if let Some(hash) = &lb.consistent_hash {
        match &hash.maglev {
            Some(maglev) => {
                cluster.lb_policy = LbPolicy::Maglev as i32;
                let size = if maglev.table_size == 0 { 65537 } else { maglev.table_size };
                cluster.lb_config = Some(LbConfig::MaglevLbConfig(pb::cluster::MaglevLbConfig {
                    table_size: Some(proto::pb::google::protobuf::UInt64Value { value: size }),
                }));
            }
            None => {
                cluster.lb_policy = LbPolicy::RingHash as i32;
                let size = proto::pb::google::protobuf::UInt64Value { value: hash.minimum_ring_size() };
                cluster.lb_config = Some(LbConfig::RingHashLbConfig(pb::cluster::RingHashLbConfig {
                    minimum_ring_size: Some(size),
                    ..Default::default()
                }));
            }
        }
        return;
    }
    let warmup = warmup(lb);
    match lb.simple.unwrap_or_default() {
        net::SimpleLb::Random => cluster.lb_policy = LbPolicy::Random as i32,
        net::SimpleLb::RoundRobin => {
            cluster.lb_policy = LbPolicy::RoundRobin as i32;
            cluster.lb_config = warmup.map(|slow| {
                LbConfig::RoundRobinLbConfig(pb::cluster::RoundRobinLbConfig {
                    slow_start_config: Some(slow),
                })
            });
        }
        _ => {
            cluster.lb_config = warmup.map(|slow| {
                LbConfig::LeastRequestLbConfig(pb::cluster::LeastRequestLbConfig {
                    slow_start_config: Some(slow),
                    ..Default::default()
                })
            });
        }
    }
}

fn warmup(lb: &net::LoadBalancerSettings) -> Option<pb::cluster::SlowStartConfig> {
    let settings = lb.warmup.as_ref();
    let window = settings.and_then(|warmup| warmup.duration).or(lb.warmup_duration_secs)?;
    let aggression = settings.and_then(|warmup| warmup.aggression).unwrap_or(1.0);
    Some(pb::cluster::SlowStartConfig {
        slow_start_window: Some(duration(window.as_std())),
        aggression: Some(core::RuntimeDouble { default_value: aggression, runtime_key: String::new() }),
        min_weight_percent: Some(Percent {
            value: settings.and_then(|warmup| warmup.minimum_percent).unwrap_or(10.0),
        }),
    })
}

/// No limit unless one is set: Envoy's own of 1024 and 3 surprise people.
pub(super) fn pools(context: &Context<'_>, cluster: &mut pb::Cluster, policy: &net::TrafficPolicy) {
    let pool = policy.connection_pool.as_ref();
    let limit = |set: Option<i32>| {
        Some(u32v(set.and_then(|set| u32::try_from(set).ok()).filter(|set| *set > 0).unwrap_or(u32::MAX)))
    };
    let tcp = pool.and_then(|pool| pool.tcp.as_ref());
    let http = pool.and_then(|pool| pool.http.as_ref());
    cluster.circuit_breakers = Some(pb::CircuitBreakers {
        thresholds: vec![pb::circuit_breakers::Thresholds {
            max_connections: limit(tcp.map(|tcp| tcp.max_connections)),
            max_pending_requests: limit(http.map(|http| http.http1_max_pending_requests)),
            max_requests: limit(http.map(|http| http.http2_max_requests)),
            max_retries: limit(http.map(|http| http.max_retries)),
            retry_budget: policy.retry_budget.as_ref().map(retry_budget),
            ..Default::default()
        }],
        ..Default::default()
    });
    if let Some(timeout) = tcp.and_then(|tcp| tcp.connect_timeout) {
        cluster.connect_timeout = Some(duration(timeout.as_std()));
    }
    keepalive(context, cluster, tcp.and_then(|tcp| tcp.tcp_keepalive.as_ref()));
}

/// The rule's keepalive; what it leaves out is the mesh's.
fn keepalive(context: &Context<'_>, cluster: &mut pb::Cluster, own: Option<&net::TcpKeepalive>) {
    let mesh = context.mesh().value.tcp_keepalive.as_ref();
    if own.is_none() && mesh.is_none() {
        return;
    }
    let first = |pick: fn(&net::TcpKeepalive) -> Option<u32>| {
        own.and_then(pick).or_else(|| mesh.and_then(pick)).map(u32v)
    };
    cluster.upstream_connection_options = Some(pb::UpstreamConnectionOptions {
        tcp_keepalive: Some(core::TcpKeepalive {
            keepalive_probes: first(|it| Some(it.probes).filter(|probes| *probes > 0)),
            keepalive_time: first(|it| whole_seconds(it.time)),
            keepalive_interval: first(|it| whole_seconds(it.interval)),
        }),
        ..Default::default()
    });
}

fn whole_seconds(set: Option<api::Duration>) -> Option<u32> {
    set.map(|set| u32::try_from(set.as_std().as_secs()).unwrap_or(u32::MAX))
}

fn retry_budget(budget: &net::RetryBudget) -> pb::circuit_breakers::thresholds::RetryBudget {
    pb::circuit_breakers::thresholds::RetryBudget {
        budget_percent: budget.percent.map(|value| Percent { value }),
        min_retry_concurrency: (budget.min_retry_concurrency > 0).then(|| u32v(budget.min_retry_concurrency)),
        ..Default::default()
    }
}

pub(super) fn outliers(cluster: &mut pb::Cluster, outlier: Option<&net::OutlierDetection>) {
    let Some(outlier) = outlier else { return };
    let mut detection = pb::OutlierDetection {
        interval: outlier.interval.map(|interval| duration(interval.as_std())),
        base_ejection_time: outlier.base_ejection_time.map(|time| duration(time.as_std())),
        split_external_local_origin_errors: outlier.split_external_local_origin_errors,
        enforcing_success_rate: Some(u32v(0)),
        ..Default::default()
    };
    if outlier.max_ejection_percent > 0 {
        detection.max_ejection_percent = Some(u32v(outlier.max_ejection_percent()));
    }
    if let Some(errors) = outlier.consecutive_5xx_errors {
        let enforced = if errors > 0 { 100 } else { 0 };
        detection.enforcing_consecutive_5xx = Some(u32v(enforced));
        detection.consecutive_5xx = (errors > 0).then(|| u32v(errors));
    }
    if let Some(errors) = outlier.consecutive_gateway_errors {
        let enforced = if errors > 0 { 100 } else { 0 };
        detection.enforcing_consecutive_gateway_failure = Some(u32v(enforced));
        detection.consecutive_gateway_failure = (errors > 0).then(|| u32v(errors));
    }
    if outlier.split_external_local_origin_errors
        && let Some(errors) = outlier.consecutive_local_origin_failures
    {
        detection.enforcing_consecutive_local_origin_failure = Some(u32v(if errors > 0 { 100 } else { 0 }));
        detection.consecutive_local_origin_failure = (errors > 0).then(|| u32v(errors));
    }
    cluster.outlier_detection = Some(detection);
    if outlier.min_health_percent > 0 {
        let common = cluster.common_lb_config.get_or_insert_with(Default::default);
        common.healthy_panic_threshold = Some(Percent { value: f64::from(outlier.min_health_percent) });
    }
}

/// Which HTTP goes upstream: HTTP/1.1 stays what it is unless the port or a policy says HTTP/2.
pub(super) fn http_protocol(
    context: &Context<'_>,
    cluster: &mut pb::Cluster,
    protocol: Protocol,
    pool: Option<&net::ConnectionPoolSettings>,
    name_by_request: bool,
) {
    use http::http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
        explicit_http_config::ProtocolConfig,
    };
    let settings = pool.and_then(|pool| pool.http.as_ref());
    if !protocol.is_http() && protocol != Protocol::Detect {
        return;
    }
    let mesh = context.mesh().value.h2_upgrade_policy == api::mesh::MeshH2UpgradePolicy::Upgrade;
    let upgrade = match settings.map(|http| http.h2_upgrade_policy).unwrap_or_default() {
        net::H2UpgradePolicy::Upgrade => true,
        net::H2UpgradePolicy::DoNotUpgrade => false,
        net::H2UpgradePolicy::Default => mesh,
    };
    let http2 = core::Http2ProtocolOptions {
        max_concurrent_streams: settings
            .and_then(|http| u32::try_from(http.max_concurrent_streams).ok())
            .filter(|streams| *streams > 0)
            .map(u32v),
        connection_keepalive: settings.and_then(|http| http.http2_keep_alive.as_ref()).map(|ping| {
            core::KeepaliveSettings {
                interval: ping.interval.map(|interval| duration(interval.as_std())),
                timeout: Some(duration(ping.timeout.map_or(Duration::from_secs(15), |t| t.as_std()))),
                ..Default::default()
            }
        }),
        ..Default::default()
    };
    let explicit = |config| {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(config) })
    };
    let as_called = settings.is_some_and(|http| http.use_client_protocol);
    let upstream = if protocol.is_http2() || upgrade {
        Some(explicit(ProtocolConfig::Http2ProtocolOptions(http2)))
    } else if protocol == Protocol::Detect || as_called {
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(Default::default()),
            http2_protocol_options: Some(http2),
            ..Default::default()
        }))
    } else {
        None
    };
    let common = common_options(pool);
    if upstream.is_none() && common.is_none() && !name_by_request {
        return;
    }
    let options = http::HttpProtocolOptions {
        common_http_protocol_options: common,
        upstream_http_protocol_options: name_by_request
            .then(|| core::UpstreamHttpProtocolOptions { auto_sni: true, ..Default::default() }),
        upstream_protocol_options: Some(
            upstream.unwrap_or_else(|| explicit(ProtocolConfig::HttpProtocolOptions(Default::default()))),
        ),
        ..Default::default()
    };
    cluster.typed_extension_protocol_options.insert(HTTP_OPTIONS.into(), any(&options));
}

fn common_options(pool: Option<&net::ConnectionPoolSettings>) -> Option<core::HttpProtocolOptions> {
    let http = pool?.http.as_ref();
    let requests =
        http.and_then(|http| u32::try_from(http.max_requests_per_connection).ok()).filter(|n| *n > 0);
    let idle = http.and_then(|http| http.idle_timeout);
    let age = pool?.tcp.as_ref().and_then(|tcp| tcp.max_connection_duration);
    if requests.is_none() && idle.is_none() && age.is_none() {
        return None;
    }
    Some(core::HttpProtocolOptions {
        idle_timeout: idle.map(|idle| duration(idle.as_std())),
        max_connection_duration: age.map(|age| duration(age.as_std())),
        max_requests_per_connection: requests.map(u32v),
        ..Default::default()
    })
}

/// The options of the clusters that go where the caller wanted to go.
pub(super) fn as_called(cluster: &mut pb::Cluster) {
    use http::http_protocol_options::{UpstreamProtocolOptions, UseDownstreamHttpConfig};
    let options = http::HttpProtocolOptions {
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: Some(crate::encode::seconds(300)),
            ..Default::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(
            UseDownstreamHttpConfig {
                http_protocol_options: Some(Default::default()),
                http2_protocol_options: Some(Default::default()),
                ..Default::default()
            },
        )),
        ..Default::default()
    };
    cluster.typed_extension_protocol_options.insert(HTTP_OPTIONS.into(), any(&options));
}

#[allow(deprecated)]
pub(super) fn dns(context: &Context<'_>, cluster: &mut pb::Cluster) {
    use pb::cluster::DnsLookupFamily;
    let rate = context.mesh().value.dns_refresh_rate.map_or(Duration::from_secs(60), |rate| rate.as_std());
    cluster.dns_refresh_rate = Some(duration(rate));
    cluster.dns_jitter = Some(duration(Duration::from_millis(100)));
    cluster.respect_dns_ttl = true;
    cluster.dns_lookup_family = match context.reader.facets(Facet::Ip).ip {
        IpMode::V4 => DnsLookupFamily::V4Only,
        IpMode::V6 => DnsLookupFamily::V6Only,
        IpMode::Dual => DnsLookupFamily::All,
    } as i32;
    cluster.typed_dns_resolver_config = Some(core::TypedExtensionConfig {
        name: "envoy.network.dns_resolver.cares".into(),
        typed_config: Some(any(&CaresDnsResolverConfig {
            udp_max_queries: Some(u32v(100)),
            ..Default::default()
        })),
    });
}

/// What to offer by ALPN. A proxy with Istio's extensions sets it per request; any other offers what its port speaks.
pub(super) fn alpn(context: &Context<'_>, protocol: Protocol) -> &'static [&'static str] {
    let extensions = context.extensions();
    if extensions && protocol.is_http2() {
        &["istio-peer-exchange", "istio", "h2"]
    } else if extensions || !protocol.is_http() {
        mtls::istio_alpn(extensions)
    } else if protocol.is_http2() {
        &["istio-h2", "istio", "h2"]
    } else {
        &["istio-http/1.1", "istio", "http/1.1"]
    }
}

pub(crate) fn metadata_exchange_config() -> proto::pb::google::protobuf::Any {
    typed_struct(
        "envoy.tcp.metadataexchange.config.MetadataExchange",
        fields([("enable_discovery", flag(true)), ("protocol", text("istio-peer-exchange"))]),
    )
}

pub(super) fn metadata_exchange() -> pb::Filter {
    pb::Filter {
        name: "istio.metadata_exchange".into(),
        typed_config: Some(metadata_exchange_config()),
        ..Default::default()
    }
}
