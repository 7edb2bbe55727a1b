//! Envoy's `ValueMatcher` and `MetadataMatcher`, over JSON values.

use proto::pb::envoy::r#type::matcher::v3 as pb;
use serde_json::Value;

use super::StringMatcher;
use crate::metadata::DynamicMetadata;
use crate::refusal::{Refusal, Taken, Within, each};

#[derive(Debug, Clone)]
pub enum ValueMatcher {
    Null,
    Exactly(f64),
    /// Start included, end not.
    Range(f64, f64),
    Text(StringMatcher),
    Bool(bool),
    Present(bool),
    /// One element of a list.
    OneOf(Box<ValueMatcher>),
    Or(Vec<ValueMatcher>),
}

impl ValueMatcher {
    pub fn matches(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::Null, Some(Value::Null)) => true,
            (Self::Exactly(n), Some(Value::Number(v))) => v.as_f64() == Some(*n),
            (Self::Range(start, end), Some(Value::Number(v))) => {
                v.as_f64().is_some_and(|v| *start <= v && v < *end)
            }
            (Self::Text(matcher), Some(Value::String(text))) => matcher.matches(text.as_bytes()),
            (Self::Bool(wanted), Some(Value::Bool(v))) => v == wanted,
            (Self::Present(wanted), value) => value.is_some_and(|v| !v.is_null()) == *wanted,
            (Self::OneOf(one), Some(Value::Array(values))) => values.iter().any(|v| one.matches(Some(v))),
            (Self::Or(matchers), value) => matchers.iter().any(|m| m.matches(value)),
            _ => false,
        }
    }

    pub(crate) fn compile(matcher: &pb::ValueMatcher) -> Taken<Self> {
        use pb::double_matcher::MatchPattern as Number;
        use pb::value_matcher::MatchPattern;
        Ok(match matcher.match_pattern.as_ref().ok_or_else(|| Refusal::new("says nothing to match"))? {
            MatchPattern::NullMatch(_) => Self::Null,
            MatchPattern::DoubleMatch(number) => match &number.match_pattern {
                Some(Number::Exact(n)) => Self::Exactly(*n),
                Some(Number::Range(range)) => Self::Range(range.start, range.end),
                None => return Err(Refusal::new("says nothing to match").under("doubleMatch")),
            },
            MatchPattern::StringMatch(text) => {
                Self::Text(StringMatcher::compile(text).within("stringMatch")?)
            }
            MatchPattern::BoolMatch(wanted) => Self::Bool(*wanted),
            MatchPattern::PresentMatch(wanted) => Self::Present(*wanted),
            MatchPattern::ListMatch(list) => match &list.match_pattern {
                Some(pb::list_matcher::MatchPattern::OneOf(one)) => {
                    Self::OneOf(Box::new(Self::compile(one).within("oneOf").within("listMatch")?))
                }
                None => return Err(Refusal::new("says nothing to match").under("listMatch")),
            },
            MatchPattern::OrMatch(or) => {
                Self::Or(each(&or.value_matchers, "valueMatchers", Self::compile).within("orMatch")?)
            }
        })
    }
}

/// A value at a path of a filter's dynamic metadata.
#[derive(Debug, Clone)]
pub struct MetadataMatcher {
    filter: Box<str>,
    path: Vec<Box<str>>,
    value: ValueMatcher,
    invert: bool,
}

impl MetadataMatcher {
    pub fn matches(&self, metadata: &DynamicMetadata) -> bool {
        self.value.matches(metadata.get(&self.filter, &self.path)) != self.invert
    }

    /// Whether there is a value to judge.
    pub(crate) fn finds(&self, metadata: &DynamicMetadata) -> bool {
        metadata.get(&self.filter, &self.path).is_some()
    }

    pub(crate) fn compile(matcher: &pb::MetadataMatcher) -> Taken<Self> {
        use pb::metadata_matcher::path_segment::Segment;
        let path = each(&matcher.path, "path", |segment| match &segment.segment {
            Some(Segment::Key(key)) => Ok(key.as_str().into()),
            None => Err(Refusal::new("is empty")),
        })?;
        let value = matcher.value.as_ref().ok_or_else(|| Refusal::new("is missing").under("value"))?;
        Ok(Self {
            filter: matcher.filter.as_str().into(),
            path,
            value: ValueMatcher::compile(value).within("value")?,
            invert: matcher.invert,
        })
    }
}
