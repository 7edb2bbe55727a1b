//! Whether a resource makes sense by itself.

use serde_json::Value;

use crate::check;
use crate::error::Validation;
use crate::kind::Kind;
use crate::{object, support};

/// Judges an object of that kind: its shape, whether everything it uses is honoured, its sense.
pub fn validate(kind: Kind, object: &Value) -> Validation {
    let (spec, errors) = check::spec(kind, object);
    let mut out = Validation { errors, warnings: Vec::new() };
    support::check(kind, &spec, &mut out);
    if out.is_ok() {
        match object::decode(kind, spec) {
            Ok(_) => {}
            Err(error) => out.errors.push(error),
        }
    }
    out
}
