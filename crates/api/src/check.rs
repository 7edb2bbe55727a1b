//! The shape of a spec against its schema: everything that is wrong, in Kubernetes' words where it has some.

use std::str::FromStr;

use serde_json::{Map, Value, json};

use crate::duration::{self, Duration};
use crate::error::{FieldError, Path};
use crate::kind::Kind;
use crate::schema::{self, MINIMUM_DURATION, ONE_OF};

/// The spec of an object, without nulls, and what is wrong with its shape.
pub(crate) fn spec(kind: Kind, object: &Value) -> (Value, Vec<FieldError>) {
    let path = Path::root("spec");
    let mut errors = Vec::new();
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    for name in object.as_object().into_iter().flat_map(Map::keys) {
        if !known.contains(&name.as_str()) {
            errors.push(FieldError::unknown_field(&Path::root(name), name, known.into_iter()));
        }
    }
    let mut spec = object.get("spec").cloned().unwrap_or_default();
    if spec.is_null() {
        if kind.info().spec_required {
            errors.push(FieldError::required(&path, ""));
        }
        spec = json!({});
    } else {
        drop_nulls(&mut spec);
        against(schema::spec(kind), &spec, &path, &mut errors);
    }
    (spec, errors)
}

/// In protobuf's JSON a null is an absent field.
pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, child| !child.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Checks a value against a neutral schema.
pub(crate) fn against(schema: &Value, value: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let Some(expected) = schema["type"].as_str() else { return };
    let actual = type_of(value);
    if expected != actual && !(expected == "number" && actual == "integer") {
        errors.push(wrong_type(path, expected, actual));
        return;
    }
    match value {
        Value::Object(fields) => object(schema, fields, path, errors),
        Value::Array(items) => array(schema, items, path, errors),
        Value::String(text) => errors.extend(string(schema, text, path)),
        Value::Number(_) => errors.extend(number(schema, value, path)),
        Value::Bool(_) | Value::Null => {}
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn wrong_type(path: &Path, expected: &str, actual: &str) -> FieldError {
    let detail = format!("{path} in body must be of type {expected}: {actual:?}");
    let error = FieldError::type_invalid(path, actual, detail);
    match (expected, actual) {
        ("string", "integer" | "number" | "boolean") => error.hint("put it in quotes"),
        ("integer" | "number" | "boolean", "string") => error.hint("write it without quotes"),
        ("array", _) => error.hint("write a list: begin each entry with \"- \""),
        _ => error,
    }
}

fn object(schema: &Value, fields: &Map<String, Value>, path: &Path, errors: &mut Vec<FieldError>) {
    let values = &schema["additionalProperties"];
    if values.is_object() {
        for (key, child) in fields {
            against(values, child, &path.key(key), errors);
        }
        let most = schema["maxProperties"].as_u64().unwrap_or(u64::MAX);
        if fields.len() as u64 > most {
            errors.push(FieldError::too_many(path, fields.len(), most));
        }
        return;
    }
    let Some(properties) = schema["properties"].as_object() else {
        let preserved = schema["x-kubernetes-preserve-unknown-fields"] == true;
        let unknown = fields.keys().filter(|_| !preserved);
        errors.extend(
            unknown
                .map(|name| FieldError::unknown_field(&path.field(name), name, std::iter::empty::<&str>())),
        );
        return;
    };
    for (name, child) in fields {
        match properties.get(name) {
            Some(schema) => against(schema, child, &path.field(name), errors),
            None => errors.push(FieldError::unknown_field(&path.field(name), name, properties.keys())),
        }
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            errors.push(FieldError::required(&path.field(name), ""));
        }
    }
    for group in schema[ONE_OF].as_array().into_iter().flatten() {
        errors.extend(one_of(group, fields, path));
    }
}

fn one_of(group: &Value, fields: &Map<String, Value>, path: &Path) -> Option<FieldError> {
    let names = || group.as_array().into_iter().flatten().filter_map(Value::as_str);
    let set: Vec<_> = names().filter(|name| fields.contains_key(*name)).collect();
    if set.len() < 2 {
        return None;
    }
    let all: Vec<_> = names().collect();
    let detail = format!("only one of {} may be set, not {}", all.join(", "), set.join(" and "));
    Some(FieldError::invalid(path, "object", detail).hint(format!("keep {} or {}", set[0], set[1])))
}

fn array(schema: &Value, items: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
    for (index, item) in items.iter().enumerate() {
        against(&schema["items"], item, &path.index(index), errors);
    }
    let count = items.len() as u64;
    if let Some(most) = schema["maxItems"].as_u64().filter(|most| count > *most) {
        errors.push(FieldError::too_many(path, items.len(), most));
    }
    if let Some(least) = schema["minItems"].as_u64().filter(|least| count < *least) {
        let detail = format!("{path} in body should have at least {least} items");
        errors.push(FieldError::invalid(path, count, detail));
    }
    let keys: Vec<_> = schema["x-kubernetes-list-map-keys"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !keys.is_empty() {
        let key_of = |item: &Value| -> Map<String, Value> {
            keys.iter().map(|key| ((*key).to_string(), item[*key].clone())).collect()
        };
        for (index, item) in items.iter().enumerate() {
            let key = key_of(item);
            if items[..index].iter().any(|earlier| key_of(earlier) == key) {
                errors.push(FieldError::duplicate(&path.index(index), Value::Object(key)));
            }
        }
    }
}

fn string(schema: &Value, text: &str, path: &Path) -> Option<FieldError> {
    if let Some(allowed) = schema["enum"].as_array() {
        let allowed: Vec<_> = allowed.iter().filter_map(Value::as_str).collect();
        return (!allowed.contains(&text)).then(|| FieldError::not_supported(path, text, &allowed));
    }
    if let Some(most) = schema["maxLength"].as_u64().filter(|most| text.chars().count() as u64 > *most) {
        return Some(FieldError::too_long(path, most));
    }
    if let Some(least) = schema["minLength"].as_u64().filter(|least| (text.chars().count() as u64) < *least) {
        let detail = format!("{path} in body should be at least {least} chars long");
        return Some(FieldError::invalid(path, text, detail));
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        let matches = regex::Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text));
        let detail = format!("{path} in body should match '{pattern}'");
        return (!matches).then(|| FieldError::invalid(path, text, detail));
    }
    match schema["format"].as_str() {
        Some(duration::FORMAT) => check_duration(schema, text, path),
        Some("byte") => check_base64(text, path),
        _ => None,
    }
}

fn check_duration(schema: &Value, text: &str, path: &Path) -> Option<FieldError> {
    let least = schema[MINIMUM_DURATION].as_str().unwrap_or("1ms");
    let good = match (Duration::from_str(text), Duration::from_str(least)) {
        (Ok(value), Ok(least)) => value >= least,
        _ => false,
    };
    (!good).then(|| FieldError::invalid(path, text, duration::expectation(least)))
}

fn check_base64(text: &str, path: &Path) -> Option<FieldError> {
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_');
    let body = text.trim_end_matches('=');
    let good = body.bytes().all(letter) && body.len() % 4 != 1 && text.len() - body.len() <= 2;
    (!good).then(|| FieldError::invalid(path, text, "must be in base64"))
}

fn number(schema: &Value, value: &Value, path: &Path) -> Option<FieldError> {
    let number = value.as_f64()?;
    if schema["format"] == "int32" && value.as_i64().is_none_or(|n| i32::try_from(n).is_err()) {
        let detail = format!("{path} in body must be of type int32");
        return Some(FieldError::invalid(path, value.clone(), detail));
    }
    if schema["format"] == "int64" && value.is_u64() && value.as_i64().is_none() {
        let detail = format!("{path} in body must be of type int64");
        return Some(FieldError::invalid(path, value.clone(), detail));
    }
    if let Some(least) = schema["minimum"].as_f64().filter(|least| number < *least) {
        let detail = format!("{path} in body should be greater than or equal to {least}");
        return Some(FieldError::invalid(path, value.clone(), detail));
    }
    if let Some(most) = schema["maximum"].as_f64().filter(|most| number > *most) {
        let detail = format!("{path} in body should be less than or equal to {most}");
        return Some(FieldError::invalid(path, value.clone(), detail));
    }
    None
}
