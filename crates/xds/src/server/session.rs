//! One stream of one client: what it asked for, what it was sent, and what it must be sent next.
//!
//! Of each type at most one response is unanswered, so a slow client costs one response and not a queue. What is new
//! goes out in the order clusters, endpoints, listeners, routes, secrets, and no listener or route overtakes clusters that
//! have to wait for an answer; what is gone the other way round and only when
//! everything new was answered, so that a client never refers to what it was told to drop; clusters and endpoints a little
//! later still, since the news that leads away from them may come last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use proto::ResourceType;

use super::request::{Names, Request};
use super::watch::{State, TypeStatus, Watch, Work};
use crate::payload::{head, parse_version};
use crate::{Mode, Payload, Payloads, Source, Touched};

/// More names than this in one stream are refused: nobody needs them.
const MAX_NAMES: usize = 200_000;

/// A response, encoded: the head, then the payload.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub resource_type: ResourceType,
    pub head: Bytes,
    pub payload: Payload,
    pub nonce: u64,
    pub resources: usize,
    pub removed: usize,
}

/// What a request was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// It asks for something.
    Subscription,
    Acknowledged(ResourceType),
    Rejected(ResourceType, String),
    /// It answers a response that is not the last one, or asks for a type that does not exist here.
    Ignored,
}

#[derive(Debug)]
pub struct Session {
    mode: Mode,
    watches: BTreeMap<ResourceType, Watch>,
    last_nonce: u64,
}

impl Session {
    pub fn new(mode: Mode) -> Self {
        Self { mode, watches: BTreeMap::new(), last_nonce: 0 }
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Takes a request. Afterwards [`next`](Self::next) may have something to send.
    pub fn receive(&mut self, request: Request) -> Received {
        let Some(resource_type) = request.resource_type else { return Received::Ignored };
        match request.names {
            Names::All(names) => self.receive_all(resource_type, &request.nonce, request.error, names),
            Names::Change { subscribe, unsubscribe, initial } => {
                let first = !self.watches.contains_key(&resource_type);
                let answered =
                    if first { None } else { self.answered(resource_type, &request.nonce, request.error) };
                self.change(resource_type, first, subscribe, unsubscribe, initial);
                answered.unwrap_or(if request.nonce.is_empty() || first {
                    Received::Subscription
                } else {
                    Received::Ignored
                })
            }
        }
    }

    /// Says that the source was replaced by one in which what is touched may differ.
    pub fn mark(&mut self, touched: &dyn Touched, generation: u64) {
        for watch in self.watches.values_mut() {
            watch.mark(touched);
            watch.untouched(generation);
        }
    }

    /// The next response to send, if there is one. To be called until there is none.
    pub fn next(&mut self, source: &dyn Source, payloads: &Payloads, now: Instant) -> Option<Outgoing> {
        let types: Vec<_> = self.watches.keys().copied().collect();
        let mut clusters_behind = false;
        for resource_type in &types {
            let watch = self.watches.get_mut(resource_type)?;
            if *resource_type == ResourceType::Cluster {
                clusters_behind = watch.in_flight && !watch.is_clean();
            }
            if watch.in_flight || watch.is_clean() || (clusters_behind && leads_to_clusters(*resource_type)) {
                continue;
            }
            if let Some(work) = watch.work(self.mode, source) {
                if *resource_type == ResourceType::Cluster {
                    self.resend_endpoints(&work.updated);
                }
                return Some(self.outgoing(*resource_type, work, payloads, now));
            }
        }
        let busy = self.watches.values().any(|watch| watch.in_flight || !watch.is_clean());
        if busy {
            return None;
        }
        for resource_type in types.iter().rev() {
            if let Some(work) = self.watches.get_mut(resource_type)?.removals(self.mode, now) {
                return Some(self.outgoing(*resource_type, work, payloads, now));
            }
        }
        None
    }

    /// When [`next`](Self::next) has something to send though nothing happens: what is gone is told after a while.
    pub fn due(&self) -> Option<Instant> {
        self.watches.values().filter_map(Watch::due).min()
    }

    /// How far the client is with each type that it asked for.
    pub fn status(&self) -> impl Iterator<Item = TypeStatus> {
        self.watches.values().map(Watch::status)
    }

    pub fn is_synced(&self) -> bool {
        self.status().all(|status| status.state == State::Synced)
    }

    pub fn watches(&self, resource_type: ResourceType) -> bool {
        self.watches.contains_key(&resource_type)
    }

    fn receive_all(
        &mut self,
        t: ResourceType,
        nonce: &str,
        error: Option<String>,
        mut names: Vec<String>,
    ) -> Received {
        let first = !self.watches.contains_key(&t);
        let answered = if first { None } else { self.answered(t, nonce, error) };
        if !first && answered.is_none() && !nonce.is_empty() {
            // An answer to an older response: the client will answer the newer one, with all its names.
            return Received::Ignored;
        }
        let star = names.iter().any(|name| name == "*");
        names.retain(|name| name != "*");
        names.truncate(MAX_NAMES);
        let watch = self.watches.entry(t).or_insert_with(|| Watch::new(t));
        watch.set_wildcard(star || (names.is_empty() && lists_all_by_default(t)));
        watch.replace(names);
        answered.unwrap_or(Received::Subscription)
    }

    fn change(
        &mut self,
        t: ResourceType,
        first: bool,
        subscribe: Vec<String>,
        unsubscribe: Vec<String>,
        initial: Vec<(String, String)>,
    ) {
        let watch = self.watches.entry(t).or_insert_with(|| Watch::new(t));
        if unsubscribe.iter().any(|name| name == "*") {
            watch.set_wildcard(false);
        }
        if !unsubscribe.is_empty() {
            let mut gone = unsubscribe;
            gone.sort_unstable();
            watch.unsubscribe(|name| gone.binary_search_by(|n| n.as_str().cmp(name)).is_ok());
        }
        if subscribe.iter().any(|name| name == "*") || (first && subscribe.is_empty()) {
            watch.set_wildcard(true);
        }
        let room = MAX_NAMES.saturating_sub(watch.names());
        watch.subscribe(subscribe.into_iter().filter(|name| name != "*").take(room).map(Arc::from));
        if first && !initial.is_empty() {
            // A version that is not ours differs from every one that is.
            let held = initial
                .into_iter()
                .map(|(name, version)| (name.into(), parse_version(&version).unwrap_or(1)));
            watch.set_initial(held.collect());
        }
    }

    /// Whether the nonce is that of the last response, and what the client said to it.
    fn answered(&mut self, t: ResourceType, nonce: &str, error: Option<String>) -> Option<Received> {
        let watch = self.watches.get_mut(&t)?;
        if watch.nonce == 0 || nonce.parse() != Ok(watch.nonce) {
            return None;
        }
        if !watch.in_flight {
            // A changed subscription repeats the nonce of what was answered before.
            return Some(Received::Subscription);
        }
        Some(match error {
            Some(reason) => {
                watch.reject(&reason);
                Received::Rejected(t, reason)
            }
            None => {
                watch.acknowledge();
                Received::Acknowledged(t)
            }
        })
    }

    /// A changed cluster waits for its endpoints anew and does not always ask for them again.
    fn resend_endpoints(&mut self, updated: &[Arc<str>]) {
        if let Some(watch) = self.watches.get_mut(&ResourceType::Endpoint) {
            watch.resend(updated);
        }
    }

    fn outgoing(&mut self, t: ResourceType, work: Work, payloads: &Payloads, now: Instant) -> Outgoing {
        let (payload, resources) = match &work.whole {
            Some(all) => (payloads.get(self.mode, t, all.iter().map(|layer| &**layer), now), all.len()),
            None => (payloads.get(self.mode, t, [&*work.resources], now), work.resources.len()),
        };
        self.last_nonce += 1;
        let nonce = self.last_nonce;
        if let Some(watch) = self.watches.get_mut(&t) {
            watch.nonce = nonce;
            watch.in_flight = true;
        }
        Outgoing {
            resource_type: t,
            head: head(t, payload.id, &nonce.to_string(), &work.removed),
            nonce,
            resources,
            removed: work.removed.len(),
            payload,
        }
    }
}

/// Whether resources of this type may lead to clusters, and so never go out before those of the same state.
fn leads_to_clusters(t: ResourceType) -> bool {
    use ResourceType as T;
    matches!(t, T::Listener | T::Route | T::VirtualHost | T::ScopedRoute)
}

/// Whether asking for no name means asking for all.
fn lists_all_by_default(t: ResourceType) -> bool {
    use ResourceType as T;
    !matches!(t, T::Endpoint | T::Route | T::VirtualHost | T::Secret | T::ExtensionConfig)
}
