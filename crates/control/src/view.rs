//! What the proxies of one scope are to have, as of one snapshot. Computed at most once, when somebody asks.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use model::Snapshot;
use proto::{Layers, Resource, ResourceType};
use translate::{ResourceSet, Scope, SetChanges};
use xds::{Source, Touch, Touched};

use crate::translation::Translate;

const TYPES: usize = ResourceType::ALL.len();

type Sets = [OnceLock<Arc<ResourceSet>>; TYPES];

/// How long load assignments that are gone are told to those who ask for them late. Kinds of resources are watched by
/// streams of their own: a cluster's end can be known before the route that leaves it, and before all who were sent the
/// cluster have asked for its endpoints.
const LATE: Duration = Duration::from_secs(1);

/// The configuration of a scope.
pub(crate) struct View {
    generation: u64,
    snapshot: Snapshot,
    scope: Scope,
    translate: Arc<dyn Translate>,
    sets: Sets,
    /// Load assignments that went, and when.
    gone: Vec<(Instant, Resource)>,
}

impl View {
    pub(crate) fn new(
        generation: u64,
        snapshot: Snapshot,
        scope: Scope,
        translate: Arc<dyn Translate>,
    ) -> Self {
        Self { generation, snapshot, scope, translate, sets: Sets::default(), gone: Vec::new() }
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

    /// Keeps for a while what load assignments the older view had, and this one has not.
    pub(crate) fn keep_gone(&mut self, older: &Self, now: Instant) {
        let Some(old) = older.sets[ResourceType::Endpoint as usize].get() else { return };
        let new = Arc::clone(self.set(ResourceType::Endpoint));
        let mut gone: Vec<_> =
            older.gone.iter().filter(|(since, _)| now.duration_since(*since) < LATE).cloned().collect();
        if !Arc::ptr_eq(old, &new) {
            let changes = self.translate.changes(old, &new);
            gone.extend(changes.removed.iter().filter_map(|name| Some((now, old.get(name)?.clone()))));
        }
        gone.retain(|(_, resource)| new.get(&resource.name).is_none());
        self.gone = gone;
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

    fn gone(&self, of: ResourceType, name: &str) -> Option<Resource> {
        let mut gone = self.view.gone.iter().filter(|_| of == ResourceType::Endpoint);
        gone.find(|(_, resource)| *resource.name == *name).map(|(_, resource)| resource.clone())
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
