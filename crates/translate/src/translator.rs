//! The door: sets of resources for a scope, remembered, shared and compared.

use std::sync::{Arc, Mutex, Weak};

use ahash::AHashMap;
use bytes::Bytes;
use model::{ServiceKey, Snapshot};
use proto::{Layer, Resource, ResourceType};

use crate::memo::{Reader, Slots, lock};
use crate::scope::{Mask, Scope};
use crate::set::{ResourceSet, SetChanges, layer};
use crate::view::{Services, VirtualServices};
use crate::{build, encode};

/// Translates snapshots for scopes. One for the whole process; shared by threads.
#[derive(Debug, Default)]
pub struct Translator {
    sets: Mutex<AHashMap<ResourceType, SetSlot>>,
    changes: Mutex<AHashMap<(usize, usize), KnownChanges>>,
    pub(crate) memo: Memo,
}

/// Results that sets are made of.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    pub(crate) services: Slots<(), Arc<Services>>,
    pub(crate) virtual_services: Slots<(), Arc<VirtualServices>>,
    pub(crate) parts: Slots<Part, Option<Resource>>,
    layers: Slots<ResourceType, Layer>,
    interned: Mutex<AHashMap<u64, Bytes>>,
}

/// A part that is remembered by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    Cluster {
        service: ServiceKey,
        port: u32,
        subset: Arc<str>,
        sni_dnat: bool,
    },
    Endpoints {
        service: ServiceKey,
        port: u32,
        subset: Arc<str>,
        sni_dnat: bool,
    },
    /// A virtual host of a route configuration; the number stands for what it is made from beside what it reads.
    VirtualHost {
        route: Arc<str>,
        name: Arc<str>,
        inputs: u64,
    },
}

#[derive(Debug, Default)]
struct SetSlot {
    mask: Mask,
    variants: AHashMap<u64, Vec<Generation>>,
    /// By their fingerprints: scopes whose sets come out equal share one, with all that is made of it.
    equal: AHashMap<u64, Weak<ResourceSet>>,
}

/// A set, and the snapshots for which it is known to hold.
#[derive(Debug)]
struct Generation {
    snapshot: u64,
    read: Arc<crate::memo::Read>,
    set: Arc<ResourceSet>,
}

/// The pair keeps its sets alive, so that their addresses are theirs.
#[derive(Debug)]
struct KnownChanges {
    _of: (Arc<ResourceSet>, Arc<ResourceSet>),
    changes: Arc<SetChanges>,
}

/// How many snapshots back a set is remembered, so that `changed` finds the old one.
const GENERATIONS: usize = 4;
const KNOWN_CHANGES: usize = 1024;

impl Translator {
    pub fn new() -> Self {
        Self::default()
    }

    /// The names that a wildcard subscription to the type yields.
    pub fn names(&self, snapshot: &Snapshot, scope: &Scope, of: ResourceType) -> Arc<[Arc<str>]> {
        Arc::clone(self.set(snapshot, scope, of).names())
    }

    /// One resource by its name. Cheap once its set is known.
    pub fn resource(
        &self,
        snapshot: &Snapshot,
        scope: &Scope,
        of: ResourceType,
        name: &str,
    ) -> Option<Resource> {
        self.set(snapshot, scope, of).get(name).cloned()
    }

    /// All resources of a type. The same `Arc` for as long as nothing in it changes, and for all scopes that agree
    /// in what was read.
    pub fn set(&self, snapshot: &Snapshot, scope: &Scope, of: ResourceType) -> Arc<ResourceSet> {
        if let Some(known) = self.known_set(snapshot, scope, of) {
            return known;
        }
        let reader = Reader::new(snapshot, scope);
        let context = build::Context { reader: &reader, memo: &self.memo };
        let common = self.memo.layers.get(&reader, &of, |reader| {
            let resources = build::common(&build::Context { reader, memo: &self.memo }, of);
            layer(self.memo.intern(resources))
        });
        let own = layer(self.memo.intern(build::own(&context, of)));
        let set = Arc::new(ResourceSet::layered([common, own]));
        self.remember(snapshot, scope, of, reader, set)
    }

    /// What to send of a type to a holder of everything that the older snapshot said.
    pub fn changed(
        &self,
        older: &Snapshot,
        newer: &Snapshot,
        scope: &Scope,
        of: ResourceType,
    ) -> Arc<SetChanges> {
        let old = self.set(older, scope, of);
        let new = self.set(newer, scope, of);
        self.changes(&old, &new)
    }

    /// What differs between two sets; computed once for each pair.
    pub fn changes(&self, old: &Arc<ResourceSet>, new: &Arc<ResourceSet>) -> Arc<SetChanges> {
        if Arc::ptr_eq(old, new) {
            return Arc::default();
        }
        let at = (Arc::as_ptr(old) as usize, Arc::as_ptr(new) as usize);
        if let Some(known) = lock(&self.changes).get(&at) {
            return Arc::clone(&known.changes);
        }
        let changes = Arc::new(old.changes_to(new));
        let mut known = lock(&self.changes);
        if known.len() >= KNOWN_CHANGES {
            known.clear();
        }
        let of = (Arc::clone(old), Arc::clone(new));
        known.insert(at, KnownChanges { _of: of, changes: Arc::clone(&changes) });
        changes
    }

    /// Forgets results that no snapshot since `id` has asked for. Call it now and then.
    pub fn forget_before(&self, id: u64) {
        lock(&self.changes).clear();
        for slot in lock(&self.sets).values_mut() {
            slot.variants.retain(|_, generations| {
                generations.retain(|generation| generation.snapshot >= id);
                !generations.is_empty()
            });
            slot.equal.retain(|_, set| set.strong_count() > 0);
        }
        self.memo.services.forget_before(id);
        self.memo.virtual_services.forget_before(id);
        self.memo.parts.forget_before(id);
        self.memo.layers.forget_before(id);
        lock(&self.memo.interned).retain(|_, body| !body.is_unique());
    }

    /// How many parts are remembered: for metrics and tests.
    pub fn remembered(&self) -> usize {
        self.memo.parts.len()
    }

    fn known_set(&self, snapshot: &Snapshot, scope: &Scope, of: ResourceType) -> Option<Arc<ResourceSet>> {
        let (set, read) = {
            let mut sets = lock(&self.sets);
            let slot = sets.get_mut(&of)?;
            let generations = slot.variants.get_mut(&scope.hash_under(slot.mask))?;
            if let Some(exact) = generations.iter().find(|generation| generation.snapshot == snapshot.id()) {
                return Some(Arc::clone(&exact.set));
            }
            let newest = generations.last()?;
            (Arc::clone(&newest.set), Arc::clone(&newest.read))
        };
        if !read.holds(snapshot) {
            return None;
        }
        self.keep(snapshot.id(), scope, of, read, Arc::clone(&set));
        Some(set)
    }

    fn remember(
        &self,
        snapshot: &Snapshot,
        scope: &Scope,
        of: ResourceType,
        reader: Reader<'_>,
        mut set: Arc<ResourceSet>,
    ) -> Arc<ResourceSet> {
        let read = Arc::new(reader.finish());
        {
            let mut sets = lock(&self.sets);
            let slot = sets.entry(of).or_default();
            if slot.mask | read.mask != slot.mask {
                slot.mask |= read.mask;
                slot.variants.clear();
            }
            let equal = slot.equal.entry(set.fingerprint()).or_default();
            match equal.upgrade().filter(|known| *known == set) {
                Some(known) => set = known,
                None => *equal = Arc::downgrade(&set),
            }
        }
        self.keep(snapshot.id(), scope, of, read, Arc::clone(&set));
        set
    }

    fn keep(
        &self,
        snapshot: u64,
        scope: &Scope,
        of: ResourceType,
        read: Arc<crate::memo::Read>,
        set: Arc<ResourceSet>,
    ) {
        let mut sets = lock(&self.sets);
        let slot = sets.entry(of).or_default();
        let generations = slot.variants.entry(scope.hash_under(slot.mask)).or_default();
        generations.retain(|generation| generation.snapshot != snapshot);
        generations.push(Generation { snapshot, read, set });
        generations.sort_by_key(|generation| generation.snapshot);
        let excess = generations.len().saturating_sub(GENERATIONS);
        generations.drain(..excess);
    }
}

impl Memo {
    /// Equal bodies become one body.
    fn intern(&self, mut resources: Vec<Resource>) -> Vec<Resource> {
        let mut interned = lock(&self.interned);
        for resource in &mut resources {
            let known = interned.entry(resource.version).or_insert_with(|| resource.body.clone());
            if known.len() == resource.body.len() {
                resource.body = known.clone();
            }
        }
        resources
    }
}

pub(crate) fn resource(name: impl Into<Arc<str>>, message: &impl prost::Name) -> Resource {
    encode::resource(name.into(), encode::stable(message).into())
}
