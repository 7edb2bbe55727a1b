//! Reads a Kubernetes-style API: lists and watches, one stream for each kind.
//!
//! All come as JSON and are understood one by one, so that a malformed object spoils no list. Kinds that the API server
//! does not know (no CRDs yet) are asked for again with growing pauses and do not hold up the others.

use std::collections::BTreeSet;
use std::sync::Arc;

use base::NamespacedName;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind, TypeMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event as Watched, watcher};
use kube::{Api, Client, Resource};
use model::{Change, Kind, Object};
use tokio::sync::mpsc;

use crate::{Event, Problem, istio, manifest};

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
    let start = Start { cluster: &config.cluster, events: &events, synced: &synced };

    let core = [
        (Kind::Service, of::<Service>()),
        (Kind::Slice, of::<EndpointSlice>()),
        (Kind::Pod, of::<Pod>()),
        (Kind::Namespace, of::<Namespace>()),
        (Kind::Node, of::<Node>()),
        (Kind::Secret, of::<Secret>()),
    ];
    let istio = api::Kind::all().map(|kind| {
        let info = kind.info();
        let gvk = GroupVersionKind::gvk(info.group, info.storage, info.name);
        (istio::kind(kind), ApiResource::from_gvk_with_plural(&gvk, info.plural))
    });
    for (kind, resource) in core.into_iter().chain(istio) {
        start.kind(kind, Api::all_with(client.clone(), &resource), watcher::Config::default(), resource);
    }
    let resource = of::<ConfigMap>();
    let mesh = Api::namespaced_with(client.clone(), &config.root_namespace, &resource);
    start.kind(Kind::Mesh, mesh, watcher::Config::default().fields("metadata.name=istio"), resource);

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
    cluster: &'a Arc<str>,
    events: &'a mpsc::Sender<Event>,
    synced: &'a mpsc::Sender<()>,
}

impl Start<'_> {
    fn kind(&self, kind: Kind, api: Api<DynamicObject>, config: watcher::Config, resource: ApiResource) {
        let task = Task {
            kind,
            types: TypeMeta { api_version: resource.api_version, kind: resource.kind },
            cluster: Arc::clone(self.cluster),
            events: self.events.clone(),
            synced: Some(self.synced.clone()),
            known: BTreeSet::new(),
            listed: None,
        };
        tokio::spawn(task.run(watcher(api, config).default_backoff().boxed()));
    }
}

fn of<K: Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}

/// Follows one kind.
struct Task {
    kind: Kind,
    /// What the items of a list do not say of themselves.
    types: TypeMeta,
    cluster: Arc<str>,
    events: mpsc::Sender<Event>,
    /// Dropped when the kind has said everything that was there at the start.
    synced: Option<mpsc::Sender<()>>,
    /// What the mesh was told of: a list that lacks it means that it is gone.
    known: BTreeSet<NamespacedName>,
    /// What the list that is under way has held so far.
    listed: Option<(BTreeSet<NamespacedName>, Vec<Change>)>,
}

impl Task {
    async fn run(mut self, mut stream: impl Stream<Item = watcher::Result<Watched<DynamicObject>>> + Unpin) {
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

    async fn event(&mut self, event: Watched<DynamicObject>) -> Result<(), mpsc::error::SendError<Event>> {
        match event {
            Watched::Init => self.listed = Some(Default::default()),
            Watched::InitApply(object) => {
                let name = name_of(&object);
                let change = self.upsert(object).await?;
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
                let change = self.upsert(object).await?;
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

    async fn upsert(&self, object: DynamicObject) -> Result<Option<Change>, mpsc::error::SendError<Event>> {
        let name = name_of(&object);
        match self.read(object) {
            Ok(Some(object)) => Ok(Some(Change::upsert(Arc::clone(&self.cluster), object))),
            // It may have meant something before.
            Ok(None) => Ok(Some(self.delete(&name))),
            Err(reasons) => {
                let problem = Problem { kind: format!("{:?}", self.kind), name, reasons };
                tracing::warn!(%problem, "an object is not understood; the last good one keeps serving");
                self.events.send(Event::Problem(problem)).await?;
                Ok(None)
            }
        }
    }

    /// From the API's object to the world's. `None` for one that means nothing to the mesh, such as a Secret without a
    /// certificate.
    fn read(&self, mut object: DynamicObject) -> Result<Option<Object>, Vec<String>> {
        object.types.get_or_insert_with(|| self.types.clone());
        let value = serde_json::to_value(object).map_err(|error| vec![error.to_string()])?;
        let read = manifest::object(&value)?;
        for warning in api::validate_mesh_config_map(&value).into_iter().flat_map(|found| found.warnings) {
            tracing::warn!(%warning, "mesh configuration");
        }
        Ok(read)
    }

    fn delete(&self, name: &NamespacedName) -> Change {
        Change::delete(Arc::clone(&self.cluster), self.kind, name.clone())
    }

    async fn send(&self, changes: Vec<Change>) -> Result<(), mpsc::error::SendError<Event>> {
        if changes.is_empty() { Ok(()) } else { self.events.send(Event::Changes(changes)).await }
    }
}

fn name_of(object: &DynamicObject) -> NamespacedName {
    let meta = &object.metadata;
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

#[cfg(test)]
mod tests {
    use futures::stream;
    use serde_json::json;

    use super::*;

    fn service(name: &str, spec: &serde_json::Value) -> DynamicObject {
        let object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    /// As of a list, whose items do not say of what kind they are.
    #[tokio::test]
    async fn a_malformed_object_spoils_no_list() {
        let resource = of::<Service>();
        let (events, mut received) = mpsc::channel(8);
        let (synced, _all_synced) = mpsc::channel(1);
        let task = Task {
            kind: Kind::Service,
            types: TypeMeta { api_version: resource.api_version, kind: resource.kind },
            cluster: "Kubernetes".into(),
            events,
            synced: Some(synced),
            known: BTreeSet::new(),
            listed: None,
        };
        let items = [
            Watched::Init,
            Watched::InitApply(service("wrong", &json!({"ports": "many"}))),
            Watched::InitApply(service("right", &json!({"ports": [{"port": 80}]}))),
            Watched::InitDone,
        ];
        task.run(stream::iter(items.map(Ok))).await;
        let Some(Event::Problem(problem)) = received.recv().await else { panic!("a problem comes first") };
        assert_eq!((problem.kind.as_str(), &*problem.name.name), ("Service", "wrong"));
        let Some(Event::Changes(changes)) = received.recv().await else { panic!("then the others") };
        assert_eq!(changes.len(), 1);
        assert!(received.recv().await.is_none());
    }
}
