//! A set of fields as a tree, and its `FieldsV1` form.

use super::{Shape, descend, element, items, shape};
use crate::schema::{Id, Schemas};
use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

/// One step of a path.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Element {
    Field(String),
    Key(Vec<(String, Value)>),
    Value(Value),
    Index(usize),
}

impl Element {
    fn rank(&self) -> u8 {
        match self {
            Element::Field(_) => 0,
            Element::Key(_) => 1,
            Element::Value(_) => 2,
            Element::Index(_) => 3,
        }
    }

    /// `f:name`, `k:{"name":"x"}`, `v:"x"`, `i:0`.
    fn encode(&self) -> String {
        match self {
            Element::Field(name) => format!("f:{name}"),
            Element::Key(keys) => {
                let map: Map<String, Value> = keys.iter().cloned().collect();
                format!("k:{}", Value::Object(map))
            }
            Element::Value(value) => format!("v:{value}"),
            Element::Index(index) => format!("i:{index}"),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Element::Field(rest.to_owned())),
            "k" => {
                let Value::Object(map) = serde_json::from_str(rest).ok()? else { return None };
                let mut keys: Vec<(String, Value)> = map.into_iter().collect();
                keys.sort_by(|a, b| a.0.cmp(&b.0));
                Some(Element::Key(keys))
            }
            "v" => Some(Element::Value(serde_json::from_str(rest).ok()?)),
            "i" => Some(Element::Index(rest.parse().ok()?)),
            _ => None,
        }
    }
}

impl Eq for Element {}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Element::Field(a), Element::Field(b)) => a.cmp(b),
            (Element::Index(a), Element::Index(b)) => a.cmp(b),
            (Element::Value(a), Element::Value(b)) => a.to_string().cmp(&b.to_string()),
            (Element::Key(_), Element::Key(_)) => self.encode().cmp(&other.encode()),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Field(name) => write!(f, ".{name}"),
            Element::Key(keys) => {
                let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "[{}]", keys.join(","))
            }
            Element::Value(value) => write!(f, "[={value}]"),
            Element::Index(index) => write!(f, "[{index}]"),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    member: bool,
    below: FieldSet,
}

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSet(BTreeMap<Element, Entry>);

impl FieldSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.values().all(|entry| !entry.member && entry.below.is_empty())
    }

    pub(crate) fn insert(&mut self, path: &[Element]) {
        let Some((first, rest)) = path.split_first() else { return };
        let entry = self.0.entry(first.clone()).or_default();
        if rest.is_empty() { entry.member = true } else { entry.below.insert(rest) }
    }

    pub(crate) fn has(&self, element: &Element) -> bool {
        self.0.get(element).is_some_and(|entry| entry.member)
    }

    /// Whether the element or anything below it is in the set.
    pub(crate) fn touches(&self, element: &Element) -> bool {
        self.0.get(element).is_some_and(|entry| entry.member || !entry.below.is_empty())
    }

    pub(crate) fn below(&self, element: &Element) -> Option<&FieldSet> {
        self.0.get(element).map(|entry| &entry.below).filter(|set| !set.is_empty())
    }

    fn combine(&self, other: &FieldSet, keep: fn(bool, bool) -> bool) -> FieldSet {
        let nothing = Entry::default();
        let mut out = BTreeMap::new();
        for element in self.0.keys().chain(other.0.keys()) {
            if out.contains_key(element) {
                continue;
            }
            let (a, b) = (self.0.get(element).unwrap_or(&nothing), other.0.get(element).unwrap_or(&nothing));
            let entry = Entry { member: keep(a.member, b.member), below: a.below.combine(&b.below, keep) };
            if entry.member || !entry.below.0.is_empty() {
                out.insert(element.clone(), entry);
            }
        }
        FieldSet(out)
    }

    pub(crate) fn union(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |a, b| a || b)
    }

    pub(crate) fn intersection(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |a, b| a && b)
    }

    pub(crate) fn difference(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |a, b| a && !b)
    }

    /// Without these fields and whatever is below them.
    pub(crate) fn without(&self, path: &[&str]) -> FieldSet {
        let Some((first, rest)) = path.split_first() else { return self.clone() };
        let mut out = self.clone();
        let element = Element::Field((*first).to_owned());
        if rest.is_empty() {
            out.0.remove(&element);
        } else if let Some(entry) = out.0.get_mut(&element) {
            entry.below = entry.below.without(rest);
            if !entry.member && entry.below.0.is_empty() {
                out.0.remove(&element);
            }
        }
        out
    }

    /// Without the field itself, but with what is below it.
    pub(crate) fn unmember(&self, name: &str) -> FieldSet {
        let mut out = self.clone();
        if let Some(entry) = out.0.get_mut(&Element::Field(name.to_owned())) {
            entry.member = false;
        }
        out.0.retain(|_, entry| entry.member || !entry.below.0.is_empty());
        out
    }

    /// Only what is below the field of that name, the field included.
    pub(crate) fn only(&self, name: &str) -> FieldSet {
        let element = Element::Field(name.to_owned());
        let found = self.0.get(&element).cloned();
        FieldSet(found.into_iter().map(|entry| (element.clone(), entry)).collect())
    }

    /// All paths, as conflicts name them.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect("", &mut out);
        out
    }

    fn collect(&self, prefix: &str, out: &mut Vec<String>) {
        for (element, _) in self.0.iter().filter(|(_, entry)| entry.member) {
            out.push(format!("{prefix}{element}"));
        }
        for (element, entry) in &self.0 {
            entry.below.collect(&format!("{prefix}{element}"), out);
        }
    }

    /// The `fieldsV1` value.
    pub(crate) fn encode(&self) -> Value {
        let mut map = Map::new();
        for (element, entry) in &self.0 {
            let mut below = Map::new();
            if let Value::Object(inner) = entry.below.encode() {
                if entry.member && !inner.is_empty() {
                    below.insert(".".into(), Value::Object(Map::new()));
                }
                below.extend(inner);
            }
            map.insert(element.encode(), Value::Object(below));
        }
        Value::Object(map)
    }

    pub(crate) fn decode(value: &Value) -> FieldSet {
        let mut out = FieldSet::default();
        for (text, below) in value.as_object().into_iter().flatten() {
            let Some(element) = Element::decode(text) else { continue };
            let children = FieldSet::decode(below);
            let leaf = below.as_object().is_none_or(Map::is_empty);
            let member = leaf || below.get(".").is_some();
            out.0.insert(element, Entry { member, below: children });
        }
        out
    }

    /// The fields that a value has.
    pub(crate) fn of(schemas: &Schemas, id: Option<Id>, value: &Value) -> FieldSet {
        let mut out = FieldSet::default();
        let node = id.map(|id| schemas.node(id));
        match shape(node, value) {
            Shape::Leaf => {}
            Shape::Map(map) => {
                for (name, child) in map {
                    let child_id = descend(schemas, id, name);
                    let below = FieldSet::of(schemas, child_id, child);
                    let known = node.is_some_and(|node| node.properties.contains_key(name));
                    let member =
                        below.0.is_empty() && !granular_empty_list(schemas, child_id, child) || !known;
                    if member || !below.0.is_empty() {
                        out.0.insert(Element::Field(name.clone()), Entry { member, below });
                    }
                }
            }
            Shape::List(list, kind) => {
                let item_id = items(schemas, id);
                for (index, item) in list.iter().enumerate() {
                    let below = FieldSet::of(schemas, item_id, item);
                    out.0.insert(element(schemas, id, kind, item, index), Entry { member: true, below });
                }
            }
        }
        out
    }
}

fn granular_empty_list(schemas: &Schemas, id: Option<Id>, value: &Value) -> bool {
    matches!(shape(id.map(|id| schemas.node(id)), value), Shape::List(list, _) if list.is_empty())
}
