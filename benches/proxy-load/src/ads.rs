//! A control plane for one proxy: delta ADS with many clusters, of which one changes at a time.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use proto::ResourceType;
use proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use proto::pb::google::protobuf::Any;
use tokio::net::TcpListener;
use tokio::sync::mpsc as queue;
use xds::grpc::{Inbound, Outbound, Sender, outbound, streaming};

/// Clusters in one message at first.
const BATCH: usize = 500;
/// How long a proxy may take to accept what it is sent.
const PATIENCE: Duration = Duration::from_secs(120);

/// A cluster as it is sent.
#[derive(Clone)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) encoded: Vec<u8>,
}

pub(crate) struct Ads {
    pub(crate) port: u16,
    changes: queue::UnboundedSender<Named>,
    accepted: mpsc::Receiver<std::result::Result<(), String>>,
}

impl Ads {
    /// Serves on a port of its own until it is dropped, one stream after the other.
    pub(crate) fn start(clusters: Vec<Named>) -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (changes, mut waiting) = queue::unbounded_channel();
        let (tell, accepted) = mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::spawn(move || {
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener)?;
                loop {
                    let (stream, _) = listener.accept().await?;
                    if let Some(session) = first_stream(stream).await {
                        session.serve(&clusters, &mut waiting, &tell).await;
                    }
                    if waiting.is_closed() && waiting.is_empty() {
                        return anyhow::Ok(());
                    }
                }
            })
        });
        Ok(Self { port, changes, accepted })
    }

    /// Waits until the proxy has accepted what was sent last: at first all clusters.
    pub(crate) fn wait(&self) -> Result<()> {
        let accepted = self.accepted.recv_timeout(PATIENCE).context("the proxy accepts nothing")?;
        ensure!(accepted.is_ok(), "the proxy refuses a cluster: {accepted:?}");
        Ok(())
    }

    /// Sends one cluster anew, and waits until it is accepted.
    pub(crate) fn change(&self, cluster: Named) -> Result<()> {
        self.changes.send(cluster).map_err(|_| anyhow::anyhow!("the proxy is gone"))?;
        self.wait()
    }
}

/// One proxy's stream.
struct Session {
    requests: Inbound<Incoming>,
    responses: Sender,
    nonce: u64,
}

/// The first stream of a connection, which is served on a task of its own.
async fn first_stream(stream: tokio::net::TcpStream) -> Option<Session> {
    let (tell, mut told) = queue::unbounded_channel();
    tokio::spawn(async move {
        let serve = hyper::service::service_fn(move |request: Request<Incoming>| {
            let tell = tell.clone();
            async move {
                let (responses, body) = outbound();
                let _ = tell.send((request.into_body(), responses));
                Ok::<Response<Outbound>, std::convert::Infallible>(streaming(body))
            }
        });
        let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = http2.serve_connection(TokioIo::new(stream), serve).await;
    });
    let (body, responses) = told.recv().await?;
    Some(Session { requests: Inbound::new(body, 64 << 20), responses, nonce: 0 })
}

impl Session {
    /// Until the proxy goes or nobody wants more of it.
    async fn serve(
        mut self,
        clusters: &[Named],
        changes: &mut queue::UnboundedReceiver<Named>,
        accepted: &mpsc::Sender<std::result::Result<(), String>>,
    ) {
        let mut due = None;
        loop {
            tokio::select! {
                request = self.requests.message::<DeltaDiscoveryRequest>() => {
                    let Ok(Some(request)) = request else { return };
                    let is_clusters = request.type_url == ResourceType::Cluster.url();
                    if !request.response_nonce.is_empty() {
                        if due.as_ref() == Some(&request.response_nonce) {
                            due = None;
                            let told = request.error_detail.map_or(Ok(()), |error| Err(error.message));
                            let _ = accepted.send(told);
                        }
                        continue;
                    }
                    let all: &[Named] = if is_clusters { clusters } else { &[] };
                    let mut batches: Vec<&[Named]> = all.chunks(BATCH).collect();
                    if batches.is_empty() {
                        batches.push(&[]);
                    }
                    for batch in batches {
                        let Some(nonce) = self.send(&request.type_url, batch).await else { return };
                        due = if is_clusters { Some(nonce) } else { due };
                    }
                }
                change = changes.recv() => {
                    let Some(change) = change else { return };
                    due = self.send(ResourceType::Cluster.url(), &[change]).await;
                    if due.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// The nonce of what was sent; nothing when the proxy has gone.
    async fn send(&mut self, of: &str, clusters: &[Named]) -> Option<String> {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let resource = |cluster: &Named| Resource {
            name: cluster.name.clone(),
            version: nonce.clone(),
            resource: Some(Any { type_url: of.to_owned(), value: cluster.encoded.clone() }),
            ..Resource::default()
        };
        let response = DeltaDiscoveryResponse {
            system_version_info: nonce.clone(),
            type_url: of.to_owned(),
            nonce: nonce.clone(),
            resources: clusters.iter().map(resource).collect(),
            ..DeltaDiscoveryResponse::default()
        };
        self.responses.send(Bytes::new(), response.encode_to_vec().into()).await.ok()?;
        Some(nonce)
    }
}
