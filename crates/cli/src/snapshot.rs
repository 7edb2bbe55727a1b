//! The mesh as the control plane sees it: everything that the API server has, and files that are not applied yet.
//!
//! Read through the control plane's own registry into a world of its own; nothing is changed anywhere.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use base::NamespacedName;
use model::{Change, Object, Settings, Snapshot, World};
use registry::Event;
use registry::kubernetes::{Config, watch};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::ServerArgs;
use crate::control::ControlArgs;

const PATIENCE: Duration = Duration::from_secs(30);

/// A key set, as the control plane shows it.
#[derive(serde::Deserialize)]
struct Keys {
    field: String,
    at: String,
    keys: Option<Arc<str>>,
    fault: Option<Arc<str>>,
}

/// The world, and what of it could not be read.
pub(crate) struct Seen {
    world: World,
    pub(crate) problems: Vec<registry::Problem>,
}

impl Seen {
    /// Nothing yet: for files alone.
    pub(crate) fn nothing() -> Self {
        Self { world: World::new(Settings::default()), problems: Vec::new() }
    }

    /// All that the API server has at this moment.
    pub(crate) async fn of(server: &ServerArgs) -> anyhow::Result<Self> {
        let client = server.answering_client().await?;
        let settings = Settings::default();
        let config =
            Config { cluster: settings.home.clone(), root_namespace: settings.root_namespace.to_string() };
        let mut seen = Self { world: World::new(settings), problems: Vec::new() };
        let mut events = watch(&client, &config);
        let read = async {
            while let Some(event) = events.recv().await {
                match event {
                    Event::Changes(changes) => drop(seen.world.apply(changes)),
                    Event::Problem(problem) => seen.problems.push(problem),
                    Event::Synced => return true,
                }
            }
            false
        };
        match timeout(PATIENCE, read).await {
            Ok(true) => Ok(seen),
            _ => bail!(
                "the API server did not list everything within {PATIENCE:?}; whoever asks must be allowed to list all \
                 kinds in all namespaces (kubectl auth can-i list secrets -A)"
            ),
        }
    }

    /// The keys of tokens, which only the control plane has; without one that answers, nothing is known of them.
    pub(crate) async fn learn_keys(&mut self, control: &ControlArgs) {
        let Ok(known) = control.get::<Vec<Keys>>("/debug/keysz").await else { return };
        let home = Settings::default().home;
        let fact = |Keys { field, at, keys, fault }: Keys| {
            let set = model::KeySet { name: NamespacedName::new(field, at), keys, fault };
            Change::upsert(Arc::clone(&home), Object::KeySet(set))
        };
        self.world.apply(known.into_iter().map(fact).collect());
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.world.snapshot()
    }

    /// Adds the objects of files, as if they were applied now.
    pub(crate) fn add(&mut self, files: &[PathBuf], namespace: &str) -> anyhow::Result<()> {
        for object in crate::objects::read_manifests(files)? {
            self.add_object(object, namespace);
        }
        Ok(())
    }

    fn add_object(&mut self, mut object: Value, namespace: &str) {
        let cluster_scoped = matches!(object["kind"].as_str(), Some("Namespace" | "Node"));
        let metadata = &mut object["metadata"];
        if !cluster_scoped && metadata["namespace"].is_null() {
            metadata["namespace"] = json!(namespace);
        }
        // What is new is younger than all that is there.
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = json!(jiff::Timestamp::now().to_string());
        }
        match registry::manifest::object(&object) {
            Ok(None) => {}
            Ok(Some(read)) => {
                let cluster = Settings::default().home;
                self.world.apply(vec![Change::upsert(cluster, read)]);
            }
            Err(reasons) => {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let name = base::NamespacedName::new(
                    text(&object["metadata"]["namespace"]),
                    text(&object["metadata"]["name"]),
                );
                self.problems.push(registry::Problem { kind: text(&object["kind"]), name, reasons });
            }
        }
    }
}
