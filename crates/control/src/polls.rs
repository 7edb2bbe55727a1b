//! Who asks by polling has no stream on which to acknowledge: what it says it has is what it accepted.
//!
//! A poll names the version that its sender runs. So a poller is in sync with a question when that is the version of the
//! newest answer, which is found out when somebody wants to know. It is listed as long as a connection stands by which
//! it polled. Envoy says nothing of what it refuses: it goes on asking with the older version.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto::ResourceType;
use proto::pb::envoy::service::discovery::v3::DiscoveryRequest;
use tokio::sync::watch;
use translate::{Node, Scope};
use xds::rest::{self, Answer};
use xds::server::{State, TypeStatus};

use crate::connection::Peer;
use crate::publish::Publisher;
use crate::status::{Connections, Opened};
use crate::view::{Seen, View};

/// What was not asked for during this time is not wanted any more.
const SILENCE: Duration = Duration::from_secs(10);
/// Unless the pauses between polls are so long that this many of them are longer.
const MISSED: u32 = 4;
/// Who is answered the same so often, and goes on to ask with an older version, refuses it; less may be lost answers.
const REFUSED: u32 = 3;
/// No proxy asks for more names.
const MOST_NAMES: usize = 65_536;

/// Everybody who polls.
#[derive(Default)]
pub(crate) struct Polls(Mutex<Pollers>);

#[derive(Default)]
struct Pollers {
    all: HashMap<Who, Poller>,
    /// Whose polls came by a connection: one at a time, so that there are no more pollers than connections.
    by_connection: HashMap<SocketAddr, Who>,
}

/// A node, and the identity that it proved.
type Who = (Arc<str>, Option<String>);

struct Poller {
    opened: Opened,
    connections: usize,
    views: watch::Receiver<Arc<View>>,
    authenticated: bool,
    questions: BTreeMap<Key, Question>,
    names: usize,
}

/// A type, and the names of resources; none for all of them.
type Key = (ResourceType, Arc<[String]>);

/// How a poller stands with what it polls for.
#[derive(Debug, Clone, Default)]
struct Question {
    at: Option<Instant>,
    silence: Duration,
    /// What it says that it has.
    has: String,
    /// The last version with which it was answered, and how often in a row.
    answered: Option<(String, u32)>,
    /// In its own words, or in ours.
    refused: Option<Arc<str>>,
}

impl Polls {
    /// The view for a poll; whoever polls for the first time is listed from now on.
    pub(crate) fn view(
        &self,
        publisher: &Publisher,
        connections: &Arc<Connections>,
        node: Node,
        peer: &Peer,
    ) -> Arc<View> {
        let identity = peer.identity.as_ref().map(ToString::to_string);
        let who = (Arc::clone(&node.id), identity.clone());
        let mut pollers = self.lock();
        let scope = Scope::of(&node);
        // A node that says something else of itself begins anew.
        if pollers.all.get(&who).is_some_and(|poller| poller.opened.connection.scope != scope) {
            pollers.forget(&who);
        }
        if pollers.by_connection.get(&peer.address) != Some(&who) {
            pollers.closed(peer.address);
            let poller = pollers.all.entry(who.clone()).or_insert_with(|| {
                let (state, views) = publisher.join(&scope);
                let authenticated = peer.identity.is_some();
                let opened = connections.list(node, peer.address, identity, scope, state, authenticated);
                Poller { opened, connections: 0, views, authenticated, questions: BTreeMap::new(), names: 0 }
            });
            poller.connections += 1;
            pollers.by_connection.insert(peer.address, who.clone());
        }
        Arc::clone(&*pollers.all[&who].views.borrow())
    }

    /// Takes note of a poll and of what it is answered; the reason, if it is found out just now that it refuses that.
    pub(crate) fn note(
        &self,
        request: &DiscoveryRequest,
        of: ResourceType,
        connection: SocketAddr,
        answer: &Answer,
    ) -> Option<Arc<str>> {
        let mut pollers = self.lock();
        let who = pollers.by_connection.get(&connection)?.clone();
        let poller = pollers.all.get_mut(&who)?;
        let key: Key = (of, request.resource_names.clone().into());
        let known = poller.questions.contains_key(&key);
        let names = key.1.len().max(1);
        if !known && poller.names + names > MOST_NAMES {
            return None;
        }
        poller.names += if known { 0 } else { names };
        poller.questions.entry(key).or_default().note(request, answer, Instant::now())
    }

    /// A connection has ended; whoever has no other is gone.
    pub(crate) fn closed(&self, connection: SocketAddr) {
        self.lock().closed(connection);
    }

    /// Writes down how far everybody is who polls.
    pub(crate) fn report(&self) {
        let now = Instant::now();
        let pollers: Vec<_> = {
            let mut pollers = self.lock();
            pollers.all.values_mut().map(|poller| poller.standing(now)).collect()
        };
        // Without the lock: a view may be translated only now.
        for (connection, view, authenticated, questions) in pollers {
            let seen = Seen { view: &view, authenticated };
            connection.report(view.generation(), types(&questions, &seen));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pollers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pollers {
    fn closed(&mut self, connection: SocketAddr) {
        let Some(who) = self.by_connection.remove(&connection) else { return };
        let Some(poller) = self.all.get_mut(&who) else { return };
        poller.connections -= 1;
        if poller.connections == 0 {
            self.all.remove(&who);
        }
    }

    fn forget(&mut self, who: &Who) {
        self.all.remove(who);
        self.by_connection.retain(|_, of| of != who);
    }
}

type Standing = (Arc<crate::status::Connection>, Arc<View>, bool, Vec<(Key, Question)>);

impl Poller {
    fn standing(&mut self, now: Instant) -> Standing {
        self.questions.retain(|_, question| question.is_asked(now));
        self.names = self.questions.keys().map(|(_, names)| names.len().max(1)).sum();
        let questions =
            self.questions.iter().map(|(key, question)| (key.clone(), question.clone())).collect();
        let view = Arc::clone(&self.views.borrow());
        (Arc::clone(&self.opened.connection), view, self.authenticated, questions)
    }
}

impl Question {
    fn note(&mut self, request: &DiscoveryRequest, answer: &Answer, now: Instant) -> Option<Arc<str>> {
        let pause = self.at.replace(now).map_or(Duration::ZERO, |before| now.duration_since(before));
        self.silence = SILENCE.max(pause * MISSED);
        self.has.clone_from(&request.version_info);
        let Answer::Resources { version, .. } = answer else {
            (self.answered, self.refused) = (None, None);
            return None;
        };
        let told = request.error_detail.as_ref().map(|error| Arc::from(error.message.as_str()));
        let times = match &self.answered {
            Some((before, times)) if before == version => times + 1,
            _ => 1,
        };
        self.answered = Some((version.clone(), times));
        if times == 1 {
            self.refused = None;
        }
        let has = if self.has.is_empty() { "nothing" } else { &self.has };
        let silent = || {
            format!("it was sent version {version} and goes on asking with {has}; its own log says why")
                .into()
        };
        let reason = told.or_else(|| (times > REFUSED).then(silent))?;
        let is_new = self.refused.is_none();
        self.refused = Some(Arc::clone(&reason));
        is_new.then_some(reason)
    }

    fn is_asked(&self, now: Instant) -> bool {
        self.at.is_some_and(|at| now.duration_since(at) <= self.silence)
    }

    /// How it stands with what there is now, of which so much is for it.
    fn state(&self, of: ResourceType, names: &[String], source: &dyn xds::Source) -> (State, usize) {
        let wanted = rest::wanted(names, of, source);
        // Of names that there are no more nobody waits to hear.
        let nothing = wanted.resources.is_empty() && !names.is_empty();
        let state = if nothing || wanted.version == self.has {
            State::Synced
        } else if self.refused.is_some()
            && self.answered.as_ref().is_some_and(|(sent, _)| *sent == wanted.version)
        {
            State::Rejected
        } else {
            State::Stale
        };
        (state, wanted.resources.len())
    }
}

/// How a poller stands with each type: as with the question that lags most.
fn types(questions: &[(Key, Question)], source: &dyn xds::Source) -> Vec<TypeStatus> {
    let mut types: BTreeMap<ResourceType, TypeStatus> = BTreeMap::new();
    for ((of, names), question) in questions {
        let (state, resources) = question.state(*of, names, source);
        let status = types.entry(*of).or_insert(TypeStatus {
            resource_type: *of,
            state: State::Synced,
            acknowledged: source.generation(),
            rejection: None,
            resources: 0,
        });
        status.resources += resources;
        if state == State::Synced || status.state == State::Rejected {
            continue;
        }
        status.state = state;
        status.acknowledged = 0;
        if state == State::Rejected {
            status.rejection.clone_from(&question.refused);
        }
    }
    types.into_values().collect()
}

#[cfg(test)]
mod tests {
    use proto::pb::google::rpc;
    use proto::{Layers, Resource};

    use super::*;

    /// Clusters by name and version.
    struct Clusters(Vec<Resource>);

    impl Clusters {
        fn new(clusters: &[(&str, u64)]) -> Self {
            let resource = |(name, version): &(&str, u64)| Resource {
                name: (*name).into(),
                version: *version,
                body: bytes::Bytes::new(),
            };
            Self(clusters.iter().map(resource).collect())
        }
    }

    impl xds::Source for Clusters {
        fn generation(&self) -> u64 {
            7
        }

        fn all(&self, _: ResourceType) -> Layers {
            [self.0.clone().into()].into_iter().collect()
        }

        fn get(&self, _: ResourceType, name: &str) -> Option<Resource> {
            self.0.iter().find(|resource| *resource.name == *name).cloned()
        }
    }

    const OF: ResourceType = ResourceType::Cluster;

    /// Polls as Envoy does: with what it took last; says what it is to have now.
    fn poll(
        question: &mut Question,
        names: &[&str],
        has: &str,
        source: &Clusters,
    ) -> (String, Option<Arc<str>>) {
        let resource_names = names.iter().map(ToString::to_string).collect();
        let request = DiscoveryRequest { version_info: has.into(), resource_names, ..Default::default() };
        let answer = rest::answer(&request, OF, source).unwrap();
        let found = question.note(&request, &answer, Instant::now());
        (rest::wanted(&request.resource_names, OF, source).version, found)
    }

    fn standing(question: &Question, names: &[&str], source: &Clusters) -> (State, Option<Arc<str>>) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let all = types(&[((OF, names.into()), question.clone())], source);
        (all[0].state, all[0].rejection.clone())
    }

    #[test]
    fn who_has_the_newest_version_is_in_sync_without_a_word() {
        let (first, second) = (Clusters::new(&[("a", 1)]), Clusters::new(&[("a", 2)]));
        let mut question = Question::default();
        let (version, _) = poll(&mut question, &[], "", &first);
        assert_eq!(standing(&question, &[], &first).0, State::Stale, "what was sent is not yet accepted");
        poll(&mut question, &[], &version, &first);
        assert_eq!(standing(&question, &[], &first).0, State::Synced);
        assert_eq!(standing(&question, &[], &second).0, State::Stale, "as soon as there is something newer");
    }

    #[test]
    fn who_goes_on_asking_with_an_older_version_refuses_the_newer_one() {
        let (good, bad) = (Clusters::new(&[("a", 1)]), Clusters::new(&[("a", 2)]));
        let mut question = Question::default();
        let (version, _) = poll(&mut question, &[], "", &good);
        poll(&mut question, &[], &version, &good);
        let found: Vec<bool> = (0..6).map(|_| poll(&mut question, &[], &version, &bad).1.is_some()).collect();
        // An answer or two may be lost; then it is said once.
        assert_eq!(found, [false, false, false, true, false, false]);
        let (state, reason) = standing(&question, &[], &bad);
        assert_eq!(state, State::Rejected);
        assert!(reason.unwrap().contains(&version), "it is said what it has");
        assert_eq!(standing(&question, &[], &good).0, State::Synced, "rolled back, it has what it should");
        poll(&mut question, &[], &version, &good);
        assert_eq!(standing(&question, &[], &bad).0, State::Stale, "a new try");
    }

    #[test]
    fn a_refusal_in_its_own_words_is_believed_at_once() {
        let source = Clusters::new(&[("a", 1)]);
        let mut question = Question::default();
        poll(&mut question, &[], "", &source);
        let error = rpc::Status { message: "no".into(), ..Default::default() };
        let request = DiscoveryRequest { error_detail: Some(error), ..Default::default() };
        let answer = rest::answer(&request, OF, &source).unwrap();
        assert_eq!(question.note(&request, &answer, Instant::now()).as_deref(), Some("no"));
        assert_eq!(standing(&question, &[], &source), (State::Rejected, Some("no".into())));
    }

    #[test]
    fn nobody_waits_for_names_that_are_no_more() {
        let (before, after) = (Clusters::new(&[("a", 1)]), Clusters::new(&[]));
        let mut question = Question::default();
        let (version, _) = poll(&mut question, &["a"], "", &before);
        poll(&mut question, &["a"], &version, &before);
        assert_eq!(standing(&question, &["a"], &after).0, State::Synced);
        assert!(question.is_asked(Instant::now()) && !question.is_asked(Instant::now() + 2 * SILENCE));
    }
}
