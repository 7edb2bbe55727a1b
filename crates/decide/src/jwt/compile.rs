//! From Envoy's messages.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pb::jwt_provider::JwksSourceSpecifier;
use pb::jwt_requirement::RequiresType;
use pb::requirement_rule::RequirementType;
use proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as pb;

use super::extract::Place;
use super::remote::Remote;
use super::{JwtAuthn, Keys, PerRoute, Provider, Requirement, Source};
use crate::headers::{HeaderName, Known};
use crate::matching::StringMatcher;
use crate::refusal::{Refusal, Taken, Within, each};
use crate::route::RouteMatch;
use crate::wire::{DataSource, timeout};

/// How far clocks may be apart where the configuration does not say.
const SKEW: Duration = Duration::from_secs(60);

impl JwtAuthn {
    pub(crate) fn compile(message: &pb::JwtAuthentication) -> Taken<Self> {
        let mut providers = Vec::with_capacity(message.providers.len());
        let mut names: Vec<&String> = message.providers.keys().collect();
        names.sort();
        for name in names {
            let provider = Provider::compile(providers.len(), name, &message.providers[name]);
            providers.push(provider.keyed("providers", name)?);
        }
        let mut all = Self {
            providers,
            rules: Vec::new(),
            named: Vec::new(),
            bypass_preflights: message.bypass_cors_preflight,
            strip_reply: message.strip_failure_response,
        };
        all.named = all.compile_named(&message.requirement_map)?;
        all.rules = each(&message.rules, "rules", |rule| all.rule(rule))?;
        Ok(all)
    }

    fn compile_named(
        &self,
        map: &HashMap<String, pb::JwtRequirement>,
    ) -> Taken<Vec<(Box<str>, Requirement)>> {
        let mut named = Vec::with_capacity(map.len());
        for (name, message) in map {
            // One without a requirement asks for nothing.
            let requirement = self.requirement(message, &[]).keyed("requirementMap", name)?;
            named.push((name.as_str().into(), requirement.unwrap_or(Requirement::All(Vec::new()))));
        }
        Ok(named)
    }

    fn rule(&self, rule: &pb::RequirementRule) -> Taken<(RouteMatch, Option<Requirement>)> {
        let matcher = rule.r#match.as_ref().ok_or_else(|| Refusal::new("is missing").under("match"))?;
        let requirement = match &rule.requirement_type {
            None => None,
            Some(RequirementType::Requires(requires)) => {
                self.requirement(requires, &[]).within("requires")?
            }
            Some(RequirementType::RequirementName(name)) => {
                let found = self.named.iter().find(|(known, _)| **known == **name);
                let missing = || Refusal::new("is not in requirementMap").under("requirementName");
                Some(found.map(|(_, requirement)| requirement.clone()).ok_or_else(missing)?)
            }
        };
        Ok((RouteMatch::compile(matcher).within("match")?, requirement))
    }

    /// `beside`: the providers of the requirements that this one stands beside, whose tokens may be missing.
    fn requirement(&self, message: &pb::JwtRequirement, beside: &[usize]) -> Taken<Option<Requirement>> {
        let Some(requires) = &message.requires_type else { return Ok(None) };
        Ok(Some(match requires {
            RequiresType::ProviderName(name) => {
                Requirement::Provider { provider: self.provider(name, "providerName")?, audiences: None }
            }
            RequiresType::ProviderAndAudiences(both) => {
                let provider =
                    self.provider(&both.provider_name, "providerName").within("providerAndAudiences")?;
                let audiences: Vec<Box<str>> = both.audiences.iter().map(|a| a.as_str().into()).collect();
                Requirement::Provider { provider, audiences: (!audiences.is_empty()).then_some(audiences) }
            }
            RequiresType::RequiresAny(list) => {
                let direct = |message: &pb::JwtRequirement| match &message.requires_type {
                    Some(RequiresType::ProviderName(name)) => Some(name.clone()),
                    Some(RequiresType::ProviderAndAudiences(both)) => Some(both.provider_name.clone()),
                    _ => None,
                };
                let names = list.requirements.iter().filter_map(direct);
                let used: Vec<usize> =
                    names.filter_map(|name| self.provider(&name, "providerName").ok()).collect();
                let mut any = self.list(&list.requirements, &used).within("requiresAny")?;
                // What lets everybody through is asked last, and once.
                let lenient = |r: &Requirement| {
                    matches!(r, Requirement::AllowMissing(_) | Requirement::AllowMissingOrFailed(_))
                };
                let failed = any.iter().any(|r| matches!(r, Requirement::AllowMissingOrFailed(_)));
                let missing = any.iter().any(lenient);
                any.retain(|r| !lenient(r));
                if failed {
                    any.push(Requirement::AllowMissingOrFailed(used));
                } else if missing {
                    any.push(Requirement::AllowMissing(used));
                }
                Requirement::Any(any)
            }
            RequiresType::RequiresAll(list) => {
                Requirement::All(self.list(&list.requirements, &[]).within("requiresAll")?)
            }
            RequiresType::AllowMissing(_) => Requirement::AllowMissing(beside.to_vec()),
            RequiresType::AllowMissingOrFailed(_) => Requirement::AllowMissingOrFailed(beside.to_vec()),
            RequiresType::ExtractOnlyWithoutValidation(_) => {
                return Err(Refusal::unsupported("extractOnlyWithoutValidation"));
            }
        }))
    }

    fn list(&self, messages: &[pb::JwtRequirement], beside: &[usize]) -> Taken<Vec<Requirement>> {
        let all = each(messages, "requirements", |message| self.requirement(message, beside))?;
        Ok(all.into_iter().map(|r| r.unwrap_or(Requirement::All(Vec::new()))).collect())
    }

    fn provider(&self, name: &str, field: &str) -> Taken<usize> {
        let found = self.providers.iter().position(|p| &*p.name == name);
        found.ok_or_else(|| Refusal::new(format_args!("there is no provider {name:?}")).under(field))
    }
}

impl PerRoute {
    pub(crate) fn compile(message: &pb::PerRouteConfig) -> Taken<Self> {
        use pb::per_route_config::RequirementSpecifier;
        match &message.requirement_specifier {
            Some(RequirementSpecifier::Disabled(true)) => Ok(Self::Disabled),
            Some(RequirementSpecifier::RequirementName(name)) => Ok(Self::Named(name.as_str().into())),
            _ => Err(Refusal::new("must be disabled, or name a requirement")),
        }
    }
}

impl Provider {
    fn compile(number: usize, name: &str, message: &pb::JwtProvider) -> Taken<Self> {
        let source = match &message.jwks_source_specifier {
            Some(JwksSourceSpecifier::LocalJwks(source)) => {
                // A set without a key that can be used leaves nobody in; as in Envoy, the rest still holds.
                Source::Here(Keys::parse(&DataSource::inline(source).within("localJwks")?).ok())
            }
            Some(JwksSourceSpecifier::RemoteJwks(remote)) => {
                Source::There(Arc::new(Remote::compile(remote).within("remoteJwks")?))
            }
            None => return Err(Refusal::new("says no keys: set localJwks or remoteJwks")),
        };
        let name_of = |text: &str| HeaderName::from(text);
        let mut places: Vec<Place> = message
            .from_headers
            .iter()
            .map(|header| Place::Header(name_of(&header.name), header.value_prefix.as_str().into()))
            .collect();
        places.extend(message.from_params.iter().map(|name| Place::Parameter(name.as_str().into())));
        places.extend(message.from_cookies.iter().map(|name| Place::Cookie(name.as_str().into())));
        if places.is_empty() {
            places.push(Place::Header(Known::Authorization.into(), "Bearer ".into()));
            places.push(Place::Parameter("access_token".into()));
        }
        let payload = &message.forward_payload_header;
        let skew = u64::from(message.clock_skew_seconds);
        let spaced = message.normalize_payload_in_metadata.iter().flat_map(|n| &n.space_delimited_claims);
        Ok(Self {
            number,
            name: name.into(),
            issuer: message.issuer.as_str().into(),
            audiences: message.audiences.iter().map(|a| a.as_str().into()).collect(),
            subjects: message.subjects.as_ref().map(StringMatcher::compile).transpose().within("subjects")?,
            require_expiration: message.require_expiration,
            max_lifetime: timeout(&message.max_lifetime, "maxLifetime")?,
            source,
            forward: message.forward,
            places,
            payload_header: (!payload.is_empty())
                .then(|| (name_of(payload), message.pad_forward_payload_header)),
            payload_key: message.payload_in_metadata.as_str().into(),
            spaced_claims: spaced.map(|claim| claim.as_str().into()).collect(),
            header_key: message.header_in_metadata.as_str().into(),
            reroute: message.clear_route_cache,
            failure_key: message.failed_status_in_metadata.as_str().into(),
            skew: if skew == 0 { SKEW } else { Duration::from_secs(skew) },
            claim_headers: message
                .claim_to_headers
                .iter()
                .map(|both| (name_of(&both.header_name), both.claim_name.as_str().into()))
                .collect(),
        })
    }
}
