//! Every namespace has the service account `default`; one that is deleted is made again.

use super::{bootstrap::ensure, follow};
use crate::engine::{Engine, Target, WatchEvent, name_of};
use crate::kinds::Core;
use serde_json::json;
use std::sync::Arc;

pub(super) async fn run(engine: Arc<Engine>) {
    let again = engine.clone();
    let accounts = follow(engine.clone(), engine.kinds.core(Core::ServiceAccount).clone(), move |event| {
        let engine = again.clone();
        async move {
            if let WatchEvent::Deleted(account) = event
                && name_of(&account) == "default"
            {
                make(&engine, crate::engine::namespace_of(&account)).await;
            }
        }
    });
    let maker = engine.clone();
    let namespaces = follow(engine.clone(), engine.kinds.core(Core::Namespace).clone(), move |event| {
        let engine = maker.clone();
        async move {
            if let WatchEvent::Added(namespace) = event {
                make(&engine, name_of(&namespace)).await;
            }
        }
    });
    futures::future::join(accounts, namespaces).await;
}

async fn make(engine: &Arc<Engine>, namespace: &str) {
    let accounts = engine.kinds.core(Core::ServiceAccount);
    let target = Target::of(accounts, Some(namespace), "default");
    // A namespace that is going refuses; that is as it should be.
    let _ = ensure(engine, &target, json!({ "metadata": { "name": "default" } })).await;
}
