//! What happens on the way: retries, faults, cross-origin rules, hashing, header changes.

use std::sync::Arc;

use api::names::GRPC_STATUS;
use api::networking as net;
use model::Service;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::config::route::v3 as pb;
use proto::pb::envoy::extensions::filters::common::fault::v3 as fault_common;
use proto::pb::envoy::extensions::filters::http::cors::v3 as cors_pb;
use proto::pb::envoy::extensions::filters::http::fault::v3 as fault_pb;
use proto::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use proto::pb::envoy::r#type::v3::FractionalPercent;

use super::matches;
use crate::build::Context;
use crate::destination_rule::consistent_hash;
use crate::encode::{any, boolv, duration, millionths, u32v};
use crate::readable;

/// How often a stock Envoy draws again when it drew a host that had failed. Of two replicas the one that refuses is the
/// less busy, so least request prefers it: with Istio's five draws one request in some hundred would be lost.
const OTHER_HOST_ATTEMPTS: i64 = 20;

/// `None` where retries are turned off.
pub(super) fn retry(context: &Context<'_>, own: Option<&net::HttpRetry>) -> Option<pb::RetryPolicy> {
    let mesh = context.mesh().value.default_http_retry_policy.as_ref();
    let default = net::HttpRetry { attempts: net::HttpRetry::DEFAULT_ATTEMPTS, ..Default::default() };
    let retries = own.or(mesh).unwrap_or(&default);
    let attempts = u32::try_from(retries.attempts).ok().filter(|attempts| *attempts > 0)?;
    let (conditions, codes) = retries.conditions();
    let mut policy = pb::RetryPolicy {
        retry_on: conditions.join(","),
        num_retries: Some(u32v(attempts)),
        per_try_timeout: retries.per_try_timeout.map(|timeout| duration(timeout.as_std())),
        retriable_status_codes: codes,
        retry_back_off: retries.backoff.map(|backoff| pb::retry_policy::RetryBackOff {
            base_interval: Some(duration(backoff.as_std())),
            max_interval: None,
        }),
        ..Default::default()
    };
    if retries.retry_ignore_previous_hosts.unwrap_or(true) {
        policy.host_selection_retry_max_attempts = OTHER_HOST_ATTEMPTS;
        policy.retry_host_predicate.push(pb::retry_policy::RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".into(),
            config_type: Some(pb::retry_policy::retry_host_predicate::ConfigType::TypedConfig(any(
                &PreviousHostsPredicate {},
            ))),
        });
    }
    Some(policy)
}

pub(super) fn fault(fault: &net::HttpFaultInjection) -> Option<fault_pb::HttpFault> {
    use fault_common::fault_delay::FaultDelaySecifier;
    let delay = fault.delay.as_ref().and_then(|delay| {
        Some(fault_common::FaultDelay {
            percentage: Some(millionths(delay.share())),
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(duration(delay.fixed_delay?.as_std()))),
        })
    });
    let abort = fault.abort.as_ref().and_then(|abort| {
        let http = abort.http_status.and_then(|status| u32::try_from(status).ok());
        let error = match (http, &abort.grpc_status) {
            (Some(status), _) => fault_pb::fault_abort::ErrorType::HttpStatus(status),
            (None, Some(name)) => fault_pb::fault_abort::ErrorType::GrpcStatus(grpc_status(name)?),
            (None, None) => return None,
        };
        Some(fault_pb::FaultAbort {
            percentage: Some(millionths(abort.share())),
            error_type: Some(error),
            ..Default::default()
        })
    });
    (delay.is_some() || abort.is_some()).then(|| fault_pb::HttpFault { delay, abort, ..Default::default() })
}

fn grpc_status(name: &str) -> Option<u32> {
    let number = name.parse().ok().filter(|code| (0..=16).contains(code));
    number
        .or_else(|| GRPC_STATUS.iter().position(|known| known.eq_ignore_ascii_case(name)).map(|at| at as u32))
}

pub(super) fn cors(policy: &net::CorsPolicy, faulty: bool) -> cors_pb::CorsPolicy {
    let mut origins = policy.origins();
    if faulty {
        origins.retain(readable::string);
    }
    let unmatched = policy.unmatched_preflights;
    cors_pb::CorsPolicy {
        allow_origin_string_match: origins.iter().filter_map(matches::string).collect(),
        allow_methods: policy.allow_methods.join(","),
        allow_headers: policy.allow_headers.join(","),
        expose_headers: policy.expose_headers.join(","),
        max_age: policy.max_age.map(|age| age.as_std().as_secs().to_string()).unwrap_or_default(),
        allow_credentials: policy.allow_credentials.map(boolv),
        filter_enabled: Some(core::RuntimeFractionalPercent {
            default_value: Some(FractionalPercent { numerator: 100, denominator: 0 }),
            runtime_key: String::new(),
        }),
        forward_not_matching_preflights: Some(boolv(unmatched != net::UnmatchedPreflights::Ignore)),
        ..Default::default()
    }
}

/// What requests are hashed by, where the service's rule balances by hash.
pub(super) fn hash(
    context: &Context<'_>,
    service: Option<&Arc<Service>>,
    port: u32,
    subset: &str,
) -> Option<pb::route_action::HashPolicy> {
    use pb::route_action::hash_policy::{
        ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter,
    };
    let hash = consistent_hash(context, service?, port, subset)?;
    let specifier = if let Some(name) = hash.http_header_name {
        PolicySpecifier::Header(Header { header_name: name, ..Default::default() })
    } else if let Some(cookie) = hash.http_cookie {
        PolicySpecifier::Cookie(Cookie {
            name: cookie.name,
            ttl: cookie.ttl.map(|ttl| duration(ttl.as_std())),
            path: cookie.path,
            attributes: cookie
                .attributes
                .into_iter()
                .map(|attribute| CookieAttribute { name: attribute.name, value: attribute.value })
                .collect(),
        })
    } else if hash.use_source_ip.unwrap_or_default() {
        PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })
    } else {
        PolicySpecifier::QueryParameter(QueryParameter { name: hash.http_query_parameter_name? })
    };
    Some(pb::route_action::HashPolicy { policy_specifier: Some(specifier), ..Default::default() })
}

/// Header changes; the authority is not among them, since a route rewrites that in a place of its own.
#[derive(Default)]
pub(super) struct HeaderChanges {
    pub(super) request_add: Vec<core::HeaderValueOption>,
    pub(super) request_remove: Vec<String>,
    pub(super) response_add: Vec<core::HeaderValueOption>,
    pub(super) response_remove: Vec<String>,
    pub(super) authority: Option<String>,
}

pub(super) fn headers(headers: Option<&net::Headers>) -> HeaderChanges {
    let mut changes = HeaderChanges::default();
    let Some(headers) = headers else { return changes };
    if let Some(request) = &headers.request {
        changes.authority = request.set.iter().find(|(name, _)| is_authority(name)).map(|(_, v)| v.clone());
        changes.request_add = additions(request);
        changes.request_remove = removals(request);
    }
    if let Some(response) = &headers.response {
        changes.response_add = additions(response);
        changes.response_remove = removals(response);
    }
    changes
}

fn removals(operations: &net::HeaderOperations) -> Vec<String> {
    let taken = |name: &&String| readable::header_name(name) && !is_authority(name);
    operations.remove.iter().filter(taken).cloned().collect()
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name == ":authority"
}

/// Without those that no proxy would take: one spoils the whole table.
fn additions(operations: &net::HeaderOperations) -> Vec<core::HeaderValueOption> {
    use core::header_value_option::HeaderAppendAction;
    let option = |name: &String, value: &String, action: HeaderAppendAction| core::HeaderValueOption {
        header: Some(core::HeaderValue { key: name.clone(), value: value.clone(), ..Default::default() }),
        append_action: action as i32,
        keep_empty_value: value.is_empty(),
        ..Default::default()
    };
    let set = operations.set.iter().filter(|(name, _)| !is_authority(name));
    let set = set.map(|(name, value)| option(name, value, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = operations.add.iter().filter(|(name, _)| !is_authority(name));
    let add = add.map(|(name, value)| option(name, value, HeaderAppendAction::AppendIfExistsOrAdd));
    let taken = |option: &core::HeaderValueOption| {
        let header = option.header.as_ref();
        header.is_some_and(|it| readable::header_name(&it.key) && readable::header_value(&it.value))
    };
    set.chain(add).filter(taken).collect()
}
