//! Unary gRPC as cases write it and as facts show it: messages in protobuf's JSON, by the service that is called.

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

fn scrub(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            // Streams and clients' ports are counted by each for itself.
            fields.retain(|name, _| !matches!(name.as_str(), "id" | "time" | "portValue"));
            fields.values_mut().for_each(scrub);
        }
        Value::Array(all) => all.iter_mut().for_each(scrub),
        Value::String(text) if is_uuid(text) => *text = "UUID".into(),
        _ => {}
    }
}
