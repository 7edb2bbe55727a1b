//! Objects go when all their owners are gone; foreground and orphaning deletions are carried out.

use crate::engine::{
    DeleteOptions, Engine, Part, Patch, Target, WriteOptions, finalizers, name_of, namespace_of, text, uid_of,
};
use crate::kinds::Resource;
use crate::patch::PatchKind;
use crate::status::Result;
use crate::store::{Event, Range};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const PREFIX: &str = "/registry/";

/// Who owns what, by UIDs.
#[derive(Default)]
struct Graph {
    /// The store's key of each object, by its UID.
    alive: BTreeMap<String, String>,
    /// Keys of the dependents of each owner's UID.
    dependents: BTreeMap<String, BTreeSet<String>>,
}

pub(super) async fn run(engine: Arc<Engine>) {
    loop {
        let Ok(page) = engine.store.range(&Range { prefix: PREFIX.into(), ..Range::default() }) else {
            return;
        };
        let Ok(mut cursor) = engine.store.watch(PREFIX, page.revision) else { continue };
        let mut graph = Graph::default();
        let mut objects = Vec::new();
        for record in page.records {
            if let Ok(object) = serde_json::from_slice::<Value>(&record.value) {
                graph.learn(&record.key, &object);
                objects.push((record.key.to_string(), object));
            }
        }
        for (key, object) in &objects {
            report(key, graph.settle(&engine, key, object).await);
        }
        drop(objects);
        loop {
            let Ok(events) = cursor.next().await else { break };
            for event in events {
                report(&event.key, graph.event(&engine, &event).await);
            }
        }
        if engine.store.watch(PREFIX, engine.store.revision()).is_err() {
            return;
        }
    }
}

fn report(key: &str, outcome: Result<()>) {
    if let Err(status) = outcome
        && status.code != 404
    {
        tracing::warn!(key, %status, "collecting garbage");
    }
}

fn owners(object: &Value) -> Vec<String> {
    let list = object.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|owner| owner["uid"].as_str().map(str::to_owned)).collect()
}

impl Graph {
    fn learn(&mut self, key: &str, object: &Value) {
        self.alive.insert(uid_of(object).to_owned(), key.to_owned());
        for owner in owners(object) {
            self.dependents.entry(owner).or_default().insert(key.to_owned());
        }
    }

    async fn event(&mut self, engine: &Arc<Engine>, event: &Event) -> Result<()> {
        let parse = |bytes: &Option<bytes::Bytes>| {
            bytes.as_ref().and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok())
        };
        if let Some(object) = parse(&event.value) {
            self.learn(&event.key, &object);
            return self.settle(engine, &event.key, &object).await;
        }
        let Some(object) = parse(&event.previous) else { return Ok(()) };
        let uid = uid_of(&object);
        self.alive.remove(uid);
        for owner in owners(&object) {
            if let Some(keys) = self.dependents.get_mut(&owner) {
                keys.remove(&*event.key);
            }
            // An owner that waits for its dependents may go now.
            if let Some(key) = self.alive.get(&owner).cloned()
                && let Some(owner) = stored(engine, &key)
            {
                Box::pin(self.settle(engine, &key, &owner)).await?;
            }
        }
        for key in self.dependents.remove(uid).unwrap_or_default() {
            if let Some(dependent) = stored(engine, &key) {
                self.abandoned(engine, &key, &dependent).await?;
            }
        }
        Ok(())
    }

    /// Carries out what an object's own state asks for.
    async fn settle(&mut self, engine: &Arc<Engine>, key: &str, object: &Value) -> Result<()> {
        if object.pointer("/metadata/deletionTimestamp").is_some() {
            let held = finalizers(object);
            if held.iter().any(|finalizer| finalizer == "orphan") {
                return self.orphan(engine, key, object).await;
            }
            if held.iter().any(|finalizer| finalizer == "foregroundDeletion") {
                return self.foreground(engine, key, object).await;
            }
        }
        self.abandoned(engine, key, object).await
    }

    /// Deletes an object none of whose owners is left.
    async fn abandoned(&self, engine: &Arc<Engine>, key: &str, object: &Value) -> Result<()> {
        let owners = owners(object);
        if owners.is_empty() || owners.iter().any(|owner| self.owner_lives(engine, owner)) {
            return Ok(());
        }
        let Some(target) = target(engine, key, object) else { return Ok(()) };
        let options = DeleteOptions { uid: Some(uid_of(object).to_owned()), ..Default::default() };
        engine.delete(&target, &options).await.map(|_| ())
    }

    fn owner_lives(&self, engine: &Arc<Engine>, uid: &str) -> bool {
        let key = self.alive.get(uid);
        key.is_some_and(|key| stored(engine, key).is_some_and(|object| uid_of(&object) == uid))
    }

    async fn foreground(&mut self, engine: &Arc<Engine>, key: &str, object: &Value) -> Result<()> {
        let mut waiting = false;
        for dependent in self.dependents.get(uid_of(object)).cloned().unwrap_or_default() {
            let Some(found) =
                stored(engine, &dependent).filter(|d| owners(d).contains(&uid_of(object).to_owned()))
            else {
                continue;
            };
            waiting = true;
            if found.pointer("/metadata/deletionTimestamp").is_none()
                && let Some(target) = target(engine, &dependent, &found)
            {
                let options = DeleteOptions { uid: Some(uid_of(&found).to_owned()), ..Default::default() };
                match engine.delete(&target, &options).await {
                    Err(status) if status.code != 404 && status.code != 409 => return Err(status),
                    _ => {}
                }
            }
        }
        if waiting { Ok(()) } else { release(engine, key, object, "foregroundDeletion").await }
    }

    async fn orphan(&mut self, engine: &Arc<Engine>, key: &str, object: &Value) -> Result<()> {
        for dependent in self.dependents.remove(uid_of(object)).unwrap_or_default() {
            let Some(found) = stored(engine, &dependent) else { continue };
            let Some(target) = target(engine, &dependent, &found) else { continue };
            let list = found.pointer("/metadata/ownerReferences").and_then(Value::as_array);
            let kept: Vec<&Value> =
                list.into_iter().flatten().filter(|owner| owner["uid"] != uid_of(object)).collect();
            let body = json!({ "metadata": { "ownerReferences": kept } });
            merge(engine, &target, body).await?;
        }
        release(engine, key, object, "orphan").await
    }
}

fn stored(engine: &Engine, key: &str) -> Option<Value> {
    let record = engine.store.get(key).ok().flatten()?;
    serde_json::from_slice(&record.value).ok()
}

fn target(engine: &Engine, key: &str, object: &Value) -> Option<Target> {
    let (group, version) = match text(object, "/apiVersion").split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", text(object, "/apiVersion")),
    };
    let resource: &Arc<Resource> = engine.kinds.by_kind(group, text(object, "/kind"))?;
    let namespace = Some(namespace_of(object)).filter(|namespace| !namespace.is_empty());
    let target = Target {
        resource: resource.clone(),
        version: version.to_owned(),
        namespace: namespace.map(str::to_owned),
        name: Some(name_of(object).to_owned()),
        part: Part::Whole,
    };
    (resource.key(namespace, name_of(object)) == key).then_some(target)
}

async fn merge(engine: &Arc<Engine>, target: &Target, body: Value) -> Result<()> {
    let patch = Patch { kind: PatchKind::Merge, body, duplicates: Vec::new() };
    engine.patch(target, &patch, &WriteOptions::internal()).await.map(|_| ())
}

async fn release(engine: &Arc<Engine>, key: &str, object: &Value, finalizer: &str) -> Result<()> {
    let Some(target) = target(engine, key, object) else { return Ok(()) };
    let kept: Vec<String> = finalizers(object).into_iter().filter(|held| held != finalizer).collect();
    merge(engine, &target, json!({ "metadata": { "finalizers": kept } })).await
}
