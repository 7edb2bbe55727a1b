//! Protobuf's JSON mapping for the messages in use: [`to_value`], [`from_value`], and [`set_fields`], which lists what
//! a message sets so that what is not supported can be refused by name.
//!
//! Works on wire bytes and compiled tables; builds no message objects and knows no Rust types. `Any` is expanded where
//! its type is known and otherwise kept as `{"@type", "value": base64}`. Fields on the wire that no definition names are
//! left out of JSON, as protobuf has it, but [`set_fields`] reports them.

mod canonical;
mod from_json;
mod scalar;
mod secret;
mod tables;
#[cfg(test)]
mod tests;
mod to_json;
mod walk;
mod well_known;
mod wire;

use std::fmt;

use serde_json::Value;

pub use secret::redact;
use tables::{Enum, Field, Kind, Message};
pub use walk::{SetField, Walk, set_fields};

/// Messages nested deeper than this are refused in both directions.
const MAX_DEPTH: u32 = 100;

/// Why a message could not be read or written, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The path in JSON names, such as `routes[0].route.cluster`; empty for the message itself.
    pub path: String,
    pub reason: String,
}

/// Whether the mapping of a type is known. The name may carry a prefix up to a slash, as type URLs do.
pub fn knows(type_name: &str) -> bool {
    Message::find(bare(type_name)).is_some()
}

/// The fields of a message type by the names in its definition; `None` where the type is not known.
pub fn field_names(type_name: &str) -> Option<Vec<&'static str>> {
    Some(Message::find(bare(type_name))?.fields().map(Field::name).collect())
}

/// The JSON form of an encoded message.
pub fn to_value(type_name: &str, bytes: &[u8]) -> Result<Value, Error> {
    to_json::message(find(type_name)?, bytes, 0)
}

/// Encodes a message from its JSON form. Both `lowerCamelCase` and the definitions' own names are taken.
pub fn from_value(type_name: &str, value: &Value) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    from_json::message(find(type_name)?, value, &mut out, 0)?;
    Ok(out)
}

/// The JSON form of a message as a Rust value.
pub fn encode<M: prost::Name>(message: &M) -> Result<Value, Error> {
    to_value(&M::full_name(), &message.encode_to_vec())
}

/// A message as a Rust value from its JSON form.
pub fn decode<M: prost::Name + Default>(value: &Value) -> Result<M, Error> {
    let bytes = from_value(&M::full_name(), value)?;
    M::decode(bytes.as_slice()).map_err(|e| Error::new(format!("the encoded form is unreadable: {e}")))
}

/// The JSON form of an `Any`: `{"@type": …}` with the message's own fields beside it.
pub fn any_to_value(type_url: &str, bytes: &[u8]) -> Result<Value, Error> {
    to_json::any(type_url, bytes, 0)
}

/// The type URL and the encoded message from the JSON form of an `Any`.
pub fn any_from_value(value: &Value) -> Result<(String, Vec<u8>), Error> {
    from_json::any(value, 0)
}

/// The encoded message with its maps in one order, so that equal messages have equal bytes.
pub fn canonical(type_name: &str, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(bytes.len());
    canonical::message(find(type_name)?, bytes, &mut out, 0)?;
    Ok(out)
}

fn find(type_name: &str) -> Result<Message, Error> {
    Message::find(bare(type_name)).ok_or_else(|| Error::new(format!("the type {type_name:?} is not known")))
}

fn bare(type_name: &str) -> &str {
    type_name.rsplit_once('/').map_or(type_name, |(_, name)| name)
}

fn deeper(depth: u32) -> Result<u32, Error> {
    if depth < MAX_DEPTH { Ok(depth + 1) } else { Err(Error::new("messages are nested too deeply")) }
}

impl Error {
    fn new(reason: impl Into<String>) -> Self {
        Self { path: String::new(), reason: reason.into() }
    }

    /// Puts a step in front of the path, on the way out of a nested message.
    fn within(mut self, step: &str) -> Self {
        let joint = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{step}{joint}{}", self.path);
        self
    }

    fn at_index(self, index: usize) -> Self {
        self.within(&format!("[{index}]"))
    }

    fn at_key(self, key: &str) -> Self {
        self.within(&format!("[{key:?}]"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{}: {}", self.path, self.reason)
        }
    }
}

impl std::error::Error for Error {}
