//! `loadBalancingPolicy`: of a list of policies the first that there is here, as in Envoy.

use std::time::Duration;

use ::upstream::{
    HashKey, LbKind, LbPolicy, LocalityLb, MaglevConfig, PeakEwma, RingHashConfig, SlowStart, ZoneAware,
};
use prost::Message;
use proto::pb::envoy::config::cluster::v3 as pb;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::load_balancing_policies as policies;
use proto::pb::envoy::r#type::v3 as types;
use proto::pb::google::protobuf as wkt;

use super::compile::is_prime;
use crate::refusal::{Refusal, Taken, Within};
use crate::wire::{decode, duration, number, type_of, unpack};

/// `envoy.extensions.load_balancing_policies.peak_ewma.v3alpha.PeakEwma`.
#[derive(Clone, PartialEq, Message)]
struct PeakEwmaConfig {
    #[prost(message, optional, tag = "1")]
    decay_time: Option<wkt::Duration>,
    #[prost(message, optional, tag = "4")]
    default_rtt: Option<wkt::Duration>,
    #[prost(message, optional, tag = "5")]
    penalty_value: Option<wkt::DoubleValue>,
}

/// Takes the policies of a cluster that has a list of them.
pub(super) fn apply(message: &pb::Cluster, policy: &mut LbPolicy) -> Taken<()> {
    use pb::cluster::LbPolicy as Kind;
    let Some(list) = &message.load_balancing_policy else {
        if message.lb_policy == Kind::LoadBalancingPolicyConfig as i32 {
            return Err(Refusal::new("is missing").under("loadBalancingPolicy"));
        }
        return Ok(());
    };
    if message.lb_subset_config.is_some() {
        return Err(Refusal::new("cannot be set together with lbSubsetConfig").under("loadBalancingPolicy"));
    }
    let common = message.common_lb_config.as_ref();
    let partial = |c: &pb::cluster::CommonLbConfig| {
        c.locality_config_specifier.is_some() || c.consistent_hashing_lb_config.is_some()
    };
    if common.is_some_and(partial) {
        let reason = "says what localities and hashes are to it; commonLbConfig cannot say so as well";
        return Err(Refusal::new(reason).under("loadBalancingPolicy"));
    }
    for (entry, i) in list.policies.iter().zip(0..) {
        let Some(any) = entry.typed_extension_config.as_ref().and_then(|c| c.typed_config.as_ref()) else {
            continue;
        };
        let taken = one(any, policy)
            .within("typedConfig")
            .within("typedExtensionConfig")
            .at("policies", i)
            .within("loadBalancingPolicy")?;
        if taken {
            return Ok(());
        }
    }
    Err(Refusal::new("none of them is known to this proxy").under("policies").under("loadBalancingPolicy"))
}

/// Whether it is one that there is here.
fn one(any: &wkt::Any, policy: &mut LbPolicy) -> Taken<bool> {
    match type_of(any) {
        "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin" => {
            let config: policies::round_robin::v3::RoundRobin = unpack(any)?;
            policy.kind = LbKind::RoundRobin;
            policy.slow_start = typed_slow_start(&config.slow_start_config)?;
            locality(&config.locality_lb_config, policy)?;
        }
        "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest" => {
            let config: policies::least_request::v3::LeastRequest = unpack(any)?;
            policy.kind = LbKind::LeastRequest { choices: number(&config.choice_count).unwrap_or(2).max(2) };
            policy.slow_start = typed_slow_start(&config.slow_start_config)?;
            locality(&config.locality_lb_config, policy)?;
        }
        "envoy.extensions.load_balancing_policies.random.v3.Random" => {
            let config: policies::random::v3::Random = unpack(any)?;
            policy.kind = LbKind::Random;
            locality(&config.locality_lb_config, policy)?;
        }
        "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash" => ring_hash(&unpack(any)?, policy)?,
        "envoy.extensions.load_balancing_policies.maglev.v3.Maglev" => maglev(&unpack(any)?, policy)?,
        "envoy.extensions.load_balancing_policies.peak_ewma.v3alpha.PeakEwma" => {
            peak_ewma(&decode(&any.value)?, policy)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn ring_hash(config: &policies::ring_hash::v3::RingHash, policy: &mut LbPolicy) -> Taken<()> {
    use policies::ring_hash::v3::ring_hash::HashFunction;
    if config.hash_function == HashFunction::MurmurHash2 as i32 {
        return Err(Refusal::new("only XX_HASH is supported").under("hashFunction"));
    }
    let default = RingHashConfig::default();
    let size = |size: &Option<wkt::UInt64Value>, or| size.as_ref().map_or(or, |s| s.value.min(8 << 20));
    policy.kind = LbKind::RingHash(RingHashConfig {
        minimum_size: size(&config.minimum_ring_size, default.minimum_size),
        maximum_size: size(&config.maximum_ring_size, default.maximum_size),
        key: key(&config.consistent_hashing_lb_config, config.use_hostname_for_hashing),
    });
    policy.locality = weighted(config.locality_weighted_lb_config.is_some());
    Ok(())
}

fn maglev(config: &policies::maglev::v3::Maglev, policy: &mut LbPolicy) -> Taken<()> {
    let mut maglev =
        MaglevConfig { key: key(&config.consistent_hashing_lb_config, false), ..MaglevConfig::default() };
    if let Some(size) = &config.table_size {
        let prime = u32::try_from(size.value).ok().filter(|n| *n <= 5_000_011 && is_prime(*n));
        maglev.table_size =
            prime.ok_or_else(|| Refusal::new("must be a prime of at most 5000011").under("tableSize"))?;
    }
    policy.kind = LbKind::Maglev(maglev);
    policy.locality = weighted(config.locality_weighted_lb_config.is_some());
    Ok(())
}

fn peak_ewma(config: &PeakEwmaConfig, policy: &mut LbPolicy) -> Taken<()> {
    let default = PeakEwma::default();
    let positive = |field: &Option<wkt::Duration>, name: &str, default: Duration| match duration(field, name)?
    {
        Some(d) if d.is_zero() => Err(Refusal::new("must be greater than 0").under(name)),
        given => Ok(given.unwrap_or(default)),
    };
    let penalty = config.penalty_value.as_ref().map_or(default.penalty, |p| p.value);
    if penalty.is_nan() || penalty < 0.0 {
        return Err(Refusal::new("must not be negative").under("penaltyValue"));
    }
    policy.kind = LbKind::PeakEwma(PeakEwma {
        decay: positive(&config.decay_time, "decayTime", default.decay)?,
        default_rtt: positive(&config.default_rtt, "defaultRtt", default.default_rtt)?,
        penalty,
    });
    policy.locality = LocalityLb::Ignored;
    Ok(())
}

fn key(config: &Option<policies::common::v3::ConsistentHashingLbConfig>, by_name: bool) -> HashKey {
    let by_name = by_name || config.as_ref().is_some_and(|c| c.use_hostname_for_hashing);
    if by_name { HashKey::Hostname } else { HashKey::Address }
}

fn weighted(weighted: bool) -> LocalityLb {
    if weighted { LocalityLb::Weighted } else { LocalityLb::Ignored }
}

fn locality(config: &Option<policies::common::v3::LocalityLbConfig>, policy: &mut LbPolicy) -> Taken<()> {
    use policies::common::v3::locality_lb_config::LocalityConfigSpecifier as Specifier;
    use policies::common::v3::locality_lb_config::zone_aware_lb_config::LocalityBasis;
    let within = |taken: Taken<LocalityLb>| taken.within("zoneAwareLbConfig").within("localityLbConfig");
    policy.locality = match config.as_ref().and_then(|c| c.locality_config_specifier.as_ref()) {
        None => LocalityLb::ZoneAware(ZoneAware::default()),
        Some(Specifier::LocalityWeightedLbConfig(_)) => LocalityLb::Weighted,
        Some(Specifier::ZoneAwareLbConfig(zone)) => {
            policy.fail_on_panic = zone.fail_traffic_on_panic;
            let forced = zone.force_local_zone.as_ref().map(|f| number(&f.min_size).unwrap_or(1));
            #[expect(deprecated, reason = "it is still sent")]
            let forced = forced.or(zone.force_locality_direct_routing.then_some(1));
            let taken = zone_aware(&zone.routing_enabled, &zone.min_cluster_size).map(|basic| {
                LocalityLb::ZoneAware(ZoneAware {
                    force_at: forced,
                    by_weight: zone.locality_basis == LocalityBasis::HealthyHostsWeight as i32,
                    ..basic
                })
            });
            within(taken)?
        }
    };
    Ok(())
}

/// What both of Envoy's messages for it say.
pub(super) fn zone_aware(
    enabled: &Option<types::Percent>,
    least: &Option<wkt::UInt64Value>,
) -> Taken<ZoneAware> {
    let default = ZoneAware::default();
    let percent = enabled.as_ref().map_or(100.0, |p| p.value);
    if !(0.0..=100.0).contains(&percent) {
        return Err(Refusal::new("must be from 0 to 100").under("routingEnabled"));
    }
    Ok(ZoneAware {
        enabled: percent.round() as u32,
        min_cluster_size: least.as_ref().map_or(default.min_cluster_size, |n| n.value),
        ..default
    })
}

fn typed_slow_start(config: &Option<policies::common::v3::SlowStartConfig>) -> Taken<Option<SlowStart>> {
    let Some(c) = config else { return Ok(None) };
    slow_start(&c.slow_start_window, &c.aggression, &c.min_weight_percent).within("slowStartConfig")
}

/// What both of Envoy's messages for it say.
pub(super) fn slow_start(
    window: &Option<wkt::Duration>,
    aggression: &Option<core::RuntimeDouble>,
    least: &Option<types::Percent>,
) -> Taken<Option<SlowStart>> {
    let window = duration(window, "slowStartWindow")?;
    let aggression = aggression.as_ref().map_or(1.0, |a| a.default_value);
    if aggression.is_nan() || aggression <= 0.0 {
        return Err(Refusal::new("must be greater than 0").under("aggression"));
    }
    let min_percent = least.as_ref().map_or(10.0, |p| p.value);
    Ok(window.filter(|w| !w.is_zero()).map(|window| SlowStart { window, aggression, min_percent }))
}
