//! Reads a Kubernetes-style API: lists and watches, one stream for each kind.
//!
//! Kinds that the API server does not know (no CRDs yet) are asked for again with growing pauses and do not hold up
//! the others.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

use base::NamespacedName;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event as Watched, watcher};
use kube::{Api, Client, Resource};
use model::{Change, Kind, Object};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::{Event, Problem, istio};

/// Which API, and what it is called in the mesh.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster's name, as proxies say it in `CLUSTER_ID`.
    pub cluster: Arc<str>,
    /// Where the mesh's own configuration is, usually `istio-system`.
    pub root_namespace: String,
}

/// Starts to watch; the events end when the receiver is dropped.
pub fn watch(client: &Client, config: &Config) -> mpsc::Receiver<Event> {
    let (events, receiver) = mpsc::channel(256);
    let (synced, mut all_synced) = mpsc::channel::<()>(1);
    let start = Start { client, cluster: &config.cluster, events: &events, synced: &synced };

    start.core::<Service>(Kind::Service, |o| model::KubeService::from_kube(o).map(Object::Service));
    start.core::<EndpointSlice>(Kind::Slice, |o| model::Slice::from_kube(o).map(Object::Slice));
    start.core::<Pod>(Kind::Pod, |o| model::Workload::from_pod(o).map(Object::Pod));
    start.core::<Namespace>(Kind::Namespace, |o| model::Namespace::from_kube(o).map(Object::Namespace));
    start.core::<Node>(Kind::Node, |o| model::Node::from_kube(o).map(Object::Node));
    start.core::<Secret>(Kind::Secret, |o| model::TlsSecret::from_kube(o).map(Object::Secret));
    let mesh: Api<ConfigMap> = Api::namespaced(client.clone(), &config.root_namespace);
    let named = watcher::Config::default().fields("metadata.name=istio");
    let to_mesh: fn(&ConfigMap) -> _ = |o| istio::mesh(o).map(|mesh| Some(Object::Mesh(Box::new(mesh))));
    start.kind(mesh, named, Kind::Mesh, Convert::Checked(to_mesh));
    for kind in api::Kind::all() {
        let info = kind.info();
        let gvk = GroupVersionKind::gvk(info.group, info.storage, info.name);
        let resource = ApiResource::from_gvk_with_plural(&gvk, info.plural);
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let convert = Convert::Checked(|o| istio::object(o).map(Some));
        start.kind(api, watcher::Config::default(), istio::kind(kind), convert);
    }

    let events = events.clone();
    drop(synced);
    tokio::spawn(async move {
        // Each kind holds a sender until it has said everything; then the channel closes.
        while all_synced.recv().await.is_some() {}
        let _ = events.send(Event::Synced).await;
    });
    receiver
}

/// What the tasks of all kinds share.
struct Start<'a> {
    client: &'a Client,
    cluster: &'a Arc<str>,
    events: &'a mpsc::Sender<Event>,
    synced: &'a mpsc::Sender<()>,
}

impl Start<'_> {
    fn core<K>(&self, kind: Kind, convert: fn(&K) -> Option<Object>)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let convert = Convert::Plain(convert);
        self.kind(Api::all(self.client.clone()), watcher::Config::default(), kind, convert);
    }

    fn kind<K>(&self, api: Api<K>, config: watcher::Config, kind: Kind, convert: Convert<K>)
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let task = Task {
            kind,
            cluster: Arc::clone(self.cluster),
            events: self.events.clone(),
            synced: Some(self.synced.clone()),
            known: BTreeSet::new(),
            listed: None,
            convert,
        };
        tokio::spawn(task.run(watcher(api, config).default_backoff().boxed()));
    }
}

/// Follows one kind.
struct Task<K> {
    kind: Kind,
    cluster: Arc<str>,
    events: mpsc::Sender<Event>,
    /// Dropped when the kind has said everything that was there at the start.
    synced: Option<mpsc::Sender<()>>,
    /// What the mesh was told of: a list that lacks it means that it is gone.
    known: BTreeSet<NamespacedName>,
    /// What the list that is under way has held so far.
    listed: Option<(BTreeSet<NamespacedName>, Vec<Change>)>,
    convert: Convert<K>,
}

/// From the API's object to the world's. `None` for one that means nothing to the mesh, such as a Secret without a
/// certificate.
enum Convert<K> {
    Plain(fn(&K) -> Option<Object>),
    /// People wrote it: it may be wrong.
    Checked(fn(&K) -> Result<Option<Object>, Vec<String>>),
}

impl<K> Convert<K> {
    fn apply(&self, object: &K) -> Result<Option<Object>, Vec<String>> {
        match self {
            Self::Plain(convert) => Ok(convert(object)),
            Self::Checked(convert) => convert(object),
        }
    }
}

impl<K: Resource> Task<K> {
    async fn run(mut self, mut stream: impl Stream<Item = watcher::Result<Watched<K>>> + Unpin) {
        while let Some(event) = stream.next().await {
            let sent = match event {
                Ok(event) => self.event(event).await,
                Err(error) => {
                    tracing::debug!(kind = ?self.kind, %error, "watch interrupted");
                    // A kind that the server does not know holds nobody up.
                    if is_unknown(&error) {
                        self.synced = None;
                    }
                    Ok(())
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }

    async fn event(&mut self, event: Watched<K>) -> Result<(), mpsc::error::SendError<Event>> {
        match event {
            Watched::Init => self.listed = Some(Default::default()),
            Watched::InitApply(object) => {
                let name = name_of(&object);
                let change = self.upsert(&object).await?;
                if let Some((names, changes)) = &mut self.listed {
                    names.insert(name);
                    changes.extend(change);
                }
            }
            Watched::InitDone => {
                let (names, mut changes) = self.listed.take().unwrap_or_default();
                changes.extend(self.known.difference(&names).map(|gone| self.delete(gone)));
                self.known = names;
                self.send(changes).await?;
                self.synced = None;
            }
            Watched::Apply(object) => {
                self.known.insert(name_of(&object));
                let change = self.upsert(&object).await?;
                self.send(change.into_iter().collect()).await?;
            }
            Watched::Delete(object) => {
                let name = name_of(&object);
                self.known.remove(&name);
                self.send(vec![self.delete(&name)]).await?;
            }
        }
        Ok(())
    }

    async fn upsert(&self, object: &K) -> Result<Option<Change>, mpsc::error::SendError<Event>> {
        match self.convert.apply(object) {
            Ok(Some(object)) => Ok(Some(Change::upsert(Arc::clone(&self.cluster), object))),
            // It may have meant something before.
            Ok(None) => Ok(Some(self.delete(&name_of(object)))),
            Err(reasons) => {
                let problem = Problem { kind: format!("{:?}", self.kind), name: name_of(object), reasons };
                tracing::warn!(%problem, "an object is not understood; the last good one keeps serving");
                self.events.send(Event::Problem(problem)).await?;
                Ok(None)
            }
        }
    }

    fn delete(&self, name: &NamespacedName) -> Change {
        Change::delete(Arc::clone(&self.cluster), self.kind, name.clone())
    }

    async fn send(&self, changes: Vec<Change>) -> Result<(), mpsc::error::SendError<Event>> {
        if changes.is_empty() { Ok(()) } else { self.events.send(Event::Changes(changes)).await }
    }
}

fn name_of<K: Resource>(object: &K) -> NamespacedName {
    let meta = object.meta();
    NamespacedName::new(
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}

fn is_unknown(error: &watcher::Error) -> bool {
    let api_error = match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => error,
        _ => return false,
    };
    matches!(api_error, kube::Error::Api(status) if status.code == 404)
}
