//! Policies of action CUSTOM: a filter that only finds out whether rules match, and one that asks the provider then.

use std::collections::BTreeMap;

use api::Duration;
use api::mesh::{ExtAuthzGrpcProvider, ExtAuthzHttpProvider, ExtAuthzRequestBody, ExtensionProvider};
use api::security::Action;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::config::listener::v3 as listener_pb;
use proto::pb::envoy::config::rbac::v3 as pb;
use proto::pb::envoy::extensions::filters::http::ext_authz::v3 as authz_pb;
use proto::pb::envoy::extensions::filters::http::rbac::v3 as http_pb;
use proto::pb::envoy::extensions::filters::network::ext_authz::v3 as network_authz_pb;
use proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use proto::pb::envoy::extensions::filters::network::rbac::v3 as network_pb;
use proto::pb::envoy::r#type::matcher::v3 as matcher_pb;
use proto::pb::envoy::r#type::v3::HttpStatus;

use super::{Layer, policies, rule};
use crate::build::Context;
use crate::encode::{self, any, duration, seconds};
use crate::listener::http::http_filter;
use crate::listener::tcp::network_filter;
use crate::mtls::trust_domains;
use crate::telemetry::service_cluster;

const RBAC: &str = "envoy.filters.http.rbac";
const NETWORK_RBAC: &str = "envoy.filters.network.rbac";
/// Before what the first filter tells the second.
const TOLD: &str = "istio_ext_authz_";
/// Added to names of rules whose provider is of no use.
const BAD: &str = "-deny-due-to-bad-CUSTOM-action";

/// One pair of filters a provider, in the order of their names, as istiod does it. Without a usable provider everything
/// that the rules match is denied.
pub(super) fn http(context: &Context<'_>) -> Vec<HttpFilter> {
    let mut all = Vec::new();
    for (provider, rules) in rules(context, Layer::Http) {
        let declared = context.mesh().value.provider(&provider).cloned();
        match declared.and_then(|declared| service(context, &declared)) {
            Some(mut authz) => {
                authz.filter_enabled_metadata = Some(matched(RBAC, &provider));
                let rbac = http_pb::Rbac {
                    shadow_rules: Some(rules),
                    shadow_rules_stat_prefix: TOLD.into(),
                    ..Default::default()
                };
                all.push(http_filter(RBAC, any(&rbac)));
                all.push(http_filter("envoy.filters.http.ext_authz", any(&authz)));
            }
            None => {
                let rbac = http_pb::Rbac { rules: Some(denied(rules)), ..Default::default() };
                all.push(http_filter(RBAC, any(&rbac)));
            }
        }
    }
    all
}

/// The same of connections. Providers over HTTP say nothing of TCP, as in Istio; those over gRPC are asked.
pub(super) fn tcp(context: &Context<'_>) -> Vec<listener_pb::Filter> {
    let mut all = Vec::new();
    for (provider, rules) in rules(context, Layer::Tcp) {
        let declared = context.mesh().value.provider(&provider).cloned();
        if declared.as_ref().is_some_and(|declared| declared.envoy_ext_authz_http.is_some()) {
            continue;
        }
        let asked = declared.and_then(|declared| declared.envoy_ext_authz_grpc).and_then(|it| {
            let grpc = grpc_service(context, &it)?;
            Some((it.fail_open, grpc))
        });
        let stat_prefix = "tcp.".to_owned();
        let Some((failure_mode_allow, grpc)) = asked else {
            let rbac = network_pb::Rbac { rules: Some(denied(rules)), stat_prefix, ..Default::default() };
            all.push(network_filter(NETWORK_RBAC, any(&rbac)));
            continue;
        };
        let rbac = network_pb::Rbac {
            shadow_rules: Some(rules),
            shadow_rules_stat_prefix: TOLD.into(),
            stat_prefix: stat_prefix.clone(),
            ..Default::default()
        };
        let authz = network_authz_pb::ExtAuthz {
            stat_prefix,
            grpc_service: Some(grpc),
            failure_mode_allow,
            transport_api_version: core::ApiVersion::V3 as i32,
            filter_enabled_metadata: Some(matched(NETWORK_RBAC, &provider)),
            ..Default::default()
        };
        all.push(network_filter(NETWORK_RBAC, any(&rbac)));
        all.push(network_filter("envoy.filters.network.ext_authz", any(&authz)));
    }
    all
}

/// The rules of CUSTOM policies by their providers.
fn rules(context: &Context<'_>, layer: Layer) -> BTreeMap<String, pb::Rbac> {
    let domains = trust_domains(context);
    let mut all = BTreeMap::<String, pb::Rbac>::new();
    for policy in policies(context).iter().filter(|policy| policy.spec.action == Action::Custom) {
        let provider = policy.spec.provider.as_ref().map_or("", |provider| &provider.name);
        let place = rule::Place {
            layer,
            action: Action::Custom,
            namespace: &policy.name.namespace,
            domains: &domains,
        };
        let rules = all
            .entry(provider.to_owned())
            .or_insert_with(|| pb::Rbac { action: pb::rbac::Action::Deny as i32, ..Default::default() });
        for (at, rule) in policy.spec.rules.iter().enumerate() {
            if let Some(written) = rule::write(rule, &place) {
                let (namespace, name) = (&policy.name.namespace, &policy.name.name);
                let name = format!("{}ns[{namespace}]-policy[{name}]-rule[{at}]", prefix(provider));
                rules.policies.insert(name, written);
            }
        }
    }
    all.retain(|_, rules| !rules.policies.is_empty());
    all
}

fn prefix(provider: &str) -> String {
    format!("istio-ext-authz-{provider}-")
}

fn denied(rules: pb::Rbac) -> pb::Rbac {
    let policies = rules.policies.into_iter().map(|(name, policy)| (format!("{name}{BAD}"), policy));
    pb::Rbac { policies: policies.collect(), ..rules }
}

/// That a rule of this provider matched. No other provider's name can pass for this one's.
fn matched(filter: &str, provider: &str) -> matcher_pb::MetadataMatcher {
    use matcher_pb::metadata_matcher::{PathSegment, path_segment::Segment};
    use matcher_pb::string_matcher::MatchPattern;
    use matcher_pb::value_matcher::MatchPattern as Value;
    let text = matcher_pb::StringMatcher {
        match_pattern: Some(MatchPattern::Prefix(format!("{}ns[", prefix(provider)))),
        ..Default::default()
    };
    matcher_pb::MetadataMatcher {
        filter: filter.into(),
        path: vec![PathSegment { segment: Some(Segment::Key(format!("{TOLD}shadow_effective_policy_id"))) }],
        value: Some(matcher_pb::ValueMatcher { match_pattern: Some(Value::StringMatch(text)) }),
        ..Default::default()
    }
}

fn service(context: &Context<'_>, provider: &ExtensionProvider) -> Option<authz_pb::ExtAuthz> {
    match (&provider.envoy_ext_authz_http, &provider.envoy_ext_authz_grpc) {
        (Some(it), _) => over_http(context, it),
        (None, Some(it)) => over_grpc(context, it),
        (None, None) => None,
    }
}

fn over_http(context: &Context<'_>, it: &ExtAuthzHttpProvider) -> Option<authz_pb::ExtAuthz> {
    let (host, cluster) = service_cluster(context, &it.service, it.port)?;
    let asked = names(&it.include_request_headers_in_check).or(names(&it.include_headers_in_check));
    let added = it.include_additional_headers_in_check.iter().map(|(key, value)| core::HeaderValue {
        key: key.clone(),
        value: value.clone(),
        ..Default::default()
    });
    let added: Vec<_> = added.collect();
    let (up, deny, allow) = (
        names(&it.headers_to_upstream_on_allow),
        names(&it.headers_to_downstream_on_deny),
        names(&it.headers_to_downstream_on_allow),
    );
    let http = authz_pb::HttpService {
        server_uri: Some(core::HttpUri {
            uri: format!("http://{host}"),
            timeout: Some(limit(it.timeout)),
            http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(cluster)),
        }),
        path_prefix: it.path_prefix.clone(),
        authorization_request: (!added.is_empty())
            .then(|| authz_pb::AuthorizationRequest { headers_to_add: added.clone(), ..Default::default() }),
        authorization_response: (up.is_some() || deny.is_some() || allow.is_some()).then(|| {
            authz_pb::AuthorizationResponse {
                allowed_upstream_headers: up.clone(),
                allowed_client_headers: deny.clone(),
                allowed_client_headers_on_success: allow.clone(),
                ..Default::default()
            }
        }),
        ..Default::default()
    };
    Some(authz_pb::ExtAuthz {
        services: Some(authz_pb::ext_authz::Services::HttpService(http)),
        allowed_headers: asked,
        failure_mode_allow: it.fail_open,
        clear_route_cache: it.clear_route_cache,
        status_on_error: status(&it.status_on_error),
        with_request_body: it.include_request_body_in_check.as_ref().map(body),
        transport_api_version: core::ApiVersion::V3 as i32,
        ..Default::default()
    })
}

fn over_grpc(context: &Context<'_>, it: &ExtAuthzGrpcProvider) -> Option<authz_pb::ExtAuthz> {
    let grpc = grpc_service(context, it)?;
    Some(authz_pb::ExtAuthz {
        services: Some(authz_pb::ext_authz::Services::GrpcService(grpc)),
        failure_mode_allow: it.fail_open,
        clear_route_cache: it.clear_route_cache,
        status_on_error: status(&it.status_on_error),
        with_request_body: it.include_request_body_in_check.as_ref().map(body),
        transport_api_version: core::ApiVersion::V3 as i32,
        ..Default::default()
    })
}

fn grpc_service(context: &Context<'_>, it: &ExtAuthzGrpcProvider) -> Option<core::GrpcService> {
    let (_, cluster) = service_cluster(context, &it.service, it.port)?;
    // A cluster's name is no authority.
    let authority = cluster.replace('|', "_.");
    Some(core::GrpcService { timeout: Some(limit(it.timeout)), ..encode::grpc_service(cluster, authority) })
}

fn limit(timeout: Option<Duration>) -> proto::pb::google::protobuf::Duration {
    timeout.map_or(seconds(600), |timeout| duration(timeout.as_std()))
}

fn status(text: &str) -> Option<HttpStatus> {
    text.parse().ok().map(|code| HttpStatus { code })
}

fn body(it: &ExtAuthzRequestBody) -> authz_pb::BufferSettings {
    authz_pb::BufferSettings {
        max_request_bytes: it.max_request_bytes,
        allow_partial_message: it.allow_partial_message,
        pack_as_bytes: it.pack_as_bytes,
    }
}

/// `NAME`, `PREFIX*` and `*SUFFIX`.
fn names(list: &[String]) -> Option<matcher_pb::ListStringMatcher> {
    use matcher_pb::string_matcher::MatchPattern;
    let pattern = |name: &String| {
        let pattern = match (name.strip_prefix('*'), name.strip_suffix('*')) {
            (Some(suffix), _) => MatchPattern::Suffix(suffix.into()),
            (None, Some(prefix)) => MatchPattern::Prefix(prefix.into()),
            (None, None) => MatchPattern::Exact(name.clone()),
        };
        matcher_pb::StringMatcher { match_pattern: Some(pattern), ignore_case: true }
    };
    (!list.is_empty()).then(|| matcher_pb::ListStringMatcher { patterns: list.iter().map(pattern).collect() })
}
