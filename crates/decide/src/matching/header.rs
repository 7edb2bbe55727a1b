//! Envoy's `HeaderMatcher`.

use std::borrow::Cow;

use proto::pb::envoy::config::route::v3 as pb;
use proto::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;

use super::StringMatcher;
use super::string::whole;
use crate::headers::{HeaderName, Headers};
use crate::refusal::{Refusal, Taken, Within};
use crate::request::Request;

#[derive(Debug, Clone)]
pub struct HeaderMatcher {
    pub name: HeaderName,
    kind: Kind,
    invert: bool,
    missing_is_empty: bool,
}

#[derive(Debug, Clone)]
enum Kind {
    Present(bool),
    Text(StringMatcher),
    /// Start included, end not.
    Range(i64, i64),
}

impl HeaderMatcher {
    pub fn matches(&self, request: &Request) -> bool {
        self.matches_value(request.value(&self.name))
    }

    /// Against a response's headers.
    pub fn matches_headers(&self, headers: &Headers) -> bool {
        self.matches_value(headers.joined(&self.name))
    }

    /// Repeated headers have been joined by commas: a deny rule must see all of them.
    pub fn matches_value(&self, value: Option<Cow<'_, [u8]>>) -> bool {
        let value = match value {
            None if self.missing_is_empty => Some(Cow::Borrowed(&b""[..])),
            value => value,
        };
        let matched = match (&self.kind, value) {
            (Kind::Present(wanted), value) => value.is_some() == *wanted,
            // Envoy: without the header there is no match, inverted or not.
            (_, None) => return false,
            (Kind::Text(matcher), Some(text)) => matcher.matches(&text),
            (Kind::Range(start, end), Some(text)) => std::str::from_utf8(&text)
                .ok()
                .and_then(|t| t.parse::<i64>().ok())
                .is_some_and(|n| (*start..*end).contains(&n)),
        };
        matched != self.invert
    }

    pub(crate) fn compile(matcher: &pb::HeaderMatcher) -> Taken<Self> {
        if matcher.name.is_empty() {
            return Err(Refusal::new("is empty").under("name"));
        }
        let kind = match &matcher.header_match_specifier {
            None => Kind::Present(true),
            Some(HeaderMatchSpecifier::PresentMatch(wanted)) => Kind::Present(*wanted),
            Some(HeaderMatchSpecifier::ExactMatch(s)) => Kind::Text(StringMatcher::Exact(s.as_str().into())),
            Some(HeaderMatchSpecifier::PrefixMatch(s)) => {
                Kind::Text(StringMatcher::Prefix(s.as_str().into()))
            }
            Some(HeaderMatchSpecifier::SuffixMatch(s)) => {
                Kind::Text(StringMatcher::Suffix(s.as_str().into()))
            }
            Some(HeaderMatchSpecifier::ContainsMatch(s)) => {
                Kind::Text(StringMatcher::Contains(s.as_str().into()))
            }
            Some(HeaderMatchSpecifier::SafeRegexMatch(r)) => {
                Kind::Text(StringMatcher::Regex(whole(&r.regex).within("safeRegexMatch")?))
            }
            Some(HeaderMatchSpecifier::RangeMatch(range)) => Kind::Range(range.start, range.end),
            Some(HeaderMatchSpecifier::StringMatch(s)) => {
                Kind::Text(StringMatcher::compile(s).within("stringMatch")?)
            }
        };
        Ok(Self {
            name: HeaderName::from(matcher.name.as_str()),
            kind,
            invert: matcher.invert_match,
            missing_is_empty: matcher.treat_missing_header_as_empty,
        })
    }

    /// For `explain`.
    pub fn describe(&self) -> String {
        let what = match &self.kind {
            Kind::Present(true) => "is present".to_owned(),
            Kind::Present(false) => "is absent".to_owned(),
            Kind::Text(matcher) => matcher.describe(),
            Kind::Range(start, end) => format!("is in {start}..{end}"),
        };
        format!("header {} {}{what}", self.name, if self.invert { "not " } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Method;

    fn matcher(
        specifier: Option<HeaderMatchSpecifier>,
        invert_match: bool,
        treat_missing_header_as_empty: bool,
    ) -> HeaderMatcher {
        HeaderMatcher::compile(&pb::HeaderMatcher {
            name: "X-A".into(),
            invert_match,
            treat_missing_header_as_empty,
            header_match_specifier: specifier,
        })
        .unwrap()
    }

    #[test]
    fn missing_headers_match_only_absence() {
        use HeaderMatchSpecifier::{ExactMatch, PresentMatch, RangeMatch};
        let without = Request::new(Method::Get, "a", "/");
        let with = |value| Request::new(Method::Get, "a", "/").with_header("x-a", value);
        let exact = || Some(ExactMatch("1".into()));
        for (matcher, request, expected) in [
            (matcher(None, false, false), with("1"), true),
            (matcher(Some(PresentMatch(false)), false, false), without.clone(), true),
            (matcher(Some(PresentMatch(true)), true, false), without.clone(), true),
            (matcher(exact(), false, false), with("1"), true),
            (matcher(exact(), true, false), with("2"), true),
            (matcher(exact(), true, false), without.clone(), false),
            (matcher(exact(), true, true), without, true),
            (matcher(exact(), false, false), with("1").with_header("X-A", "2"), false),
            (
                matcher(
                    Some(RangeMatch(proto::pb::envoy::r#type::v3::Int64Range { start: 1, end: 3 })),
                    false,
                    false,
                ),
                with("2"),
                true,
            ),
            (
                matcher(
                    Some(RangeMatch(proto::pb::envoy::r#type::v3::Int64Range { start: 1, end: 3 })),
                    false,
                    false,
                ),
                with("3"),
                false,
            ),
        ] {
            assert_eq!(matcher.matches(&request), expected, "{} {request:?}", matcher.describe());
        }
    }
}
