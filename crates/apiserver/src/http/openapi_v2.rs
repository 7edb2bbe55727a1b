//! The OpenAPI v2 document in protobuf, the only form in which kubectl asks for it.
//!
//! kubectl falls back to it when a version is in no v3 document: without it a misspelt `apiVersion` would be answered
//! by "the server was unable to respond with a content type that the client supports" instead of by the version's name.
//! The message is gnostic's `openapi.v2.Document`; paths are left out, as nobody reads them there.

use bytes::Bytes;
use serde_json::{Map, Value};

/// How clients ask for it.
pub(super) const ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// How it is answered: the name that clients ask for is no media type, strictly.
pub(super) const ANSWERED: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Numbers of the fields of `Schema` that hold a string.
const STRINGS: [(&str, u64); 6] =
    [("$ref", 1), ("format", 2), ("title", 3), ("description", 4), ("pattern", 13), ("discriminator", 26)];
const DOUBLES: [(&str, u64); 3] = [("multipleOf", 6), ("maximum", 7), ("minimum", 9)];
const BOOLEANS: [(&str, u64); 4] =
    [("exclusiveMaximum", 8), ("exclusiveMinimum", 10), ("uniqueItems", 16), ("readOnly", 27)];
const INTEGERS: [(&str, u64); 6] = [
    ("maxLength", 11),
    ("minLength", 12),
    ("maxItems", 14),
    ("minItems", 15),
    ("maxProperties", 17),
    ("minProperties", 18),
];

/// The document in protobuf. Keywords that v2 does not know are left out.
pub(super) fn encode(document: &Value) -> Bytes {
    let mut info = Message::default();
    info.string(1, text(document, "/info/title"));
    info.string(2, text(document, "/info/version"));
    let mut out = Message::default();
    out.string(1, text(document, "/swagger"));
    out.message(2, &info);
    out.message(8, &Message::default());
    out.message(9, &named(document["definitions"].as_object()));
    out.0.into()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// `Definitions` and `Properties`: a list of `NamedSchema`.
fn named(schemas: Option<&Map<String, Value>>) -> Message {
    let mut out = Message::default();
    for (name, of) in schemas.into_iter().flatten() {
        let mut entry = Message::default();
        entry.string(1, name);
        entry.message(2, &schema(of));
        out.message(1, &entry);
    }
    out
}

fn schema(of: &Value) -> Message {
    let mut out = Message::default();
    for (name, number) in STRINGS {
        if let Some(text) = of[name].as_str() {
            out.string(number, text);
        }
    }
    for (name, number) in DOUBLES {
        if let Some(double) = of[name].as_f64() {
            out.double(number, double);
        }
    }
    for (name, number) in BOOLEANS {
        if of[name] == true {
            out.integer(number, 1);
        }
    }
    for (name, number) in INTEGERS {
        if let Some(integer) = of[name].as_u64() {
            out.integer(number, integer);
        }
    }
    for name in of["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        out.string(19, name);
    }
    if let Some(default) = of.get("default") {
        out.message(5, &any(default));
    }
    for value in of["enum"].as_array().into_iter().flatten() {
        out.message(20, &any(value));
    }
    nested(of, &mut out);
    for (name, value) in of.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
        let mut extension = Message::default();
        extension.string(1, name);
        extension.message(2, &any(value));
        out.message(31, &extension);
    }
    out
}

/// What of a schema is made of schemas, and its type.
fn nested(of: &Value, out: &mut Message) {
    if let Some(values) = of.get("additionalProperties") {
        let mut item = Message::default();
        match values {
            Value::Bool(allowed) => item.integer(2, u64::from(*allowed)),
            values => item.message(1, &schema(values)),
        }
        out.message(21, &item);
    }
    if let Some(name) = of["type"].as_str() {
        let mut item = Message::default();
        item.string(1, name);
        out.message(22, &item);
    }
    if let Some(items) = of.get("items") {
        let mut item = Message::default();
        item.message(1, &schema(items));
        out.message(23, &item);
    }
    for part in of["allOf"].as_array().into_iter().flatten() {
        out.message(24, &schema(part));
    }
    if let Some(properties) = of["properties"].as_object() {
        out.message(25, &named(Some(properties)));
    }
}

/// gnostic's `Any`: a value as YAML, which JSON is.
fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.string(2, &value.to_string());
    out
}

/// A protobuf message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn integer(&mut self, number: u64, value: u64) {
        self.varint(number << 3);
        self.varint(value);
    }

    fn double(&mut self, number: u64, value: f64) {
        self.varint(number << 3 | 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.varint(number << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn string(&mut self, number: u64, text: &str) {
        self.bytes(number, text.as_bytes());
    }

    fn message(&mut self, number: u64, message: &Self) {
        self.bytes(number, &message.0);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_have_the_numbers_of_gnostic() {
        let encoded = |schema_of: Value| schema(&schema_of).0;
        assert_eq!(
            encoded(json!({"type": "string"})),
            [0xb2, 1, 8, 10, 6, b's', b't', b'r', b'i', b'n', b'g']
        );
        assert_eq!(encoded(json!({"maxItems": 300})), [14 << 3, 0xac, 2]);
        assert_eq!(encoded(json!({"minimum": 0})), [9 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(encoded(json!({"x-a": 1})), [0xfa, 1, 10, 10, 3, b'x', b'-', b'a', 18, 3, 18, 1, b'1']);
        assert_eq!(encoded(json!({"nullable": true, "oneOf": []})), [0_u8; 0]);
        let document = json!({"swagger": "2.0", "definitions": {"a": {"$ref": "b"}}});
        let bytes = encode(&document);
        assert!(bytes.starts_with(b"\x0a\x032.0"));
        assert!(bytes.ends_with(b"\x4a\x0a\x0a\x08\x0a\x01a\x12\x03\x0a\x01b"), "{bytes:?}");
    }
}
