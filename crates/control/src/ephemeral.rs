//! Registrations that end with their proxy: which are to be taken out of traffic, put back, and removed. No I/O.
//!
//! `mizzen run` deletes its WorkloadEntry at a clean end; one that was killed leaves it behind. Such an entry is unready
//! from the moment its proxy's stream is lost, ready again when the proxy is back, and removed when it has been alone
//! for a grace. The grace counts from the start of this control plane at the earliest, so that a restart removes
//! nobody who is about to reconnect. A write to the store is ordered once for each change of state, never to say that
//! all is as before.
//!
//! Each order names the version that it was judged by: whoever carries it out writes under that condition, so that the
//! owner's own word is never overwritten.

#[cfg(test)]
mod simulation;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::NamespacedName;

/// An order that came to nothing is given again after this time.
const AGAIN: Duration = Duration::from_secs(2);

/// What an entry says of its workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Its owner said that it takes traffic.
    Ready,
    /// Its owner said that it does not, or nothing yet.
    Unready,
    /// It was ready until its proxy was lost.
    Lost,
}

/// An entry as it was last read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whom the proxy must prove to be for its presence to count.
    pub account: Arc<str>,
    pub health: Health,
    /// The version that is read here, in the API server's words.
    pub version: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// From ready to lost.
    MarkLost,
    /// From lost to ready.
    MarkReady,
    Remove,
}

/// What is to be done with an entry, if it is still as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub name: NamespacedName,
    pub version: String,
    pub action: Action,
}

/// All entries of this kind.
#[derive(Debug)]
pub struct Ephemeral {
    grace: Duration,
    entries: BTreeMap<NamespacedName, State>,
}

#[derive(Debug)]
struct State {
    entry: Entry,
    proxy: Proxy,
    /// When the last order was given for the entry as it is.
    ordered: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proxy {
    /// Not seen yet since this time.
    Awaited(Instant),
    Connected,
    /// Was connected until this time.
    Lost(Instant),
}

impl Ephemeral {
    pub fn new(grace: Duration) -> Self {
        Self { grace, entries: BTreeMap::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// An entry was read.
    pub fn observe(&mut self, name: NamespacedName, entry: Entry, now: Instant) {
        match self.entries.get_mut(&name) {
            Some(state) if state.entry == entry => {}
            Some(state) => {
                state.entry = entry;
                state.ordered = None;
            }
            None => {
                self.entries.insert(name, State { entry, proxy: Proxy::Awaited(now), ordered: None });
            }
        }
    }

    /// An entry is gone.
    pub fn forget(&mut self, name: &NamespacedName) {
        self.entries.remove(name);
    }

    /// These are all that there are.
    pub fn retain(&mut self, names: &BTreeSet<NamespacedName>) {
        self.entries.retain(|name, _| names.contains(name));
    }

    /// Takes note of which proxies are connected, and says what is to be done.
    pub fn judge(&mut self, connected: impl Fn(&NamespacedName, &str) -> bool, now: Instant) -> Vec<Order> {
        let mut orders = Vec::new();
        for (name, state) in &mut self.entries {
            state.proxy = match state.proxy {
                _ if connected(name, &state.entry.account) => Proxy::Connected,
                Proxy::Connected => Proxy::Lost(now),
                alone => alone,
            };
            let Some(action) = state.wants(self.grace, now) else { continue };
            if state.ordered.is_none_or(|at| now >= at + AGAIN) {
                state.ordered = Some(now);
                let version = state.entry.version.clone();
                orders.push(Order { name: name.clone(), version, action });
            }
        }
        orders
    }

    /// When to judge again, should nothing happen until then.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let due = |state: &State| match (state.wants(self.grace, now), state.proxy) {
            (Some(_), _) => Some(state.ordered.map_or(now, |at| at + AGAIN)),
            (None, Proxy::Connected) => None,
            (None, Proxy::Awaited(since) | Proxy::Lost(since)) => Some(since + self.grace),
        };
        self.entries.values().filter_map(due).min()
    }
}

impl State {
    fn wants(&self, grace: Duration, now: Instant) -> Option<Action> {
        match (self.proxy, self.entry.health) {
            (Proxy::Connected, Health::Lost) => Some(Action::MarkReady),
            (Proxy::Awaited(since) | Proxy::Lost(since), _) if now >= since + grace => Some(Action::Remove),
            // Whoever was not seen yet may serve well: only that it was lost is known to be bad.
            (Proxy::Lost(_), Health::Ready) => Some(Action::MarkLost),
            _ => None,
        }
    }
}
