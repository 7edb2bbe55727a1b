//! Field ownership: which manager set which field, in Kubernetes' `FieldsV1`.
//!
//! Pure functions over values and schemas; they know no clock and no store.

mod compare;
mod manager;
mod merge;
mod set;
#[cfg(test)]
mod tests;

pub(crate) use manager::{Request, apply, update};
pub(crate) use set::{Element, FieldSet};

use crate::schema::{Id, ListType, Node, Schemas, Type};
use serde_json::{Map, Value};

/// How a value is taken apart.
pub(crate) enum Shape<'a> {
    /// Owned as a whole.
    Leaf,
    Map(&'a Map<String, Value>),
    List(&'a [Value], &'a ListType),
}

/// The shape of a value under its schema. Without a schema maps are granular and lists atomic, as for
/// preserved unknown fields.
pub(crate) fn shape<'a>(node: Option<&'a Node>, value: &'a Value) -> Shape<'a> {
    match value {
        Value::Object(map) => match node {
            Some(node) if node.atomic_map || node.typ == Type::Any && !node.preserve_unknown => Shape::Leaf,
            _ => Shape::Map(map),
        },
        Value::Array(list) => match node.map(|node| &node.list) {
            None | Some(ListType::Atomic) => Shape::Leaf,
            Some(kind) => Shape::List(list, kind),
        },
        _ => Shape::Leaf,
    }
}

/// The schema of a map's field.
pub(crate) fn descend(schemas: &Schemas, id: Option<Id>, name: &str) -> Option<Id> {
    id.and_then(|id| schemas.field(id, name))
}

/// The schema of a list's items.
pub(crate) fn items(schemas: &Schemas, id: Option<Id>) -> Option<Id> {
    id.and_then(|id| schemas.node(id).items)
}

/// What tells an item of a list from the others.
pub(crate) fn element(
    schemas: &Schemas,
    id: Option<Id>,
    kind: &ListType,
    item: &Value,
    index: usize,
) -> Element {
    match kind {
        ListType::Set => Element::Value(item.clone()),
        ListType::Atomic => Element::Index(index),
        ListType::Map(keys) => {
            let default = |key: &str| -> Option<Value> {
                let field = schemas.field(items(schemas, id)?, key)?;
                schemas.node(field).default.clone().or_else(|| (key == "protocol").then(|| "TCP".into()))
            };
            let mut found: Vec<(String, Value)> = keys
                .iter()
                .filter_map(|key| {
                    let value = item.get(key).cloned().or_else(|| default(key))?;
                    Some((key.clone(), value))
                })
                .collect();
            found.sort_by(|a, b| a.0.cmp(&b.0));
            Element::Key(found)
        }
    }
}
