//! A namespace that is being deleted is emptied, then released.

use super::follow;
use crate::engine::{DeleteOptions, Engine, ListOptions, Part, Target, WatchEvent, WriteOptions, name_of};
use crate::kinds::Core;
use crate::status::Result;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

pub(super) async fn run(engine: Arc<Engine>) {
    let namespaces = engine.kinds.core(Core::Namespace).clone();
    let worker = engine.clone();
    let mut finalizers = JoinSet::new();
    follow(engine, namespaces, move |event| {
        while finalizers.try_join_next().is_some() {}
        if let WatchEvent::Added(namespace) | WatchEvent::Modified(namespace) = event
            && namespace.pointer("/metadata/deletionTimestamp").is_some()
        {
            let engine = worker.clone();
            // Finalizers of the content may take long; others are not to wait for it.
            finalizers.spawn(async move { finalize(&engine, &namespace).await });
        }
        std::future::ready(())
    })
    .await;
}

async fn finalize(engine: &Arc<Engine>, namespace: &Value) {
    let name = name_of(namespace);
    for attempt in 0..600_u64 {
        match empty(engine, name).await {
            Ok(true) => {
                if release(engine, name).await.is_ok() {
                    return;
                }
            }
            Ok(false) => {}
            Err(status) => tracing::warn!(namespace = name, %status, "emptying a namespace"),
        }
        tokio::time::sleep(Duration::from_millis((50 * attempt).min(5000))).await;
    }
}

/// Deletes everything in the namespace; whether nothing is left.
async fn empty(engine: &Arc<Engine>, namespace: &str) -> Result<bool> {
    let mut left = 0;
    for resource in engine.kinds.resources.iter().filter(|resource| resource.namespaced) {
        let target = Target { name: None, ..Target::of(resource, Some(namespace), "") };
        engine.delete_collection(&target, &ListOptions::default(), &DeleteOptions::default()).await?;
        left += engine.list(&target, &ListOptions { limit: 1, ..Default::default() })?.items.len();
    }
    Ok(left == 0)
}

async fn release(engine: &Arc<Engine>, name: &str) -> Result<()> {
    let namespaces = engine.kinds.core(Core::Namespace);
    let target = Target { part: Part::Finalize, ..Target::of(namespaces, None, name) };
    let Some(mut namespace) = engine.find(&target)? else { return Ok(()) };
    namespace["spec"]["finalizers"] = json!([]);
    match engine.update(&target, namespace, &[], &WriteOptions::internal()).await {
        Err(status) if status.reason != "NotFound" => Err(status),
        _ => Ok(()),
    }
}
