//! What the proxies of one scope are to have, as of one snapshot. Computed at most once, when somebody asks.

use std::sync::{Arc, OnceLock};

use model::Snapshot;
use proto::{Layers, Resource, ResourceType};
use translate::{ResourceSet, Scope, SetChanges};
use xds::{Source, Touch, Touched};

use crate::translation::Translate;

const TYPES: usize = ResourceType::ALL.len();

type Sets = [OnceLock<Arc<ResourceSet>>; TYPES];

/// The configuration of a scope.
pub(crate) struct View {
    generation: u64,
    snapshot: Snapshot,
    scope: Scope,
    translate: Arc<dyn Translate>,
    sets: Sets,
}

impl View {
    pub(crate) fn new(
        generation: u64,
        snapshot: Snapshot,
        scope: Scope,
        translate: Arc<dyn Translate>,
    ) -> Self {
        Self { generation, snapshot, scope, translate, sets: Sets::default() }
    }

    /// The next view, when nothing but endpoints has changed: all other sets known so far are taken over.
    pub(crate) fn with_endpoints_of(&self, generation: u64, snapshot: Snapshot) -> Self {
        let next = Self::new(generation, snapshot, self.scope.clone(), Arc::clone(&self.translate));
        for (at, set) in self.sets.iter().enumerate() {
            if let Some(set) = set.get().filter(|_| at != ResourceType::Endpoint as usize) {
                let _ = next.sets[at].set(Arc::clone(set));
            }
        }
        next
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn set(&self, of: ResourceType) -> &Arc<ResourceSet> {
        self.sets[of as usize].get_or_init(|| self.translate.set(&self.snapshot, &self.scope, of))
    }

    /// Whether a set is another than in the older view. What nobody asked the older view for counts as another: somebody
    /// may be about to.
    pub(crate) fn differs(&self, older: &Self, of: ResourceType) -> bool {
        older.sets[of as usize].get().is_none_or(|old| !Arc::ptr_eq(self.set(of), old))
    }
}

/// A view as one client may see it.
pub(crate) struct Seen<'a> {
    pub(crate) view: &'a View,
    /// Secrets are shown to those who proved who they are.
    pub(crate) authenticated: bool,
}

impl Seen<'_> {
    fn hidden(&self, of: ResourceType) -> bool {
        of == ResourceType::Secret && !self.authenticated
    }
}

impl Source for Seen<'_> {
    fn generation(&self) -> u64 {
        self.view.generation
    }

    fn all(&self, of: ResourceType) -> Layers {
        if self.hidden(of) { Layers::default() } else { self.view.set(of).layers().clone() }
    }

    fn get(&self, of: ResourceType, name: &str) -> Option<Resource> {
        if self.hidden(of) { None } else { self.view.set(of).get(name).cloned() }
    }
}

/// The sets that a client was last shown, to tell what the next view touches.
#[derive(Default)]
pub(crate) struct Shown {
    sets: [Option<Arc<ResourceSet>>; TYPES],
}

impl Shown {
    /// What differs between what was shown and the view, of the types that are watched; the view is shown from now on.
    pub(crate) fn advance(&mut self, view: &View, watched: impl Fn(ResourceType) -> bool) -> Differences {
        let mut differences = Differences::default();
        for of in ResourceType::ALL {
            if !watched(of) {
                self.sets[of as usize] = None;
                continue;
            }
            let new = view.set(of);
            let old = self.sets[of as usize].replace(Arc::clone(new));
            differences.0[of as usize] = match old {
                Some(old) if Arc::ptr_eq(&old, new) => Difference::None,
                Some(old) => Difference::Names(view.translate.changes(&old, new)),
                None => Difference::All,
            };
        }
        differences
    }
}

/// Names that differ, by type.
#[derive(Default)]
pub(crate) struct Differences([Difference; TYPES]);

#[derive(Default)]
enum Difference {
    #[default]
    None,
    Names(Arc<SetChanges>),
    All,
}

impl Touched for Differences {
    fn touched(&self, of: ResourceType) -> Touch<'_> {
        match &self.0[of as usize] {
            Difference::None => Touch::Nothing,
            Difference::Names(changes) => Touch::Names(changes.names()),
            Difference::All => Touch::Everything,
        }
    }
}
