//! RequestAuthentication: the filter that verifies tokens before policies ask what they say.
//!
//! As in Istio, a request without a token passes: that there must be one is for an AuthorizationPolicy to say. One whose
//! token is not taken is refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::security::{JwtRule, KeySource};
use jwt_pb::jwt_provider::JwksSourceSpecifier;
use jwt_pb::jwt_requirement::RequiresType;
use jwt_pb::requirement_rule::RequirementType;
use model::{Config, Key, KeySet, Kind};
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::config::route::v3 as route_pb;
use proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as jwt_pb;
use proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;

use crate::build::Context;
use crate::encode::any;
use crate::listener::http::http_filter;
use crate::{policies, readable};

/// The filter's name, which is also where in a request's metadata it leaves what it learned.
pub(crate) const FILTER: &str = "envoy.filters.http.jwt_authn";
/// Under which key there.
pub(crate) const PAYLOAD: &str = "payload";

/// Claims that are lists in words, whatever a rule says.
const SPACED: [&str; 2] = ["permission", "scope"];

pub(crate) fn http(context: &Context<'_>) -> Option<HttpFilter> {
    let policies = policies::selecting(context, Kind::RequestAuthentication, |snapshot| {
        snapshot.request_authentications()
    });
    // Istio orders them by the issuer; of one issuer, those of the workload's own namespace come first.
    let of = |policy: &Arc<Config<_>>| Arc::clone(policy);
    let (root, own): (Vec<_>, Vec<_>) =
        policies.iter().map(of).partition(|policy| policy.name.namespace == *policies::root(context));
    let policies: Vec<_> = own.into_iter().chain(root).collect();
    let mut rules: Vec<&JwtRule> = policies.iter().flat_map(|policy| &policy.spec.jwt_rules).collect();
    rules.sort_by(|a, b| a.issuer.cmp(&b.issuer));
    if rules.is_empty() {
        return None;
    }
    let named: Vec<(String, jwt_pb::JwtProvider)> = rules
        .iter()
        .enumerate()
        .map(|(index, rule)| (format!("origins-{index}"), provider(context, rule)))
        .collect();
    let filter = jwt_pb::JwtAuthentication {
        rules: vec![jwt_pb::RequirementRule {
            r#match: Some(route_pb::RouteMatch {
                path_specifier: Some(route_pb::route_match::PathSpecifier::Prefix("/".into())),
                ..Default::default()
            }),
            requirement_type: Some(RequirementType::Requires(requirement(
                named.iter().map(|(name, _)| name),
            ))),
        }],
        providers: named.into_iter().collect(),
        bypass_cors_preflight: true,
        ..Default::default()
    };
    Some(http_filter(FILTER, any(&filter)))
}

fn require(requires: RequiresType) -> jwt_pb::JwtRequirement {
    jwt_pb::JwtRequirement { requires_type: Some(requires) }
}

fn one_of(requirements: Vec<jwt_pb::JwtRequirement>) -> jwt_pb::JwtRequirement {
    require(RequiresType::RequiresAny(jwt_pb::JwtRequirementOrList { requirements }))
}

/// No token, or a good one. Several providers may look at the same place, hence one that takes it is enough; else each of
/// them must have none or take it.
fn requirement<'a>(names: impl Iterator<Item = &'a String>) -> jwt_pb::JwtRequirement {
    let names: Vec<&String> = names.collect();
    let by = |name: &String| require(RequiresType::ProviderName(name.clone()));
    let or_none =
        |name: &String| one_of(vec![by(name), require(RequiresType::AllowMissing(Default::default()))]);
    if let [name] = names.as_slice() {
        return or_none(name);
    }
    let mut any: Vec<_> = names.iter().map(|name| by(name)).collect();
    let requirements = names.iter().map(|name| or_none(name)).collect();
    any.push(require(RequiresType::RequiresAll(jwt_pb::JwtRequirementAndList { requirements })));
    one_of(any)
}

fn provider(context: &Context<'_>, rule: &JwtRule) -> jwt_pb::JwtProvider {
    let mut spaced: BTreeSet<String> = rule.space_delimited_claims.iter().cloned().collect();
    spaced.extend(SPACED.map(str::to_owned));
    let header = |header: &api::security::JwtHeader| jwt_pb::JwtHeader {
        name: header.name.clone(),
        value_prefix: header.prefix.clone(),
    };
    let claim = |both: &api::security::ClaimToHeader| jwt_pb::JwtClaimToHeader {
        header_name: both.header.clone(),
        claim_name: both.claim.clone(),
        ..Default::default()
    };
    jwt_pb::JwtProvider {
        issuer: rule.issuer.clone(),
        audiences: rule.audiences.clone(),
        forward: rule.forward_original_token,
        forward_payload_header: if readable::header_name(&rule.output_payload_to_header) {
            rule.output_payload_to_header.clone()
        } else {
            String::new()
        },
        payload_in_metadata: PAYLOAD.into(),
        normalize_payload_in_metadata: Some(jwt_pb::jwt_provider::NormalizePayload {
            space_delimited_claims: spaced.into_iter().collect(),
        }),
        from_headers: rule
            .from_headers
            .iter()
            .filter(|from| readable::header_name(&from.name))
            .map(header)
            .collect(),
        from_params: rule.from_params.clone(),
        from_cookies: rule.from_cookies.clone(),
        claim_to_headers: rule
            .output_claim_to_headers
            .iter()
            .filter(|both| readable::header_name(&both.header) && !both.claim.is_empty())
            .map(claim)
            .collect(),
        // At gateways, routes may ask what the token says.
        clear_route_cache: context.is_router(),
        jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString(keys(context, rule))),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// Keys that could not be fetched, or that proxies would not take, are nobody's: every token of the issuer is refused.
fn keys(context: &Context<'_>, rule: &JwtRule) -> String {
    let keys = match rule.key_source() {
        KeySource::Inline(keys) => Some(keys.to_owned()),
        KeySource::Uri(_) | KeySource::Issuer(_) => KeySet::name_for(rule).and_then(|name| {
            let snapshot = context.reader.read(Key::KeySet(name.clone()));
            snapshot.key_set(&name)?.keys.as_ref().map(ToString::to_string)
        }),
    };
    let usable = |keys: &String| syntax::jwks::parse(keys.as_bytes()).is_ok_and(|keys| !keys.is_empty());
    keys.filter(usable).unwrap_or_else(|| syntax::jwks::NOBODYS.to_owned())
}
