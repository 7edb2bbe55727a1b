//! From JSON to wire bytes.

use serde_json::Value;

use super::well_known::WellKnown;
use super::wire::put_bytes;
use super::{Error, Field, Kind, Message, bare, deeper, scalar, well_known};

pub(super) fn message(message: Message, value: &Value, out: &mut Vec<u8>, depth: u32) -> Result<(), Error> {
    let depth = deeper(depth)?;
    match WellKnown::of(message) {
        Some(kind) => well_known::from_json(kind, message, value, out, depth),
        None => object(message, value, out, depth, false),
    }
}

/// The type URL and encoded message of an `Any`.
pub(super) fn any(value: &Value, depth: u32) -> Result<(String, Vec<u8>), Error> {
    let object = value.as_object().ok_or_else(|| scalar::expected("an object with \"@type\"", value))?;
    if object.is_empty() {
        return Ok((String::new(), Vec::new()));
    }
    let Some(type_url) = object.get("@type") else {
        return Err(Error::new(
            "\"@type\" is missing; write \"type.googleapis.com/\" and the name of the message",
        ));
    };
    let type_url = scalar::string(type_url).map_err(|e| e.within("@type"))?;
    if !type_url.contains('/') {
        let hint = format!("{type_url:?} is not a type URL; write \"type.googleapis.com/{type_url}\"");
        return Err(Error::new(hint).within("@type"));
    }
    let mut out = Vec::new();
    match Message::find(bare(type_url)) {
        Some(known) if WellKnown::of(known).is_some() => {
            only_value(object)?;
            let inner = object.get("value").ok_or_else(|| Error::new("\"value\" is missing"))?;
            message(known, inner, &mut out, depth).map_err(|e| e.within("value"))?;
        }
        Some(known) => self::object(known, value, &mut out, deeper(depth)?, true)?,
        None => {
            only_value(object).map_err(|_| {
                Error::new(format!(
                    "{type_url:?} is not known; its content can only be given as base64 in \"value\""
                ))
            })?;
            if let Some(text) = object.get("value") {
                out = scalar::string(text).and_then(scalar::unbase64).map_err(|e| e.within("value"))?;
            }
        }
    }
    Ok((type_url.to_owned(), out))
}

fn only_value(object: &serde_json::Map<String, Value>) -> Result<(), Error> {
    match object.keys().find(|key| *key != "@type" && *key != "value") {
        Some(key) => Err(Error::new("unknown field").within(key)),
        None => Ok(()),
    }
}

fn object(message: Message, value: &Value, out: &mut Vec<u8>, depth: u32, in_any: bool) -> Result<(), Error> {
    let object = value.as_object().ok_or_else(|| scalar::expected("an object", value))?;
    let mut members = Vec::with_capacity(object.len());
    for (key, value) in object {
        if in_any && key == "@type" {
            continue;
        }
        let field = message.field_named(key).ok_or_else(|| unknown(message, key))?;
        if is_set(field, value) {
            members.push((field, key, value));
        }
    }
    members.sort_by_key(|(field, ..)| field.number());
    check_conflicts(&members)?;
    for (field, key, value) in members {
        put(field, value, out, depth).map_err(|e| e.within(key))?;
    }
    Ok(())
}

/// `null` leaves a field unset, but where it is itself a value.
fn is_set(field: Field, value: &Value) -> bool {
    if !value.is_null() || field.is_repeated() {
        return !value.is_null();
    }
    match field.kind() {
        Kind::Message => field.message().name() == "google.protobuf.Value",
        Kind::Enum => field.enumeration().name() == "google.protobuf.NullValue",
        _ => false,
    }
}

fn check_conflicts(members: &[(Field, &String, &Value)]) -> Result<(), Error> {
    for (i, (field, key, _)) in members.iter().enumerate() {
        for (other, other_key, _) in &members[..i] {
            if field.number() == other.number() {
                return Err(Error::new(format!("given twice, also as {other_key}")).within(key));
            }
            if field.oneof() != 0 && field.oneof() == other.oneof() {
                return Err(Error::new(format!("only one of {other_key} and {key} may be set")).within(key));
            }
        }
    }
    Ok(())
}

fn put(field: Field, value: &Value, out: &mut Vec<u8>, depth: u32) -> Result<(), Error> {
    if field.is_map() {
        return map(field, value, out, depth);
    }
    if field.is_repeated() {
        return list(field, value, out, depth);
    }
    if field.kind() == Kind::Message {
        nested(field, value, out, depth)
    } else {
        scalar::put(field, value, out, field.has_presence())
    }
}

fn nested(field: Field, value: &Value, out: &mut Vec<u8>, depth: u32) -> Result<(), Error> {
    let mut inner = Vec::new();
    message(field.message(), value, &mut inner, depth)?;
    put_bytes(out, field.number(), &inner);
    Ok(())
}

fn list(field: Field, value: &Value, out: &mut Vec<u8>, depth: u32) -> Result<(), Error> {
    let items = value.as_array().ok_or_else(|| scalar::expected("a list", value))?;
    let packed = field.is_packed() && scalar::wire_type(field.kind()) != 2;
    let mut body = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let done = match field.kind() {
            Kind::Message => nested(field, item, out, depth),
            _ if packed => scalar::put_packed(field, item, &mut body),
            _ => scalar::put(field, item, out, true),
        };
        done.map_err(|e| e.at_index(i))?;
    }
    if !body.is_empty() {
        put_bytes(out, field.number(), &body);
    }
    Ok(())
}

fn map(field: Field, value: &Value, out: &mut Vec<u8>, depth: u32) -> Result<(), Error> {
    let entries = value.as_object().ok_or_else(|| scalar::expected("an object", value))?;
    let entry = field.message();
    let (Some(key_field), Some(value_field)) = (entry.field(1), entry.field(2)) else {
        return Err(Error::new("the definition of the map is broken"));
    };
    for (key, value) in entries {
        let mut body = Vec::new();
        put_key(key_field, key, &mut body)
            .and_then(|()| match value_field.kind() {
                Kind::Message => nested(value_field, value, &mut body, depth),
                _ => scalar::put(value_field, value, &mut body, false),
            })
            .map_err(|e| e.at_key(key))?;
        put_bytes(out, field.number(), &body);
    }
    Ok(())
}

fn put_key(field: Field, key: &str, out: &mut Vec<u8>) -> Result<(), Error> {
    let value = match (field.kind(), key) {
        (Kind::Bool, "true") => Value::Bool(true),
        (Kind::Bool, "false") => Value::Bool(false),
        _ => key.into(),
    };
    scalar::put(field, &value, out, false)
}

fn unknown(message: Message, key: &str) -> Error {
    let lower = |name: &str| name.replace(['_', '-'], "").to_ascii_lowercase();
    let close = message.fields().find(|field| lower(field.name()) == lower(key));
    let hint = close.map(|field| format!("; did you mean {}?", field.json())).unwrap_or_default();
    Error::new(format!("{} has no such field{hint}", message.name())).within(key)
}
