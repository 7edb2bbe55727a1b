//! Unary gRPC as cases write it and as facts show it: messages in protobuf's JSON, by the service that is called.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, BytesMut};
use serde_json::Value;

use crate::observe::is_uuid;

/// The services that the upstream can play: a method, what it is asked, what it answers.
const METHODS: &[(&str, &str, &str)] = &[
    (
        "/envoy.service.auth.v3.Authorization/Check",
        "envoy.service.auth.v3.CheckRequest",
        "envoy.service.auth.v3.CheckResponse",
    ),
    (
        "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
        "envoy.service.ratelimit.v3.RateLimitRequest",
        "envoy.service.ratelimit.v3.RateLimitResponse",
    ),
    (
        "/envoy.service.ext_proc.v3.ExternalProcessor/Process",
        "envoy.service.ext_proc.v3.ProcessingRequest",
        "envoy.service.ext_proc.v3.ProcessingResponse",
    ),
];

/// The body of an answer; nothing for a method that nobody plays.
pub fn answer(path: &str, message: &Value) -> Option<Vec<u8>> {
    let (_, _, answered) = METHODS.iter().find(|(method, ..)| *method == path)?;
    let message = proto::json::from_value(answered, message).ok()?;
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(message.len() as u32);
    body.put_slice(&message);
    Some(body.to_vec())
}

/// What was asked, without what no two runs have in common.
pub fn shown(path: &str, body: &[u8]) -> Option<String> {
    let (_, asked, _) = METHODS.iter().find(|(method, ..)| *method == path)?;
    let mut value = proto::json::to_value(asked, body.get(5..)?).ok()?;
    scrub(&mut value);
    Some(value.to_string())
}

/// Bytes of headers as text, without what no two runs have in common.
fn readable(fields: &mut serde_json::Map<String, Value>) {
    let Some(Value::String(raw)) = fields.get("rawValue") else { return };
    let Ok(raw) = STANDARD.decode(raw) else { return };
    let text = crate::message::text(&raw);
    let text = match fields.get("key").and_then(Value::as_str) {
        Some("date") => "DATE".to_owned(),
        Some("x-envoy-upstream-service-time") => "TIME".to_owned(),
        _ if is_uuid(&text) => "UUID".to_owned(),
        _ => text,
    };
    fields.insert("rawValue".to_owned(), text.into());
}

/// The first whole message of what was read of a stream.
pub fn next_message(read: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = u32::from_be_bytes(read.get(1..5)?.try_into().ok()?) as usize;
    (read.len() >= 5 + length).then(|| read.drain(..5 + length).collect())
}

fn scrub(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            // Streams and clients' ports are counted by each for itself.
            fields.retain(|name, _| !matches!(name.as_str(), "id" | "time" | "portValue"));
            readable(fields);
            fields.values_mut().for_each(scrub);
        }
        Value::Array(all) => {
            all.iter_mut().for_each(scrub);
            // The order of a list of headers is the codec's.
            if all.iter().all(|item| item.get("key").is_some()) {
                all.sort_by_key(|item| item["key"].to_string());
            }
        }
        Value::String(text) if is_uuid(text) => *text = "UUID".into(),
        _ => {}
    }
}
