//! What the services share: a server, a client, and the headers that they hand on.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client as Pooled, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;

pub(crate) type Answer = Response<Full<Bytes>>;

const LARGEST_BODY: usize = 1 << 20;

/// Headers that make several calls one trace, and those that a session needs further down.
const FORWARDED: &[&str] = &[
    "x-request-id",
    "x-ot-span-context",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "b3",
    "traceparent",
    "tracestate",
    "x-cloud-trace-context",
    "grpc-trace-bin",
    "sw8",
    "user-agent",
    "cookie",
    "authorization",
    "jwt",
    "end-user",
];

/// The headers of an incoming request that belong on the calls it causes.
pub(crate) fn forwarded(incoming: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in FORWARDED {
        for value in incoming.get_all(*name) {
            headers.append(HeaderName::from_static(name), value.clone());
        }
    }
    headers
}

/// Serves until SIGTERM or SIGINT, then lets live requests end.
pub(crate) async fn serve<S, F>(address: SocketAddr, handler: S) -> anyhow::Result<()>
where
    S: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let listener = bind(address).await?;
    let handler = Arc::new(handler);
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    let mut stop = std::pin::pin!(stopped());
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of descriptors, or the peer left: neither ends the service.
                Err(_) => { tokio::time::sleep(Duration::from_millis(10)).await; continue }
            },
            () = &mut stop => break,
        };
        let _ = stream.set_nodelay(true);
        let handler = Arc::clone(&handler);
        let service = hyper::service::service_fn(move |request| {
            let answer = handler(request);
            async move { Ok::<_, std::convert::Infallible>(answer.await) }
        });
        let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // A peer that goes away in the middle is its own business.
            let _ = connection.await;
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(Duration::from_secs(10), graceful.shutdown()).await;
    Ok(())
}

/// On IPv6 and IPv4 alike; on IPv4 alone where the machine has no IPv6.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(_) if address.is_ipv6() => {
            let address = SocketAddr::from(([0, 0, 0, 0], address.port()));
            TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on {address}")),
    }
}

async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
}

/// A client that keeps its connections.
#[derive(Debug, Clone)]
pub(crate) struct Client(Pooled<HttpConnector, Full<Bytes>>);

/// What a call came back with.
pub(crate) struct Fetched {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Client {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self(
            Pooled::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(30))
                .build(connector),
        )
    }

    pub(crate) async fn get(
        &self,
        url: &str,
        headers: HeaderMap,
        within: Duration,
    ) -> anyhow::Result<Fetched> {
        let mut request = Request::get(url).body(Full::default())?;
        *request.headers_mut() = headers;
        let call = async {
            let response = self.0.request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST_BODY)
                .collect()
                .await
                .map_err(|error| anyhow::anyhow!(error))?
                .to_bytes();
            Ok(Fetched { status, body })
        };
        tokio::time::timeout(within, call)
            .await
            .with_context(|| format!("{url} took longer than {within:?}"))?
    }
}

/// The whole body of a request.
pub(crate) async fn body(request: Request<Incoming>) -> anyhow::Result<Bytes> {
    let collected = Limited::new(request.into_body(), LARGEST_BODY).collect().await;
    Ok(collected.map_err(|error| anyhow::anyhow!(error))?.to_bytes())
}

pub(crate) fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    answer(status, "application/json", value.to_string())
}

pub(crate) fn html(text: String) -> Answer {
    answer(StatusCode::OK, "text/html; charset=utf-8", text)
}

pub(crate) fn not_found() -> Answer {
    answer(StatusCode::NOT_FOUND, "text/plain", "404 not found\n")
}

pub(crate) fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

/// `host:port`, with the domain that some deployments put behind each name.
pub(crate) fn service_url(host: &str, port: u16, path: &str) -> String {
    let domain = std::env::var("SERVICES_DOMAIN").map(|d| format!(".{d}")).unwrap_or_default();
    format!("http://{host}{domain}:{port}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_headers_that_belong_to_the_trace_and_session_go_on() {
        let mut incoming = HeaderMap::new();
        for name in ["traceparent", "x-b3-traceid", "end-user", "host", "x-secret"] {
            incoming.insert(HeaderName::from_static(name), header::HeaderValue::from_static("v"));
        }
        let forwarded = forwarded(&incoming);
        assert_eq!(forwarded.len(), 3);
        assert!(forwarded.get("x-secret").is_none());
    }
}
