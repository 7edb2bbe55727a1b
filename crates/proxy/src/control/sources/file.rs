//! A source that is a file: read again whenever it is replaced or written, or when something moves in the folder that is
//! watched in its place.

use std::path::{Path, PathBuf};
use std::time::Instant;

use prost::Message as _;
use proto::ResourceType;
use proto::pb::envoy::service::discovery::v3::DiscoveryResponse;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{mpsc, oneshot, watch};
use xds::client::{Client, Failure, Names, Response, Update};

/// What is watched, and for whom.
pub(super) struct FileSource {
    pub(super) path: PathBuf,
    pub(super) watched: Option<PathBuf>,
    pub(super) resource_type: ResourceType,
    pub(super) all: bool,
    pub(super) names: watch::Receiver<Names>,
    pub(super) source: usize,
}

fn unread(reason: String) -> Failure {
    Failure { reason, is_refusal: false }
}

fn refused(reason: String) -> Failure {
    Failure { reason, is_refusal: true }
}

/// Events that end a change: a move into place, and a writer that closes the file.
const CHANGES: WatchFlags = WatchFlags::MOVED_TO.union(WatchFlags::CLOSE_WRITE).union(WatchFlags::CREATE);

impl FileSource {
    /// Reads now and at each change until nobody takes updates any more.
    pub(super) async fn run(self, updates: mpsc::Sender<Update>) {
        let watch = match self.watch() {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the file is not watched");
                None
            }
        };
        let mut client = Client::new(xds::Mode::Sotw, Default::default()).alone();
        if self.all {
            client.subscribe_all(self.resource_type);
        }
        client.connected();
        let mut held: Option<Vec<u8>> = None;
        let mut wanted = self.names.clone();
        loop {
            let names = wanted.borrow_and_update().clone();
            client.want(&names);
            if !self.read(&mut client, &names, &mut held, &updates).await {
                return;
            }
            tokio::select! {
                () = self.changed(watch.as_ref()) => {}
                renamed = wanted.changed() => match renamed {
                    // Whoever is new is given what the file says already.
                    Ok(()) => held = None,
                    Err(_) => return,
                },
                () = updates.closed() => return,
            }
        }
    }

    /// False when nobody takes updates any more.
    async fn read(
        &self,
        client: &mut Client,
        names: &Names,
        held: &mut Option<Vec<u8>>,
        updates: &mpsc::Sender<Update>,
    ) -> bool {
        let source = self.source;
        let response = match std::fs::read(&self.path) {
            Ok(bytes) if held.as_ref() == Some(&bytes) => return true,
            Ok(bytes) => {
                let parsed = self.parse(&bytes).map_err(unread);
                let response = parsed.and_then(|response| self.expected(response, names).map_err(refused));
                *held = Some(bytes);
                response
            }
            Err(error) => {
                *held = None;
                Err(unread(error.to_string()))
            }
        };
        match response {
            Ok(response) => {
                client.receive(Response::Sotw(response), Instant::now());
                let mut objection = None;
                while let Some(request) = client.next_request() {
                    if let xds::client::ClientRequest::Sotw(request) = request {
                        objection = request.error_detail.map(|status| status.message).or(objection);
                    }
                }
                if let Some(reason) = objection {
                    return self.fail(refused(reason), updates).await;
                }
                while let Some(ready) = client.next_ready() {
                    let (verdict, answer) = oneshot::channel();
                    let update = Update { source, deltas: ready.deltas, failure: None, verdict };
                    if updates.send(update).await.is_err() {
                        return false;
                    }
                    let Ok(rejections) = answer.await else { return false };
                    client.verdict(ready.ticket, &rejections);
                }
                while client.next_request().is_some() {}
                true
            }
            Err(failure) => self.fail(failure, updates).await,
        }
    }

    async fn fail(&self, failure: Failure, updates: &mpsc::Sender<Update>) -> bool {
        tracing::warn!(path = %self.path.display(), error = failure.reason, "the file is not taken");
        let (verdict, _) = oneshot::channel();
        let update = Update { source: self.source, deltas: Vec::new(), failure: Some(failure), verdict };
        updates.send(update).await.is_ok()
    }

    fn parse(&self, bytes: &[u8]) -> Result<DiscoveryResponse, String> {
        let value = match self.path.extension().and_then(|e| e.to_str()) {
            Some("pb") => return DiscoveryResponse::decode(bytes).map_err(|e| e.to_string()),
            Some("pb_text") => return Err("text form is not supported: write .yaml, .json or .pb".into()),
            Some("yaml" | "yml") => serde_yaml_ng::from_slice(bytes).map_err(|e| e.to_string())?,
            _ => serde_json::from_slice(bytes).map_err(|e| e.to_string())?,
        };
        let mut response: DiscoveryResponse =
            proto::json::decode(&value).map_err(|e| format!("{}: {}", e.path, e.reason))?;
        if response.type_url.is_empty() {
            response.type_url = self.resource_type.url().to_owned();
        }
        Ok(response)
    }

    /// The resources that somebody wants; one that is wanted and is not there is a fault of the file.
    fn expected(&self, response: DiscoveryResponse, names: &Names) -> Result<DiscoveryResponse, String> {
        if response.type_url != self.resource_type.url() {
            return Err(format!("typeUrl: must be {}", self.resource_type.url()));
        }
        if self.all {
            return Ok(response);
        }
        let mut kept = response;
        let mut found = Vec::new();
        let mut resources = Vec::new();
        for any in kept.resources {
            let name = xds::client::name_of(self.resource_type, &any)?;
            if names.contains(&(self.resource_type, name.clone())) {
                resources.push(any);
            }
            found.push(name);
        }
        if let Some((_, missing)) = names.iter().find(|(_, name)| !found.contains(name)) {
            return Err(format!("resources: {missing:?} is expected, and there are {found:?}"));
        }
        kept.resources = resources;
        Ok(kept)
    }

    fn folder(&self) -> &Path {
        let beside = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.watched.as_deref().unwrap_or(beside)
    }

    /// What happens in the folder, to be read like a pipe.
    fn watch(&self) -> std::io::Result<Receiver> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&inotify, self.folder(), CHANGES)?;
        Receiver::from_owned_fd_unchecked(inotify)
    }

    /// Returns when something changed that may concern the file.
    async fn changed(&self, watch: Option<&Receiver>) {
        let Some(watch) = watch else { return std::future::pending().await };
        let name = self.path.file_name().map(|name| name.as_encoded_bytes());
        let mut events = [0; 4096];
        let mut concerned = false;
        loop {
            match watch.try_read(&mut events) {
                Ok(n) => {
                    concerned |= names_in(&events[..n]).any(|of| self.watched.is_some() || name == Some(of))
                }
                // What came at once is one change.
                Err(_) if concerned => return,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if watch.readable().await.is_err() {
                        return std::future::pending().await;
                    }
                }
                Err(_) => return std::future::pending().await,
            }
        }
    }
}

/// The names of files in inotify's events: four numbers, the last one the length of what follows.
fn names_in(events: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = events;
    std::iter::from_fn(move || {
        let (head, tail) = rest.split_at_checked(16)?;
        let length = u32::from_ne_bytes(head[12..].try_into().ok()?) as usize;
        let (name, tail) = tail.split_at_checked(length)?;
        rest = tail;
        Some(name.split(|byte| *byte == 0).next().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, all: bool) -> FileSource {
        let (_, names) = watch::channel(Names::default());
        FileSource {
            path: path.into(),
            watched: None,
            resource_type: ResourceType::Cluster,
            all,
            names,
            source: 1,
        }
    }

    #[test]
    fn files_are_read_in_their_forms_or_refused() {
        let yaml = "version_info: a\nresources:\n- '@type': type.googleapis.com/envoy.config.cluster.v3.Cluster\n  name: c\n";
        let json =
            r#"{"resources":[{"@type":"type.googleapis.com/envoy.config.cluster.v3.Cluster","name":"c"}]}"#;
        let pb = source("a.json", true).parse(json.as_bytes()).unwrap().encode_to_vec();
        for (path, bytes) in [("a.yaml", yaml.as_bytes()), ("a.json", json.as_bytes()), ("a.pb", &pb)] {
            let read = source(path, true).parse(bytes).unwrap();
            assert_eq!((read.resources.len(), &*read.type_url), (1, ResourceType::Cluster.url()), "{path}");
        }
        for (path, bytes, fault) in [
            ("a.yaml", "a: [", "while parsing"),
            ("a.json", "{}}", "trailing characters"),
            ("a.json", r#"{"resource":[]}"#, "resource"),
            ("a.pb_text", "", "text form is not supported"),
        ] {
            let error = source(path, true).parse(bytes.as_bytes()).unwrap_err();
            assert!(error.contains(fault), "{path}: {error}");
        }
    }

    #[test]
    fn what_is_wanted_must_be_in_the_file_and_nothing_else_is_taken() {
        let json = r#"{"resources":[{"@type":"type.googleapis.com/envoy.config.cluster.v3.Cluster","name":"c"},
            {"@type":"type.googleapis.com/envoy.config.cluster.v3.Cluster","name":"d"}]}"#;
        let file = source("a.json", false);
        let read = || file.parse(json.as_bytes()).unwrap();
        let wanted = |name: &str| {
            Names::from(std::collections::BTreeSet::from([(ResourceType::Cluster, name.into())]))
        };
        assert_eq!(file.expected(read(), &wanted("d")).unwrap().resources.len(), 1);
        let error = file.expected(read(), &wanted("e")).unwrap_err();
        assert_eq!(error, r#"resources: "e" is expected, and there are ["c", "d"]"#);
    }
}
