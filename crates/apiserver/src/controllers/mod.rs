//! What Kubernetes does by itself and people rely on: each controller watches the store and acts through
//! the engine, as a client would.

mod accounts;
mod bootstrap;
mod deployments;
mod garbage;
mod namespaces;
mod slices;

use crate::engine::Engine;
use crate::status::Result;
use std::sync::Arc;
use tokio::task::JoinSet;

pub(crate) struct Controllers;

impl Controllers {
    /// Makes what every cluster has, then runs the controllers.
    pub(crate) async fn start(engine: &Arc<Engine>, tasks: &mut JoinSet<()>) -> Result<()> {
        bootstrap::run(engine).await?;
        tasks.spawn(accounts::run(engine.clone()));
        tasks.spawn(namespaces::run(engine.clone()));
        tasks.spawn(garbage::run(engine.clone()));
        tasks.spawn(slices::run(engine.clone()));
        tasks.spawn(deployments::run(engine.clone()));
        Ok(())
    }
}

/// Everything of a resource, now and then as it changes. When a watch was lost, everything is shown again as
/// added; what was deleted meanwhile is not told.
async fn follow<F, Fut>(engine: Arc<Engine>, resource: Arc<crate::kinds::Resource>, mut act: F)
where
    F: FnMut(crate::engine::WatchEvent) -> Fut,
    Fut: Future<Output = ()>,
{
    let target = crate::engine::Target {
        version: resource.versions[0].clone(),
        resource,
        namespace: None,
        name: None,
        part: crate::engine::Part::Whole,
    };
    loop {
        let Ok(mut watcher) = engine.watch(&target, &crate::engine::WatchOptions::default()) else {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            continue;
        };
        loop {
            match watcher.next().await {
                Ok(event) => act(event).await,
                Err(status) if status.code == 410 => break,
                Err(_) => return,
            }
        }
    }
}
