//! What one client has asked for and was sent, of one type.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::{Layers, Resource, ResourceType};

use crate::{Mode, Source, Touch, Touched};

/// The version of a named resource of which the client was told that there is none.
const ABSENT: u64 = u64::MAX;

/// The version of a named resource that must be sent whatever it is.
const UNSENT: u64 = 0;

/// How long clusters and endpoints that are gone are left to a client that has everything else. What leads to them may
/// still be on its way: kinds of resources are watched by streams of their own, so that the end of a subset can be known
/// before the route that leaves it.
const GRACE: Duration = Duration::from_secs(1);

/// How far a client is with one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has acknowledged all that there is.
    Synced,
    /// Something is on its way, or still to be sent.
    Stale,
    /// It refused the last response.
    Rejected,
}

/// How far a client is with one type, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeStatus {
    pub resource_type: ResourceType,
    pub state: State,
    /// The source's generation up to which everything was acknowledged.
    pub acknowledged: u64,
    /// What the client said when it refused the last response; kept until a later one is accepted.
    pub rejection: Option<Arc<str>>,
    /// How many resources the client was sent and has not been told to drop.
    pub resources: usize,
}

#[derive(Debug, Clone)]
struct Sent {
    name: Arc<str>,
    version: u64,
}

impl Sent {
    fn is_held(&self) -> bool {
        self.version != UNSENT && self.version != ABSENT
    }
}

/// Gone from the source, but the client was not told yet.
#[derive(Debug)]
struct Leftover {
    resource: Resource,
    /// When nothing else was left to tell.
    since: Option<Instant>,
}

impl From<Resource> for Leftover {
    fn from(resource: Resource) -> Self {
        Self { resource, since: None }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Dirty {
    Clean,
    Names(Vec<Arc<str>>),
    All,
}

#[derive(Debug)]
pub(super) struct Watch {
    resource_type: ResourceType,
    wildcard: bool,
    /// Under the wildcard: what the client was sent.
    set: Layers,
    /// By name, in order.
    named: Vec<Sent>,
    /// How many of these the client has: asked for at every acknowledgement, where counting would be too long.
    held: usize,
    leftovers: Vec<Leftover>,
    dirty: Dirty,
    /// A response is owed even if it is empty.
    owed: bool,
    pub(super) nonce: u64,
    pub(super) in_flight: bool,
    /// The generations of the source that were looked at, sent, and acknowledged.
    seen: u64,
    acknowledged: u64,
    rejection: Option<Arc<str>>,
    rejected: bool,
}

/// What a response must hold.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) resources: Vec<Resource>,
    /// The resources as they are in the source, where all of them go.
    pub(super) whole: Option<Layers>,
    pub(super) removed: Vec<Arc<str>>,
    /// Names of resources that the client had in another version.
    pub(super) updated: Vec<Arc<str>>,
}

impl Work {
    /// Who asks for all and for some by name gets each once.
    fn merge(&mut self) {
        if self.resources.is_empty() {
            return;
        }
        if let Some(whole) = self.whole.take() {
            self.resources.extend(whole.resources().cloned());
        }
        self.resources.sort_by(|a, b| a.name.cmp(&b.name));
        self.resources.dedup_by(|a, b| a.name == b.name);
    }
}

impl Watch {
    pub(super) fn new(resource_type: ResourceType) -> Self {
        Self {
            resource_type,
            wildcard: false,
            set: Layers::default(),
            named: Vec::new(),
            held: 0,
            leftovers: Vec::new(),
            dirty: Dirty::All,
            owed: true,
            nonce: 0,
            in_flight: false,
            seen: 0,
            acknowledged: 0,
            rejection: None,
            rejected: false,
        }
    }

    /// How many names the client asks for.
    pub(super) fn names(&self) -> usize {
        self.named.len()
    }

    pub(super) fn is_clean(&self) -> bool {
        self.dirty == Dirty::Clean && !self.owed
    }

    /// Whether the client is behind with what is gone. What it is left for a while changes nothing for it.
    fn owes_removals(&self) -> bool {
        self.grace().is_zero() && !self.leftovers.is_empty()
    }

    fn grace(&self) -> Duration {
        match self.resource_type {
            ResourceType::Cluster | ResourceType::Endpoint => GRACE,
            _ => Duration::ZERO,
        }
    }

    pub(super) fn set_wildcard(&mut self, wildcard: bool) {
        if self.wildcard == wildcard {
            return;
        }
        self.wildcard = wildcard;
        self.dirty = Dirty::All;
        if wildcard {
            self.owed = true;
        } else {
            // The client forgets by itself what only the wildcard gave it.
            self.set = Layers::default();
            self.leftovers.clear();
        }
    }

    /// What the client holds from an earlier stream: sent again only where it differs.
    pub(super) fn set_initial(&mut self, held: Vec<(Arc<str>, u64)>) {
        if !self.wildcard {
            for (name, version) in held {
                if let Some(at) = self.position(&name) {
                    self.set_version(at, version);
                }
            }
            return;
        }
        let mut set: Vec<_> =
            held.into_iter().map(|(name, version)| Resource { name, version, body: Bytes::new() }).collect();
        set.sort_by(|a, b| a.name.cmp(&b.name));
        set.dedup_by(|a, b| a.name == b.name);
        self.set = [set.into()].into_iter().collect();
    }

    /// Names that must be answered for, whether or not they were before.
    pub(super) fn subscribe(&mut self, names: impl IntoIterator<Item = Arc<str>>) {
        let mut added = Vec::new();
        for name in names {
            match self.position(&name) {
                Some(at) => self.set_version(at, UNSENT),
                None => added.push(Sent { name: Arc::clone(&name), version: UNSENT }),
            }
            self.mark_name(name);
        }
        if !added.is_empty() {
            self.named.extend(added);
            self.named.sort_by(|a, b| a.name.cmp(&b.name));
            self.named.dedup_by(|a, b| a.name == b.name);
        }
    }

    pub(super) fn unsubscribe(&mut self, gone: impl Fn(&str) -> bool) {
        self.named.retain(|sent| !gone(&sent.name));
        self.held = self.named.iter().filter(|sent| sent.is_held()).count();
        if !self.wildcard {
            self.leftovers.retain(|left| !gone(&left.resource.name));
        }
    }

    /// State of the world: the names are all that is wanted from now on.
    pub(super) fn replace(&mut self, mut names: Vec<String>) {
        names.sort_unstable();
        names.dedup();
        self.unsubscribe(|name| names.binary_search_by(|n| n.as_str().cmp(name)).is_err());
        let added: Vec<Arc<str>> =
            names.into_iter().filter(|name| self.position(name).is_none()).map(Arc::from).collect();
        self.subscribe(added);
    }

    /// The named resources are sent again as soon as possible if they were before.
    pub(super) fn resend(&mut self, names: &[Arc<str>]) {
        for name in names {
            if let Some(at) = self.position(name).filter(|at| self.named[*at].is_held()) {
                self.set_version(at, UNSENT);
                self.mark_name(Arc::clone(&self.named[at].name));
            }
        }
    }

    pub(super) fn mark(&mut self, touched: &dyn Touched) {
        if self.dirty == Dirty::All {
            return;
        }
        match touched.touched(self.resource_type) {
            Touch::Nothing | Touch::Names([]) => {}
            Touch::Names(_) if self.wildcard => self.dirty = Dirty::All,
            Touch::Names(names) => {
                for name in names {
                    if let Some(at) = self.position(name) {
                        self.mark_name(Arc::clone(&self.named[at].name));
                    }
                }
            }
            Touch::Everything => self.dirty = Dirty::All,
        }
    }

    pub(super) fn acknowledge(&mut self) {
        self.in_flight = false;
        self.rejected = false;
        self.rejection = None;
        self.acknowledged = self.seen;
    }

    pub(super) fn reject(&mut self, reason: &str) {
        self.in_flight = false;
        self.rejected = true;
        self.rejection = Some(reason.into());
    }

    /// Compares with the source and takes what is new as sent. What is gone waits among the leftovers.
    pub(super) fn work(&mut self, mode: Mode, source: &dyn Source) -> Option<Work> {
        self.seen = source.generation();
        let mut work = Work::default();
        let dirty = std::mem::replace(&mut self.dirty, Dirty::Clean);
        if self.wildcard && dirty == Dirty::All {
            self.compare_set(mode, source, &mut work);
        }
        match dirty {
            Dirty::Clean => {}
            Dirty::Names(names) => {
                for name in names {
                    if let Some(at) = self.position(&name) {
                        self.compare_named(at, mode, source, &mut work);
                    }
                }
            }
            Dirty::All => {
                for at in 0..self.named.len() {
                    self.compare_named(at, mode, source, &mut work);
                }
            }
        }
        work.merge();
        let owed = std::mem::take(&mut self.owed);
        if work.resources.is_empty() && work.whole.is_none() && work.removed.is_empty() && !owed {
            if !self.in_flight && !self.rejected && !self.owes_removals() {
                self.acknowledged = self.seen;
            }
            return None;
        }
        if owed && self.wildcard && mode == Mode::Sotw && work.whole.is_none() && work.resources.is_empty() {
            self.add_whole_set(&mut work);
        }
        Some(work)
    }

    /// Tells the client what is gone, if it is time.
    pub(super) fn removals(&mut self, mode: Mode, now: Instant) -> Option<Work> {
        let grace = self.grace();
        let is_due = |left: &mut Leftover| *left.since.get_or_insert(now) + grace <= now;
        let gone: Vec<Leftover> = self.leftovers.extract_if(.., |left| is_due(left)).collect();
        if gone.is_empty() {
            return None;
        }
        let mut work = Work::default();
        match mode {
            Mode::Delta => work.removed = gone.into_iter().map(|left| left.resource.name).collect(),
            // Absence from the next whole set says it; of other types state of the world cannot say it at all.
            Mode::Sotw if self.wildcard => self.add_whole_set(&mut work),
            Mode::Sotw => return None,
        }
        Some(work)
    }

    /// When something is to be told that is gone.
    pub(super) fn due(&self) -> Option<Instant> {
        self.leftovers.iter().filter_map(|left| Some(left.since? + self.grace())).min()
    }

    /// State of the world: all that the client is to have, with what is left to it for a while.
    fn add_whole_set(&self, work: &mut Work) {
        if self.leftovers.is_empty() {
            work.whole = Some(self.set.clone());
        } else {
            let left = self.leftovers.iter().map(|left| &left.resource);
            work.resources = self.set.resources().chain(left).cloned().collect();
        }
    }

    pub(super) fn status(&self) -> TypeStatus {
        let state = if self.rejected {
            State::Rejected
        } else if self.in_flight || !self.is_clean() || self.owes_removals() {
            State::Stale
        } else {
            State::Synced
        };
        debug_assert_eq!(self.held, self.named.iter().filter(|sent| sent.is_held()).count());
        TypeStatus {
            resource_type: self.resource_type,
            state,
            acknowledged: self.acknowledged,
            rejection: self.rejection.clone(),
            resources: self.held + self.set.len() + self.leftovers.len(),
        }
    }

    /// Nothing of what is new concerns this type: it is as far as the source without looking.
    pub(super) fn untouched(&mut self, generation: u64) {
        if self.is_clean() {
            self.seen = generation;
            if !self.in_flight && !self.rejected && !self.owes_removals() {
                self.acknowledged = generation;
            }
        }
    }

    fn compare_set(&mut self, mode: Mode, source: &dyn Source, work: &mut Work) {
        let new = source.all(self.resource_type);
        if new.is_same(&self.set) {
            return;
        }
        let old = std::mem::replace(&mut self.set, new.clone());
        let (mut before, mut changed) = (by_name(&old, &new).into_iter().peekable(), Vec::new());
        let mut gone = Vec::new();
        for resource in by_name(&new, &old) {
            while let Some(left) = before.next_if(|left| left.name < resource.name) {
                gone.push(left.clone());
            }
            match before.next_if(|same| same.name == resource.name) {
                Some(same) if same.version == resource.version => {}
                Some(_) => {
                    work.updated.push(Arc::clone(&resource.name));
                    changed.push(resource.clone());
                }
                None => changed.push(resource.clone()),
            }
        }
        gone.extend(before.cloned());
        self.leftovers.extend(gone.into_iter().map(Leftover::from));
        self.leftovers.retain(|left| new.get(&left.resource.name).is_none());
        if changed.is_empty() {
            return;
        }
        match mode {
            Mode::Delta if changed.len() == new.len() => work.whole = Some(new),
            Mode::Delta => work.resources = changed,
            Mode::Sotw => self.add_whole_set(work),
        }
    }

    fn compare_named(&mut self, at: usize, mode: Mode, source: &dyn Source, work: &mut Work) {
        let before = self.named[at].version;
        let name = &self.named[at].name;
        let late = || if before == UNSENT { source.gone(self.resource_type, name) } else { None };
        match source.get(self.resource_type, name).or_else(late) {
            Some(resource) if resource.version == before => {}
            Some(resource) => {
                self.leftovers.retain(|left| left.resource.name != resource.name);
                if before != UNSENT && before != ABSENT {
                    work.updated.push(Arc::clone(&resource.name));
                }
                // Take the shared name, so that subscriptions of a thousand clients hold it once.
                self.named[at].name = Arc::clone(&resource.name);
                self.set_version(at, resource.version);
                work.resources.push(resource);
            }
            None if before == ABSENT => {}
            None => {
                let name = Arc::clone(&self.named[at].name);
                self.set_version(at, ABSENT);
                match mode {
                    Mode::Delta if before == UNSENT => work.removed.push(name),
                    Mode::Delta => {
                        self.leftovers.push(Resource { name, version: before, body: Bytes::new() }.into())
                    }
                    Mode::Sotw => {}
                }
            }
        }
    }

    fn mark_name(&mut self, name: Arc<str>) {
        match &mut self.dirty {
            Dirty::Clean => self.dirty = Dirty::Names(vec![name]),
            // Beyond a point, looking at everything is cheaper than remembering what to look at.
            Dirty::Names(names) if names.len() >= 64.max(self.named.len()) => self.dirty = Dirty::All,
            Dirty::Names(names) => names.push(name),
            Dirty::All => {}
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.named.binary_search_by(|sent| (*sent.name).cmp(name)).ok()
    }

    fn set_version(&mut self, at: usize, version: u64) {
        let sent = &mut self.named[at];
        self.held -= usize::from(sent.is_held());
        sent.version = version;
        self.held += usize::from(sent.is_held());
    }
}

/// The resources of layers that the other does not hold, ordered by name.
fn by_name<'a>(of: &'a Layers, other: &'a Layers) -> Vec<&'a Resource> {
    let mut all: Vec<_> = of.beside(other).flat_map(|layer| layer.iter()).collect();
    // Each layer is in order already, which makes this a merge.
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}
