//! Reading Kubernetes' protobuf into the JSON that everything else here works with: kubectl writes some core
//! kinds in no other form. Answers are always JSON. Custom kinds have no protobuf.

use crate::status::{Result, Status};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::OnceLock;

const MAGIC: &[u8] = b"k8s\0";
/// No Kubernetes object is nested deeper.
const DEPTH: usize = 40;

struct Field {
    name: &'static str,
    typ: &'static str,
}

type Message = HashMap<u64, Field>;

/// The table of `protobuf.txt`.
fn messages() -> &'static HashMap<&'static str, Message> {
    static TABLE: OnceLock<HashMap<&'static str, Message>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let lines = include_str!("protobuf.txt").lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| {
                let (name, fields) = line.split_once(' ').unwrap_or((line, ""));
                let field = |word: &'static str| {
                    let mut parts = word.splitn(3, ':');
                    let number = parts.next()?.parse().ok()?;
                    Some((number, Field { name: parts.next()?, typ: parts.next()? }))
                };
                (name, fields.split(' ').filter_map(field).collect())
            })
            .collect()
    })
}

/// A value on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut out = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            out |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(out);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// The next field; `Some(None)` at the end, `None` when the bytes make no sense.
    fn field(&mut self) -> Option<Option<(u64, Wire<'a>)>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Number(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Number(u64::from(u32::from_le_bytes(self.take(4)?.try_into().ok()?))),
            _ => return None,
        };
        Some(Some((tag >> 3, value)))
    }
}

/// An object from its protobuf form.
pub(crate) fn decode(bytes: &[u8], kind: &str) -> Result<Value> {
    let refuse = |why: String| {
        Status::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {why}"))
    };
    let Some(envelope) = bytes.strip_prefix(MAGIC) else {
        let start: String = bytes.iter().take(8).map(|b| format!("{b:02x}")).collect();
        return Err(refuse(format!(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0] ({start})"
        )));
    };
    let malformed = || refuse("the protobuf is malformed".into());
    let (api_version, kind, raw) = unwrap(envelope).ok_or_else(malformed)?;
    let group =
        api_version.split_once('/').map_or("core", |(group, _)| group.split('.').next().unwrap_or(group));
    let name =
        if kind == "DeleteOptions" { "meta.v1.DeleteOptions".into() } else { format!("{group}.v1.{kind}") };
    if !messages().contains_key(name.as_str()) {
        return Err(refuse(format!(
            "no kind \"{kind}\" is registered for protobuf in version \"{api_version}\""
        )));
    }
    let mut object = message(&name, raw, DEPTH).ok_or_else(malformed)?;
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    Ok(object)
}

/// Version, kind and content of the envelope.
fn unwrap(bytes: &[u8]) -> Option<(String, String, &[u8])> {
    let (mut kind, mut version, mut raw) = (String::new(), String::new(), &b""[..]);
    let mut reader = Reader(bytes);
    while let Some((number, value)) = reader.field()? {
        match (number, value) {
            (1, Wire::Bytes(meta)) => {
                let mut meta = Reader(meta);
                while let Some((number, value)) = meta.field()? {
                    let Wire::Bytes(text) = value else { continue };
                    let text = std::str::from_utf8(text).ok()?.to_owned();
                    if number == 1 { version = text } else { kind = text }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            // A content encoding would be one that nobody uses.
            (3, Wire::Bytes(encoding)) if !encoding.is_empty() => return None,
            _ => {}
        }
    }
    Some((version, kind, raw))
}

fn message(name: &str, bytes: &[u8], depth: usize) -> Option<Value> {
    let table = messages().get(name)?;
    let depth = depth.checked_sub(1)?;
    let mut out = Map::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        let Some(field) = table.get(&number) else { continue };
        if let Some(item) = field.typ.strip_prefix("[]") {
            let list = out.entry(field.name).or_insert_with(|| json!([]));
            list.as_array_mut()?.push(value(item, &wire, depth)?);
        } else if let Some(typ) = field.typ.strip_prefix("{}") {
            let Wire::Bytes(entry) = wire else { return None };
            let (key, value) = entry_of(typ, entry, depth)?;
            out.entry(field.name).or_insert_with(|| json!({})).as_object_mut()?.insert(key, value);
        } else {
            let typ = field.typ.trim_end_matches(['*', '+']);
            let value = value(typ, &wire, depth)?;
            if field.name == "=" {
                out.extend(value.as_object()?.clone());
            } else if field.typ.len() > typ.len() || !is_zero(&value) {
                out.insert(field.name.into(), value);
            }
        }
    }
    Some(Value::Object(out))
}

fn entry_of(typ: &str, bytes: &[u8], depth: usize) -> Option<(String, Value)> {
    let (mut key, mut found) = (String::new(), None);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        match (number, &wire) {
            (1, Wire::Bytes(text)) => key = std::str::from_utf8(text).ok()?.to_owned(),
            (2, _) => found = Some(value(typ, &wire, depth)?),
            _ => {}
        }
    }
    let empty = || if typ == "s" || typ == "y" || typ == "Q" { json!("") } else { json!({}) };
    Some((key, found.unwrap_or_else(empty)))
}

/// What Go leaves out of its JSON.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn value(typ: &str, wire: &Wire<'_>, depth: usize) -> Option<Value> {
    match (typ, wire) {
        ("i", Wire::Number(number)) => Some(json!(number.cast_signed())),
        ("b", Wire::Number(number)) => Some(json!(*number != 0)),
        ("f", Wire::Number(bits)) => Some(json!(f64::from_bits(*bits))),
        ("s", Wire::Bytes(text)) => Some(json!(std::str::from_utf8(text).ok()?)),
        ("y", Wire::Bytes(bytes)) => Some(json!(STANDARD.encode(bytes))),
        ("T" | "U", Wire::Bytes(bytes)) => time(bytes, typ == "U"),
        ("Q", Wire::Bytes(bytes)) => fields(bytes)?.remove(&1).map_or(Some(json!("0")), text),
        ("I", Wire::Bytes(bytes)) => {
            let mut parts = fields(bytes)?;
            let is_text = matches!(parts.get(&1), Some(Wire::Number(1)));
            match parts.remove(if is_text { &3 } else { &2 }) {
                Some(Wire::Number(number)) => Some(json!(number.cast_signed())),
                Some(wire) => text(wire),
                None => Some(if is_text { json!("") } else { json!(0) }),
            }
        }
        ("R", Wire::Bytes(bytes)) => match fields(bytes)?.remove(&1) {
            Some(Wire::Bytes(raw)) => serde_json::from_slice(raw).ok(),
            _ => Some(Value::Null),
        },
        ("x", Wire::Bytes(bytes)) => {
            let mut out = Vec::new();
            let mut reader = Reader(bytes);
            while let Some((_, wire)) = reader.field()? {
                out.push(text(wire)?);
            }
            Some(Value::Array(out))
        }
        (name, Wire::Bytes(bytes)) => message(name, bytes, depth),
        _ => None,
    }
}

fn fields(bytes: &[u8]) -> Option<HashMap<u64, Wire<'_>>> {
    let mut out = HashMap::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        out.insert(number, wire);
    }
    Some(out)
}

fn text(wire: Wire<'_>) -> Option<Value> {
    let Wire::Bytes(bytes) = wire else { return None };
    Some(json!(std::str::from_utf8(bytes).ok()?))
}

fn time(bytes: &[u8], micro: bool) -> Option<Value> {
    if bytes.is_empty() {
        return Some(Value::Null);
    }
    let parts = fields(bytes)?;
    let number = |key: u64| match parts.get(&key) {
        Some(Wire::Number(number)) => number.cast_signed(),
        _ => 0,
    };
    let moment = jiff::Timestamp::new(number(1), i32::try_from(number(2)).ok()?).ok()?;
    let format = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Some(json!(moment.strftime(format).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
        out.push(number << 3 | 2);
        out.push(u8::try_from(bytes.len()).unwrap());
        out.extend_from_slice(bytes);
    }

    #[test]
    fn a_config_map_is_read() {
        let (mut meta, mut entry, mut body, mut typed) = (vec![], vec![], vec![], vec![]);
        put(&mut meta, 1, b"a");
        put(&mut meta, 2, b"");
        put(&mut meta, 8, b"");
        put(&mut entry, 1, b"k");
        put(&mut entry, 2, b"v");
        put(&mut body, 1, &meta);
        put(&mut body, 2, &entry);
        put(&mut typed, 1, b"v1");
        put(&mut typed, 2, b"ConfigMap");
        let mut envelope = b"k8s\0".to_vec();
        put(&mut envelope, 1, &typed);
        put(&mut envelope, 2, &body);
        assert_eq!(
            decode(&envelope, "ConfigMap").unwrap(),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}})
        );
        for cut in 0..envelope.len() {
            // Whatever is cut off, it is an answer and no panic.
            let _ = decode(&envelope[..cut], "ConfigMap");
        }
        assert_eq!(decode(b"garbage", "X").unwrap_err().code, 400);
    }
}
