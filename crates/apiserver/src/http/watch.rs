//! A watch as a stream of JSON lines.

use super::request::{Form, Query};
use super::respond::{Body, include, metadata_only};
use super::{Api, table};
use crate::engine::{WatchEvent, Watcher};
use crate::kinds::Resource;
use crate::status::Status;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How often an idle watch is told how far it is.
const BOOKMARKS: Duration = Duration::from_secs(50);
/// How long a watch lasts at most when the client does not say.
const LONGEST: Duration = Duration::from_secs(3000);
/// How many bytes of events go out as one frame.
const FRAME: usize = 64 << 10;

/// How events are written.
struct Writer {
    resource: Arc<Resource>,
    version: String,
    form: Form,
    include: table::Include,
    api: Arc<Api>,
    /// Column definitions go out once.
    first: bool,
}

struct Running {
    watcher: Watcher,
    writer: Writer,
    bookmarks: bool,
    next_bookmark: Instant,
    end: Instant,
    over: bool,
}

pub(super) fn response(
    api: &Arc<Api>,
    watcher: Watcher,
    resource: &Arc<Resource>,
    version: &str,
    form: Form,
    query: &Query,
) -> Response<Body> {
    let seconds = query.number("timeoutSeconds").ok().flatten().filter(|seconds| *seconds > 0);
    let lasting = seconds.map_or(LONGEST, Duration::from_secs).min(LONGEST * 10);
    let writer = Writer {
        resource: resource.clone(),
        version: version.to_owned(),
        form,
        include: include(query),
        api: api.clone(),
        first: true,
    };
    let now = Instant::now();
    let running = Running {
        watcher,
        writer,
        bookmarks: query.flag("allowWatchBookmarks"),
        next_bookmark: now + BOOKMARKS,
        end: now + lasting,
        over: false,
    };
    let body = StreamBody::new(frames(running).map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))));
    let mut response = Response::new(body.boxed_unsync());
    let headers = response.headers_mut();
    let kind =
        if form == Form::Table { "application/json;as=Table;v=v1;g=meta.k8s.io" } else { "application/json" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A watch from a revision that is no longer known: a stream of one event, as Kubernetes answers it.
pub(super) fn expired(status: &Status) -> Response<Body> {
    let mut out = Vec::new();
    line("ERROR", &status.to_json(), &mut out);
    let mut response = Response::new(Full::new(Bytes::from(out)).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn frames(running: Running) -> impl Stream<Item = Bytes> + Send {
    futures::stream::unfold(running, |mut running| async move {
        let bytes = running.frame().await?;
        Some((bytes, running))
    })
}

impl Running {
    /// The next bytes to send; `None` ends the watch.
    async fn frame(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let mut stop = self.writer.api.shutdown.clone();
        let mut out = Vec::new();
        let event = tokio::select! {
            event = self.watcher.next() => event,
            () = sleep_until(self.next_bookmark), if self.bookmarks => {
                self.next_bookmark = Instant::now() + BOOKMARKS;
                if let Some(bookmark) = self.watcher.bookmark() {
                    self.writer.write(bookmark, &mut out);
                }
                return Some(out.into());
            }
            () = sleep_until(self.end) => {
                self.over = true;
                let bookmark = if self.bookmarks { self.watcher.bookmark() } else { None };
                if let Some(bookmark) = bookmark {
                    self.writer.write(bookmark, &mut out);
                }
                return Some(out.into());
            }
            _ = stop.wait_for(|stop| *stop) => return None,
        };
        match event {
            Ok(event) => {
                self.writer.write(event, &mut out);
                while out.len() < FRAME
                    && let Some(event) = self.watcher.ready()
                {
                    self.writer.write(event, &mut out);
                }
            }
            Err(status) => {
                self.over = true;
                line("ERROR", &status.to_json(), &mut out);
            }
        }
        Some(out.into())
    }
}

fn line(kind: &str, object: &Value, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    let _ = serde_json::to_writer(&mut *out, object);
    out.extend_from_slice(b"}\n");
}

impl Writer {
    fn write(&mut self, event: WatchEvent, out: &mut Vec<u8>) {
        let (kind, object) = match event {
            WatchEvent::Added(object) => ("ADDED", object),
            WatchEvent::Modified(object) => ("MODIFIED", object),
            WatchEvent::Deleted(object) => ("DELETED", object),
            WatchEvent::Bookmark { revision, initial_end } => {
                let mut bookmark = json!({
                    "kind": self.resource.kind, "apiVersion": self.resource.api_version(&self.version),
                    "metadata": { "resourceVersion": revision.to_string(), "creationTimestamp": null },
                });
                if initial_end {
                    bookmark["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
                }
                ("BOOKMARK", bookmark)
            }
        };
        let object = match self.form {
            Form::Table => self.table(object, kind == "BOOKMARK"),
            Form::Metadata => metadata_only(&object),
            Form::Object | Form::Discovery => object,
        };
        line(kind, &object, out);
    }

    fn table(&mut self, object: Value, bookmark: bool) -> Value {
        let version = object.pointer("/metadata/resourceVersion").cloned();
        let metadata = json!({ "resourceVersion": version });
        let now = i64::try_from(self.api.seconds()).unwrap_or(0);
        let rows = if bookmark { Vec::new() } else { vec![object] };
        let mut table = table::table(&self.resource, rows, metadata, self.include, now);
        if !std::mem::take(&mut self.first) {
            table["columnDefinitions"] = Value::Null;
        }
        table
    }
}
