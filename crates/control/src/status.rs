//! Who is connected, and how far each proxy is: for `proxy-status`, `wait` and the debug pages.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base::NamespacedName;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use translate::Node;
use xds::server::{State, TypeStatus};

use crate::publish::ScopeState;

/// How a proxy stands with one type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TypeState {
    /// The type URL.
    pub type_url: &'static str,
    /// `SYNCED`, `STALE` or `NACK`.
    pub state: &'static str,
    /// What the proxy said when it refused the last response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nack: Option<Arc<str>>,
    pub resources: usize,
}

/// How a proxy stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    /// `name.namespace`, as istioctl calls proxies.
    pub proxy: String,
    pub node_id: Arc<str>,
    pub connection: u64,
    pub namespace: Arc<str>,
    pub kind: String,
    pub version: Arc<str>,
    pub cluster: Arc<str>,
    pub peer: String,
    /// The SPIFFE id that it proved, if it did.
    pub identity: Option<String>,
    /// Seconds since 1970.
    pub connected_at: u64,
    /// It has acknowledged everything that it should have.
    pub synced: bool,
    /// The generation for which that was last found out.
    pub generation: u64,
    pub types: Vec<TypeState>,
}

/// The state of the whole mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshStatus {
    /// Counts the states of the world that were shown to proxies.
    pub generation: u64,
    /// Changes were taken in that are not shown to proxies yet.
    pub pending: bool,
    pub proxies: Vec<ProxyStatus>,
}

impl MeshStatus {
    /// Everything is applied everywhere: what `mizzen wait` waits for.
    pub fn is_settled(&self) -> bool {
        !self.pending && self.proxies.iter().all(|proxy| proxy.synced && proxy.generation >= self.generation)
    }
}

/// One stream of a proxy, or one that polls.
pub(crate) struct Connection {
    pub(crate) number: u64,
    pub(crate) node: Node,
    pub(crate) peer: SocketAddr,
    pub(crate) identity: Option<String>,
    pub(crate) authenticated: bool,
    pub(crate) scope: translate::Scope,
    pub(crate) scope_state: Arc<ScopeState>,
    connected_at: SystemTime,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// The generation of the view that the types were last compared with.
    seen: u64,
    types: Vec<TypeStatus>,
}

impl Connection {
    pub(crate) fn report(&self, seen: u64, types: Vec<TypeStatus>) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Progress { seen, types };
    }

    pub(crate) fn status(&self) -> ProxyStatus {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let synced = !progress.types.is_empty() && progress.types.iter().all(|t| t.state == State::Synced);
        let types = progress.types.iter().map(|t| TypeState {
            type_url: t.resource_type.url(),
            state: match t.state {
                State::Synced => "SYNCED",
                State::Stale => "STALE",
                State::Rejected => "NACK",
            },
            nack: t.rejection.clone(),
            resources: t.resources,
        });
        let connected = self.connected_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        ProxyStatus {
            proxy: format!("{}.{}", self.node.name, self.node.namespace),
            node_id: Arc::clone(&self.node.id),
            connection: self.number,
            namespace: Arc::clone(&self.node.namespace),
            kind: format!("{:?}", self.node.kind).to_lowercase(),
            version: Arc::clone(&self.node.version),
            cluster: Arc::clone(&self.node.cluster),
            peer: self.peer.to_string(),
            identity: self.identity.clone(),
            connected_at: connected.as_secs(),
            synced,
            // Whoever was not woken for a generation was not concerned by it.
            generation: self.scope_state.settled(progress.seen),
            types: types.collect(),
        }
    }
}

/// A proxy that polls, which ours are told to do twice a second, counts as connected for this long after it asked.
const POLL: Duration = Duration::from_secs(10);

/// Everybody who is connected.
#[derive(Default)]
pub(crate) struct Connections {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Connection>>>,
    present: Mutex<BTreeMap<NamespacedName, Present>>,
    presence: watch::Sender<()>,
}

/// Proxies of one name that proved who they are.
#[derive(Default)]
struct Present {
    /// The accounts of its streams.
    streams: Vec<Arc<str>>,
    /// Who polled last, and when.
    polled: Option<(Arc<str>, Instant)>,
}

impl Present {
    fn polls(&self, now: Instant) -> Option<&Arc<str>> {
        self.polled.as_ref().filter(|(_, at)| now < *at + POLL).map(|(account, _)| account)
    }
}

impl Connections {
    /// A stream has opened.
    pub(crate) fn open(
        self: &Arc<Self>,
        node: Node,
        peer: SocketAddr,
        identity: Option<String>,
        scope: translate::Scope,
        scope_state: Arc<ScopeState>,
        authenticated: bool,
    ) -> Opened {
        let mut opened = self.list(node, peer, identity, scope, scope_state, authenticated);
        if authenticated {
            let node = &opened.connection.node;
            self.present().entry(name_of(node)).or_default().streams.push(Arc::clone(&node.service_account));
            opened.is_stream = true;
            self.presence.send_replace(());
        }
        opened
    }

    /// Lists one that has no stream; whether it is there is told by [`Connections::polled`].
    pub(crate) fn list(
        self: &Arc<Self>,
        node: Node,
        peer: SocketAddr,
        identity: Option<String>,
        scope: translate::Scope,
        scope_state: Arc<ScopeState>,
        authenticated: bool,
    ) -> Opened {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let connection = Arc::new(Connection {
            number,
            node,
            peer,
            identity,
            authenticated,
            scope,
            scope_state,
            connected_at: SystemTime::now(),
            progress: Mutex::default(),
        });
        self.lock().insert(number, Arc::clone(&connection));
        Opened { connections: Arc::clone(self), connection, is_stream: false }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Connection>> {
        self.lock().values().cloned().collect()
    }

    /// By node id, or as `name.namespace`.
    pub(crate) fn find(&self, proxy: &str) -> Option<Arc<Connection>> {
        let named = |c: &&Arc<Connection>| {
            *c.node.id == *proxy
                || proxy.strip_prefix(&*c.node.name).and_then(|rest| rest.strip_prefix('.'))
                    == Some(&*c.node.namespace)
        };
        self.lock().values().rev().find(named).cloned()
    }

    /// Changes whenever a stream of a proxy that proved who it is opens or ends.
    pub(crate) fn presence(&self) -> watch::Receiver<()> {
        self.presence.subscribe()
    }

    /// Whether a proxy of that name has a stream, or polls, as that account.
    pub(crate) fn is_connected(&self, name: &NamespacedName, account: &str, now: Instant) -> bool {
        self.present().get(name).is_some_and(|present| {
            present.streams.iter().chain(present.polls(now)).any(|proven| **proven == *account)
        })
    }

    /// A proxy that proved who it is asked without a stream.
    pub(crate) fn polled(&self, node: &Node, now: Instant) {
        let mut present = self.present();
        let before = present.entry(name_of(node)).or_default();
        let is_new = before.polls(now).is_none();
        before.polled = Some((Arc::clone(&node.service_account), now));
        if is_new {
            present.retain(|_, present| !present.streams.is_empty() || present.polls(now).is_some());
            self.presence.send_replace(());
        }
    }

    fn left(&self, node: &Node) {
        let (mut present, name) = (self.present(), name_of(node));
        if let Some(of_name) = present.get_mut(&name) {
            if let Some(at) = of_name.streams.iter().position(|account| *account == node.service_account) {
                of_name.streams.swap_remove(at);
            }
            if of_name.streams.is_empty() && of_name.polled.is_none() {
                present.remove(&name);
            }
        }
        self.presence.send_replace(());
    }

    fn present(&self) -> std::sync::MutexGuard<'_, BTreeMap<NamespacedName, Present>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a proxy listed until it is dropped.
pub(crate) struct Opened {
    connections: Arc<Connections>,
    pub(crate) connection: Arc<Connection>,
    /// Of one that proved who it is: it counts while it stands.
    is_stream: bool,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.connection.number);
        if self.is_stream {
            self.connections.left(&self.connection.node);
        }
    }
}

fn name_of(node: &Node) -> NamespacedName {
    NamespacedName::new(Arc::clone(&node.namespace), Arc::clone(&node.name))
}

/// `/debug/syncz`: ours, with the names that istiod uses beside.
pub(crate) fn syncz(status: &MeshStatus) -> Value {
    let short = [
        ("cluster_status", proto::ResourceType::Cluster),
        ("listener_status", proto::ResourceType::Listener),
        ("route_status", proto::ResourceType::Route),
        ("endpoint_status", proto::ResourceType::Endpoint),
    ];
    let proxies = status.proxies.iter().map(|proxy| {
        let mut value = serde_json::to_value(proxy).unwrap_or_default();
        if let Value::Object(object) = &mut value {
            object.insert("istio_version".into(), json!(proxy.version));
            object.insert("cluster_id".into(), json!(proxy.cluster));
            for (name, of) in short {
                let state = proxy.types.iter().find(|t| t.type_url == of.url());
                object.insert(name.into(), json!(state.map_or("NOT SENT", |t| t.state)));
            }
        }
        value
    });
    json!({
        "generation": status.generation,
        "pending": status.pending,
        "settled": status.is_settled(),
        "proxies": proxies.collect::<Vec<_>>(),
    })
}
