//! From wire bytes to JSON.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::well_known::WellKnown;
use super::wire::{Reader, Wire, fields, merged, mismatch};
use super::{Error, Field, Kind, Message, bare, deeper, scalar, well_known};

pub(super) fn message(message: Message, bytes: &[u8], depth: u32) -> Result<Value, Error> {
    let depth = deeper(depth)?;
    match WellKnown::of(message) {
        Some(kind) => well_known::to_json(kind, message, bytes, depth),
        None => object(message, bytes, depth).map(Value::Object),
    }
}

pub(super) fn any(type_url: &str, bytes: &[u8], depth: u32) -> Result<Value, Error> {
    let mut object = Map::new();
    if type_url.is_empty() && bytes.is_empty() {
        return Ok(Value::Object(object));
    }
    object.insert("@type".to_owned(), type_url.into());
    match Message::find(bare(type_url)) {
        None => {
            object.insert("value".to_owned(), scalar::base64(bytes).into());
        }
        Some(known) if WellKnown::of(known).is_some() => {
            object.insert("value".to_owned(), message(known, bytes, depth)?);
        }
        Some(known) => object.extend(self::object(known, bytes, deeper(depth)?)?),
    }
    Ok(Value::Object(object))
}

fn object(message: Message, bytes: &[u8], depth: u32) -> Result<Map<String, Value>, Error> {
    let fields = fields(message, bytes)?;
    let mut object = Map::new();
    for pieces in fields.chunk_by(|a, b| a.0 == b.0) {
        let Some(field) = message.field(pieces[0].0) else { continue };
        let value = self::field(field, pieces, depth).map_err(|e| e.within(field.json()))?;
        if let Some(value) = value {
            object.insert(field.json().to_owned(), value);
        }
    }
    Ok(object)
}

fn field(field: Field, pieces: &[(u32, Wire<'_>)], depth: u32) -> Result<Option<Value>, Error> {
    if field.is_map() {
        return map(field.message(), pieces, depth).map(|map| Some(Value::Object(map)));
    }
    if field.is_repeated() {
        return list(field, pieces, depth).map(|list| (!list.is_empty()).then_some(Value::Array(list)));
    }
    if field.kind() == Kind::Message {
        return message(field.message(), &merged(pieces)?, depth).map(Some);
    }
    let Some((_, last)) = pieces.last() else { return Ok(None) };
    let value = scalar::to_json(field, *last)?;
    Ok((field.has_presence() || !scalar::is_default(*last)).then_some(value))
}

fn list(field: Field, pieces: &[(u32, Wire<'_>)], depth: u32) -> Result<Vec<Value>, Error> {
    let mut list = Vec::with_capacity(pieces.len());
    let wire_type = scalar::wire_type(field.kind());
    for (_, piece) in pieces {
        match piece {
            Wire::Bytes(bytes) if field.kind() == Kind::Message => {
                list.push(message(field.message(), bytes, depth).map_err(|e| e.at_index(list.len()))?);
            }
            Wire::Bytes(bytes) if wire_type != 2 => {
                let mut reader = Reader::new(bytes);
                while let Some(value) = reader.untagged(wire_type.into()) {
                    list.push(scalar::to_json(field, value?)?);
                }
            }
            piece => list.push(scalar::to_json(field, *piece).map_err(|e| e.at_index(list.len()))?),
        }
    }
    Ok(list)
}

fn map(entry: Message, pieces: &[(u32, Wire<'_>)], depth: u32) -> Result<Map<String, Value>, Error> {
    let mut sorted = BTreeMap::new();
    for (_, piece) in pieces {
        let Wire::Bytes(bytes) = piece else { return Err(mismatch()) };
        let (key, value) = self::entry(entry, bytes, depth)?;
        sorted.insert(key, value);
    }
    Ok(sorted.into_iter().collect())
}

/// One entry of a map: a message of its own with the key in field 1 and the value in field 2.
fn entry(entry: Message, bytes: &[u8], depth: u32) -> Result<(String, Value), Error> {
    let (Some(key_field), Some(value_field)) = (entry.field(1), entry.field(2)) else {
        return Err(mismatch());
    };
    let fields = fields(entry, bytes)?;
    let of = |number| {
        let start = fields.partition_point(|f| f.0 < number);
        let end = fields.partition_point(|f| f.0 <= number);
        &fields[start..end]
    };
    let key = match of(1).last() {
        Some((_, key)) => match scalar::to_json(key_field, *key)? {
            Value::String(text) => text,
            other => other.to_string(),
        },
        None => default_key(key_field.kind()).to_owned(),
    };
    let value = match of(2) {
        [] => default(value_field, depth),
        pieces if value_field.kind() == Kind::Message => {
            merged(pieces).and_then(|bytes| message(value_field.message(), &bytes, depth))
        }
        pieces => scalar::to_json(value_field, pieces[pieces.len() - 1].1),
    };
    Ok((key.clone(), value.map_err(|e| e.at_key(&key))?))
}

fn default_key(kind: Kind) -> &'static str {
    match kind {
        Kind::String => "",
        Kind::Bool => "false",
        _ => "0",
    }
}

fn default(field: Field, depth: u32) -> Result<Value, Error> {
    let wire = match field.kind() {
        Kind::Message => return message(field.message(), &[], depth),
        Kind::String | Kind::Bytes => Wire::Bytes(&[]),
        kind => match scalar::wire_type(kind) {
            0 => Wire::Varint(0),
            1 => Wire::Fixed64(0),
            _ => Wire::Fixed32(0),
        },
    };
    scalar::to_json(field, wire)
}
