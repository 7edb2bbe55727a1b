//! Load that counts every answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;

/// What to send.
#[derive(Debug, Clone, clap::Args)]
pub struct Plan {
    #[arg(long)]
    pub url: String,
    #[arg(long, default_value = "GET")]
    pub method: String,
    /// `name: value`
    #[arg(long = "header")]
    pub headers: Vec<String>,
    #[arg(long, default_value = "")]
    pub body: String,
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
    /// Requests in all; without it the load goes on until SIGTERM
    #[arg(long)]
    pub count: Option<u32>,
    /// Pause between two requests of a connection, in milliseconds
    #[arg(long, default_value_t = 0)]
    pub pause: u64,
    /// A new connection for each request
    #[arg(long)]
    pub fresh: bool,
    #[arg(long)]
    pub http2: bool,
    /// How long to wait for an answer, in milliseconds
    #[arg(long, default_value_t = 30_000)]
    pub patience: u64,
}

/// What came back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub sent: u64,
    /// By status.
    pub statuses: BTreeMap<u16, u64>,
    /// By the name of the application that answered 200.
    pub names: BTreeMap<String, u64>,
    /// No answer at all, by reason.
    pub errors: BTreeMap<String, u64>,
    /// The last body that came with anything but 200.
    pub last_failure: String,
    /// The last that came with 200.
    pub last_body: String,
    /// The longest wait for an answer.
    pub slowest_ms: u64,
    /// Connections that were opened.
    #[serde(default)]
    pub opened: u64,
}

impl Report {
    pub fn ok(&self) -> u64 {
        self.statuses.get(&200).copied().unwrap_or_default()
    }

    pub fn status(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or_default()
    }

    /// Everything but 200.
    pub fn failed(&self) -> u64 {
        self.sent - self.ok()
    }

    /// The share of all 200s that this application answered.
    pub fn share(&self, name: &str) -> f64 {
        let count = self.names.get(name).copied().unwrap_or_default();
        if self.ok() == 0 { 0.0 } else { count as f64 / self.ok() as f64 }
    }
}

/// Runs the plan; SIGTERM ends it early.
pub async fn run(plan: Plan) -> Report {
    let left = Arc::new(AtomicI64::new(plan.count.map_or(i64::MAX, i64::from)));
    let report = Arc::new(Mutex::new(Report::default()));
    let opened = Arc::new(AtomicU64::new(0));
    let plan = Arc::new(plan);
    let stop = {
        let left = Arc::clone(&left);
        tokio::spawn(async move {
            if let Ok(mut term) = signal(SignalKind::terminate()) {
                term.recv().await;
                left.store(0, Ordering::Relaxed);
            }
        })
    };
    let workers: Vec<_> = (0..plan.connections.max(1))
        .map(|_| worker(Arc::clone(&plan), Arc::clone(&left), Arc::clone(&opened), Arc::clone(&report)))
        .map(tokio::spawn)
        .collect();
    for worker in workers {
        let _ = worker.await;
    }
    stop.abort();
    let mut report = report.lock().await.clone();
    report.opened = opened.load(Ordering::Relaxed);
    report
}

type Connection = Client<Counting, Full<Bytes>>;

/// Counts the connections that it opens.
#[derive(Clone)]
struct Counting {
    connector: HttpConnector,
    opened: Arc<AtomicU64>,
}

impl tower::Service<Uri> for Counting {
    type Response = <HttpConnector as tower::Service<Uri>>::Response;
    type Error = <HttpConnector as tower::Service<Uri>>::Error;
    type Future = <HttpConnector as tower::Service<Uri>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.connector.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.connector.call(uri)
    }
}

fn connection(plan: &Plan, opened: Arc<AtomicU64>) -> Connection {
    let mut builder = Client::builder(TokioExecutor::new());
    builder.http2_only(plan.http2).retry_canceled_requests(false);
    if plan.fresh {
        builder.pool_max_idle_per_host(0);
    }
    builder.build(Counting { connector: HttpConnector::new(), opened })
}

async fn worker(plan: Arc<Plan>, left: Arc<AtomicI64>, opened: Arc<AtomicU64>, report: Arc<Mutex<Report>>) {
    let client = connection(&plan, opened);
    while left.fetch_sub(1, Ordering::Relaxed) > 0 {
        let start = Instant::now();
        let outcome = tokio::time::timeout(Duration::from_millis(plan.patience), once(&client, &plan)).await;
        let waited = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut report = report.lock().await;
        report.sent += 1;
        report.slowest_ms = report.slowest_ms.max(waited);
        match outcome {
            Ok(Ok((status, body))) => report.count(status, &body),
            Ok(Err(error)) => *report.errors.entry(error).or_default() += 1,
            Err(_) => *report.errors.entry("no answer in time".into()).or_default() += 1,
        }
        drop(report);
        if plan.pause > 0 {
            tokio::time::sleep(Duration::from_millis(plan.pause)).await;
        }
    }
}

impl Report {
    fn count(&mut self, status: u16, body: &[u8]) {
        *self.statuses.entry(status).or_default() += 1;
        if status != 200 {
            self.last_failure = String::from_utf8_lossy(body).into_owned();
            return;
        }
        self.last_body = String::from_utf8_lossy(body).into_owned();
        let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        if let Some(name) = value["name"].as_str().or_else(|| value["podname"].as_str()) {
            *self.names.entry(name.to_owned()).or_default() += 1;
        }
    }
}

async fn once(client: &Connection, plan: &Plan) -> Result<(u16, Bytes), String> {
    let method = Method::from_bytes(plan.method.as_bytes()).map_err(|e| e.to_string())?;
    let mut request = Request::builder().method(method).uri(&plan.url);
    for header in &plan.headers {
        let (name, value) = header.split_once(':').ok_or("a header without a colon")?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|e| e.to_string())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|e| e.to_string())?;
        request = request.header(name, value);
    }
    let request = request.body(Full::from(plan.body.clone())).map_err(|e| e.to_string())?;
    let response = client.request(request).await.map_err(|e| chain(&e))?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(|e| chain(&e))?.to_bytes();
    Ok((status, body))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
