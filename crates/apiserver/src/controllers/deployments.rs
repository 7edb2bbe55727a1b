//! Deployments are stored, not run; their status says so.

use super::follow;
use crate::engine::{Engine, Part, Target, WatchEvent, WriteOptions, name_of, namespace_of};
use crate::kinds::Core;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn run(engine: Arc<Engine>) {
    let deployments = engine.kinds.core(Core::Deployment).clone();
    let worker = engine.clone();
    follow(engine, deployments, move |event| {
        let engine = worker.clone();
        async move {
            if let WatchEvent::Added(deployment) | WatchEvent::Modified(deployment) = event {
                say_so(&engine, deployment).await;
            }
        }
    })
    .await;
}

async fn say_so(engine: &Arc<Engine>, mut deployment: Value) {
    let generation = deployment.pointer("/metadata/generation").cloned().unwrap_or(json!(1));
    if deployment.pointer("/status/observedGeneration") == Some(&generation) {
        return;
    }
    let target = Target::of(
        engine.kinds.core(Core::Deployment),
        Some(namespace_of(&deployment)),
        name_of(&deployment),
    );
    let target = Target { part: Part::Status, ..target };
    let now = engine.timestamp();
    let replicas = deployment.pointer("/spec/replicas").cloned().unwrap_or(json!(1));
    deployment["status"] = json!({
        "observedGeneration": generation,
        "unavailableReplicas": replicas,
        "conditions": [{
            "type": "Available", "status": "False", "reason": "NoRuntime",
            "message": "nothing here runs pods; start the process with `mizzen run`",
            "lastUpdateTime": now, "lastTransitionTime": now,
        }],
    });
    match engine.update(&target, deployment, &[], &WriteOptions::internal()).await {
        Err(status) if !matches!(status.code, 404 | 409) => {
            tracing::warn!(%status, "writing a deployment's status");
        }
        _ => {}
    }
}
