//! RBAC from its protobuf form.

use proto::pb::envoy::config::rbac::v3 as pb;
use proto::pb::envoy::extensions::filters::http::rbac::v3 as http;
use proto::pb::envoy::extensions::filters::network::rbac::v3 as network;
use proto::pb::envoy::r#type::matcher::v3 as matcher;

use super::rule::{Permission, Principal};
use super::{Action, Engine, Policy, Rbac};
use crate::matching::{HeaderMatcher, MetadataMatcher, StringMatcher, uri_template};
use crate::refusal::{Refusal, Taken, Within, each};
use crate::wire::Cidr;

impl Rbac {
    pub(crate) fn compile_http(message: &http::Rbac) -> Taken<Self> {
        Ok(Self {
            rules: engine(&message.rules, "rules")?,
            shadow: engine(&message.shadow_rules, "shadowRules")?,
            shadow_prefix: message.shadow_rules_stat_prefix.as_str().into(),
            stat_prefix: message.rules_stat_prefix.as_str().into(),
        })
    }

    pub(crate) fn compile_network(message: &network::Rbac) -> Taken<Self> {
        if message.enforcement_type == network::rbac::EnforcementType::Continuous as i32 {
            return Err(Refusal::unsupported("enforcementType"));
        }
        Ok(Self {
            rules: engine(&message.rules, "rules")?,
            shadow: engine(&message.shadow_rules, "shadowRules")?,
            shadow_prefix: message.shadow_rules_stat_prefix.as_str().into(),
            stat_prefix: message.stat_prefix.as_str().into(),
        })
    }
}

fn engine(message: &Option<pb::Rbac>, field: &str) -> Taken<Option<Engine>> {
    message.as_ref().map(|m| compile_engine(m).within(field)).transpose()
}

fn compile_engine(message: &pb::Rbac) -> Taken<Engine> {
    let action = match pb::rbac::Action::try_from(message.action) {
        Ok(pb::rbac::Action::Allow) => Action::Allow,
        Ok(pb::rbac::Action::Deny) => Action::Deny,
        Ok(pb::rbac::Action::Log) => Action::Log,
        Err(_) => return Err(Refusal::new("unknown").under("action")),
    };
    let mut policies = message
        .policies
        .iter()
        .map(|(name, policy)| compile_policy(name, policy).keyed("policies", name))
        .collect::<Taken<Vec<_>>>()?;
    policies.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Engine { action, policies })
}

fn compile_policy(name: &str, policy: &pb::Policy) -> Taken<Policy> {
    Ok(Policy {
        name: name.into(),
        permissions: each(&policy.permissions, "permissions", permission)?,
        principals: each(&policy.principals, "principals", principal)?,
    })
}

fn permission(p: &pb::Permission) -> Taken<Permission> {
    use pb::permission::Rule;
    Ok(match p.rule.as_ref().ok_or_else(|| Refusal::new("is empty"))? {
        Rule::Any(true) => Permission::Any,
        Rule::Any(false) => return Err(Refusal::new("must be true").under("any")),
        Rule::AndRules(set) => Permission::And(each(&set.rules, "rules", permission).within("andRules")?),
        Rule::OrRules(set) => Permission::Or(each(&set.rules, "rules", permission).within("orRules")?),
        Rule::NotRule(inner) => Permission::Not(Box::new(permission(inner).within("notRule")?)),
        Rule::Header(h) => Permission::Header(Box::new(HeaderMatcher::compile(h).within("header")?)),
        Rule::UrlPath(path) => Permission::Path(url_path(path).within("urlPath")?),
        Rule::DestinationIp(range) => {
            Permission::DestinationIp(Cidr::compile(range).within("destinationIp")?)
        }
        Rule::DestinationPort(port) => Permission::DestinationPort(
            u16::try_from(*port)
                .map_err(|_| Refusal::new("must be at most 65535").under("destinationPort"))?,
        ),
        Rule::DestinationPortRange(range) => {
            let wrong = || Refusal::new("must be within 0..65536").under("destinationPortRange");
            let start = u16::try_from(range.start).map_err(|_| wrong())?;
            Permission::DestinationPorts(start, u32::try_from(range.end).map_err(|_| wrong())?)
        }
        Rule::Metadata(m) => Permission::Metadata(MetadataMatcher::compile(m).within("metadata")?),
        Rule::RequestedServerName(s) => {
            Permission::ServerName(StringMatcher::compile(s).within("requestedServerName")?)
        }
        Rule::SourcedMetadata(m) => Permission::Metadata(sourced(m).within("sourcedMetadata")?),
        Rule::Matcher(m) => {
            return Err(
                Refusal::new(format_args!("{} is not supported by this proxy", m.name)).under("matcher")
            );
        }
        Rule::UriTemplate(extension) => {
            Permission::Path(StringMatcher::Regex(uri_template(extension).within("uriTemplate")?))
        }
    })
}

fn principal(p: &pb::Principal) -> Taken<Principal> {
    use pb::principal::Identifier;
    Ok(match p.identifier.as_ref().ok_or_else(|| Refusal::new("is empty"))? {
        Identifier::Any(true) => Principal::Any,
        Identifier::Any(false) => return Err(Refusal::new("must be true").under("any")),
        Identifier::AndIds(set) => Principal::And(each(&set.ids, "ids", principal).within("andIds")?),
        Identifier::OrIds(set) => Principal::Or(each(&set.ids, "ids", principal).within("orIds")?),
        Identifier::NotId(inner) => Principal::Not(Box::new(principal(inner).within("notId")?)),
        Identifier::Authenticated(a) => Principal::Authenticated(
            a.principal_name
                .as_ref()
                .map(StringMatcher::compile)
                .transpose()
                .within("principalName")
                .within("authenticated")?,
        ),
        Identifier::SourceIp(range) => Principal::SourceIp(Cidr::compile(range).within("sourceIp")?),
        Identifier::DirectRemoteIp(range) => {
            Principal::DirectRemoteIp(Cidr::compile(range).within("directRemoteIp")?)
        }
        Identifier::RemoteIp(range) => Principal::RemoteIp(Cidr::compile(range).within("remoteIp")?),
        Identifier::Header(h) => Principal::Header(Box::new(HeaderMatcher::compile(h).within("header")?)),
        Identifier::UrlPath(path) => Principal::Path(url_path(path).within("urlPath")?),
        Identifier::Metadata(m) => Principal::Metadata(MetadataMatcher::compile(m).within("metadata")?),
        Identifier::SourcedMetadata(m) => Principal::Metadata(sourced(m).within("sourcedMetadata")?),
        Identifier::FilterState(f) => return filter_state(f).within("filterState"),
        Identifier::Custom(c) => {
            return Err(
                Refusal::new(format_args!("{} is not supported by this proxy", c.name)).under("custom")
            );
        }
    })
}

/// Istio asks for the peer's principal by filter state (`io.istio.peer_principal`) where HBONE ends elsewhere.
fn filter_state(f: &matcher::FilterStateMatcher) -> Taken<Principal> {
    use matcher::filter_state_matcher::Matcher;
    match (&*f.key, &f.matcher) {
        ("io.istio.peer_principal", Some(Matcher::StringMatch(s))) => {
            Ok(Principal::Authenticated(Some(StringMatcher::compile(s).within("stringMatch")?)))
        }
        (key, _) => Err(Refusal::new(format_args!("{key:?} is not known to this proxy")).under("key")),
    }
}

fn url_path(path: &matcher::PathMatcher) -> Taken<StringMatcher> {
    match &path.rule {
        Some(matcher::path_matcher::Rule::Path(s)) => StringMatcher::compile(s).within("path"),
        None => Err(Refusal::new("is empty")),
    }
}

fn sourced(m: &pb::SourcedMetadata) -> Taken<MetadataMatcher> {
    if m.metadata_source != pb::MetadataSource::Dynamic as i32 {
        return Err(Refusal::new("only DYNAMIC is supported").under("metadataSource"));
    }
    let inner =
        m.metadata_matcher.as_ref().ok_or_else(|| Refusal::new("is missing").under("metadataMatcher"))?;
    MetadataMatcher::compile(inner).within("metadataMatcher")
}
