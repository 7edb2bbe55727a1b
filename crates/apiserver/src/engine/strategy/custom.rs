//! Istio's kinds: judged by the `api` crate.

use crate::kinds::Resource;
use crate::status::Cause;
use api::{Kind, Reason, Validation};
use serde_json::Value;

pub(super) fn validate(
    resource: &Resource,
    object: &Value,
    causes: &mut Vec<Cause>,
    warnings: &mut Vec<String>,
) {
    let api_version = crate::engine::text(object, "/apiVersion");
    let Some(kind) = Kind::of(api_version, &resource.kind) else { return };
    let Validation { errors, warnings: more } = api::validate(kind, object);
    warnings.extend(more);
    for error in errors {
        let hint = error.hint.map_or(String::new(), |hint| format!(" ({hint})"));
        let message = match error.reason {
            Reason::UnknownField => format!("Invalid value: {}", error.message),
            _ => error.message,
        };
        causes.push(Cause { reason: error.reason.as_str(), message: message + &hint, field: error.path });
    }
}
