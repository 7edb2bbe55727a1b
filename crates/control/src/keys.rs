//! The keys of tokens: fetched from where RequestAuthentications say, and told to the world as facts.
//!
//! A stage between the registries and the writer. A RequestAuthentication goes on when its keys were tried for, so that it
//! never acts without them for a moment only; what cannot be fetched is tried again, and until then its tokens are refused.
//! Keys that are there once are kept while newer ones cannot be fetched.

mod fetch;
mod source;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::security::{JwtRule, KeySource};
use base::{NamespacedName, ThreadRandom};
use model::{Action, Change, ClusterId, KeySet, Kind, Object};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use self::fetch::{Fetcher, Place};
use self::source::Source;
use crate::metrics::Metrics;

/// How often keys are fetched, as in istiod.
pub const REFRESH: Duration = Duration::from_secs(20 * 60);
/// How long a try may take where the rule does not say.
const WITHIN: Duration = Duration::from_secs(5);
/// The most that a rule may say.
const LONGEST: Duration = Duration::from_secs(60);
/// A resource waits for its keys no longer than this.
const PATIENCE: Duration = Duration::from_secs(5);
/// Tries under way at once.
const AT_ONCE: usize = 16;

type Named = (ClusterId, NamespacedName);

pub(crate) struct Stage {
    pub(crate) changes: mpsc::Receiver<Vec<Change>>,
    /// What the registries say of themselves.
    pub(crate) synced: watch::Receiver<bool>,
    pub(crate) out: mpsc::Sender<Vec<Change>>,
    /// Everything that was there at the start went on.
    pub(crate) done: watch::Sender<bool>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) home: ClusterId,
    pub(crate) refresh: Duration,
    state: State,
}

#[derive(Default)]
struct State {
    fetcher: Fetcher,
    /// The key sets that each RequestAuthentication names which went on.
    wanted: BTreeMap<Named, BTreeSet<NamespacedName>>,
    /// Those that wait for their keys.
    held: BTreeMap<Named, Held>,
    sources: BTreeMap<NamespacedName, Source>,
    tries: JoinSet<(NamespacedName, Result<Arc<str>, String>)>,
    room: Option<Arc<Semaphore>>,
}

struct Held {
    change: Change,
    sets: BTreeSet<NamespacedName>,
    until: Instant,
}

impl Stage {
    pub(crate) fn new(
        changes: mpsc::Receiver<Vec<Change>>,
        synced: watch::Receiver<bool>,
        metrics: Arc<Metrics>,
        home: ClusterId,
        refresh: Duration,
    ) -> (Self, mpsc::Receiver<Vec<Change>>, watch::Receiver<bool>) {
        let (out, going_on) = mpsc::channel(64);
        let (done, done_seen) = watch::channel(false);
        let stage = Self { changes, synced, out, done, metrics, home, refresh, state: State::default() };
        (stage, going_on, done_seen)
    }

    /// Runs until the registries hang up, or the writer does.
    pub(crate) async fn run(mut self) {
        let mut open = true;
        let mut syncing = true;
        while open {
            let due = self.state.due();
            let (mut batch, mut tried) = (Vec::new(), None);
            tokio::select! {
                changes = self.changes.recv() => match changes {
                    Some(changes) => batch.push(changes),
                    None => open = false,
                },
                Some(ended) = self.state.tries.join_next() => tried = ended.ok(),
                () = sleep_until(due), if due.is_some() => {}
                () = until_true(&mut self.synced), if syncing => syncing = false,
            }
            if let Some((name, got)) = tried {
                let told = self.tried(&name, got);
                if !told.is_empty() && self.out.send(told).await.is_err() {
                    return;
                }
            }
            // Asked first: whatever was said before that is in the channel now.
            let synced = *self.synced.borrow();
            while let Ok(changes) = self.changes.try_recv() {
                batch.push(changes);
            }
            let now = Instant::now();
            for changes in batch {
                let going_on = self.state.take(changes, &self.home, now);
                if !going_on.is_empty() && self.out.send(going_on).await.is_err() {
                    return;
                }
            }
            self.state.start(now);
            let released = self.state.release(&self.home, now);
            if !released.is_empty() && self.out.send(released).await.is_err() {
                return;
            }
            if synced && self.state.held.is_empty() && !*self.done.borrow() {
                self.done.send_replace(true);
            }
        }
        // They did not wait for nothing.
        let held = std::mem::take(&mut self.state.held);
        let _ = self.out.send(held.into_values().map(|held| held.change).collect()).await;
    }

    /// What the world is to know of a try.
    fn tried(&mut self, name: &NamespacedName, got: Result<Arc<str>, String>) -> Vec<Change> {
        self.metrics.fetched_keys(got.is_ok());
        let Some(source) = self.state.sources.get_mut(name) else { return Vec::new() };
        if !source.tried(got, Instant::now(), self.refresh, &mut ThreadRandom) {
            return Vec::new();
        }
        let set = source.key_set(name);
        match &set.fault {
            Some(fault) => warn!(from = %name.name, %fault, "the keys of tokens could not be fetched"),
            None => info!(from = %name.name, "fetched the keys of tokens"),
        }
        vec![Change::upsert(Arc::clone(&self.home), Object::KeySet(set))]
    }
}

impl State {
    /// What of the changes goes on at once.
    fn take(&mut self, changes: Vec<Change>, home: &ClusterId, now: Instant) -> Vec<Change> {
        let mut going_on = Vec::with_capacity(changes.len());
        for change in changes {
            match &change.action {
                Action::Upsert(Object::RequestAuthentication(config)) => {
                    let named = (Arc::clone(&change.cluster), config.name.clone());
                    let rules = &config.spec.jwt_rules;
                    let sets = rules.iter().filter_map(|rule| self.want(rule, now)).collect();
                    // One that waits already is not made to wait longer by being changed.
                    let until = self.held.get(&named).map_or(now + PATIENCE, |held| held.until);
                    self.held.insert(named, Held { change, sets, until });
                    going_on.extend(self.release(home, now));
                }
                Action::Delete(at) if at.kind == Kind::RequestAuthentication => {
                    let named = (Arc::clone(&change.cluster), at.name.clone());
                    self.wanted.remove(&named);
                    self.held.remove(&named);
                    going_on.push(change);
                    going_on.extend(self.forget(home));
                }
                _ => going_on.push(change),
            }
        }
        going_on
    }

    /// The name of the keys that a rule needs, which are fetched from now on.
    fn want(&mut self, rule: &JwtRule, now: Instant) -> Option<NamespacedName> {
        let name = KeySet::name_for(rule)?;
        let place = match rule.key_source() {
            KeySource::Inline(_) => return None,
            KeySource::Uri(uri) => Place::Uri(uri.into()),
            KeySource::Issuer(issuer) => Place::Issuer(issuer.into()),
        };
        let within = rule.timeout.map_or(WITHIN, api::Duration::as_std).min(LONGEST);
        let source = self.sources.entry(name.clone()).or_insert_with(|| Source::new(place, now));
        source.within = source.within.max(within);
        Some(name)
    }

    /// Drops the keys that nobody names any more.
    fn forget(&mut self, home: &ClusterId) -> Vec<Change> {
        let held = self.held.values().flat_map(|held| &held.sets);
        let wanted: BTreeSet<&NamespacedName> = self.wanted.values().flatten().chain(held).collect();
        let gone: Vec<NamespacedName> =
            self.sources.keys().filter(|name| !wanted.contains(name)).cloned().collect();
        self.sources.retain(|name, _| !gone.contains(name));
        gone.into_iter().map(|name| Change::delete(Arc::clone(home), Kind::KeySet, name)).collect()
    }

    /// Begins the tries that are due.
    fn start(&mut self, now: Instant) {
        let room = self.room.get_or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE)));
        for (name, source) in &mut self.sources {
            if source.due.is_none_or(|due| due > now) {
                continue;
            }
            source.due = None;
            let (name, place, within) = (name.clone(), source.place.clone(), source.within);
            let (fetcher, room) = (self.fetcher.clone(), Arc::clone(room));
            self.tries.spawn(async move {
                let _room = room.acquire_owned().await;
                let got = fetcher.keys(&place, within).await;
                (name, got)
            });
        }
    }

    /// Those that need not or will not wait any longer.
    fn release(&mut self, home: &ClusterId, now: Instant) -> Vec<Change> {
        let tried = |name: &NamespacedName| self.sources.get(name).is_none_or(Source::is_tried);
        let ready = |held: &Held| held.until <= now || held.sets.iter().all(tried);
        let named = self.held.iter().filter(|(_, held)| ready(held)).map(|(named, _)| named.clone());
        let named: Vec<Named> = named.collect();
        let mut going_on = Vec::new();
        for named in named {
            if let Some(held) = self.held.remove(&named) {
                going_on.push(held.change);
                self.wanted.insert(named, held.sets);
            }
        }
        if !going_on.is_empty() {
            going_on.extend(self.forget(home));
        }
        going_on
    }

    /// When there is something to do without anybody saying so.
    fn due(&self) -> Option<Instant> {
        let tries = self.sources.values().filter_map(|source| source.due);
        tries.chain(self.held.values().map(|held| held.until)).min()
    }
}

/// Also when nobody is left who could say so.
async fn until_true(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|flag| *flag).await;
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}
