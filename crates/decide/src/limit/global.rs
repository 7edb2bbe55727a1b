//! Limits that a service counts for many proxies.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::common::ratelimit::v3 as common;
use proto::pb::envoy::extensions::filters::http::ratelimit::v3 as pb;
use proto::pb::envoy::service::ratelimit::v3 as rls;
use serde_json::{Map, Value};

use super::{Descriptor, OfHost, RateLimits, status};
use crate::ask::{Answered, Call, CallFault, GrpcTarget};
use crate::ext_authz::HeaderChange;
use crate::refusal::{Refusal, Taken, Within};
use crate::route::Mutations;
use crate::wire::{Chance, duration, json_of};

const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// Where what the service says is kept for logs and later filters.
pub(crate) const METADATA: &str = "envoy.filters.http.ratelimit";

#[derive(Debug)]
pub(crate) struct GlobalRateLimit {
    domain: Box<str>,
    pub(crate) stage: u32,
    /// Only requests from inside, or only those from outside.
    pub(crate) only: Option<Origin>,
    target: GrpcTarget,
    pub(crate) failure_denies: bool,
    pub(crate) status: u16,
    pub(crate) status_on_error: u16,
    pub(crate) grpc_status: Option<u32>,
    tells: bool,
    marks: bool,
    pub(crate) answer: Mutations,
    /// In place of those of routes.
    pub(crate) own: RateLimits,
    pub(crate) enabled: Chance,
    pub(crate) enforced: Chance,
    pub(crate) stats: Stats,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Internal,
    External,
}

/// What a route says instead.
#[derive(Debug)]
pub(crate) struct GlobalPerRoute {
    pub(crate) of_host: OfHost,
    pub(crate) own: RateLimits,
    pub(crate) domain: Option<Box<str>>,
}

/// Of the cluster that requests go to.
#[derive(Debug)]
pub(crate) struct Stats {
    pub(crate) ok: Arc<str>,
    pub(crate) error: Arc<str>,
    pub(crate) over_limit: Arc<str>,
    pub(crate) failure_mode_allowed: Arc<str>,
}

/// What the service says.
pub(crate) enum Verdict {
    Ok {
        request: Vec<HeaderChange>,
        response: Vec<HeaderChange>,
        metadata: Map<String, Value>,
    },
    Over {
        response: Vec<HeaderChange>,
        body: Bytes,
        metadata: Map<String, Value>,
    },
    Error(String),
    /// Nobody was asked.
    Explaining,
}

impl GlobalRateLimit {
    pub(crate) fn cluster(&self) -> &str {
        &self.target.cluster
    }

    pub(crate) fn call(&self, own: Option<&GlobalPerRoute>, described: Vec<Descriptor>) -> Call {
        let entry = |(key, value): (Box<str>, String)| common::rate_limit_descriptor::Entry {
            key: key.into_string(),
            value,
        };
        let descriptor = |all: Descriptor| common::RateLimitDescriptor {
            entries: all.into_iter().map(entry).collect(),
            ..Default::default()
        };
        let domain = own.and_then(|own| own.domain.as_deref()).unwrap_or(&self.domain);
        let request = rls::RateLimitRequest {
            domain: domain.to_owned(),
            descriptors: described.into_iter().map(descriptor).collect(),
            hits_addend: 0,
        };
        Call::grpc(&self.target, METHOD, &request)
    }

    pub(crate) fn conclude(&self, called: Result<Answered, CallFault>) -> Verdict {
        let answer = match called {
            Ok(answer) => answer,
            Err(CallFault::Explaining) => return Verdict::Explaining,
            Err(fault) => return Verdict::Error(fault.to_string()),
        };
        let said = match answer.grpc_message::<rls::RateLimitResponse>() {
            Ok(said) => said,
            Err(fault) => return Verdict::Error(format!("gRPC status {}: {}", fault.code, fault.message)),
        };
        let metadata = said.dynamic_metadata.as_ref().map(json_of).unwrap_or_default();
        let headers = |list: &[core::HeaderValue]| {
            let named = list.iter().filter(|header| !header.key.is_empty());
            named.map(|header| HeaderChange::checked(&header.key, &header.value)).collect::<Option<Vec<_>>>()
        };
        let (Some(mut response), Some(request)) =
            (headers(&said.response_headers_to_add), headers(&said.request_headers_to_add))
        else {
            return Verdict::Error("it wants a header that is none".into());
        };
        let over = said.overall_code == rls::rate_limit_response::Code::OverLimit as i32;
        if over && self.marks {
            response.push(HeaderChange::set("x-envoy-ratelimited", "true".into()));
        }
        if self.tells {
            response.extend(told(&said.statuses));
        }
        if over {
            return Verdict::Over { response, body: said.raw_body.into(), metadata };
        }
        Verdict::Ok { request, response, metadata }
    }

    pub(crate) fn compile(m: &pb::RateLimit) -> Taken<Self> {
        if m.domain.is_empty() {
            return Err(Refusal::new("is missing").under("domain"));
        }
        let service = m.rate_limit_service.as_ref().and_then(|service| service.grpc_service.as_ref());
        let service = service
            .ok_or_else(|| Refusal::new("is missing").under("grpcService").under("rateLimitService"))?;
        if service.timeout.is_some() {
            let fault = "without effect, as in Envoy; write the filter's own timeout";
            return Err(Refusal::new(fault).under("timeout").under("grpcService").under("rateLimitService"));
        }
        let timeout = duration(&m.timeout, "timeout")?.unwrap_or(Duration::from_millis(20));
        let target = GrpcTarget::compile(service, Some(timeout)).within("grpcService");
        let name = |what: &str| match m.stat_prefix.as_str() {
            "" => format!("ratelimit.{what}").into(),
            prefix => format!("ratelimit.{prefix}.{what}").into(),
        };
        Ok(Self {
            domain: m.domain.as_str().into(),
            stage: m.stage,
            only: match m.request_type.as_str() {
                "internal" => Some(Origin::Internal),
                "external" => Some(Origin::External),
                "" | "both" => None,
                _ => return Err(Refusal::new("must be internal, external or both").under("requestType")),
            },
            target: target.within("rateLimitService")?,
            failure_denies: m.failure_mode_deny,
            status: status(&m.rate_limited_status, 429),
            status_on_error: status(&m.status_on_error, 500),
            grpc_status: m.rate_limited_as_resource_exhausted.then_some(8),
            tells: m.enable_x_ratelimit_headers
                == pb::rate_limit::XRateLimitHeadersRfcVersion::DraftVersion03 as i32,
            marks: !m.disable_x_envoy_ratelimited_header,
            answer: Mutations::compile(&m.response_headers_to_add, &[], ("responseHeadersToAdd", ""))?,
            own: RateLimits::compile(&m.rate_limits, "rateLimits")?,
            enabled: Chance::runtime(&m.filter_enabled, Chance::ALWAYS).within("filterEnabled")?,
            enforced: Chance::runtime(&m.filter_enforced, Chance::ALWAYS).within("filterEnforced")?,
            stats: Stats {
                ok: name("ok"),
                error: name("error"),
                over_limit: name("over_limit"),
                failure_mode_allowed: name("failure_mode_allowed"),
            },
        })
    }
}

impl GlobalPerRoute {
    pub(crate) fn compile(m: &pb::RateLimitPerRoute) -> Taken<Self> {
        use pb::rate_limit_per_route::VhRateLimitsOptions;
        let of_host = match VhRateLimitsOptions::try_from(m.vh_rate_limits) {
            Ok(VhRateLimitsOptions::Include) => OfHost::Include,
            Ok(VhRateLimitsOptions::Ignore) => OfHost::Ignore,
            _ => OfHost::Override,
        };
        Ok(Self {
            of_host,
            own: RateLimits::compile(&m.rate_limits, "rateLimits")?,
            domain: (!m.domain.is_empty()).then(|| m.domain.as_str().into()),
        })
    }
}

/// `x-ratelimit-*` of the limit that is nearest.
fn told(statuses: &[rls::rate_limit_response::DescriptorStatus]) -> Vec<HeaderChange> {
    let mut policies = String::new();
    let mut nearest: Option<(&rls::rate_limit_response::DescriptorStatus, u32)> = None;
    for status in statuses {
        let Some(limit) = &status.current_limit else { continue };
        if nearest.is_none_or(|(near, _)| status.limit_remaining < near.limit_remaining) {
            nearest = Some((status, limit.requests_per_unit));
        }
        if let Some(window) = seconds(limit.unit) {
            policies.push_str(&format!(", {};w={window}", limit.requests_per_unit));
            if !limit.name.is_empty() {
                policies.push_str(&format!(";name=\"{}\"", limit.name));
            }
        }
    }
    let Some((near, most)) = nearest else { return Vec::new() };
    let reset = near.duration_until_reset.map_or(0, |d| d.seconds);
    [
        ("x-ratelimit-limit", format!("{most}{policies}")),
        ("x-ratelimit-remaining", near.limit_remaining.to_string()),
        ("x-ratelimit-reset", reset.to_string()),
    ]
    .into_iter()
    .filter_map(|(name, value)| HeaderChange::checked(name, &value))
    .collect()
}

fn seconds(unit: i32) -> Option<u64> {
    use rls::rate_limit_response::rate_limit::Unit;
    Some(match Unit::try_from(unit).ok()? {
        Unit::Second => 1,
        Unit::Minute => 60,
        Unit::Hour => 3600,
        Unit::Day => 24 * 3600,
        Unit::Week => 7 * 24 * 3600,
        Unit::Month => 30 * 24 * 3600,
        Unit::Year => 365 * 24 * 3600,
        Unit::Unknown => return None,
    })
}
