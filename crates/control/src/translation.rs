//! What the control plane needs of translation, so that tests can replace it.

use std::sync::Arc;

use model::Snapshot;
use proto::ResourceType;
use translate::{ResourceSet, Scope, SetChanges};

/// Makes resources of snapshots. Pure: the same arguments give equal sets, and the same `Arc` while nothing changes.
pub trait Translate: Send + Sync + 'static {
    fn set(&self, snapshot: &Snapshot, scope: &Scope, of: ResourceType) -> Arc<ResourceSet>;

    /// What differs between two sets that were given.
    fn changes(&self, old: &Arc<ResourceSet>, new: &Arc<ResourceSet>) -> Arc<SetChanges>;

    /// Nobody asks for snapshots older than this any more.
    fn forget_before(&self, snapshot: u64);
}

impl Translate for translate::Translator {
    fn set(&self, snapshot: &Snapshot, scope: &Scope, of: ResourceType) -> Arc<ResourceSet> {
        Self::set(self, snapshot, scope, of)
    }

    fn changes(&self, old: &Arc<ResourceSet>, new: &Arc<ResourceSet>) -> Arc<SetChanges> {
        Self::changes(self, old, new)
    }

    fn forget_before(&self, snapshot: u64) {
        Self::forget_before(self, snapshot);
    }
}
