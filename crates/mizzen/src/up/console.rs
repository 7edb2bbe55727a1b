//! What the console needs from the rest: a door to the API server, and the proxies' counters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent::host::Hub;
use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use tokio::net::TcpStream;

const LARGEST_ANSWER: usize = 32 << 20;
const PATIENCE: Duration = Duration::from_secs(2);
/// Where a proxy shows its counters.
const STATS_PORT: u16 = 15090;

/// The API server, reached without any rights of our own.
pub(super) struct Door(kube::Client);

impl Door {
    pub(super) fn new(mut config: kube::Config) -> kube::Result<Self> {
        config.auth_info = kube::config::AuthInfo::default();
        Ok(Self(kube::Client::try_from(config)?))
    }
}

impl console::ApiServer for Door {
    fn call(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, String>> {
        Box::pin(async move {
            let request = request.map(|body| Body::from(body.to_vec()));
            let response = self.0.send(request).await.map_err(|error| error.to_string())?;
            let (parts, body) = response.into_parts();
            let body =
                Limited::new(body, LARGEST_ANSWER).collect().await.map_err(|error| error.to_string())?;
            let mut answer = Response::new(body.to_bytes());
            *answer.status_mut() = parts.status;
            for name in [http::header::CONTENT_TYPE, http::header::WARNING] {
                for value in parts.headers.get_all(&name) {
                    answer.headers_mut().append(name.clone(), value.clone());
                }
            }
            Ok(answer)
        })
    }
}

/// How workloads are reached: in the hub's network where there is one, else directly.
#[derive(Clone)]
pub(super) struct Reach(pub(super) Option<Arc<Hub>>);

impl Reach {
    async fn connect(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        let Some(hub) = &self.0 else { return TcpStream::connect(address).await };
        let hub = Arc::clone(hub);
        let v6 = address.is_ipv6();
        let socket = tokio::task::spawn_blocking(move || hub.stream_socket(v6)).await??;
        tokio::net::TcpSocket::from_std_stream(socket.into()).connect(address).await
    }

    /// The text of every proxy that answers in time, under its address.
    pub(super) async fn scrape(&self, proxies: Vec<std::net::IpAddr>) -> Vec<(String, String)> {
        let asked = proxies.into_iter().map(|ip| async move {
            let text =
                tokio::time::timeout(PATIENCE, self.stats(SocketAddr::new(ip, STATS_PORT))).await.ok()?;
            Some((ip.to_string(), text.ok()?))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn stats(&self, address: SocketAddr) -> anyhow::Result<String> {
        let stream = self.connect(address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::get("/stats/prometheus")
            .header(http::header::HOST, address.to_string())
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
        connection.abort();
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}
