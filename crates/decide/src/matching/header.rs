//! Envoy's `HeaderMatcher`.

use std::borrow::Cow;

use bytes::Bytes;
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
    /// Whether the header is there.
    pub(crate) fn present(name: &str) -> Self {
        Self { name: name.into(), kind: Kind::Present(true), invert: false, missing_is_empty: false }
    }

    pub fn matches(&self, request: &Request) -> bool {
        if request.headers.get_all(&self.name).nth(1).is_some() {
            return self.matches_any(request.headers.get_all(&self.name));
        }
        self.matches_value(request.value(&self.name))
    }

    /// Against a response's headers.
    pub fn matches_headers(&self, headers: &Headers) -> bool {
        if headers.get_all(&self.name).nth(1).is_some() {
            return self.matches_any(headers.get_all(&self.name));
        }
        self.matches_value(headers.get(&self.name).map(|v| Cow::Borrowed(&v[..])))
    }

    /// A repeated header matches by any of its values: a rule is not slipped by with one more of them.
    fn matches_any<'v>(&self, values: impl Iterator<Item = &'v Bytes>) -> bool {
        let matched = match self.kind {
            Kind::Present(wanted) => wanted,
            Kind::Text(_) | Kind::Range(..) => values.into_iter().any(|value| self.holds(value)),
        };
        matched != self.invert
    }

    /// Whether one value is as it must be.
    fn holds(&self, value: &[u8]) -> bool {
        match &self.kind {
            Kind::Present(wanted) => *wanted,
            Kind::Text(matcher) => matcher.matches(value),
            Kind::Range(start, end) => std::str::from_utf8(value)
                .ok()
                .and_then(|t| t.parse::<i64>().ok())
                .is_some_and(|n| (*start..*end).contains(&n)),
        }
    }

    pub fn matches_value(&self, value: Option<Cow<'_, [u8]>>) -> bool {
        let value = match value {
            None if self.missing_is_empty => Some(Cow::Borrowed(&b""[..])),
            value => value,
        };
        let matched = match (&self.kind, value) {
            (Kind::Present(wanted), value) => value.is_some() == *wanted,
            // Envoy: without the header there is no match, inverted or not.
            (_, None) => return false,
            (_, Some(text)) => self.holds(&text),
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
            (matcher(exact(), false, false), with("1").with_header("X-A", "2"), true),
            (matcher(exact(), false, false), with("2").with_header("X-A", "1"), true),
            (matcher(exact(), false, false), with("1,2"), false),
            (matcher(exact(), true, false), with("2").with_header("X-A", "1"), false),
            (matcher(exact(), true, false), with("2").with_header("X-A", "3"), true),
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
