//! The patches: JSON, merge and strategic merge.

mod strategic;

use crate::schema::{Id, Schemas};
use crate::status::{Result, Status};
use serde_json::Value;

/// What a patch's content type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchKind {
    pub fn of(content_type: &str) -> Option<Self> {
        match content_type {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// Applies a patch that is not an apply.
pub(crate) fn patch(
    kind: PatchKind,
    schemas: &Schemas,
    id: Id,
    object: &Value,
    patch: &Value,
) -> Result<Value> {
    let mut out = object.clone();
    match kind {
        PatchKind::Json => json(&mut out, patch)?,
        PatchKind::Merge => {
            if !patch.is_object() {
                return Err(Status::bad_request("a merge patch is a JSON object"));
            }
            json_patch::merge(&mut out, patch);
        }
        PatchKind::Strategic | PatchKind::Apply => {
            strategic::apply(schemas, Some(id), &mut out, patch)
                .map_err(|why| Status::bad_request(format!("invalid strategic merge patch: {why}")))?;
        }
    }
    Ok(out)
}

fn json(object: &mut Value, patch: &Value) -> Result<()> {
    const MOST: usize = 10_000;
    if let Some(list) = patch.as_array().filter(|list| list.len() > MOST) {
        let message = format!("The allowed maximum operations in a JSON patch is {MOST}, got {}", list.len());
        return Err(Status::new(413, "RequestEntityTooLarge", message));
    }
    let operations: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    json_patch::patch(object, &operations).map_err(|error| {
        let mut status = Status::new(
            422,
            "Invalid",
            format!("the server rejected our request due to an error in our request: {error}"),
        );
        status.about = Some(crate::status::About::default());
        status
    })
}
