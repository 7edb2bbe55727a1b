//! An application under test: answers with its name and what it received, as slow or as sick as its script says.
//!
//! The script is a file of words, read at each request: `status=503 delay=200 abort=1`. So a scenario makes a replica
//! sick and well again without a restart. What became of each request is written to a file of events, so that a
//! scenario knows of calls that nobody waited for.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::ask;
use crate::websocket;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Without one, it is the address that was called
    #[arg(long)]
    pub name: Option<String>,
    #[arg(long, default_value_t = 9080)]
    pub port: u16,
    #[arg(long)]
    pub script: Option<PathBuf>,
    /// Where to write an [`Event`] a line
    #[arg(long)]
    pub events: Option<PathBuf>,
    /// Ask this URL before each answer, without handing any header on
    #[arg(long)]
    pub calls: Option<String>,
    /// Print a line for each request
    #[arg(long)]
    pub say: bool,
}

/// What became of a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// Nanoseconds since 1970.
    pub at: u64,
    pub what: What,
    pub method: String,
    pub path: String,
    /// As the caller's proxy counts: 1 for the first try.
    pub attempt: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// Read whole, its body included.
    Begun,
    Answered,
    /// The connection was closed without an answer, as the script says.
    Aborted,
    /// The caller reset the stream or closed the connection.
    Cancelled,
}

/// One request while it is worked on.
struct Work<'a> {
    app: &'a App,
    event: Event,
    outcome: What,
}

/// The script says to break off.
#[derive(Debug, thiserror::Error)]
#[error("aborted")]
struct Aborted;

struct App {
    name: Option<String>,
    script: Option<PathBuf>,
    events: Option<File>,
    calls: Option<String>,
    say: bool,
    served: AtomicU64,
    in_flight: AtomicU64,
    most_in_flight: AtomicU64,
}

pub async fn run(options: Options) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", options.port)).await?;
    let events =
        options.events.map(|file| File::options().create(true).append(true).open(file)).transpose()?;
    let app = Arc::new(App {
        name: options.name,
        script: options.script,
        events,
        calls: options.calls,
        say: options.say,
        served: AtomicU64::new(0),
        in_flight: AtomicU64::new(0),
        most_in_flight: AtomicU64::new(0),
    });
    // When it began to be there, for who counts the moments until it is used.
    eprintln!("listening {}", crate::load::now_ms());
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    let mut stop = signal(SignalKind::terminate())?;
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = stop.recv() => break,
        };
        stream.set_nodelay(true)?;
        let app = Arc::clone(&app);
        let called = stream.local_addr()?.ip().to_string();
        let service = service_fn(move |request| {
            let (app, called) = (Arc::clone(&app), called.clone());
            async move { app.answer(request, &called).await }
        });
        let builder = Builder::new(TokioExecutor::new());
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _ = connection.await;
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(Duration::from_secs(5), graceful.shutdown()).await;
    Ok(())
}

impl<'a> Work<'a> {
    fn begin(app: &'a App, request: &Request<Incoming>) -> Self {
        let attempt = request.headers().get("x-envoy-attempt-count");
        let attempt = attempt.and_then(|count| count.to_str().ok()?.parse().ok()).unwrap_or_default();
        let path = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
        let method = request.method().to_string();
        let event = Event { at: 0, what: What::Cancelled, method, path, attempt };
        Self { app, event, outcome: What::Cancelled }
    }

    fn note(&mut self, what: What) {
        let Some(mut file) = self.app.events.as_ref() else { return };
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.event.at = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        self.event.what = what;
        if let Ok(line) = serde_json::to_string(&self.event) {
            // One write a line: whoever reads along sees whole lines.
            let _ = file.write_all(format!("{line}\n").as_bytes());
        }
    }

    fn end(mut self, what: What) {
        self.outcome = what;
    }
}

/// The server drops the work of a caller that has gone: then this is the end that nothing else has told.
impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.note(self.outcome);
        self.app.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl App {
    async fn answer(
        &self,
        request: Request<Incoming>,
        called: &str,
    ) -> Result<Response<Full<Bytes>>, Aborted> {
        if request.headers().contains_key(SEC_WEBSOCKET_KEY) {
            return Ok(echo(request));
        }
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_in_flight.fetch_max(now, Ordering::Relaxed);
        let mut work = Work::begin(self, &request);
        let headers: serde_json::Map<_, _> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
            .collect();
        let body = request.into_body().collect().await.map(|body| body.to_bytes().len()).unwrap_or_default();
        work.note(What::Begun);
        let script =
            self.script.as_ref().and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        let word = |name: &str| {
            script
                .split_whitespace()
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok())
        };
        if let Some(delay) = word("delay") {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        let asked = match &self.calls {
            Some(url) => ask::fetch(url, &[]).await.map_or(0, |answer| answer.status),
            None => 0,
        };
        if self.say {
            println!("{} serves {}", self.name.as_deref().unwrap_or(called), work.event.path);
        }
        let served = self.served.fetch_add(1, Ordering::Relaxed) + 1;
        if word("abort").is_some() {
            work.end(What::Aborted);
            return Err(Aborted);
        }
        let status = word("status").and_then(|s| StatusCode::from_u16(u16::try_from(s).ok()?).ok());
        let text = json!({
            "name": self.name.as_deref().unwrap_or(called), "method": work.event.method, "path": work.event.path, "headers": headers,
            "body": body, "served": served, "asked": asked, "mostInFlight": self.most_in_flight.load(Ordering::Relaxed),
        });
        work.end(What::Answered);
        let mut response = Response::new(Full::new(Bytes::from(text.to_string())));
        *response.status_mut() = status.unwrap_or(StatusCode::OK);
        Ok(response)
    }
}

/// The most requests that were worked on at the same time, over several applications.
pub fn most_at_once(events: &[Event]) -> i64 {
    let mut steps: Vec<(u64, i64)> =
        events.iter().map(|event| (event.at, if event.what == What::Begun { 1 } else { -1 })).collect();
    steps.sort_unstable();
    steps.iter().scan(0, |now, (_, step)| Some((*now += step, *now).1)).max().unwrap_or_default()
}

/// A WebSocket that sends back what it is sent.
fn echo(mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let key = request.headers().get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).unwrap_or_default();
    let accept = HeaderValue::from_str(&websocket::accept(key));
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(&mut request).await else { return };
        let mut io = TokioIo::new(upgraded);
        while let Ok(text) = websocket::read(&mut io).await {
            if websocket::write(&mut io, &text, false).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = accept {
        response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}
