//! What differs between two versions of an object.

use super::{Element, FieldSet, Shape, descend, element, items, shape};
use crate::schema::{Id, Schemas};
use serde_json::Value;
use std::collections::BTreeMap;

/// The fields by what became of them.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

pub(super) fn compare(schemas: &Schemas, id: Id, old: &Value, new: &Value) -> Comparison {
    let mut walk = Walk { schemas, path: Vec::new(), out: Comparison::default() };
    walk.pair(Some(id), Some(old), Some(new));
    walk.out
}

struct Walk<'a> {
    schemas: &'a Schemas,
    path: Vec<Element>,
    out: Comparison,
}

impl Walk<'_> {
    fn step(&mut self, element: Element, id: Option<Id>, old: Option<&Value>, new: Option<&Value>) {
        self.path.push(element);
        self.pair(id, old, new);
        self.path.pop();
    }

    fn pair(&mut self, id: Option<Id>, old: Option<&Value>, new: Option<&Value>) {
        let node = id.map(|id| self.schemas.node(id));
        let empty = |value: Option<&Value>| match value {
            None | Some(Value::Null) => true,
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            _ => false,
        };
        let both_empty = empty(old) && empty(new);
        let shape_of = |value: Option<&'_ Value>| {
            value.filter(|v| !v.is_null()).map(|v| match shape(node, v) {
                Shape::Leaf => 0,
                Shape::Map(_) => 1,
                Shape::List(..) => 2,
            })
        };
        let kind = shape_of(new).or(shape_of(old)).unwrap_or(0);
        let same_kind = shape_of(old).is_none_or(|k| k == kind) && shape_of(new).is_none_or(|k| k == kind);
        if kind == 0 || both_empty || !same_kind {
            self.leaf(old, new);
            return;
        }
        if kind == 1 {
            self.maps(id, old, new);
        } else {
            self.lists(id, old, new);
        }
        match (old, new) {
            (None, _) => self.out.added.insert(&self.path),
            (_, None) => self.out.removed.insert(&self.path),
            _ => {}
        }
    }

    fn leaf(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, None) => {}
            (None, Some(_)) => self.out.added.insert(&self.path),
            (Some(_), None) => self.out.removed.insert(&self.path),
            (Some(old), Some(new)) if old != new => self.out.modified.insert(&self.path),
            _ => {}
        }
    }

    fn maps(&mut self, id: Option<Id>, old: Option<&Value>, new: Option<&Value>) {
        let old = old.and_then(Value::as_object);
        let new = new.and_then(Value::as_object);
        for (name, value) in old.into_iter().flatten() {
            let now = new.and_then(|new| new.get(name));
            let child = descend(self.schemas, id, name);
            self.step(Element::Field(name.clone()), child, Some(value), now);
        }
        for (name, value) in new.into_iter().flatten() {
            if old.is_none_or(|old| !old.contains_key(name)) {
                let child = descend(self.schemas, id, name);
                self.step(Element::Field(name.clone()), child, None, Some(value));
            }
        }
    }

    fn lists(&mut self, id: Option<Id>, old: Option<&Value>, new: Option<&Value>) {
        let old = index(self.schemas, id, old);
        let new = index(self.schemas, id, new);
        let child = items(self.schemas, id);
        for (element, value) in &old {
            self.step(element.clone(), child, Some(value), new.get(element).copied());
        }
        for (element, value) in new.iter().filter(|(element, _)| !old.contains_key(*element)) {
            self.step(element.clone(), child, None, Some(value));
        }
    }
}

fn index<'a>(schemas: &Schemas, id: Option<Id>, list: Option<&'a Value>) -> BTreeMap<Element, &'a Value> {
    let Some(node) = id.map(|id| schemas.node(id)) else { return BTreeMap::new() };
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.enumerate().map(|(i, item)| (element(schemas, id, &node.list, item, i), item)).collect()
}
