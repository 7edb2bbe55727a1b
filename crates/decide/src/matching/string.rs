//! Envoy's `StringMatcher` and regular expressions.

use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use proto::pb::envoy::r#type::matcher::v3 as pb;
use regex::bytes::Regex;
use syntax::regular;

use crate::refusal::{Refusal, Taken, Within};
use crate::wire::unpack;

/// How a text must look. Works on bytes: a value that is no UTF-8 does not slip by.
#[derive(Debug, Clone)]
pub enum StringMatcher {
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Contains(Box<str>),
    ExactNoCase(Box<str>),
    PrefixNoCase(Box<str>),
    SuffixNoCase(Box<str>),
    /// Lower case.
    ContainsNoCase(Box<str>),
    /// The whole text.
    Regex(Regex),
}

impl StringMatcher {
    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(s) => text == s.as_bytes(),
            Self::Prefix(s) => text.starts_with(s.as_bytes()),
            Self::Suffix(s) => text.ends_with(s.as_bytes()),
            Self::Contains(s) => contains(text, s.as_bytes()),
            Self::ExactNoCase(s) => text.eq_ignore_ascii_case(s.as_bytes()),
            Self::PrefixNoCase(s) => {
                text.get(..s.len()).is_some_and(|head| head.eq_ignore_ascii_case(s.as_bytes()))
            }
            Self::SuffixNoCase(s) => {
                text.len() >= s.len() && text[text.len() - s.len()..].eq_ignore_ascii_case(s.as_bytes())
            }
            Self::ContainsNoCase(s) => contains(&text.to_ascii_lowercase(), s.as_bytes()),
            // What is no UTF-8 is read with a character for each fault: a dot must not fail open on it.
            Self::Regex(regex) => regex.is_match(String::from_utf8_lossy(text).as_bytes()),
        }
    }

    pub(crate) fn compile(matcher: &pb::StringMatcher) -> Taken<Self> {
        use pb::string_matcher::MatchPattern;
        let ignore_case = matcher.ignore_case;
        let pattern = matcher.match_pattern.as_ref().ok_or_else(|| Refusal::new("says nothing to match"))?;
        Ok(match (pattern, ignore_case) {
            (MatchPattern::Exact(s), false) => Self::Exact(s.as_str().into()),
            (MatchPattern::Exact(s), true) => Self::ExactNoCase(s.as_str().into()),
            (MatchPattern::Prefix(s), false) => Self::Prefix(s.as_str().into()),
            (MatchPattern::Prefix(s), true) => Self::PrefixNoCase(s.as_str().into()),
            (MatchPattern::Suffix(s), false) => Self::Suffix(s.as_str().into()),
            (MatchPattern::Suffix(s), true) => Self::SuffixNoCase(s.as_str().into()),
            (MatchPattern::Contains(s), false) => Self::Contains(s.as_str().into()),
            (MatchPattern::Contains(s), true) => Self::ContainsNoCase(s.to_ascii_lowercase().into()),
            (MatchPattern::SafeRegex(r), _) => Self::Regex(whole(&r.regex).within("safeRegex")?),
            (MatchPattern::Custom(_), _) => return Err(Refusal::unsupported("custom")),
        })
    }

    /// For `explain`.
    pub fn describe(&self) -> String {
        match self {
            Self::Exact(s) => format!("= {s:?}"),
            Self::Prefix(s) => format!("starts with {s:?}"),
            Self::Suffix(s) => format!("ends with {s:?}"),
            Self::Contains(s) => format!("contains {s:?}"),
            Self::ExactNoCase(s) => format!("= {s:?} in any case"),
            Self::PrefixNoCase(s) => format!("starts with {s:?} in any case"),
            Self::SuffixNoCase(s) => format!("ends with {s:?} in any case"),
            Self::ContainsNoCase(s) => format!("contains {s:?} in any case"),
            Self::Regex(r) => format!("matches {:?}", r.as_str()),
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|w| w == part)
}

fn taken(regex: Result<Regex, regex::Error>) -> Taken<Regex> {
    regex.map_err(|e| {
        Refusal::new(format_args!("is not a regular expression that can be used: {e}")).under("regex")
    })
}

/// A regular expression for the whole of a text.
pub(crate) fn whole(pattern: &str) -> Taken<Regex> {
    taken(regular::whole(pattern))
}

/// Envoy's `uri_template` extension.
pub(crate) fn uri_template(extension: &core::TypedExtensionConfig) -> Taken<Regex> {
    let any =
        extension.typed_config.as_ref().ok_or_else(|| Refusal::new("is missing").under("typedConfig"))?;
    let config: UriTemplateMatchConfig = unpack(any).within("typedConfig")?;
    regular::template(&config.path_template)
        .map_err(Refusal::new)
        .within("pathTemplate")
        .within("typedConfig")
}

/// `RegexMatchAndSubstitute`.
#[derive(Debug, Clone)]
pub struct RegexRewrite {
    pattern: Regex,
    /// With the crate's `${1}` for RE2's `\1`.
    substitution: Box<str>,
}

impl RegexRewrite {
    pub(crate) fn compile(rewrite: &pb::RegexMatchAndSubstitute) -> Taken<Self> {
        let pattern = rewrite.pattern.as_ref().ok_or_else(|| Refusal::new("is missing").under("pattern"))?;
        let pattern = taken(regular::regex(&pattern.regex)).within("pattern")?;
        let substitution = regular::substitution(&rewrite.substitution, pattern.captures_len())
            .map_err(Refusal::new)
            .within("substitution")?;
        Ok(Self { pattern, substitution: substitution.into() })
    }

    /// Replaces every match.
    pub fn apply(&self, text: &str) -> String {
        let replaced = self.pattern.replace_all(text.as_bytes(), self.substitution.as_bytes());
        String::from_utf8_lossy(&replaced).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(pattern: pb::string_matcher::MatchPattern, ignore_case: bool) -> StringMatcher {
        StringMatcher::compile(&pb::StringMatcher { ignore_case, match_pattern: Some(pattern) }).unwrap()
    }

    #[test]
    fn each_kind_matches_what_it_says() {
        use pb::string_matcher::MatchPattern::{Contains, Exact, Prefix, SafeRegex, Suffix};
        let re = |text: &str| SafeRegex(pb::RegexMatcher { regex: text.into(), ..Default::default() });
        for (pattern, ignore_case, text, expected) in [
            (Exact("a".into()), false, "a", true),
            (Exact("a".into()), false, "A", false),
            (Exact("a".into()), true, "A", true),
            (Prefix("/api".into()), false, "/apis", true),
            (Prefix("/API".into()), true, "/apis", true),
            (Prefix("/API".into()), true, "/a", false),
            (Suffix(".com".into()), false, "a.com", true),
            (Suffix(".COM".into()), true, "a.com", true),
            (Contains("b".into()), false, "abc", true),
            (Contains("B".into()), true, "abc", true),
            (Contains(String::new()), false, "", true),
            (re("a|b"), false, "b", true),
            (re("a|b"), false, "bc", false),
            (re(".+"), false, "", false),
        ] {
            let matcher = compile(pattern, ignore_case);
            assert_eq!(matcher.matches(text.as_bytes()), expected, "{} {text}", matcher.describe());
        }
        assert!(compile(re("a.*"), false).matches(b"a\n"), "a line feed does not hide what follows");
        assert!(!compile(re("[a-z]+"), false).matches(b"ab\xff"));
        assert!(compile(re("ab.*"), false).matches(b"ab\xff"), "bytes that are no text do not slip by");
    }

    #[test]
    fn rewrites_speak_re2() {
        let rewrite = |regex: &str, substitution: &str| {
            RegexRewrite::compile(&pb::RegexMatchAndSubstitute {
                pattern: Some(pb::RegexMatcher { regex: regex.into(), ..Default::default() }),
                substitution: substitution.into(),
            })
        };
        assert_eq!(rewrite("^/v[0-9]+(/.*)", "\\1").unwrap().apply("/v1/ratings/0"), "/ratings/0");
        assert_eq!(rewrite("a", "$1").unwrap().apply("aba"), "$1b$1");
        assert_eq!(rewrite("a", "\\2").unwrap_err().field(), "substitution");
        assert_eq!(rewrite("(", "").unwrap_err().field(), "pattern.regex");
    }
}
