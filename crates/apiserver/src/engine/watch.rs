//! Watches: what is there first, if asked for, then each change once, in order.

use super::{Engine, Target, store_error};
use crate::kinds::Resource;
use crate::selector::{Fields, Labels};
use crate::status::{Cause, Result, Status};
use crate::store::{Cursor, Event, Revision, StoreError};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;

/// What to watch.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    pub labels: Labels,
    pub fields: Fields,
    /// Watch from here; unset or `0` sends what is there first.
    pub resource_version: String,
    /// A streaming list: what is there, then a bookmark that says so.
    pub send_initial: Option<bool>,
    pub bookmarks: bool,
    /// Whether `resourceVersionMatch=NotOlderThan` was given, which `send_initial` needs.
    pub not_older: bool,
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    Added(Value),
    Modified(Value),
    Deleted(Value),
    Bookmark { revision: Revision, initial_end: bool },
}

/// A running watch.
pub struct Watcher {
    engine: Arc<Engine>,
    resource: Arc<Resource>,
    version: String,
    labels: Labels,
    fields: Fields,
    pending: VecDeque<WatchEvent>,
    cursor: Cursor,
}

impl WatchOptions {
    fn validate(&self) -> Result<()> {
        let mut causes = Vec::new();
        if self.send_initial.is_some() && !self.not_older {
            causes.push(Cause::forbidden(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        } else if self.send_initial.is_none() && self.not_older {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            causes.push(Cause::forbidden("resourceVersionMatch", why));
        }
        if causes.is_empty() {
            return Ok(());
        }
        let about = crate::status::About {
            group: "meta.k8s.io".into(),
            kind: "ListOptions".into(),
            ..Default::default()
        };
        Err(Status::invalid(about, causes))
    }
}

impl Engine {
    pub fn watch(self: &Arc<Self>, target: &Target, options: &WatchOptions) -> Result<Watcher> {
        options.validate()?;
        let asked = super::read::parse_revision(&options.resource_version)
            .map_err(|why| Status::new(500, "", format!("resourceVersion: {why}")))?;
        let fresh = asked.is_none_or(|revision| revision == 0);
        let initial = options.send_initial.unwrap_or(fresh);
        if let Some(asked) = asked.filter(|asked| initial && *asked > self.store.revision()) {
            return Err(Status::revision_too_large(asked, self.store.revision()));
        }
        let mut pending = VecDeque::new();
        let mut from = asked.filter(|revision| *revision != 0);
        if initial || from.is_none() {
            let list = self.list(
                target,
                &super::ListOptions {
                    labels: options.labels.clone(),
                    fields: options.fields.clone(),
                    ..Default::default()
                },
            )?;
            from = Some(list.revision);
            if initial {
                pending.extend(list.items.into_iter().map(WatchEvent::Added));
                if options.send_initial == Some(true) && options.bookmarks {
                    pending.push_back(WatchEvent::Bookmark { revision: list.revision, initial_end: true });
                }
            }
        }
        let from = from.unwrap_or_default();
        let prefix = target.resource.prefix(target.namespace.as_deref());
        let cursor = self.store.watch(&prefix, from).map_err(watch_error)?;
        Ok(Watcher {
            engine: self.clone(),
            resource: target.resource.clone(),
            version: target.version.clone(),
            labels: options.labels.clone(),
            fields: options.fields.clone(),
            pending,
            cursor,
        })
    }
}

fn watch_error(error: StoreError) -> Box<Status> {
    match error {
        StoreError::Compacted { asked, oldest } => {
            Status::expired(format!("too old resource version: {asked} ({oldest})"))
        }
        other => store_error(other),
    }
}

impl Watcher {
    /// The next event. Cancel-safe.
    pub async fn next(&mut self) -> Result<WatchEvent> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            let events = self.cursor.next().await.map_err(watch_error)?;
            for event in events {
                let told = self.tell(&event)?;
                self.pending.extend(told);
            }
        }
    }

    /// The next event if it is at hand.
    pub fn ready(&mut self) -> Option<WatchEvent> {
        self.pending.pop_front()
    }

    /// Where the watch stands, for a bookmark; `None` while events wait.
    pub fn bookmark(&mut self) -> Option<WatchEvent> {
        if !self.pending.is_empty() {
            return None;
        }
        let revision = self.cursor.advance_idle().ok()?;
        Some(WatchEvent::Bookmark { revision, initial_end: false })
    }

    fn selects(&self, object: &Value) -> bool {
        self.labels.matches(object) && self.fields.matches(object)
    }

    fn tell(&self, event: &Event) -> Result<Option<WatchEvent>> {
        let show = |value: &Option<bytes::Bytes>| {
            let shown =
                value.as_ref().map(|v| self.engine.show(&self.resource, &self.version, v, event.revision));
            shown.transpose()
        };
        let everything = self.labels.is_empty() && self.fields.is_empty();
        let now = show(&event.value)?.filter(|object| everything || self.selects(object));
        if everything && event.previous.is_some() && now.is_some() {
            return Ok(now.map(WatchEvent::Modified));
        }
        let before = show(&event.previous)?.filter(|object| everything || self.selects(object));
        Ok(match (before, now) {
            (None, None) => None,
            (None, Some(object)) => Some(WatchEvent::Added(object)),
            (Some(_), Some(object)) => Some(WatchEvent::Modified(object)),
            (Some(object), None) => Some(WatchEvent::Deleted(object)),
        })
    }
}
