//! What a new store starts with: the namespaces that are always there, and the `kubernetes` service.

use crate::engine::{Engine, Target, WriteOptions};
use crate::kinds::Core;
use crate::status::Result;
use serde_json::json;
use std::sync::Arc;

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease", "istio-system"];

pub(super) async fn run(engine: &Arc<Engine>) -> Result<()> {
    let namespaces = engine.kinds.core(Core::Namespace);
    for name in NAMESPACES {
        let body = json!({ "metadata": { "name": name } });
        ensure(engine, &Target::of(namespaces, None, name), body).await?;
    }
    let services = engine.kinds.core(Core::Service);
    let body = json!({
        "metadata": { "name": "kubernetes", "labels": { "component": "apiserver", "provider": "kubernetes" } },
        "spec": { "clusterIP": "10.96.0.1", "ports": [{ "name": "https", "port": 443, "targetPort": 6443 }] },
    });
    ensure(engine, &Target::of(services, Some("default"), "kubernetes"), body).await
}

/// Makes an object unless it is there.
pub(super) async fn ensure(engine: &Arc<Engine>, target: &Target, body: serde_json::Value) -> Result<()> {
    if engine.find(target)?.is_some() {
        return Ok(());
    }
    let options = WriteOptions::internal();
    match engine.create(target, body, &[], &options).await {
        Err(status) if status.reason != "AlreadyExists" => Err(status),
        _ => Ok(()),
    }
}
