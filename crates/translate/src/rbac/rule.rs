//! One rule: sources, operations and conditions, as permissions and principals.

use api::security::{Action, Condition, Operation, Rule, Source, claim_of_condition};
use pb::permission::Rule as Permit;
use pb::principal::Identifier;
use proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use proto::pb::envoy::config::rbac::v3 as pb;
use proto::pb::envoy::config::route::v3 as route_pb;
use proto::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use proto::pb::envoy::r#type::matcher::v3 as matcher;

use super::Layer;
use crate::claims;
use crate::encode::any;
use crate::listener::tcp::cidr;

/// What a rule is written for.
pub(super) struct Place<'a> {
    pub(super) layer: Layer,
    pub(super) action: Action,
    pub(super) namespace: &'a str,
    /// The mesh's trust domain and its aliases.
    pub(super) domains: &'a [String],
}

/// A condition: some of these, and none of those.
struct Check<T> {
    any_of: Vec<T>,
    none_of: Vec<T>,
    http_only: bool,
    /// Values were written, but none of them can ever match.
    impossible: bool,
}

impl<T> Check<T> {
    fn new(
        values: &[String],
        not: &[String],
        http_only: bool,
        write: impl Fn(&str) -> Vec<T>,
    ) -> Option<Self> {
        if values.is_empty() && not.is_empty() {
            return None;
        }
        let all = |list: &[String]| list.iter().flat_map(|value| write(value)).collect::<Vec<_>>();
        let (any_of, none_of) = (all(values), all(not));
        let impossible = any_of.is_empty() && !values.is_empty();
        Some(Self { any_of, none_of, http_only, impossible })
    }
}

/// `None` for a rule that can never match at this layer.
pub(super) fn write(rule: &Rule, place: &Place<'_>) -> Option<pb::Policy> {
    let mut of_permission = Vec::new();
    let mut of_principal = Vec::new();
    for condition in &rule.when {
        match condition_check(condition, place) {
            Some(When::Permission(check)) => of_permission.push(check),
            Some(When::Principal(check)) => of_principal.push(check),
            // A key that is not known was refused when it was written; here it is safe to refuse more.
            None if place.action == Action::Allow => return None,
            None => {}
        }
    }
    let of_permission = permissions(of_permission, place)?;
    let of_principal = principals(of_principal, place)?;
    let operations = rule.to.iter().filter_map(|to| to.operation.as_ref());
    let mut permitted: Vec<pb::Permission> = operations
        .filter_map(|operation| {
            let mut all = permissions(operation_checks(operation), place)?;
            all.extend(of_permission.clone());
            Some(all_permissions(all))
        })
        .collect();
    if permitted.is_empty() {
        if !rule.to.is_empty() {
            return None;
        }
        permitted.push(all_permissions(of_permission));
    }
    let sources = rule.from.iter().filter_map(|from| from.source.as_ref());
    let mut callers: Vec<pb::Principal> = sources
        .filter_map(|source| {
            let mut all = principals(source_checks(source, place), place)?;
            all.extend(of_principal.clone());
            Some(all_principals(all))
        })
        .collect();
    if callers.is_empty() {
        if !rule.from.is_empty() {
            return None;
        }
        callers.push(all_principals(of_principal));
    }
    Some(pb::Policy { permissions: permitted, principals: callers, ..Default::default() })
}

fn permission(rule: Permit) -> pb::Permission {
    pb::Permission { rule: Some(rule) }
}

fn principal(identifier: Identifier) -> pb::Principal {
    pb::Principal { identifier: Some(identifier) }
}

fn all_permissions(mut rules: Vec<pb::Permission>) -> pb::Permission {
    if rules.is_empty() {
        rules.push(permission(Permit::Any(true)));
    }
    permission(Permit::AndRules(pb::permission::Set { rules }))
}

fn all_principals(mut ids: Vec<pb::Principal>) -> pb::Principal {
    if ids.is_empty() {
        ids.push(principal(Identifier::Any(true)));
    }
    principal(Identifier::AndIds(pb::principal::Set { ids }))
}

/// Those of the checks that can be judged here; `None` if one of them cannot hold.
fn judged<T>(checks: Vec<Check<T>>, place: &Place<'_>) -> Option<Vec<Check<T>>> {
    let mut kept = Vec::new();
    for check in checks {
        if check.http_only && place.layer == Layer::Tcp {
            if place.action == Action::Allow {
                return None;
            }
        } else if check.impossible {
            return None;
        } else {
            kept.push(check);
        }
    }
    Some(kept)
}

fn permissions(checks: Vec<Check<pb::Permission>>, place: &Place<'_>) -> Option<Vec<pb::Permission>> {
    let mut all = Vec::new();
    let some = |rules| permission(Permit::OrRules(pb::permission::Set { rules }));
    for check in judged(checks, place)? {
        if !check.any_of.is_empty() {
            all.push(some(check.any_of));
        }
        if !check.none_of.is_empty() {
            all.push(permission(Permit::NotRule(Box::new(some(check.none_of)))));
        }
    }
    Some(all)
}

fn principals(checks: Vec<Check<pb::Principal>>, place: &Place<'_>) -> Option<Vec<pb::Principal>> {
    let mut all = Vec::new();
    let some = |ids| principal(Identifier::OrIds(pb::principal::Set { ids }));
    for check in judged(checks, place)? {
        if !check.any_of.is_empty() {
            all.push(some(check.any_of));
        }
        if !check.none_of.is_empty() {
            all.push(principal(Identifier::NotId(Box::new(some(check.none_of)))));
        }
    }
    Some(all)
}

fn operation_checks(operation: &Operation) -> Vec<Check<pb::Permission>> {
    let host = |value: &str| vec![permission(Permit::Header(header(":authority", value, true)))];
    let method = |value: &str| vec![permission(Permit::Header(header(":method", value, false)))];
    [
        Check::new(&operation.hosts, &operation.not_hosts, true, host),
        Check::new(&operation.methods, &operation.not_methods, true, method),
        Check::new(&operation.paths, &operation.not_paths, true, |value| vec![path(value)]),
        Check::new(&operation.ports, &operation.not_ports, false, port),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn source_checks(source: &Source, place: &Place<'_>) -> Vec<Check<pb::Principal>> {
    let named = |value: &str| principal_names(value, place.domains);
    let namespace = |value: &str| vec![authenticated(regex_matcher(&namespace_regex(value)))];
    let account = |value: &str| vec![authenticated(regex_matcher(&account_regex(value, place.namespace)))];
    let domain = |value: &str| vec![trust_domain(value)];
    [
        Check::new(&source.principals, &source.not_principals, false, named),
        Check::new(&source.request_principals, &source.not_request_principals, true, |value| {
            vec![request_principal(value)]
        }),
        Check::new(&source.namespaces, &source.not_namespaces, false, namespace),
        Check::new(&source.service_accounts, &source.not_service_accounts, false, account),
        Check::new(&source.trust_domains, &source.not_trust_domains, false, domain),
        Check::new(&source.ip_blocks, &source.not_ip_blocks, false, |value| {
            address(value, Identifier::DirectRemoteIp)
        }),
        Check::new(&source.remote_ip_blocks, &source.not_remote_ip_blocks, false, |value| {
            address(value, Identifier::RemoteIp)
        }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

enum When {
    Permission(Check<pb::Permission>),
    Principal(Check<pb::Principal>),
}

fn condition_check(condition: &Condition, place: &Place<'_>) -> Option<When> {
    let Condition { key, values, not_values } = condition;
    let of_caller = |http_only, write: &dyn Fn(&str) -> Vec<pb::Principal>| {
        Check::new(values, not_values, http_only, write).map(When::Principal)
    };
    let of_call = |write: &dyn Fn(&str) -> Vec<pb::Permission>| {
        Check::new(values, not_values, false, write).map(When::Permission)
    };
    if let Some(name) = bracketed(key, "request.headers[") {
        return of_caller(true, &|value| vec![principal(Identifier::Header(header(name, value, false)))]);
    }
    if let Some(path) = claim_of_condition(key) {
        return of_caller(true, &|value| vec![claim(&path, string(value, false))]);
    }
    match key.as_str() {
        "source.ip" => of_caller(false, &|value| address(value, Identifier::DirectRemoteIp)),
        "remote.ip" => of_caller(false, &|value| address(value, Identifier::RemoteIp)),
        "source.namespace" => {
            of_caller(false, &|value| vec![authenticated(regex_matcher(&namespace_regex(value)))])
        }
        "source.trustDomain" => of_caller(false, &|value| vec![trust_domain(value)]),
        "source.principal" => of_caller(false, &|value| principal_names(value, place.domains)),
        "source.serviceAccount" => of_caller(false, &|value| {
            vec![authenticated(regex_matcher(&account_regex(value, place.namespace)))]
        }),
        "request.auth.principal" => of_caller(true, &|value| vec![request_principal(value)]),
        "request.auth.audiences" => of_caller(true, &|value| vec![claim(&["aud"], string(value, false))]),
        "request.auth.presenter" => of_caller(true, &|value| vec![claim(&["azp"], string(value, false))]),
        "destination.ip" => of_call(&|value| {
            cidr(value).map(|range| permission(Permit::DestinationIp(range))).into_iter().collect()
        }),
        "destination.port" => of_call(&port),
        "connection.sni" => {
            of_call(&|value| vec![permission(Permit::RequestedServerName(string(value, false)))])
        }
        _ => None,
    }
}

fn bracketed<'a>(key: &'a str, prefix: &str) -> Option<&'a str> {
    key.strip_prefix(prefix)?.strip_suffix(']')
}

/// `*` is anything that is there, `a*` a prefix, `*a` a suffix, else exact.
fn string(value: &str, ignore_case: bool) -> matcher::StringMatcher {
    use matcher::string_matcher::MatchPattern;
    let pattern = if value == "*" {
        MatchPattern::SafeRegex(regex(".+"))
    } else if let Some(prefix) = value.strip_suffix('*') {
        MatchPattern::Prefix(prefix.into())
    } else if let Some(suffix) = value.strip_prefix('*') {
        MatchPattern::Suffix(suffix.into())
    } else {
        MatchPattern::Exact(value.into())
    };
    let regex = matches!(pattern, MatchPattern::SafeRegex(_));
    matcher::StringMatcher { match_pattern: Some(pattern), ignore_case: ignore_case && !regex }
}

fn regex(text: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher { regex: text.into(), ..Default::default() }
}

fn regex_matcher(text: &str) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::SafeRegex(regex(text))),
        ..Default::default()
    }
}

fn header(name: &str, value: &str, ignore_case: bool) -> route_pb::HeaderMatcher {
    use route_pb::header_matcher::HeaderMatchSpecifier;
    route_pb::HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(match value {
            "*" => HeaderMatchSpecifier::PresentMatch(true),
            value => HeaderMatchSpecifier::StringMatch(string(value, ignore_case)),
        }),
        ..Default::default()
    }
}

fn path(value: &str) -> pb::Permission {
    if value.contains("{*}") || value.contains("{**}") {
        let template = value.replace("{**}", "**").replace("{*}", "*");
        return permission(Permit::UriTemplate(TypedExtensionConfig {
            name: "uri-template".into(),
            typed_config: Some(any(&UriTemplateMatchConfig { path_template: template })),
        }));
    }
    permission(Permit::UrlPath(matcher::PathMatcher {
        rule: Some(matcher::path_matcher::Rule::Path(string(value, false))),
    }))
}

fn port(value: &str) -> Vec<pb::Permission> {
    value.parse().map(|port| permission(Permit::DestinationPort(port))).into_iter().collect()
}

fn address(
    value: &str,
    of: fn(proto::pb::envoy::config::core::v3::CidrRange) -> Identifier,
) -> Vec<pb::Principal> {
    cidr(value).map(|range| principal(of(range))).into_iter().collect()
}

fn authenticated(name: matcher::StringMatcher) -> pb::Principal {
    principal(Identifier::Authenticated(pb::principal::Authenticated { principal_name: Some(name) }))
}

/// A principal of the mesh's own trust domain is one of every alias of it as well.
fn principal_names(value: &str, domains: &[String]) -> Vec<pb::Principal> {
    use matcher::string_matcher::MatchPattern;
    if value == "*" {
        return vec![authenticated(regex_matcher(".+"))];
    }
    if let Some(suffix) = value.strip_prefix('*') {
        return vec![authenticated(regex_matcher(&format!("spiffe://.*{}", escape(suffix))))];
    }
    let mut names = vec![value.to_owned()];
    if let Some((domain, rest)) = value.split_once('/')
        && (domain == "cluster.local" || domains.iter().any(|own| own == domain))
    {
        names = domains.iter().map(|own| format!("{own}/{rest}")).collect();
    }
    names
        .into_iter()
        .map(|name| {
            let pattern = match name.strip_suffix('*') {
                Some(prefix) => MatchPattern::Prefix(format!("spiffe://{prefix}")),
                None => MatchPattern::Exact(format!("spiffe://{name}")),
            };
            authenticated(matcher::StringMatcher { match_pattern: Some(pattern), ..Default::default() })
        })
        .collect()
}

/// A name with `*` at one end as an expression that crosses no slash.
fn glob(value: &str) -> String {
    if value == "*" {
        return "[^/]+".into();
    }
    let any = "[^/]*";
    match (value.strip_prefix('*'), value.strip_suffix('*')) {
        (Some(suffix), _) => format!("{any}{}", escape(suffix)),
        (None, Some(prefix)) => format!("{}{any}", escape(prefix)),
        (None, None) => escape(value),
    }
}

fn namespace_regex(value: &str) -> String {
    format!(".*/ns/{}/.*", glob(value))
}

fn trust_domain(value: &str) -> pb::Principal {
    authenticated(regex_matcher(&format!("spiffe://{}/.*", glob(value))))
}

/// `account` of the policy's own namespace, or `namespace/account`.
fn account_regex(value: &str, own: &str) -> String {
    let (namespace, account) = value.split_once('/').unwrap_or((own, value));
    format!("spiffe://.+/ns/{}/sa/{}", escape(namespace), escape(account))
}

/// Every character that means something in an expression, taken literally.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$#&-~".contains(c) && c != '-' && c != '&' && c != '~' && c != '#' {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// What a verified token says: one of the words of a list, or the one word.
fn claim(path: &[&str], value: matcher::StringMatcher) -> pb::Principal {
    metadata(claims::matcher(path, value))
}

#[allow(deprecated)]
fn metadata(matcher: matcher::MetadataMatcher) -> pb::Principal {
    principal(Identifier::Metadata(matcher))
}

/// `issuer/subject`, of which either end may be a wildcard; `*` for any verified token. The issuer may hold slashes.
fn request_principal(value: &str) -> pb::Principal {
    let (issuer, subject) = match value.rsplit_once('/') {
        Some(both) => both,
        None if value == "*" => ("*", "*"),
        None if value.starts_with('*') => ("*", value),
        None if value.ends_with('*') => (value, "*"),
        // As in Istio, no subject at all.
        None => (value, ""),
    };
    let text = |name, text| metadata(claims::text_matcher(name, string(text, false)));
    all_principals(vec![text("iss", issuer), text("sub", subject)])
}
