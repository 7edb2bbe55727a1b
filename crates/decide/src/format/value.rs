//! What an operator comes to.

use std::borrow::Cow;
use std::net::SocketAddr;

use serde_json::Value;

use crate::flags::ResponseFlags;

#[derive(Debug, Clone)]
pub(crate) enum Rendered<'a> {
    Missing,
    Text(Cow<'a, str>),
    Number(i64),
    Json(Value),
    Address(SocketAddr),
    Flags(ResponseFlags),
}

impl<'a> Rendered<'a> {
    pub(super) fn text(text: &'a str) -> Self {
        if text.is_empty() { Self::Missing } else { Self::Text(Cow::Borrowed(text)) }
    }

    pub(super) fn bytes(bytes: Option<Cow<'a, [u8]>>) -> Self {
        match bytes {
            None => Self::Missing,
            // Nearly everything is UTF-8, and told to be so sooner than by who looks for what is not.
            Some(Cow::Borrowed(bytes)) => Self::Text(match std::str::from_utf8(bytes) {
                Ok(text) => Cow::Borrowed(text),
                Err(_) => String::from_utf8_lossy(bytes),
            }),
            Some(Cow::Owned(bytes)) => Self::Text(Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())),
        }
    }

    pub(super) fn number(n: Option<u64>) -> Self {
        n.map_or(Self::Missing, |n| Self::Number(i64::try_from(n).unwrap_or(i64::MAX)))
    }

    /// As a JSON value of its own kind.
    pub(super) fn json(self) -> Value {
        match self {
            Self::Missing => Value::Null,
            Self::Text(text) => Value::String(text.into_owned()),
            Self::Number(n) => Value::from(n),
            Self::Json(value) => value,
            Self::Address(address) => Value::String(address.to_string()),
            Self::Flags(flags) => Value::String(flags.to_string()),
        }
    }
}
