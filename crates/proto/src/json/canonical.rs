//! The same bytes for the same message: map entries sorted by key, through nested messages and known `Any`s.
//!
//! Hash maps encode in an order of their own each time; whoever compares or hashes encoded messages wants one order.

use super::wire::{Reader, Wire, put_bytes, put_tag, put_varint};
use super::{Error, Kind, Message, bare, deeper};

/// The encoded message with every map in order. Fields that no definition names stay as they are.
pub(super) fn message(message: Message, bytes: &[u8], out: &mut Vec<u8>, depth: u32) -> Result<(), Error> {
    let depth = deeper(depth)?;
    if message.name() == "google.protobuf.Any" {
        return any(bytes, out, depth);
    }
    let mut entries: Vec<(u32, Vec<u8>)> = Vec::new();
    for field in Reader::new(bytes) {
        let (number, wire) = field?;
        let known = message.field(number);
        if known.is_none_or(|field| !field.is_map()) {
            flush(&mut entries, out);
        }
        match (wire, known) {
            (Wire::Bytes(inner), Some(field)) if field.kind() == Kind::Message => {
                let mut written = Vec::with_capacity(inner.len());
                self::message(field.message(), inner, &mut written, depth)?;
                if field.is_map() {
                    entries.push((number, written));
                } else {
                    put_bytes(out, number, &written);
                }
            }
            (wire, _) => put(number, wire, out),
        }
    }
    flush(&mut entries, out);
    Ok(())
}

/// Entries begin with their key's tag, length and text: sorting them whole sorts by length of key, then key.
fn flush(entries: &mut Vec<(u32, Vec<u8>)>, out: &mut Vec<u8>) {
    entries.sort();
    for (number, entry) in entries.drain(..) {
        put_bytes(out, number, &entry);
    }
}

fn any(bytes: &[u8], out: &mut Vec<u8>, depth: u32) -> Result<(), Error> {
    let mut fields = Reader::new(bytes).collect::<Result<Vec<_>, _>>()?;
    let url = fields.iter().rev().find_map(|(number, wire)| match wire {
        Wire::Bytes(url) if *number == 1 => std::str::from_utf8(url).ok(),
        _ => None,
    });
    let known = url.and_then(|url| Message::find(bare(url)));
    fields.sort_by_key(|(number, _)| *number);
    for (number, wire) in fields {
        match (number, wire, known) {
            (2, Wire::Bytes(value), Some(known)) => {
                let mut written = Vec::with_capacity(value.len());
                message(known, value, &mut written, depth)?;
                put_bytes(out, 2, &written);
            }
            (number, wire, _) => put(number, wire, out),
        }
    }
    Ok(())
}

fn put(number: u32, wire: Wire<'_>, out: &mut Vec<u8>) {
    match wire {
        Wire::Varint(value) => {
            put_tag(out, number, 0);
            put_varint(out, value);
        }
        Wire::Fixed64(value) => {
            put_tag(out, number, 1);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Wire::Bytes(bytes) => put_bytes(out, number, bytes),
        Wire::Fixed32(value) => {
            put_tag(out, number, 5);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::{Any, ListValue, Struct, Value, value::Kind as ValueKind};
    use prost::{Message as _, Name};

    #[test]
    fn maps_come_in_one_order_at_every_depth() {
        let number = |n| Value { kind: Some(ValueKind::NumberValue(n)) };
        let object = |inner: Option<Value>| {
            let mut fields: std::collections::HashMap<_, _> =
                (0..20u8).map(|n| (format!("key{n}"), number(f64::from(n)))).collect();
            fields.extend(inner.map(|inner| ("inner".to_owned(), inner)));
            Struct { fields }
        };
        let nested = || Value { kind: Some(ValueKind::StructValue(object(None))) };
        let list =
            || Value { kind: Some(ValueKind::ListValue(ListValue { values: vec![nested(), nested()] })) };
        let encoded = || {
            let any = Any { type_url: Struct::type_url(), value: object(Some(list())).encode_to_vec() };
            super::super::canonical("google.protobuf.Any", &any.encode_to_vec()).unwrap()
        };
        let first = encoded();
        assert!((0..8).all(|_| encoded() == first));
        let any = Any::decode(first.as_slice()).unwrap();
        assert_eq!(Struct::decode(any.value.as_slice()).unwrap(), object(Some(list())));
    }
}
