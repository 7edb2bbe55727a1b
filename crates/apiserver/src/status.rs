//! Kubernetes' `Status`: the one error type of this crate, with the server's own words and codes.
//!
//! Every refusal is made by a constructor here, so that code, reason, message and causes stay together.

use serde_json::{Value, json};
use std::fmt;

/// A field at fault, as in `details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub reason: &'static str,
    pub message: String,
    pub field: String,
}

impl Cause {
    /// The value is not allowed; `value` is shown as JSON.
    pub fn invalid(field: impl Into<String>, value: &Value, why: impl fmt::Display) -> Self {
        Self {
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {}: {why}", shown(value)),
            field: field.into(),
        }
    }

    pub fn required(field: impl Into<String>, why: impl Into<String>) -> Self {
        let why = why.into();
        let message = if why.is_empty() { "Required value".into() } else { format!("Required value: {why}") };
        Self { reason: "FieldValueRequired", message, field: field.into() }
    }

    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        let message = format!("Duplicate value: {}", shown(value));
        Self { reason: "FieldValueDuplicate", message, field: field.into() }
    }

    pub fn forbidden(field: impl Into<String>, why: impl fmt::Display) -> Self {
        Self { reason: "FieldValueForbidden", message: format!("Forbidden: {why}"), field: field.into() }
    }

    pub fn unsupported(field: impl Into<String>, value: &Value, allowed: &[&str]) -> Self {
        let allowed: Vec<String> = allowed.iter().map(|a| format!("{a:?}")).collect();
        Self {
            reason: "FieldValueNotSupported",
            message: format!("Unsupported value: {}: supported values: {}", shown(value), allowed.join(", ")),
            field: field.into(),
        }
    }

    pub fn wrong_type(field: impl Into<String>, value: &Value, why: impl fmt::Display) -> Self {
        Self {
            reason: "FieldValueTypeInvalid",
            message: format!("Invalid value: {}: {why}", shown(value)),
            field: field.into(),
        }
    }
}

/// How the real server prints an offending value: strings quoted, objects by their type's shape.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        other => other.to_string(),
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            write!(f, "<nil>: {}", self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

/// Which resource a status speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    pub group: String,
    /// The plural resource, or the kind for `Invalid`.
    pub kind: String,
    pub name: String,
    pub uid: String,
}

impl About {
    /// `services` or `virtualservices.networking.istio.io`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.kind.clone() } else { format!("{}.{}", self.kind, self.group) }
    }
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    pub about: Option<About>,
    pub causes: Vec<Cause>,
    pub retry_after: Option<u32>,
    /// A continue token to go on with, in `Expired` answers to a list.
    pub continue_token: Option<String>,
}

pub type Result<T, E = Box<Status>> = std::result::Result<T, E>;

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {})", self.message, self.code, self.reason)
    }
}

impl std::error::Error for Status {}

impl Status {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            code,
            reason,
            message: message.into(),
            about: None,
            causes: Vec::new(),
            retry_after: None,
            continue_token: None,
        })
    }

    fn on(mut self: Box<Self>, about: About) -> Box<Self> {
        self.about = Some(about);
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Box<Self> {
        Self::new(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Box<Self> {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn forbidden(about: About, why: impl fmt::Display) -> Box<Self> {
        let message = if about.name.is_empty() {
            format!("{} is forbidden: {why}", about.qualified())
        } else {
            format!("{} \"{}\" is forbidden: {why}", about.qualified(), about.name)
        };
        Self::new(403, "Forbidden", message).on(about)
    }

    pub fn not_found(about: About) -> Box<Self> {
        Self::new(404, "NotFound", format!("{} \"{}\" not found", about.qualified(), about.name)).on(about)
    }

    /// A resource or path that this server does not have.
    pub fn no_such_resource() -> Box<Self> {
        Self::new(404, "NotFound", "the server could not find the requested resource").on(About::default())
    }

    pub fn method_not_allowed() -> Box<Self> {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            .on(About::default())
    }

    pub fn method_not_supported(about: &About, verb: &str) -> Box<Self> {
        let message = format!("{verb} is not supported on resources of kind \"{}\"", about.qualified());
        Self::new(405, "MethodNotAllowed", message).on(About {
            name: String::new(),
            uid: String::new(),
            ..about.clone()
        })
    }

    pub fn not_acceptable(accepted: &[&str]) -> Box<Self> {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message)
    }

    pub fn unsupported_media_type(accepted: &[&str]) -> Box<Self> {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub fn already_exists(about: About) -> Box<Self> {
        Self::new(409, "AlreadyExists", format!("{} \"{}\" already exists", about.qualified(), about.name))
            .on(about)
    }

    pub fn conflict(about: About, why: impl fmt::Display) -> Box<Self> {
        let message =
            format!("Operation cannot be fulfilled on {} \"{}\": {why}", about.qualified(), about.name);
        Self::new(409, "Conflict", message).on(about)
    }

    /// Somebody wrote the object since the caller read it.
    pub fn modified(about: About) -> Box<Self> {
        Self::conflict(
            about,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub fn apply_conflict(message: String, causes: Vec<Cause>) -> Box<Self> {
        let mut status = Self::new(409, "Conflict", message).on(About::default());
        status.causes = causes;
        status
    }

    /// `about.kind` is the kind here, not the resource.
    pub fn invalid(about: About, causes: Vec<Cause>) -> Box<Self> {
        let list = match causes.as_slice() {
            [] => String::from("<nil>"),
            [one] => one.to_string(),
            many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        };
        let message = format!("{} \"{}\" is invalid: {list}", about.qualified(), about.name);
        let mut status = Self::new(422, "Invalid", message).on(about);
        status.causes = causes;
        status
    }

    pub fn too_large(limit: usize) -> Box<Self> {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    pub fn expired(message: impl Into<String>) -> Box<Self> {
        Self::new(410, "Expired", message)
    }

    pub fn revision_too_large(asked: u64, current: u64) -> Box<Self> {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut status = Self::new(504, "Timeout", message).on(About::default());
        status.retry_after = Some(1);
        status.causes = vec![Cause {
            reason: "ResourceVersionTooLarge",
            message: "Too large resource version".into(),
            field: String::new(),
        }];
        status
    }

    pub fn internal(message: impl fmt::Display) -> Box<Self> {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}")).on(About::default())
    }

    pub fn storage_full(message: impl fmt::Display) -> Box<Self> {
        Self::new(507, "InsufficientStorage", format!("the write was not stored: {message}"))
    }

    /// The object that goes over the wire.
    pub fn to_json(&self) -> Value {
        let mut metadata = json!({});
        if let Some(token) = &self.continue_token {
            metadata["continue"] = json!(token);
        }
        let mut body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure",
            "message": self.message,
        });
        if !self.reason.is_empty() {
            body["reason"] = json!(self.reason);
        }
        if let Some(details) = self.details() {
            body["details"] = details;
        }
        body["code"] = json!(self.code);
        body
    }

    fn details(&self) -> Option<Value> {
        if self.about.is_none() && self.causes.is_empty() && self.retry_after.is_none() {
            return None;
        }
        let about = self.about.clone().unwrap_or_default();
        let mut details = json!({});
        for (key, text) in
            [("name", about.name), ("group", about.group), ("kind", about.kind), ("uid", about.uid)]
        {
            if !text.is_empty() {
                details[key] = json!(text);
            }
        }
        if !self.causes.is_empty() {
            details["causes"] = self.causes.iter().map(Cause::to_json).collect();
        }
        if let Some(seconds) = self.retry_after {
            details["retryAfterSeconds"] = json!(seconds);
        }
        Some(details)
    }
}

impl Cause {
    fn to_json(&self) -> Value {
        let mut cause = json!({ "reason": self.reason, "message": self.message });
        if !self.field.is_empty() {
            cause["field"] = json!(self.field);
        }
        cause
    }
}
