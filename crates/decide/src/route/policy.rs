//! Retry and mirror policies of routes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::pb::envoy::config::route::v3 as pb;
use upstream::{Attempt, Backoff, ResetFormat, RetryOn, RetryPolicy};

use super::ClusterRef;
use crate::headers::{HeaderName, Known};
use crate::matching::HeaderMatcher;
use crate::plan::Ids;
use crate::refusal::{Refusal, Taken, Within, each};
use crate::request::Response;
use crate::wire::{Chance, duration, number, timeout, type_of};

/// A retry policy with the header matchers that belong to it.
#[derive(Debug, Clone)]
pub struct Retry {
    pub policy: RetryPolicy,
    pub(crate) response_headers: Vec<HeaderMatcher>,
    pub(crate) request_headers: Vec<HeaderMatcher>,
}

impl Retry {
    /// What a response that has just begun means to the policy.
    pub fn attempt_of(&self, response: &Response) -> Attempt {
        Attempt::Response {
            status: response.status,
            grpc_status: response.grpc_status(),
            rate_limited: response.headers.contains(Known::XEnvoyRatelimited),
            retriable_header: self.response_headers.iter().any(|h| h.matches_headers(&response.headers)),
        }
    }

    /// How long the upstream says to wait before another try.
    pub fn told_wait(&self, response: &Response, now: SystemTime) -> Option<Duration> {
        self.policy.reset_headers.iter().find_map(|(name, format)| {
            let number: u64 = response.headers.get_str(name)?.trim().parse().ok()?;
            let span = Duration::from_secs(number);
            match format {
                ResetFormat::Seconds => Some(span),
                ResetFormat::UnixTimestamp => UNIX_EPOCH.checked_add(span)?.duration_since(now).ok(),
            }
        })
    }
}

/// Copies of requests to another cluster.
#[derive(Debug, Clone)]
pub struct MirrorPolicy {
    pub(crate) cluster: MirrorTarget,
    pub(crate) chance: Chance,
    pub(crate) trace_sampled: Option<bool>,
    pub(crate) keep_host: bool,
    pub(crate) host: Option<Box<str>>,
}

#[derive(Debug, Clone)]
pub(crate) enum MirrorTarget {
    Cluster(ClusterRef),
    Header(HeaderName),
}

impl MirrorPolicy {
    pub(crate) fn compile(policy: &pb::route_action::RequestMirrorPolicy, ids: &mut Ids) -> Taken<Self> {
        let cluster = match (policy.cluster.as_str(), policy.cluster_header.as_str()) {
            ("", "") => return Err(Refusal::new("is empty").under("cluster")),
            ("", header) => MirrorTarget::Header(header.into()),
            (name, _) => MirrorTarget::Cluster(ids.cluster_ref(name)),
        };
        Ok(Self {
            cluster,
            chance: Chance::runtime(&policy.runtime_fraction, Chance::ALWAYS).within("runtimeFraction")?,
            trace_sampled: policy.trace_sampled.as_ref().map(|v| v.value),
            keep_host: policy.disable_shadow_host_suffix_append,
            host: (!policy.host_rewrite_literal.is_empty())
                .then(|| policy.host_rewrite_literal.as_str().into()),
        })
    }
}

pub(crate) fn compile_retry(policy: &pb::RetryPolicy) -> Taken<Retry> {
    let (on, unknown) = RetryOn::parse(&policy.retry_on);
    if let Some(name) = unknown.first() {
        return Err(Refusal::new(format_args!("{name:?} is no retry condition that this proxy knows"))
            .under("retryOn"));
    }
    let mut result = RetryPolicy {
        on,
        retries: number(&policy.num_retries).unwrap_or(1),
        per_try_timeout: timeout(&policy.per_try_timeout, "perTryTimeout")?,
        per_try_idle_timeout: timeout(&policy.per_try_idle_timeout, "perTryIdleTimeout")?,
        status_codes: each(&policy.retriable_status_codes, "retriableStatusCodes", |code| {
            u16::try_from(*code).map_err(|_| Refusal::new("is no HTTP status"))
        })?,
        host_attempts: u32::try_from(policy.host_selection_retry_max_attempts).unwrap_or(0).saturating_add(1),
        ..RetryPolicy::default()
    };
    if let Some(b) = &policy.retry_back_off {
        result.backoff = back_off(b).within("retryBackOff")?;
    }
    if let Some(b) = &policy.rate_limited_retry_back_off {
        result.reset_headers =
            each(&b.reset_headers, "resetHeaders", reset_header).within("rateLimitedRetryBackOff")?;
        result.reset_max_interval = duration(&b.max_interval, "maxInterval")
            .within("rateLimitedRetryBackOff")?
            .unwrap_or(Duration::from_secs(300));
    }
    for (predicate, i) in policy.retry_host_predicate.iter().zip(0..) {
        host_predicate(predicate, &mut result).at("retryHostPredicate", i)?;
    }
    if let Some(priority) = &policy.retry_priority {
        return Err(Refusal::new(format_args!("{} is not supported by this proxy", priority.name))
            .under("retryPriority"));
    }
    Ok(Retry {
        policy: result,
        response_headers: each(&policy.retriable_headers, "retriableHeaders", HeaderMatcher::compile)?,
        request_headers: each(
            &policy.retriable_request_headers,
            "retriableRequestHeaders",
            HeaderMatcher::compile,
        )?,
    })
}

/// Whether tries that take too long are hedged. Of what else there is of the policy Envoy does nothing with either.
pub(super) fn compile_hedge(policy: &pb::HedgePolicy) -> Taken<bool> {
    if number(&policy.initial_requests).is_some_and(|n| n != 1) {
        return Err(Refusal::new(
            "more than one request at first is not supported, by Envoy neither; remove it",
        )
        .under("initialRequests"));
    }
    if policy.additional_request_chance.as_ref().is_some_and(|chance| chance.numerator != 0) {
        return Err(Refusal::new("additional requests are not supported, by Envoy neither; remove it")
            .under("additionalRequestChance"));
    }
    Ok(policy.hedge_on_per_try_timeout)
}

fn reset_header(header: &pb::retry_policy::ResetHeader) -> Taken<(String, ResetFormat)> {
    use pb::retry_policy::ResetHeaderFormat;
    if header.name.is_empty() {
        return Err(Refusal::new("is empty").under("name"));
    }
    let format = match ResetHeaderFormat::try_from(header.format) {
        Ok(ResetHeaderFormat::Seconds) => ResetFormat::Seconds,
        Ok(ResetHeaderFormat::UnixTimestamp) => ResetFormat::UnixTimestamp,
        Err(_) => return Err(Refusal::new("unknown").under("format")),
    };
    Ok((header.name.to_ascii_lowercase(), format))
}

fn back_off(b: &pb::retry_policy::RetryBackOff) -> Taken<Backoff> {
    let base = duration(&b.base_interval, "baseInterval")?.unwrap_or(Duration::from_millis(25));
    let max = duration(&b.max_interval, "maxInterval")?;
    if max.is_some_and(|m| m < base) {
        return Err(Refusal::new("must not be less than baseInterval").under("maxInterval"));
    }
    Ok(Backoff { base, max: max.unwrap_or(base.saturating_mul(10)) })
}

fn host_predicate(predicate: &pb::retry_policy::RetryHostPredicate, result: &mut RetryPolicy) -> Taken<()> {
    use pb::retry_policy::retry_host_predicate::ConfigType;
    let by_type = match &predicate.config_type {
        Some(ConfigType::TypedConfig(any)) => type_of(any),
        None => "",
    };
    match (by_type, predicate.name.as_str()) {
        ("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", _)
        | ("", "envoy.retry_host_predicates.previous_hosts") => {
            result.avoid_previous_hosts = true;
            Ok(())
        }
        (_, name) => Err(Refusal::new(format_args!("{name} is not supported by this proxy"))),
    }
}

pub(super) fn upgrade_is_enabled(upgrades: &[(Box<str>, bool)], upgrade: &str) -> Option<bool> {
    upgrades.iter().find(|(name, _)| name.eq_ignore_ascii_case(upgrade)).map(|(_, enabled)| *enabled)
}
