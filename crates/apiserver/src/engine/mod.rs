//! The verbs, without HTTP: what a create, an update, a list or a watch does to the store and answers.

mod decode;
mod delete;
mod meta;
mod read;
mod strategy;
#[cfg(test)]
mod tests;
mod watch;
mod write;

use crate::kinds::{Kinds, Resource};
use crate::status::{Result, Status};
use crate::store::{Compare, Op, Outcome, Record, Revision, Store, StoreError, Txn};
use base::Clock;
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;

pub use decode::FieldValidation;
pub use delete::{DeleteOptions, Deleted, Propagation};
pub(crate) use meta::new_uid;
pub use meta::{finalizers, name_of, namespace_of, text, uid_of};
pub use read::{List, ListOptions, VersionMatch};
pub use watch::{WatchEvent, WatchOptions, Watcher};
pub use write::{Patch, Written};

/// The part of a resource that a request speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Part {
    #[default]
    Whole,
    Status,
    /// A namespace's `finalize`.
    Finalize,
}

/// What a request speaks of.
#[derive(Clone, Debug)]
pub struct Target {
    pub resource: Arc<Resource>,
    pub version: String,
    /// `None` for cluster-scoped resources, and for lists over all namespaces.
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub part: Part,
}

impl Target {
    /// The object of that name at the preferred version.
    pub fn of(resource: &Arc<Resource>, namespace: Option<&str>, name: &str) -> Self {
        Self {
            resource: resource.clone(),
            version: resource.versions[0].clone(),
            namespace: namespace.map(str::to_owned).filter(|_| resource.namespaced),
            name: Some(name.to_owned()),
            part: Part::Whole,
        }
    }

    pub fn api_version(&self) -> String {
        self.resource.api_version(&self.version)
    }

    fn key(&self, name: &str) -> String {
        self.resource.key(self.namespace.as_deref(), name)
    }

    fn named(&self) -> Result<&str> {
        self.name.as_deref().ok_or_else(|| Status::bad_request("name is required"))
    }
}

/// How a write is to be done.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    pub dry_run: bool,
    /// Who writes, in `managedFields`.
    pub manager: String,
    pub validation: FieldValidation,
    /// Take fields from other managers when applying.
    pub force: bool,
}

impl WriteOptions {
    /// As one of the server's own controllers.
    pub fn internal() -> Self {
        Self { dry_run: false, manager: "mizzen".into(), validation: FieldValidation::Ignore, force: true }
    }
}

/// The API without its wire.
pub struct Engine {
    pub kinds: Kinds,
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
}

impl Engine {
    pub fn new(kinds: Kinds, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { kinds, store, clock }
    }

    /// Now, as metadata writes it.
    pub fn timestamp(&self) -> String {
        let now = jiff::Timestamp::try_from(self.clock.wall()).unwrap_or_default();
        now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// The stored object as it is shown at that version.
    fn show(&self, resource: &Resource, version: &str, value: &[u8], modified: Revision) -> Result<Value> {
        let mut object: Value =
            serde_json::from_slice(value).map_err(|e| Status::internal(format!("stored object: {e}")))?;
        object["apiVersion"] = json!(resource.api_version(version));
        object["metadata"]["resourceVersion"] = json!(modified.to_string());
        Ok(object)
    }

    fn show_record(&self, target: &Target, record: &Record) -> Result<Value> {
        self.show(&target.resource, &target.version, &record.value, record.modified)
    }

    fn record(&self, target: &Target, name: &str) -> Result<Option<Record>> {
        self.store.get(&target.key(name)).map_err(store_error)
    }

    fn not_found(target: &Target, name: &str) -> Box<Status> {
        Status::not_found(target.resource.about(name))
    }

    async fn commit(&self, compare: Vec<Compare>, then: Vec<Op>) -> Result<Outcome> {
        self.store.txn(Txn { compare, then }).await.map_err(store_error)
    }
}

/// The bytes to store: without what only the store knows.
fn stored(object: &Value) -> Bytes {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("resourceVersion");
    }
    serde_json::to_vec(&object).unwrap_or_default().into()
}

pub(crate) fn store_error(error: StoreError) -> Box<Status> {
    match error {
        StoreError::Full(why) => Status::storage_full(why),
        StoreError::Future { asked, current } => Status::revision_too_large(asked, current),
        StoreError::Compacted { .. } => {
            Status::expired("The resourceVersion for the provided list is too old.")
        }
        StoreError::Failed(why) => Status::internal(why),
        StoreError::Closed => Status::new(503, "ServiceUnavailable", "the server is shutting down"),
    }
}
