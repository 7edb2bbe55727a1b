//! Istio's kinds, and the ConfigMap with the mesh's settings: judged by the `api` crate.

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
    if let Some(found) = judged(resource, object) {
        add(found, causes, warnings);
    }
}

/// MeshConfig, where a ConfigMap is the one that holds it.
pub(super) fn validate_mesh_config(object: &Value, causes: &mut Vec<Cause>, warnings: &mut Vec<String>) {
    if let Some(found) = api::validate_mesh_config_map(object) {
        add(found, causes, warnings);
    }
}

fn add(found: Validation, causes: &mut Vec<Cause>, warnings: &mut Vec<String>) {
    let Validation { errors, warnings: more } = found;
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

/// Adds to what the schema alone found how to mend it, where that is known.
pub(in crate::engine) fn hint(resource: &Resource, object: &Value, causes: &mut [Cause]) {
    if causes.is_empty() {
        return;
    }
    let Some(Validation { errors, .. }) = judged(resource, object) else { return };
    for cause in causes {
        let hint = errors.iter().find(|e| e.path == cause.field).and_then(|e| e.hint.as_deref());
        if let Some(hint) = hint {
            cause.message += &format!(" ({hint})");
        }
    }
}

fn judged(resource: &Resource, object: &Value) -> Option<Validation> {
    let api_version = crate::engine::text(object, "/apiVersion");
    Some(api::validate(Kind::of(api_version, &resource.kind)?, object))
}
