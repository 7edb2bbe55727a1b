//! Asking what a verified token says, as it stands in a request's metadata.

use proto::pb::envoy::r#type::matcher::v3 as pb;

use crate::jwt::{FILTER, PAYLOAD};

fn text(value: pb::StringMatcher) -> pb::ValueMatcher {
    pb::ValueMatcher { match_pattern: Some(pb::value_matcher::MatchPattern::StringMatch(value)) }
}

fn at(path: &[&str], value: pb::ValueMatcher) -> pb::MetadataMatcher {
    use pb::metadata_matcher::{PathSegment, path_segment::Segment};
    let segment = |key: &str| PathSegment { segment: Some(Segment::Key(key.into())) };
    pb::MetadataMatcher {
        filter: FILTER.into(),
        path: std::iter::once(PAYLOAD).chain(path.iter().copied()).map(segment).collect(),
        value: Some(value),
        ..Default::default()
    }
}

/// A claim that is a word.
pub(crate) fn text_matcher(name: &str, value: pb::StringMatcher) -> pb::MetadataMatcher {
    at(&[name], text(value))
}

/// A claim that is a word, or a list with such a word.
pub(crate) fn matcher(path: &[&str], value: pb::StringMatcher) -> pb::MetadataMatcher {
    use pb::value_matcher::MatchPattern;
    let value = text(value);
    let in_list = pb::list_matcher::MatchPattern::OneOf(Box::new(value.clone()));
    let list = pb::ValueMatcher {
        match_pattern: Some(MatchPattern::ListMatch(Box::new(pb::ListMatcher {
            match_pattern: Some(in_list),
        }))),
    };
    let either = pb::OrMatcher { value_matchers: vec![list, value] };
    at(path, pb::ValueMatcher { match_pattern: Some(MatchPattern::OrMatch(either)) })
}
