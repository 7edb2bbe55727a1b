//! An application under test: answers with its name and what it received, as slow or as sick as its script says.
//!
//! The script is a file of words, read at each request: `status=503 delay=200`. So a scenario makes a replica sick and
//! well again without a restart.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, clap::Args)]
pub struct Options {
    #[arg(long)]
    pub name: String,
    #[arg(long, default_value_t = 9080)]
    pub port: u16,
    #[arg(long)]
    pub script: Option<PathBuf>,
}

struct App {
    name: String,
    script: Option<PathBuf>,
    served: AtomicU64,
    in_flight: AtomicU64,
    most_in_flight: AtomicU64,
}

pub async fn run(options: Options) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", options.port)).await?;
    let app = Arc::new(App {
        name: options.name,
        script: options.script,
        served: AtomicU64::new(0),
        in_flight: AtomicU64::new(0),
        most_in_flight: AtomicU64::new(0),
    });
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    let mut stop = signal(SignalKind::terminate())?;
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = stop.recv() => break,
        };
        stream.set_nodelay(true)?;
        let app = Arc::clone(&app);
        let service = service_fn(move |request| {
            let app = Arc::clone(&app);
            async move { Ok::<_, Infallible>(app.answer(request).await) }
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

impl App {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_in_flight.fetch_max(now, Ordering::Relaxed);
        let answer = self.script(request).await;
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        answer
    }

    async fn script(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
        let method = request.method().to_string();
        let headers: serde_json::Map<_, _> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
            .collect();
        let body = request.into_body().collect().await.map(|body| body.to_bytes().len()).unwrap_or_default();
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
        let status = word("status").and_then(|s| StatusCode::from_u16(u16::try_from(s).ok()?).ok());
        let served = self.served.fetch_add(1, Ordering::Relaxed) + 1;
        let text = json!({
            "name": self.name, "method": method, "path": path, "headers": headers, "body": body,
            "served": served, "mostInFlight": self.most_in_flight.load(Ordering::Relaxed),
        });
        let mut response = Response::new(Full::new(Bytes::from(text.to_string())));
        *response.status_mut() = status.unwrap_or(StatusCode::OK);
        response
    }
}
