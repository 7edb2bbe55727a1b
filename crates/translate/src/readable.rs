//! Whether proxies can read what people wrote inside of fields: what they cannot is left out, and nothing beside it.
//!
//! Nothing of the kind is accepted where resources are applied (`api`); the model's findings name what came in all the
//! same. A proxy refuses a listener or a route table as a whole for one part of it.

use api::networking as net;
use api::{StringMatch, StringMatchKind};
use serde_json::Value;

use crate::route::matches::is_anything;

/// A line of a log.
pub(crate) fn line(text: &str) -> bool {
    syntax::format::parse(text).is_ok()
}

/// Text with operators elsewhere.
pub(crate) fn format(text: &str) -> bool {
    line(text) && !syntax::format::is_for_logs(text)
}

/// JSON whose texts hold operators.
pub(crate) fn json(value: &Value) -> bool {
    match value {
        Value::String(text) => line(text),
        Value::Array(items) => items.iter().all(json),
        Value::Object(fields) => fields.values().all(json),
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}

/// A filter of access logs.
pub(crate) fn expression(text: &str) -> bool {
    syntax::cel::parse(text).is_ok()
}

pub(crate) fn header_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

pub(crate) fn header_value(text: &str) -> bool {
    text.bytes().all(|b| b >= 0x20 && b != 0x7f || b == b'\t') && format(text)
}

pub(crate) fn string(value: &StringMatch) -> bool {
    match value.kind() {
        StringMatchKind::Regex(text) => syntax::regular::whole(text).is_ok(),
        StringMatchKind::Exact(_) | StringMatchKind::Prefix(_) | StringMatchKind::Present => true,
    }
}

/// The conditions of a route.
pub(crate) fn request(it: &net::HttpMatchRequest) -> bool {
    let parts = [&it.uri, &it.scheme, &it.method, &it.authority].into_iter().flatten();
    parts
        .chain(it.headers.values().filter(|value| !is_anything(value)))
        .chain(it.without_headers.values().filter(|value| !is_anything(value)))
        .chain(it.query_params.values())
        .all(string)
}

/// What a route makes of paths.
pub(crate) fn rewrite(it: &net::HttpRewrite) -> bool {
    it.uri_regex_rewrite.as_ref().is_none_or(|rewrite| {
        syntax::regular::regex(&rewrite.pattern).is_ok_and(|pattern| {
            syntax::regular::substitution(&rewrite.rewrite, pattern.captures_len()).is_ok()
        })
    })
}
