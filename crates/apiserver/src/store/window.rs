//! What happened lately: the events that watches read, bounded by number and size.
//!
//! A watcher has no queue of its own; it reads the shared window from where it stopped. One that is so
//! slow that the window moved past it learns that its revision is compacted.

use super::{Event, Revision, StoreError};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Recent events, oldest first.
#[derive(Debug)]
pub(super) struct Window {
    inner: Mutex<Inner>,
    /// The revision up to which events are here; what watchers wait on.
    head: watch::Sender<Revision>,
    max_events: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Inner {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Everything after this revision is in `events`.
    floor: Revision,
}

impl Window {
    pub(super) fn new(at: Revision, max_events: usize, max_bytes: usize) -> Arc<Self> {
        let inner = Inner { events: VecDeque::new(), bytes: 0, floor: at };
        Arc::new(Self { inner: Mutex::new(inner), head: watch::Sender::new(at), max_events, max_bytes })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds events and moves the head to `revision`.
    pub(super) fn publish(&self, events: Vec<Event>, revision: Revision) {
        let mut inner = self.lock();
        for event in events {
            inner.bytes += weight(&event);
            inner.events.push_back(Arc::new(event));
        }
        while inner.events.len() > self.max_events || inner.bytes > self.max_bytes {
            let Some(old) = inner.events.pop_front() else { break };
            inner.bytes -= weight(&old);
            inner.floor = old.revision;
        }
        drop(inner);
        self.head.send_replace(revision);
    }

    pub(super) fn compact(&self, upto: Revision) {
        let mut inner = self.lock();
        while let Some(old) = inner.events.pop_front_if(|event| event.revision <= upto) {
            inner.bytes -= weight(&old);
        }
        inner.floor = inner.floor.max(upto.min(*self.head.borrow()));
    }

    /// The events with `after < revision <= upto` whose key starts with the prefix.
    pub(super) fn events(
        &self,
        prefix: &str,
        after: Revision,
        upto: Revision,
    ) -> Result<Vec<Arc<Event>>, StoreError> {
        let inner = self.lock();
        if after < inner.floor {
            return Err(StoreError::Compacted { asked: after, oldest: inner.floor });
        }
        let start = inner.events.partition_point(|event| event.revision <= after);
        let recent = inner.events.range(start..).take_while(|event| event.revision <= upto);
        Ok(recent.filter(|event| event.key.starts_with(prefix)).cloned().collect())
    }

    pub(super) fn cursor(self: &Arc<Self>, prefix: &str, after: Revision) -> Result<Cursor, StoreError> {
        let floor = self.lock().floor;
        if after < floor {
            return Err(StoreError::Compacted { asked: after, oldest: floor });
        }
        let head = self.head.subscribe();
        Ok(Cursor { window: self.clone(), head, prefix: prefix.into(), at: after })
    }
}

fn weight(event: &Event) -> usize {
    let size = |value: &Option<bytes::Bytes>| value.as_ref().map_or(0, bytes::Bytes::len);
    event.key.len() + size(&event.value) + size(&event.previous) + 64
}

/// A place in the stream of events.
#[derive(Debug)]
pub struct Cursor {
    window: Arc<Window>,
    head: watch::Receiver<Revision>,
    prefix: String,
    at: Revision,
}

impl Cursor {
    /// Waits for events and returns them, at least one, in order. Cancel-safe.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, StoreError> {
        loop {
            let head = *self.head.borrow_and_update();
            if head > self.at {
                let events = self.window.events(&self.prefix, self.at, head)?;
                self.at = head;
                if !events.is_empty() {
                    return Ok(events);
                }
            }
            // A cursor may start ahead of the store; then it waits for the store to come.
            if self.head.changed().await.is_err() {
                return Err(StoreError::Closed);
            }
        }
    }

    /// Up to where this cursor has seen everything: what a bookmark says.
    pub fn seen(&self) -> Revision {
        self.at
    }

    /// Moves on to the present if nothing of this prefix happened; for bookmarks.
    pub fn advance_idle(&mut self) -> Result<Revision, StoreError> {
        let head = *self.head.borrow();
        if head > self.at && self.window.events(&self.prefix, self.at, head)?.is_empty() {
            self.at = head;
        }
        Ok(self.at)
    }
}
