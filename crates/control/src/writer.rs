//! The one writer: takes changes from registries, applies them to the world and publishes what comes of it.
//!
//! Endpoints are applied as they come; everything else waits until no more has come for a moment, so that applying many
//! files is one change.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{Action, Change, Kind, World};
use tokio::sync::{mpsc, watch};
use tracing::error;

use crate::metrics::Metrics;
use crate::publish::Publisher;

/// How long configuration waits for more of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Debounce {
    /// It is applied when nothing more came for this long,
    pub quiet: Duration,
    /// and at the latest after this long.
    pub longest: Duration,
}

impl Default for Debounce {
    fn default() -> Self {
        Self { quiet: Duration::from_millis(10), longest: Duration::from_millis(100) }
    }
}

pub(crate) struct Writer {
    pub(crate) world: World,
    pub(crate) changes: mpsc::Receiver<Vec<Change>>,
    pub(crate) synced: watch::Receiver<bool>,
    pub(crate) serving: watch::Sender<bool>,
    /// How many batches were taken in and not published yet.
    pub(crate) pending: watch::Sender<bool>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) debounce: Debounce,
}

impl Writer {
    /// Runs until the registries hang up.
    pub(crate) async fn run(mut self) {
        let mut batch: Vec<Change> = Vec::new();
        let mut deadline: Option<(Instant, Instant)> = None;
        let mut open = true;
        let mut syncing = true;
        while open || !batch.is_empty() {
            let due = deadline.map(|(quiet, longest)| quiet.min(longest));
            let wait_for_sync = syncing && !*self.serving.borrow();
            tokio::select! {
                biased;
                changes = self.changes.recv(), if open => match changes {
                    Some(changes) => {
                        self.pending.send_replace(true);
                        let fast = changes.iter().all(is_endpoint);
                        batch.extend(changes);
                        let now = Instant::now();
                        let longest = deadline.map_or(now + self.debounce.longest, |(_, longest)| longest);
                        let quiet = match (fast, deadline) {
                            // Nothing slower waits: endpoints go at once, with all that is there already.
                            (true, None) => now,
                            (true, Some((quiet, _))) => quiet,
                            (false, _) => now + self.debounce.quiet,
                        };
                        deadline = Some((quiet, longest));
                        continue;
                    }
                    None => open = false,
                },
                () = sleep_until(due), if due.is_some() => {}
                synced = self.synced.wait_for(|synced| *synced), if wait_for_sync => {
                    if synced.is_err() {
                        syncing = false;
                        error!("the registries ended before they had said everything");
                    }
                }
            }
            deadline = None;
            // Asked first: whatever was said before that is in the channel now, and is what was there at the start.
            let synced = *self.synced.borrow();
            while let Ok(changes) = self.changes.try_recv() {
                batch.extend(changes);
            }
            match self.apply(std::mem::take(&mut batch)).await {
                Some(writer) => self = writer,
                None => return,
            }
            if self.changes.is_empty() {
                self.pending.send_replace(false);
            }
            if synced && !*self.serving.borrow() {
                self.serving.send_replace(true);
            }
        }
    }

    /// Translation takes its time: it happens beside the threads that serve.
    async fn apply(mut self, changes: Vec<Change>) -> Option<Self> {
        if changes.is_empty() {
            return Some(self);
        }
        // What was there at the start is no change.
        let serving = *self.serving.borrow();
        let work = move || {
            let started = Instant::now();
            self.metrics.events(&changes);
            let before = self.world.snapshot();
            let after = self.world.apply(changes);
            let diff = before.diff(&after);
            if serving {
                crate::audit::policies(&before, &after, &diff);
            }
            if before.id() != after.id() {
                self.publisher.publish(after, &diff);
                self.metrics.published(&diff, started.elapsed());
            }
            self
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(writer) => Some(writer),
            Err(e) => {
                error!(error = %e, "applying changes failed; the control plane serves what it had");
                None
            }
        }
    }
}

fn is_endpoint(change: &Change) -> bool {
    let kind = match &change.action {
        Action::Upsert(object) => object.reference().kind,
        Action::Delete(at) => at.kind,
    };
    matches!(kind, Kind::Slice | Kind::Pod | Kind::WorkloadEntry)
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}
