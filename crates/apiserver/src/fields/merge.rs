//! Merging an applied configuration into the live object, and removing what its manager gave up.

use super::{Element, FieldSet, Shape, descend, element, items, shape};
use crate::schema::{Id, Schemas};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The live object with the configuration laid over it.
pub(super) fn merge(schemas: &Schemas, id: Option<Id>, live: &Value, config: &Value) -> Value {
    let node = id.map(|id| schemas.node(id));
    match (shape(node, live), shape(node, config)) {
        (Shape::Map(old), Shape::Map(new)) => {
            let mut out = old.clone();
            for (name, value) in new {
                let child = descend(schemas, id, name);
                let merged = match old.get(name) {
                    Some(old) => merge(schemas, child, old, value),
                    None => value.clone(),
                };
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        (Shape::List(old, kind), Shape::List(new, _)) => {
            let name = |(i, item)| (element(schemas, id, kind, item, i), item);
            let old: Vec<(Element, &Value)> = old.iter().enumerate().map(name).collect();
            let new: Vec<(Element, &Value)> = new.iter().enumerate().map(name).collect();
            Value::Array(interleave(schemas, items(schemas, id), &old, &new))
        }
        _ => config.clone(),
    }
}

/// The configuration's order rules; what only the live object has keeps its place among its neighbours.
fn interleave(
    schemas: &Schemas,
    id: Option<Id>,
    old: &[(Element, &Value)],
    new: &[(Element, &Value)],
) -> Vec<Value> {
    let by_name: BTreeMap<&Element, &Value> = old.iter().map(|(e, v)| (e, *v)).collect();
    let wanted: BTreeSet<&Element> = new.iter().map(|(e, _)| e).collect();
    let mut placed = BTreeSet::new();
    let mut rest = old.iter().peekable();
    let mut out = Vec::new();
    for (element, value) in new {
        while let Some((name, item)) =
            rest.next_if(|(name, _)| name != element && (!wanted.contains(name) || placed.contains(name)))
        {
            if !wanted.contains(name) {
                out.push((*item).clone());
            }
        }
        rest.next_if(|(name, _)| name == element);
        placed.insert(element);
        out.push(match by_name.get(element) {
            Some(live) => merge(schemas, id, live, value),
            None => (*value).clone(),
        });
    }
    out.extend(rest.filter(|(name, _)| !wanted.contains(name)).map(|(_, item)| (*item).clone()));
    out
}

/// Removes what is in `gone` unless it, or something below it, is in `kept`.
pub(super) fn prune(schemas: &Schemas, id: Option<Id>, value: &mut Value, gone: &FieldSet, kept: &FieldSet) {
    let nothing = FieldSet::default();
    let node = id.map(|id| schemas.node(id).clone());
    match value {
        Value::Object(map) if !node.as_ref().is_some_and(|node| node.atomic_map) => {
            map.retain(|name, value| {
                let element = Element::Field(name.clone());
                if gone.has(&element) && !kept.touches(&element) {
                    return false;
                }
                if let Some(gone) = gone.below(&element) {
                    let child = descend(schemas, id, name);
                    prune(schemas, child, value, gone, kept.below(&element).unwrap_or(&nothing));
                }
                true
            });
        }
        Value::Array(list) => {
            let Some(node) = node else { return };
            let child = items(schemas, id);
            let mut index = 0;
            list.retain_mut(|item| {
                let element = element(schemas, id, &node.list, item, index);
                index += 1;
                if gone.has(&element) && !kept.touches(&element) {
                    return false;
                }
                if let Some(gone) = gone.below(&element) {
                    prune(schemas, child, item, gone, kept.below(&element).unwrap_or(&nothing));
                }
                true
            });
        }
        _ => {}
    }
}
