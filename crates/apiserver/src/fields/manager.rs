//! `metadata.managedFields`: reading it, and what an update or an apply makes of it.

use super::compare::compare;
use super::merge::{merge, prune};
use super::set::FieldSet;
use crate::schema::{Id, Schemas};
use crate::status::{Cause, Status};
use serde_json::{Map, Value, json};
use std::cmp::Ordering;

/// Update managers beyond this number are folded into one.
const MAX_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Apply,
    Update,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    manager: String,
    operation: Operation,
    api_version: String,
    subresource: String,
    time: Option<String>,
    set: FieldSet,
}

/// All managers of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Managed(Vec<Entry>);

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) manager: &'a str,
    pub(crate) api_version: &'a str,
    /// Empty for the resource itself.
    pub(crate) subresource: &'a str,
    /// RFC 3339, whole seconds.
    pub(crate) now: &'a str,
    /// Whether `status` is written through its own door.
    pub(crate) status_apart: bool,
}

impl Request<'_> {
    /// The fields that this request may own.
    fn ownable(&self, set: &FieldSet) -> FieldSet {
        let mut set = set.without(&["apiVersion"]).without(&["kind"]).unmember("metadata");
        for name in [
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "clusterName",
            "generation",
            "managedFields",
            "resourceVersion",
        ] {
            set = set.without(&["metadata", name]);
        }
        match self.subresource {
            "" if self.status_apart => set.without(&["status"]),
            "status" => set.only("status"),
            _ => set,
        }
    }

    fn entry(&self, operation: Operation) -> Entry {
        Entry {
            manager: self.manager.to_owned(),
            operation,
            api_version: self.api_version.to_owned(),
            subresource: self.subresource.to_owned(),
            time: Some(self.now.to_owned()),
            set: FieldSet::default(),
        }
    }
}

impl Entry {
    fn decode(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
        let operation = match text("operation").as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        Some(Self {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: value.get("time").and_then(Value::as_str).map(str::to_owned),
            set: FieldSet::decode(value.get("fieldsV1")?),
        })
    }

    fn encode(&self) -> Value {
        let mut out = Map::new();
        out.insert("manager".into(), json!(self.manager));
        let operation = if self.operation == Operation::Apply { "Apply" } else { "Update" };
        out.insert("operation".into(), json!(operation));
        out.insert("apiVersion".into(), json!(self.api_version));
        if let Some(time) = &self.time {
            out.insert("time".into(), json!(time));
        }
        out.insert("fieldsType".into(), json!("FieldsV1"));
        out.insert("fieldsV1".into(), self.set.encode());
        if !self.subresource.is_empty() {
            out.insert("subresource".into(), json!(self.subresource));
        }
        Value::Object(out)
    }

    /// Whether both speak of the same manager; an applier is the same at every version.
    fn same(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// As a conflict names it.
    fn shown(&self) -> String {
        let mut out = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }

    fn order(&self, other: &Entry) -> Ordering {
        let key = |e: &Entry| {
            let time = e.time.clone().unwrap_or_default();
            (e.operation, time, e.manager.clone(), e.api_version.clone(), e.subresource.clone())
        };
        key(self).cmp(&key(other))
    }
}

impl Managed {
    pub(crate) fn of(object: &Value) -> Self {
        let list = object.pointer("/metadata/managedFields").and_then(Value::as_array);
        Self(list.into_iter().flatten().filter_map(Entry::decode).collect())
    }

    fn write(mut self, object: &mut Value) {
        self.0.retain(|entry| !entry.set.is_empty());
        self.0.sort_by(Entry::order);
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        metadata.shift_remove("managedFields");
        if !self.0.is_empty() {
            let list = self.0.iter().map(Entry::encode).collect();
            metadata.insert("managedFields".into(), Value::Array(list));
        }
    }

    fn find(&self, like: &Entry) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.same(like))
    }

    fn put(&mut self, new: Entry) {
        match self.0.iter_mut().find(|entry| entry.same(&new)) {
            // Nothing new: the time stays as well.
            Some(entry) if entry.set == new.set && entry.api_version == new.api_version => {}
            Some(entry) => *entry = new,
            None => self.0.push(new),
        }
    }

    /// Folds the oldest updaters into one entry.
    fn cap(&mut self) {
        let updaters = |e: &Entry| e.operation == Operation::Update && e.subresource.is_empty();
        let count = self.0.iter().filter(|e| updaters(e)).count();
        if count <= MAX_UPDATERS {
            return;
        }
        self.0.sort_by(Entry::order);
        let mut folded: Vec<Entry> = Vec::new();
        let mut excess = count - MAX_UPDATERS + 1;
        for mut entry in std::mem::take(&mut self.0) {
            if !updaters(&entry) || excess == 0 {
                self.0.push(entry);
                continue;
            }
            excess -= 1;
            match folded.iter_mut().find(|f| f.api_version == entry.api_version) {
                Some(old) => {
                    old.set = old.set.union(&entry.set);
                    old.time = entry.time;
                }
                None => {
                    entry.manager = ANCIENT.to_owned();
                    folded.push(entry);
                }
            }
        }
        self.0.extend(folded);
    }
}

fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
    object
}

/// Records that an update turned `live` into `new`, in `new`'s `managedFields`.
///
/// `live` is what was stored, or for a creation what an empty object of the kind looks like.
pub(crate) fn update(schemas: &Schemas, id: Id, live: &Value, new: &mut Value, request: &Request<'_>) {
    let given = new.pointer("/metadata/managedFields").and_then(Value::as_array);
    let reset = given.is_some_and(|list| list.len() == 1 && list[0] == json!({}));
    let mut managed = match request.subresource.is_empty() {
        true => Managed::of(new),
        false => Managed::of(live),
    };
    if managed.0.is_empty() && !reset {
        managed = Managed::of(live);
    }
    let compared = compare(schemas, id, &bare(live), &bare(new));
    let touched = compared.modified.union(&compared.added);
    let mut own = request.entry(Operation::Update);
    for entry in managed.0.iter_mut().filter(|entry| !entry.same(&own)) {
        entry.set = entry.set.difference(&touched).difference(&compared.removed);
    }
    let before = managed.find(&own).map(|entry| entry.set.clone()).unwrap_or_default();
    let after = before.difference(&compared.removed).union(&touched);
    own.set = request.ownable(&after);
    managed.put(own);
    managed.0.retain(|entry| !entry.set.is_empty());
    managed.cap();
    managed.write(new);
}

/// What an apply comes to.
pub(crate) struct Applied {
    pub(crate) object: Value,
    /// What each manager owns, written into the object by `finish`.
    managed: Managed,
}

impl Applied {
    /// Puts the managers into the object, which may have been defaulted since.
    pub(crate) fn finish(self, object: &mut Value) {
        self.managed.write(object);
    }
}

/// Applies a configuration onto the live object (or onto the empty one).
///
/// `ready` completes the merged object (defaults), so that it is compared as it will be stored.
pub(crate) fn apply(
    schemas: &Schemas,
    id: Id,
    live: &Value,
    config: &Value,
    request: &Request<'_>,
    force: bool,
    ready: impl FnOnce(&mut Value),
) -> Result<Applied, Box<Status>> {
    let mut managed = Managed::of(live);
    let live = bare(live);
    let mut config = config.clone();
    if request.status_apart
        && request.subresource.is_empty()
        && let Some(map) = config.as_object_mut()
    {
        map.shift_remove("status");
    }
    let mut merged = merge(schemas, Some(id), &live, &config);
    let mut own = request.entry(Operation::Apply);
    own.set = request.ownable(&FieldSet::of(schemas, Some(id), &config));
    let last = managed.find(&own).map(|entry| entry.set.clone()).unwrap_or_default();
    let others = managed.0.iter().filter(|entry| !entry.same(&own));
    let kept = others.fold(own.set.clone(), |all, entry| all.union(&entry.set));
    prune(schemas, Some(id), &mut merged, &last, &kept);
    ready(&mut merged);

    let compared = compare(schemas, id, &live, &merged);
    let touched = request.ownable(&compared.modified.union(&compared.added));
    let mut conflicts: Vec<(String, String)> = Vec::new();
    for entry in managed.0.iter_mut().filter(|entry| !entry.same(&own)) {
        let clash = entry.set.intersection(&touched).intersection(&own.set.union(&last));
        if !clash.is_empty() {
            conflicts.extend(clash.paths().into_iter().map(|path| (entry.shown(), path)));
            entry.set = entry.set.difference(&clash);
        }
        entry.set = entry.set.difference(&compared.removed);
    }
    if !force && !conflicts.is_empty() {
        return Err(conflict(conflicts));
    }
    managed.put(own);
    Ok(Applied { object: merged, managed })
}

fn conflict(mut conflicts: Vec<(String, String)>) -> Box<Status> {
    conflicts.sort();
    let cause = |(manager, path): &(String, String)| Cause {
        reason: "FieldManagerConflict",
        message: format!("conflict with {manager}"),
        field: path.clone(),
    };
    let causes = conflicts.iter().map(cause).collect();
    let message = match conflicts.as_slice() {
        [(manager, path)] => format!("Apply failed with 1 conflict: conflict with {manager}: {path}"),
        many => {
            let mut lines = Vec::new();
            let mut last = "";
            for (manager, path) in many {
                if manager != last {
                    lines.push(format!("conflicts with {manager}:"));
                    last = manager;
                }
                lines.push(format!("- {path}"));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    Status::apply_conflict(message, causes)
}
