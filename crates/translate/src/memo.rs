//! Results remembered with exactly what was read to make them.
//!
//! A build reads the world and its scope through a [`Reader`], which notes each key with its revision and each facet
//! of the scope. A result holds for every snapshot in which those revisions, and every scope in which those facets,
//! are the same. No cache key is kept by hand.

use std::cell::RefCell;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::{AHashMap, AHashSet};
use model::{Key, Snapshot};

use crate::scope::{Facet, Facets, Mask, Scope};

#[derive(Debug, Default)]
struct Trace {
    mask: Mask,
    own: Vec<(Key, u64)>,
    seen: AHashSet<Key>,
    parts: Vec<Arc<Read>>,
}

/// What a finished build had read: itself, and by what it is made of.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) mask: Mask,
    own: Box<[(Key, u64)]>,
    parts: Vec<Arc<Read>>,
    /// The snapshot for which it was last found to hold.
    verified: AtomicU64,
}

impl Read {
    pub(crate) fn holds(&self, snapshot: &Snapshot) -> bool {
        if self.verified.load(Ordering::Relaxed) == snapshot.id() {
            return true;
        }
        let holds = self.own.iter().all(|(key, revision)| snapshot.revision(key) == *revision)
            && self.parts.iter().all(|part| part.holds(snapshot));
        if holds {
            self.verified.store(snapshot.id(), Ordering::Relaxed);
        }
        holds
    }
}

/// The only way in which a build sees the world and its scope.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    snapshot: &'a Snapshot,
    scope: &'a Scope,
    trace: RefCell<Trace>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot, scope: &'a Scope) -> Self {
        Self { snapshot, scope, trace: RefCell::default() }
    }

    /// The snapshot, for a read that is noted under `key`.
    pub(crate) fn read(&self, key: Key) -> &'a Snapshot {
        let mut trace = self.trace.borrow_mut();
        if !trace.seen.contains(&key) {
            let revision = self.snapshot.revision(&key);
            trace.seen.insert(key.clone());
            trace.own.push((key, revision));
        }
        self.snapshot
    }

    /// What of the snapshot never changes within a world.
    pub(crate) fn domain(&self) -> &'a Arc<str> {
        self.snapshot.domain()
    }

    pub(crate) fn facets(&self, facet: Facet) -> &'a Facets {
        self.trace.borrow_mut().mask |= facet.bit();
        self.scope.facets()
    }

    pub(crate) fn finish(self) -> Read {
        let trace = self.trace.into_inner();
        Read {
            mask: trace.mask,
            own: trace.own.into(),
            parts: trace.parts,
            verified: AtomicU64::new(self.snapshot.id()),
        }
    }

    fn absorb(&self, read: &Arc<Read>) {
        let mut trace = self.trace.borrow_mut();
        trace.mask |= read.mask;
        trace.parts.push(Arc::clone(read));
    }
}

/// Results of one kind, by what they are results of.
#[derive(Debug)]
pub(crate) struct Slots<I, V> {
    shards: [Mutex<AHashMap<I, Slot<V>>>; 16],
}

#[derive(Debug)]
struct Slot<V> {
    /// Every facet that any build of this slot has read.
    mask: Mask,
    /// By the scope's hash under the mask.
    variants: AHashMap<u64, Variant<V>>,
}

#[derive(Debug)]
struct Variant<V> {
    read: Arc<Read>,
    value: V,
    /// The snapshot for which the reads were last compared.
    verified: u64,
}

impl<I, V> Default for Slots<I, V> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl<I: Hash + Eq + Clone, V: Clone> Slots<I, V> {
    /// The remembered result, or a new one. `reader` has then read what the result was made from.
    pub(crate) fn get(&self, reader: &Reader<'_>, id: &I, build: impl FnOnce(&Reader<'_>) -> V) -> V {
        let (value, read) = self.get_read(reader.snapshot, reader.scope, id, build);
        reader.absorb(&read);
        value
    }

    pub(crate) fn get_read(
        &self,
        snapshot: &Snapshot,
        scope: &Scope,
        id: &I,
        build: impl FnOnce(&Reader<'_>) -> V,
    ) -> (V, Arc<Read>) {
        if let Some(known) = self.known(snapshot, scope, id) {
            return known;
        }
        // Built without the lock: two may build the same, which is a waste and no harm.
        let inner = Reader::new(snapshot, scope);
        let value = build(&inner);
        let read = Arc::new(inner.finish());
        let mut shard = self.shard(id);
        let slot = shard.entry(id.clone()).or_insert_with(|| Slot { mask: 0, variants: AHashMap::new() });
        if slot.mask | read.mask != slot.mask {
            slot.mask |= read.mask;
            slot.variants.clear();
        }
        let variant = Variant { read: Arc::clone(&read), value: value.clone(), verified: snapshot.id() };
        slot.variants.insert(scope.hash_under(slot.mask), variant);
        (value, read)
    }

    fn known(&self, snapshot: &Snapshot, scope: &Scope, id: &I) -> Option<(V, Arc<Read>)> {
        let mut shard = self.shard(id);
        let slot = shard.get_mut(id)?;
        let variant = slot.variants.get_mut(&scope.hash_under(slot.mask))?;
        if variant.verified != snapshot.id() {
            if !variant.read.holds(snapshot) {
                return None;
            }
            variant.verified = snapshot.id();
        }
        Some((variant.value.clone(), Arc::clone(&variant.read)))
    }

    /// Forgets what no snapshot since `id` has asked for.
    pub(crate) fn forget_before(&self, id: u64) {
        for shard in &self.shards {
            lock(shard).retain(|_, slot| {
                slot.variants.retain(|_, variant| variant.verified >= id);
                !slot.variants.is_empty()
            });
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(shard).values().map(|slot| slot.variants.len()).sum::<usize>())
            .sum()
    }

    fn shard(&self, id: &I) -> MutexGuard<'_, AHashMap<I, Slot<V>>> {
        let hash = ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(id);
        lock(&self.shards[(hash >> 60) as usize])
    }
}

/// A panic elsewhere leaves nothing half-written here: entries are replaced whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
