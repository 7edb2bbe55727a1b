//! Keeps a client up to date by polling: one type's own service, in JSON over HTTP/1.1.

use std::time::{Duration, Instant};

use base::{Random as _, ThreadRandom};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use proto::json;
use proto::pb::envoy::service::discovery::v3 as pb;
use tokio::sync::mpsc;

use super::dial;
use super::driver::{Config, MAX_MESSAGE, Update, failed, hand_over, names_of, renamed};
use super::state::{Client, ClientRequest, Response};
use crate::{Mode, rest};

/// Polls until the receiver of updates is dropped. `refresh` is the least time between two polls, twice as much the most.
pub async fn poll(config: Config, refresh: Duration, timeout: Duration, updates: mpsc::Sender<Update>) {
    let mut client = Client::new(Mode::Sotw, config.node.clone()).alone();
    for t in &config.all {
        client.subscribe_all(*t);
    }
    let mut wanted = config.wanted.clone();
    client.connected();
    let mut request = pb::DiscoveryRequest::default();
    loop {
        client.want(&names_of(&mut wanted));
        while let Some(next) = client.next_request() {
            if let ClientRequest::Sotw(next) = next {
                request = next;
                request.node = Some(config.node.clone());
            }
        }
        if client.asks() {
            match tokio::time::timeout(timeout, fetch(&config, &request)).await {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(response))) => {
                    client.receive(Response::Sotw(response), Instant::now());
                    while let Some(ready) = client.next_ready() {
                        let Ok(verdict) = hand_over(&config, ready, &updates).await else { return };
                        let (ticket, Some(rejections)) = verdict.await else { return };
                        client.verdict(ticket, &rejections);
                    }
                }
                Ok(Err(reason)) => failed(&config, reason, &updates).await,
                Err(_) => failed(&config, format!("no answer within {timeout:?}"), &updates).await,
            }
        }
        let jitter = Duration::from_millis(ThreadRandom.below(refresh.as_millis() as u64 + 1));
        tokio::select! {
            () = tokio::time::sleep(refresh + jitter) => {}
            names = renamed(&mut wanted) => client.want(&names),
            () = updates.closed() => return,
        }
    }
}

/// One poll; nothing when the server has nothing new.
async fn fetch(
    config: &Config,
    request: &pb::DiscoveryRequest,
) -> Result<Option<pb::DiscoveryResponse>, String> {
    let path = config.own.and_then(rest::path).ok_or("the type is not polled")?;
    let body = json::encode(request).map_err(|e| format!("{}: {}", e.path, e.reason))?.to_string();
    let io = dial::open(&config.connect, config.tls.as_ref()).await.map_err(|e| e.message)?;
    let (mut http, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let poll = http::Request::post(path)
        .header(http::header::HOST, &config.authority)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| e.to_string())?;
    let response = http.send_request(poll).await.map_err(|e| e.to_string())?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_MESSAGE).collect().await;
    connection.abort();
    match status {
        http::StatusCode::NOT_MODIFIED => Ok(None),
        http::StatusCode::OK => {
            let body = body.map_err(|e| e.to_string())?.to_bytes();
            let value = serde_json::from_slice(&body).map_err(|e| format!("the answer is not JSON: {e}"))?;
            json::decode(&value).map(Some).map_err(|e| format!("the answer: {}: {}", e.path, e.reason))
        }
        status => Err(format!("HTTP {status}")),
    }
}
