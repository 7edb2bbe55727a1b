//! The store: etcd's model with an embedded file as its default.
//!
//! One revision counter for everything; transactions that compare before they write; ranges, also at an
//! earlier revision; watches from a revision; compaction of what lies behind. Nothing here knows of
//! HTTP or of Kubernetes' objects: keys are paths, values are bytes.

mod disk;
mod seal;
#[cfg(test)]
mod tests;
mod window;

use bytes::Bytes;
use futures::future::BoxFuture;
use std::sync::Arc;

pub use disk::{DiskOptions, DiskStore};
pub use seal::Sealer;
pub use window::Cursor;

/// The store's clock: each transaction that writes moves it by one.
pub type Revision = u64;

/// A key with its value as of some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub key: Arc<str>,
    pub value: Bytes,
    /// The revision that last wrote the key.
    pub modified: Revision,
}

/// What must hold for a transaction to write. `modified: 0` says that the key must not exist.
#[derive(Clone, Debug)]
pub struct Compare {
    pub key: String,
    pub modified: Revision,
}

/// One write.
#[derive(Clone, Debug)]
pub enum Op {
    Put(String, Bytes),
    Delete(String),
}

/// Writes that happen together, or not at all.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub then: Vec<Op>,
}

/// What became of a transaction.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Written, and on the disk.
    Done(Revision),
    /// A comparison failed: the first key that differs, as it is now.
    Differs { key: String, now: Option<Record> },
}

/// Which keys to read.
#[derive(Clone, Debug, Default)]
pub struct Range {
    pub prefix: String,
    /// Only keys after this one.
    pub after: Option<String>,
    /// 0 for no limit.
    pub limit: usize,
    /// As of this revision; now when `None`.
    pub at: Option<Revision>,
}

/// What a range found.
#[derive(Clone, Debug)]
pub struct Page {
    pub records: Vec<Record>,
    /// How many keys of the range come after the last record.
    pub remaining: usize,
    /// The revision that was read.
    pub revision: Revision,
}

/// Something that happened to a key.
#[derive(Clone, Debug)]
pub struct Event {
    pub revision: Revision,
    pub key: Arc<str>,
    /// `None` when the key was deleted.
    pub value: Option<Bytes>,
    /// What was there before.
    pub previous: Option<Bytes>,
    pub previous_modified: Revision,
}

/// Why the store could not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("revision {asked} has been compacted; the oldest that can be read is {oldest}")]
    Compacted { asked: Revision, oldest: Revision },
    #[error("revision {asked} is in the future; the store is at {current}")]
    Future { asked: Revision, current: Revision },
    #[error("no space left for the store: {0}")]
    Full(String),
    #[error("the store failed: {0}")]
    Failed(String),
    #[error("the store is closed")]
    Closed,
}

/// What the API needs of a store; etcd offers the same.
pub trait Store: Send + Sync + 'static {
    /// Runs a transaction; the answer comes when it is safe on the disk.
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StoreError>>;
    /// One key, now.
    fn get(&self, key: &str) -> Result<Option<Record>, StoreError>;
    fn range(&self, range: &Range) -> Result<Page, StoreError>;
    /// Events of keys with that prefix, after `after`.
    fn watch(&self, prefix: &str, after: Revision) -> Result<Cursor, StoreError>;
    /// Forgets what happened up to and with `upto`.
    fn compact(&self, upto: Revision);
    fn revision(&self) -> Revision;
}
