//! HTTP as small as it gets: one answer to one call, one GET to one address, both bounded.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::egress::Egress;

/// Metrics of a large mesh are some megabytes.
const LARGEST_BODY: usize = 32 << 20;
const HEADER_PATIENCE: Duration = Duration::from_secs(5);
const CALL_PATIENCE: Duration = Duration::from_secs(30);

/// What somebody calls.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
}

/// An answer, ours or somebody's.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub content_type: String,
    pub body: Bytes,
}

impl Reply {
    pub(super) fn text(status: u16, body: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8".into(), body: body.to_owned().into() }
    }

    pub(super) fn metrics(body: String) -> Self {
        Self {
            status: 200,
            content_type: "text/plain; version=0.0.4; charset=utf-8".into(),
            body: body.into(),
        }
    }

    pub fn body_text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_GATEWAY);
        if let Ok(kind) = self.content_type.parse() {
            response.headers_mut().insert(CONTENT_TYPE, kind);
        }
        response
    }
}

/// Serves one connection; errors on it are the peer's affair.
pub(super) async fn serve_connection<F, R>(stream: TcpStream, answer: F)
where
    F: Fn(Call) -> R,
    R: Future<Output = Reply>,
{
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let call = Call {
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            headers: request
                .headers()
                .iter()
                .filter_map(|(k, v)| Some((k.to_string(), v.to_str().ok()?.to_owned())))
                .collect(),
        };
        let reply = answer(call);
        async move {
            let reply = timeout(CALL_PATIENCE, reply).await;
            let reply = reply.unwrap_or_else(|_| Reply::text(504, "took too long\n"));
            Ok::<_, Infallible>(reply.into_response())
        }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// One POST without a body over a connection of its own.
pub(super) async fn post(
    egress: &Egress,
    to: SocketAddr,
    path: &str,
    patience: Duration,
) -> io::Result<Reply> {
    let work = async {
        let stream = egress.connect(to).await?;
        send(stream, to, Request::post(path), &[]).await
    };
    timeout(patience, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// One GET over a connection of its own.
pub(super) async fn get(
    egress: &Egress,
    to: SocketAddr,
    path: &str,
    headers: &[(String, String)],
    patience: Duration,
) -> io::Result<Reply> {
    let work = async {
        let stream = egress.connect(to).await?;
        exchange(stream, to, path, headers).await
    };
    timeout(patience, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

pub(super) async fn exchange<IO>(
    stream: IO,
    to: SocketAddr,
    path: &str,
    headers: &[(String, String)],
) -> io::Result<Reply>
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    send(stream, to, Request::get(path), headers).await
}

async fn send<IO>(
    stream: IO,
    to: SocketAddr,
    mut request: hyper::http::request::Builder,
    headers: &[(String, String)],
) -> io::Result<Reply>
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let driver = tokio::spawn(connection);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request = request.header(HOST, to.to_string());
    }
    let request = request.body(Full::<Bytes>::default()).map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, LARGEST_BODY).collect().await.map_err(io::Error::other)?.to_bytes();
    driver.abort();
    let kind = head.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    Ok(Reply { status: head.status.as_u16(), content_type: kind.to_owned(), body })
}
