//! Conditions of a route, as Envoy writes them.

use std::collections::BTreeMap;

use api::networking as net;
use api::{StringMatch, StringMatchKind};
use proto::pb::envoy::config::route::v3 as pb;
use proto::pb::envoy::r#type::matcher::v3 as matcher;

use crate::claims;
use crate::encode::boolv;

pub(super) fn everything() -> pb::RouteMatch {
    pb::RouteMatch {
        path_specifier: Some(pb::route_match::PathSpecifier::Prefix("/".into())),
        ..Default::default()
    }
}

/// The conditions on the request itself; those on its source are the builder's.
pub(super) fn of(request: &net::HttpMatchRequest) -> pb::RouteMatch {
    use pb::route_match::PathSpecifier;
    let path = match request.uri.as_ref().map(StringMatch::kind) {
        Some(StringMatchKind::Exact(path)) => PathSpecifier::Path(path.into()),
        Some(StringMatchKind::Prefix(prefix)) => PathSpecifier::Prefix(prefix.into()),
        Some(StringMatchKind::Regex(regex)) => PathSpecifier::SafeRegex(self::regex(regex)),
        Some(StringMatchKind::Present) | None => PathSpecifier::Prefix("/".into()),
    };
    let mut headers = Vec::new();
    let mut dynamic_metadata = Vec::new();
    let wanted = request.headers.iter().map(|header| (header, false));
    for ((name, value), invert) in wanted.chain(request.without_headers.iter().map(|header| (header, true))) {
        match net::routing_claim(name) {
            Some(path) => dynamic_metadata.push(claim(&path, value, invert)),
            None => headers.push(header(name, value, invert)),
        }
    }
    let pseudo =
        [(":method", &request.method), (":authority", &request.authority), (":scheme", &request.scheme)];
    for (name, value) in pseudo {
        headers.extend(value.iter().map(|value| header(name, value, false)));
    }
    pb::RouteMatch {
        path_specifier: Some(path),
        case_sensitive: Some(boolv(!request.ignore_uri_case)),
        headers,
        dynamic_metadata,
        query_parameters: query(&request.query_params),
        ..Default::default()
    }
}

fn query(wanted: &BTreeMap<String, StringMatch>) -> Vec<pb::QueryParameterMatcher> {
    use pb::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
    let one = |(name, value): (&String, &StringMatch)| pb::QueryParameterMatcher {
        name: name.clone(),
        query_parameter_match_specifier: Some(match string(value) {
            Some(matcher) => Specifier::StringMatch(matcher),
            None => Specifier::PresentMatch(true),
        }),
    };
    wanted.iter().map(one).collect()
}

fn header(name: &str, value: &StringMatch, invert: bool) -> pb::HeaderMatcher {
    use pb::header_matcher::HeaderMatchSpecifier as Specifier;
    pb::HeaderMatcher {
        name: name.into(),
        invert_match: invert,
        header_match_specifier: Some(match string(value).filter(|_| !is_anything(value)) {
            Some(matcher) => Specifier::StringMatch(matcher),
            None => Specifier::PresentMatch(true),
        }),
        ..Default::default()
    }
}

/// What a token says that the gateway verified.
fn claim(path: &[&str], value: &StringMatch, invert: bool) -> matcher::MetadataMatcher {
    // Presence is any word.
    let any = || matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::SafeRegex(regex(".*"))),
        ..Default::default()
    };
    let value = string(value).filter(|_| !is_anything(value)).unwrap_or_else(any);
    matcher::MetadataMatcher { invert, ..claims::matcher(path, value) }
}

/// Istio's word for presence, which is no regular expression.
pub(crate) fn is_anything(value: &StringMatch) -> bool {
    value.regex.as_deref() == Some("*")
}

/// `None` where presence is enough.
pub(super) fn string(value: &StringMatch) -> Option<matcher::StringMatcher> {
    use matcher::string_matcher::MatchPattern;
    let pattern = match value.kind() {
        StringMatchKind::Exact(text) => MatchPattern::Exact(text.into()),
        StringMatchKind::Prefix(text) => MatchPattern::Prefix(text.into()),
        StringMatchKind::Regex(text) => MatchPattern::SafeRegex(regex(text)),
        StringMatchKind::Present => return None,
    };
    Some(matcher::StringMatcher { match_pattern: Some(pattern), ..Default::default() })
}

pub(super) fn regex(text: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher { regex: text.into(), ..Default::default() }
}
