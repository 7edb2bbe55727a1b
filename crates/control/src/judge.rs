//! What the mesh thinks of one resource that is being stored: warnings for whoever applies it.
//!
//! The rules are the model's, the same as those of `mizzen analyze` and of the resources' status.

use std::time::Duration;

use model::{Finding, Snapshot};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// How long a finding is given to mend itself: what it misses may have been stored a moment before.
const PATIENCE: Duration = Duration::from_millis(250);

/// Judges resources beside those that are there.
#[derive(Clone)]
pub struct Judge {
    pub(crate) published: watch::Receiver<Snapshot>,
    pub(crate) serving: watch::Receiver<bool>,
}

impl Judge {
    /// Warnings about an object: of shape and sense that `api` has, and about what it names and is not there.
    pub async fn warnings(&self, object: &Value) -> Vec<String> {
        if !*self.serving.borrow() {
            return Vec::new();
        }
        let Ok(Some(object)) = registry::manifest::object(object) else { return Vec::new() };
        let mut published = self.published.clone();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = published.borrow_and_update().judge(&object);
            if found.is_empty() || !matches!(timeout_at(deadline, published.changed()).await, Ok(Ok(()))) {
                return found.iter().map(text).collect();
            }
        }
    }
}

/// A finding in one line, without the resource that it is about.
pub(crate) fn text(finding: &Finding) -> String {
    let Finding { field, message, hint, .. } = finding;
    if hint.is_empty() { format!("{field}: {message}") } else { format!("{field}: {message} ({hint})") }
}
