//! The patches: JSON, merge and strategic merge.

mod strategic;

use crate::schema::{Id, Schemas};
use crate::status::{Result, Status};
use json_patch::PatchOperation;
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
        PatchKind::Json => {
            json(&mut out, patch)?;
            if depth(&out) > DEEPEST {
                let message = format!("the patched object is deeper than {DEEPEST} levels");
                return Err(Status::new(413, "RequestEntityTooLarge", message));
            }
        }
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
    let (mut copied, mut deepest) = (0, depth(object));
    for (index, operation) in operations.iter().enumerate() {
        judge(object, operation, &mut copied, &mut deepest)?;
        json_patch::patch(object, std::slice::from_ref(operation)).map_err(|mut error| {
            error.operation = index;
            let mut status = Status::new(
                422,
                "Invalid",
                format!("the server rejected our request due to an error in our request: {error}"),
            );
            status.about = Some(crate::status::About::default());
            status
        })?;
    }
    if depth(object) > DEEPEST { Err(too_much()) } else { Ok(()) }
}

/// What copies may add up to, as in Kubernetes: each may double the object.
const MOST_COPIED: usize = 3 << 20;
/// Deeper objects could not be read back.
const DEEPEST: usize = 100;

/// Refuses what would make much of little: few operations can double an object, or bury it, again and again.
fn judge(object: &Value, operation: &PatchOperation, copied: &mut usize, deepest: &mut usize) -> Result<()> {
    let to = operation.path().count();
    let from = match operation {
        PatchOperation::Copy(copy) => {
            *copied += copy.from.resolve(object).map_or(0, |value| value.to_string().len());
            &copy.from
        }
        PatchOperation::Move(moved) => &moved.from,
        PatchOperation::Add(add) => {
            *deepest = (*deepest).max(to + depth(&add.value));
            return Ok(());
        }
        _ => return Ok(()),
    };
    // At most: where it was taken from need not have been the deepest.
    *deepest = (*deepest).max(to + deepest.saturating_sub(from.count()));
    if *copied > MOST_COPIED || *deepest > 10 * DEEPEST { Err(too_much()) } else { Ok(()) }
}

fn too_much() -> Box<Status> {
    let message = "the JSON patch copies or nests more than an object may hold";
    Status::new(413, "RequestEntityTooLarge", message.to_owned())
}

fn depth(value: &Value) -> usize {
    let of = |inner: Option<usize>| 1 + inner.unwrap_or_default();
    match value {
        Value::Array(items) => of(items.iter().map(depth).max()),
        Value::Object(fields) => of(fields.values().map(depth).max()),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(operations: &[Value]) -> std::result::Result<Value, u16> {
        let (mut schemas, object) = (Schemas::default(), json!({"a": "x".repeat(100), "b": {}}));
        let id = schemas.add(&json!({"type": "object"}));
        patch(PatchKind::Json, &schemas, id, &object, &json!(operations)).map_err(|s| s.code)
    }

    #[test]
    fn a_patch_does_not_make_much_of_little() {
        let doubles = |i| json!({"op": "copy", "from": "/b", "path": format!("/b/{i}")});
        let again = |n: usize| (0..n).map(doubles).collect::<Vec<_>>();
        assert!(patched(&again(2)).is_ok());
        assert_eq!(patched(&again(40)), Err(413), "each doubles what is there");
        let buries = [
            json!({"op": "move", "from": "/b", "path": "/c"}),
            json!({"op": "add", "path": "/b", "value": {}}),
            json!({"op": "move", "from": "/c", "path": "/b/d"}),
        ];
        assert!(patched(&buries).is_ok());
        let deep: Vec<Value> = buries.iter().cycle().take(450).cloned().collect();
        assert_eq!(patched(&deep), Err(413), "deeper than can be read back");
        let deeper: Vec<Value> = buries.iter().cycle().take(9_999).cloned().collect();
        assert_eq!(patched(&deeper), Err(413));
    }
}
