//! From a new snapshot to the clients that it concerns: views by scope, and who is woken.
//!
//! Clients of one scope share a view. A client is woken only if a set of a type that somebody of its scope watches has
//! changed. Endpoints go first: while nothing else differs, only their sets are computed before clients are woken.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use model::{Diff, Snapshot};
use proto::ResourceType;
use tokio::sync::watch;
use translate::Scope;

use crate::translation::Translate;
use crate::view::View;

pub(crate) struct Publisher {
    translate: Arc<dyn Translate>,
    inner: Mutex<Inner>,
    generation: AtomicU64,
    /// For those who follow what is published and are no proxies.
    published: watch::Sender<Snapshot>,
}

struct Inner {
    snapshot: Snapshot,
    scopes: AHashMap<Scope, Arc<ScopeState>>,
    /// When translation was last told to forget, and the snapshot of that time.
    forgotten: (Instant, u64),
}

/// Results live at least this long without being asked for.
const FORGET: Duration = Duration::from_secs(600);

/// What the clients of a scope share.
pub(crate) struct ScopeState {
    view: watch::Sender<Arc<View>>,
    /// A bit for each type that any client of the scope has watched.
    interest: AtomicU32,
    /// The generation up to which the clients were shown everything.
    checked: AtomicU64,
    /// The last generation for which the clients were woken.
    woken: AtomicU64,
}

impl ScopeState {
    pub(crate) fn watch(&self, of: ResourceType) {
        self.interest.fetch_or(1 << of as u32, Ordering::SeqCst);
    }

    /// The generation with which a client that was shown the view of `seen` is as far as can be.
    pub(crate) fn settled(&self, seen: u64) -> u64 {
        if seen >= self.woken.load(Ordering::Acquire) {
            self.checked.load(Ordering::Acquire).max(seen)
        } else {
            seen
        }
    }

    fn interests(&self) -> u32 {
        self.interest.load(Ordering::SeqCst)
    }
}

fn types(bits: u32) -> impl Iterator<Item = ResourceType> {
    ResourceType::ALL.into_iter().filter(move |of| bits & (1 << *of as u32) != 0)
}

impl Publisher {
    pub(crate) fn new(translate: Arc<dyn Translate>, snapshot: Snapshot) -> Self {
        let forgotten = (Instant::now(), snapshot.id());
        let published = watch::Sender::new(snapshot.clone());
        let inner = Mutex::new(Inner { snapshot, scopes: AHashMap::new(), forgotten });
        Self { translate, inner, generation: AtomicU64::new(0), published }
    }

    /// Joins a scope: its state, and its view from now on.
    pub(crate) fn join(&self, scope: &Scope) -> (Arc<ScopeState>, watch::Receiver<Arc<View>>) {
        let mut inner = self.lock();
        if let Some(state) = inner.scopes.get(scope) {
            return (Arc::clone(state), state.view.subscribe());
        }
        let generation = self.generation();
        let view = View::new(generation, inner.snapshot.clone(), scope.clone(), Arc::clone(&self.translate));
        let (sender, receiver) = watch::channel(Arc::new(view));
        let state = Arc::new(ScopeState {
            view: sender,
            interest: AtomicU32::new(0),
            checked: AtomicU64::new(generation),
            woken: AtomicU64::new(0),
        });
        inner.scopes.insert(scope.clone(), Arc::clone(&state));
        (state, receiver)
    }

    /// The snapshots as they are published.
    pub(crate) fn published(&self) -> watch::Receiver<Snapshot> {
        self.published.subscribe()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.lock().snapshot.clone()
    }

    /// Counts the snapshots that were published.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A view for one question, outside of any scope that is kept.
    pub(crate) fn view(&self, scope: &Scope) -> Arc<View> {
        let inner = self.lock();
        match inner.scopes.get(scope) {
            Some(state) => Arc::clone(&state.view.borrow()),
            None => Arc::new(View::new(
                self.generation(),
                inner.snapshot.clone(),
                scope.clone(),
                Arc::clone(&self.translate),
            )),
        }
    }

    /// Shows everybody the snapshot. Takes as long as translation does; not for an async thread.
    pub(crate) fn publish(&self, snapshot: Snapshot, diff: &Diff) {
        let (generation, scopes) = {
            let mut inner = self.lock();
            inner.snapshot = snapshot.clone();
            inner.scopes.retain(|_, state| state.view.receiver_count() > 0);
            let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
            (
                generation,
                inner.scopes.iter().map(|(s, state)| (s.clone(), Arc::clone(state))).collect::<Vec<_>>(),
            )
        };
        if diff.only_endpoints() {
            for (_, state) in &scopes {
                let view = state.view.borrow().with_endpoints_of(generation, snapshot.clone());
                state.show(view, 1 << ResourceType::Endpoint as u32);
            }
        }
        for (scope, state) in scopes {
            let view = View::new(generation, snapshot.clone(), scope, Arc::clone(&self.translate));
            state.show(view, u32::MAX);
            state.checked.store(generation, Ordering::Release);
        }
        self.forget(&snapshot);
        self.published.send_replace(snapshot);
    }

    /// Lets translation forget what was not asked for since the last time but one.
    fn forget(&self, snapshot: &Snapshot) {
        let mut inner = self.lock();
        if inner.forgotten.0.elapsed() > FORGET {
            let before = std::mem::replace(&mut inner.forgotten, (Instant::now(), snapshot.id())).1;
            drop(inner);
            self.translate.forget_before(before);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ScopeState {
    /// Replaces the view, and wakes the clients if one of the types differs that they watch.
    fn show(&self, mut view: View, among: u32) {
        let older = Arc::clone(&self.view.borrow());
        if self.interests() & (1 << ResourceType::Endpoint as u32) != 0 {
            view.keep_gone(&older, Instant::now());
        }
        let view = Arc::new(view);
        let watched = self.interests() & among;
        let differs = |bits| types(bits).any(|of| view.differs(&older, of));
        let wake = differs(watched);
        if wake {
            self.woken.store(view.generation(), Ordering::Release);
        }
        self.view.send_if_modified(|current| {
            *current = Arc::clone(&view);
            wake
        });
        // Who began to watch a type in between may have seen the older view of it.
        let since = self.interests() & among & !watched;
        if !wake && differs(since) {
            self.view.send_modify(|_| {});
        }
    }
}
