//! Metadata: reading it, checking names and labels, and the order in which it is written.

use crate::kinds::{Core, Resource};
use crate::status::Cause;
use serde_json::{Map, Value, json};

/// A string somewhere in an object; empty when there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

pub fn name_of(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub fn namespace_of(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

pub fn uid_of(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

pub fn finalizers(object: &Value) -> Vec<String> {
    let list = object.pointer("/metadata/finalizers").and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|f| f.as_str().map(str::to_owned)).collect()
}

pub(crate) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    if !object.get("metadata").is_some_and(Value::is_object) {
        object["metadata"] = json!({});
    }
    match object.get_mut("metadata") {
        Some(Value::Object(map)) => map,
        _ => unreachable!("metadata was just made an object"),
    }
}

/// Puts the well-known fields first, as the real server writes them.
pub(crate) fn arrange(object: &mut Value) {
    const TOP: &[&str] = &["kind", "apiVersion", "metadata", "spec"];
    const META: &[&str] = &[
        "name",
        "generateName",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "ownerReferences",
        "finalizers",
        "managedFields",
    ];
    order(object, TOP);
    if let Some(metadata) = object.get_mut("metadata") {
        order(metadata, META);
    }
}

fn order(object: &mut Value, keys: &[&str]) {
    let Some(map) = object.as_object_mut() else { return };
    let mut old = std::mem::take(map);
    for key in keys {
        if let Some(value) = old.shift_remove(*key) {
            map.insert((*key).to_owned(), value);
        }
    }
    map.extend(old);
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
                     and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', \
                     regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
                         '-' or '.', and must start and end with an alphanumeric character (e.g. \
                         'example.com', regex used for validation is \
                         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start \
                         and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', \
                         regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', \
                           '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue', \
                            or 'my_value',  or '12345', regex used for validation is \
                           '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

pub(crate) fn is_label(text: &str) -> bool {
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first().copied())
        && edge(bytes.last().copied())
        && bytes.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
}

/// What a label name must look like, in the real server's words.
pub(crate) fn label_rule() -> &'static str {
    LABEL
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label_of_any_length)
}

fn is_label_of_any_length(text: &str) -> bool {
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let bytes = text.as_bytes();
    edge(bytes.first().copied())
        && edge(bytes.last().copied())
        && bytes.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
}

fn is_word(text: &str) -> bool {
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first().copied())
        && edge(bytes.last().copied())
        && bytes.iter().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
}

fn is_qualified(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_word(name),
        None => is_word(text),
    }
}

/// What is wrong with an object's metadata.
pub(crate) fn validate(resource: &Resource, object: &Value, causes: &mut Vec<Cause>) {
    let name = name_of(object);
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else {
        validate_name(resource, name, causes);
    }
    validate_pairs(object, causes);
    for (index, finalizer) in finalizers(object).iter().enumerate() {
        if !is_qualified(finalizer) {
            let field = format!("metadata.finalizers[{index}]");
            causes.push(Cause::invalid(field, &json!(finalizer), QUALIFIED));
        }
    }
}

fn validate_name(resource: &Resource, name: &str, causes: &mut Vec<Cause>) {
    let label = matches!(resource.core, Some(Core::Service | Core::Namespace));
    let (good, length, words) = if label {
        (is_label_of_any_length(name), 63, LABEL)
    } else {
        (is_subdomain(name) || name.len() > 253, 253, SUBDOMAIN)
    };
    if !good {
        causes.push(Cause::invalid("metadata.name", &json!(name), words));
    }
    if name.len() > length {
        let why = format!("must be no more than {length} bytes");
        causes.push(Cause::invalid("metadata.name", &json!(name), why));
    }
}

fn validate_pairs(object: &Value, causes: &mut Vec<Cause>) {
    let pairs =
        |pointer: &str| object.pointer(pointer).and_then(Value::as_object).cloned().unwrap_or_default();
    for (key, value) in pairs("/metadata/labels") {
        if !is_qualified(&key) {
            causes.push(Cause::invalid("metadata.labels", &json!(key), QUALIFIED));
        }
        let value = value.as_str().unwrap_or("");
        if value.len() > 63 {
            causes.push(Cause::invalid("metadata.labels", &json!(value), "must be no more than 63 bytes"));
        }
        if !value.is_empty() && value.len() <= 63 && !is_word(value) {
            causes.push(Cause::invalid("metadata.labels", &json!(value), LABEL_VALUE));
        }
    }
    let mut size = 0;
    for (key, value) in pairs("/metadata/annotations") {
        if !is_qualified(&key.to_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", &json!(key), QUALIFIED));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    const MOST: usize = 256 << 10;
    if size > MOST {
        causes.push(Cause {
            reason: "FieldValueTooLong",
            message: format!("Too long: may not be more than {MOST} bytes"),
            field: "metadata.annotations".into(),
        });
    }
}

/// Five characters that spell no words, as the real server appends them.
pub(crate) fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5).map(|_| char::from(LETTERS[rand::Rng::random_range(&mut rand::rng(), 0..LETTERS.len())])).collect()
}

/// A random (version 4) UUID.
pub(crate) fn new_uid() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
