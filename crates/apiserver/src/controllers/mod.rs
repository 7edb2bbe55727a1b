//! What Kubernetes does by itself and people rely on: each controller watches the store and acts through
//! the engine, as a client would.

mod accounts;
mod bootstrap;
mod deployments;
mod garbage;
mod namespaces;
mod slices;

use crate::engine::{Engine, Target, WatchEvent, WatchOptions, name_of, namespace_of};
use crate::kinds::Resource;
use crate::status::Result;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
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

/// Everything of a resource, now and then as it changes. When a watch was lost, everything is shown again as added,
/// and what is gone as deleted: by its namespace and name alone, since nobody knows more of it.
async fn follow<F, Fut>(engine: Arc<Engine>, resource: Arc<Resource>, mut act: F)
where
    F: FnMut(WatchEvent) -> Fut,
    Fut: Future<Output = ()>,
{
    let target = Target { name: None, ..Target::of(&resource, None, "") };
    let options =
        WatchOptions { send_initial: Some(true), bookmarks: true, not_older: true, ..Default::default() };
    let mut known = Known::default();
    loop {
        let Ok(mut watcher) = engine.watch(&target, &options) else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        known.begin();
        loop {
            match watcher.next().await {
                Ok(event) => {
                    for event in known.learn(event) {
                        act(event).await;
                    }
                }
                Err(status) if status.code == 410 => break,
                Err(_) => return,
            }
        }
    }
}

/// What a follower was told of, by namespace and name.
#[derive(Default)]
struct Known {
    all: BTreeSet<(String, String)>,
    /// What was known before the list that is under way and was not in it so far.
    unseen: BTreeSet<(String, String)>,
}

impl Known {
    /// A list begins.
    fn begin(&mut self) {
        self.unseen = self.all.clone();
    }

    /// What an event comes to: at the end of a list, the deletions that nobody told.
    fn learn(&mut self, event: WatchEvent) -> Vec<WatchEvent> {
        let at = |object: &Value| (namespace_of(object).to_owned(), name_of(object).to_owned());
        match &event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let at = at(object);
                self.unseen.remove(&at);
                self.all.insert(at);
            }
            WatchEvent::Deleted(object) => {
                let at = at(object);
                self.unseen.remove(&at);
                self.all.remove(&at);
            }
            WatchEvent::Bookmark { initial_end: true, .. } => {
                let gone = std::mem::take(&mut self.unseen);
                self.all.retain(|at| !gone.contains(at));
                return gone.into_iter().map(deleted).collect();
            }
            WatchEvent::Bookmark { .. } => return Vec::new(),
        }
        vec![event]
    }
}

fn deleted((namespace, name): (String, String)) -> WatchEvent {
    WatchEvent::Deleted(json!({ "metadata": { "namespace": namespace, "name": name } }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_while_a_watch_was_lost_is_told_as_deleted() {
        let object = |name: &str| json!({ "metadata": { "namespace": "a", "name": name, "uid": name } });
        let listed = || WatchEvent::Bookmark { revision: 1, initial_end: true };
        let mut known = Known::default();
        known.begin();
        for name in ["stays", "goes", "told"] {
            assert_eq!(known.learn(WatchEvent::Added(object(name))).len(), 1);
        }
        assert!(known.learn(listed()).is_empty());
        assert_eq!(known.learn(WatchEvent::Deleted(object("told"))).len(), 1);
        known.begin();
        known.learn(WatchEvent::Added(object("stays")));
        known.learn(WatchEvent::Added(object("new")));
        let told = known.learn(listed());
        assert_eq!(told, [deleted(("a".into(), "goes".into()))]);
        known.begin();
        known.learn(WatchEvent::Added(object("stays")));
        assert_eq!(known.learn(listed()), [deleted(("a".into(), "new".into()))]);
    }
}
