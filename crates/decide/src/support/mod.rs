//! Refuses what is not honoured: every field that a message sets stands in the table, or the resource is rejected with
//! the field's path. Compiling therefore looks only at what it knows.

mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use prost::{Message, Name};
use proto::json::{SetField, Walk, set_fields};
use proto::pb::google::protobuf::Any;

use crate::refusal::{Refusal, Taken};
use crate::wire::decode;
use table::{HONOURED, WITHOUT_EFFECT};

type Fields = BTreeSet<&'static str>;

static TABLE: LazyLock<BTreeMap<&str, Fields>> = LazyLock::new(|| {
    let mut table: BTreeMap<_, Fields> = HONOURED
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(message, fields)| (message, fields.split_whitespace().collect()))
        .collect();
    for (message, field, _) in WITHOUT_EFFECT {
        table.entry(message).or_default().insert(field);
    }
    table
});

/// Refuses an encoded message for the first field that is not honoured.
pub(crate) fn check(message: &str, bytes: &[u8]) -> Taken<()> {
    let mut refused = None;
    let walked = set_fields(message, bytes, &mut |field| {
        if refused.is_some() {
            return Walk::Over;
        }
        if !knows(&field) {
            refused = Some(Refusal::unsupported(field.path));
            return Walk::Over;
        }
        let of_unknown_type = !field.type_url.is_empty() && !TABLE.contains_key(bare(field.type_url));
        if of_unknown_type || is_optional_filter(&field) { Walk::Over } else { Walk::Into }
    });
    walked.map_err(|e| Refusal::new(e.reason).under(e.path))?;
    refused.map_or(Ok(()), Err)
}

/// Decodes a message of which every field that is set is honoured.
pub(crate) fn read<M: Name + Default>(bytes: &[u8]) -> Taken<M> {
    check(&M::full_name(), bytes)?;
    decode(bytes)
}

/// The same for what an `Any` holds, of a type that may not be known.
pub(crate) fn check_any(any: &Any) -> Taken<()> {
    if TABLE.contains_key(bare(&any.type_url)) { check(&any.type_url, &any.value) } else { Ok(()) }
}

fn bare(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or_default()
}

fn knows(field: &SetField<'_>) -> bool {
    TABLE.get(field.message).is_some_and(|fields| fields.contains(field.name))
}

/// What may be left out when it cannot be honoured is looked at by whoever leaves it out.
fn is_optional_filter(field: &SetField<'_>) -> bool {
    use proto::pb::envoy::config::route::v3::FilterConfig;
    use proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
    match field.name {
        "http_filters" => HttpFilter::decode(field.bytes).is_ok_and(|filter| filter.is_optional),
        "typed_per_filter_config" => {
            field.type_url.ends_with("/envoy.config.route.v3.FilterConfig")
                && Any::decode(field.bytes)
                    .ok()
                    .and_then(|any| FilterConfig::decode(any.value.as_slice()).ok())
                    .is_some_and(|config| config.is_optional)
        }
        _ => false,
    }
}
