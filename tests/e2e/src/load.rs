//! Load that counts every answer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;

use crate::dial::Dial;

/// Where a request's number goes in headers.
const NUMBER: &str = "{}";
/// Where a proxy tells what it counted.
const METRICS: &str = "http://127.0.0.1:15020/stats/prometheus";

/// What to send.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Plan {
    /// http://… for a request, tcp://HOST:PORT for a connection that says a line and reads what comes
    #[arg(long)]
    pub url: String,
    #[arg(long, default_value = "GET")]
    pub method: String,
    /// `name: value`; `{}` in it is the number of the request, modulo `--vary`
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
    /// No more requests once one was answered 200
    #[arg(long)]
    pub until_ok: bool,
    /// A new connection for each request
    #[arg(long)]
    pub fresh: bool,
    #[arg(long)]
    pub http2: bool,
    /// All share one pool of connections: with HTTP/2, one connection with a stream for each request
    #[arg(long)]
    pub share: bool,
    #[arg(long, default_value_t = 1)]
    pub vary: u64,
    /// Each connection keeps the cookies that it is given
    #[arg(long)]
    pub keep_cookies: bool,
    /// At the end, tell what the proxy beside this client counted
    #[arg(long)]
    pub metrics: bool,
    /// A file that always says what was counted so far
    #[arg(long)]
    pub progress: Option<PathBuf>,
    /// Connect there, whatever the URL says
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub connect: Option<String>,
    /// Roots to trust where the URL says https, in PEM
    #[arg(long, value_name = "FILE")]
    pub roots: Option<PathBuf>,
    /// How long to wait for an answer, in milliseconds
    #[arg(long, default_value_t = 30_000)]
    pub patience: u64,
    /// Stay until SIGTERM after the report, so that this proxy's counters can be read
    #[arg(long)]
    pub linger: bool,
}

impl Plan {
    /// Plain GETs, one after the other.
    pub fn get(url: &str, count: u32) -> Self {
        let (url, method) = (url.to_owned(), "GET".to_owned());
        Self { url, method, count: Some(count), connections: 1, vary: 1, patience: 30_000, ..Self::default() }
    }
}

/// Plain GETs by this process itself, which is no workload: as a visitor from outside.
pub fn visit(url: &str, count: u32) -> anyhow::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(Plan::get(url, count)))
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
    pub opened: u64,
    /// Who answered, by the request's number (`--vary`) or the connection's (`--keep-cookies`).
    pub places: BTreeMap<u64, BTreeMap<String, u64>>,
    /// When each name answered first and last, in milliseconds since 1970.
    pub seen: BTreeMap<String, (u64, u64)>,
    /// In the form of Prometheus.
    pub metrics: String,
    /// The last answer, whatever its status.
    pub last: Answer,
    /// Connections by TLS, by what they were served with; see [`crate::dial::fingerprint`].
    pub certificates: BTreeMap<String, u64>,
    /// All waits together, and the one in their middle.
    pub total_us: u64,
    pub median_us: u64,
    #[serde(skip)]
    waits_us: Vec<u64>,
}

/// An answer in full.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Report {
    pub fn ok(&self) -> u64 {
        self.statuses.get(&200).copied().unwrap_or_default()
    }

    pub fn status(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or_default()
    }

    /// What came after an earlier report of the same load.
    pub fn since(&self, before: &Self) -> Self {
        fn less<K: Ord + Clone>(now: &BTreeMap<K, u64>, then: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
            let count = |(key, count): (&K, &u64)| {
                let more = count - then.get(key).copied().unwrap_or_default();
                (more > 0).then(|| (key.clone(), more))
            };
            now.iter().filter_map(count).collect()
        }
        let none = BTreeMap::new();
        let places = self
            .places
            .iter()
            .map(|(place, names)| (*place, less(names, before.places.get(place).unwrap_or(&none))));
        Self {
            sent: self.sent - before.sent,
            places: places.filter(|(_, names)| !names.is_empty()).collect(),
            statuses: less(&self.statuses, &before.statuses),
            names: less(&self.names, &before.names),
            errors: less(&self.errors, &before.errors),
            ..self.clone()
        }
    }

    /// What the client's proxy counted in the series of that name which have all these labels.
    pub fn counted(&self, metric: &str, labels: &[(&str, &str)]) -> f64 {
        let of = |line: &&str| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with('{'));
        let has = |line: &str| labels.iter().all(|(k, v)| line.contains(&format!("{k}=\"{v}\"")));
        let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        self.metrics.lines().filter(of).filter(|line| has(line)).filter_map(value).sum()
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
pub async fn run(plan: Plan) -> anyhow::Result<Report> {
    let dial = Dial::new(plan.connect.as_deref(), plan.roots.as_deref(), plan.http2)?;
    let left = Arc::new(AtomicI64::new(plan.count.map_or(i64::MAX, i64::from)));
    let report = Arc::new(Mutex::new(Report::default()));
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
    let telling = plan.progress.as_deref().map(Progress::of);
    let teller = telling.clone().map(|progress| tokio::spawn(progress.tell(Arc::clone(&report))));
    let numbers = Arc::new(AtomicU64::new(0));
    let shared = connection(&plan, dial.clone());
    let workers: Vec<_> = (0..plan.connections.max(1))
        .map(|_| {
            let (plan, left, report) = (Arc::clone(&plan), Arc::clone(&left), Arc::clone(&report));
            let client = if plan.share { shared.clone() } else { connection(&plan, dial.clone()) };
            tokio::spawn(worker(plan, (left, Arc::clone(&numbers)), client, report))
        })
        .collect();
    for worker in workers {
        let _ = worker.await;
    }
    stop.abort();
    if let Some(teller) = teller {
        teller.abort();
        let _ = teller.await;
    }
    let mut report = report.lock().await.clone();
    if let Some(progress) = telling {
        progress.write(&report)?;
    }
    report.opened = dial.opened();
    report.certificates = dial.certificates();
    if plan.metrics {
        let plan = Plan { url: METRICS.into(), method: "GET".into(), headers: Vec::new(), ..(*plan).clone() };
        let got = once(&connection(&plan, dial), &plan, 0, None).await;
        report.metrics = got.map_or_else(|error| error, |got| got.answer.body);
    }
    let mut waits = std::mem::take(&mut report.waits_us);
    waits.sort_unstable();
    report.total_us = waits.iter().sum();
    report.median_us = waits.get(waits.len() / 2).copied().unwrap_or_default();
    Ok(report)
}

/// Waits for SIGTERM.
pub async fn linger() {
    if let Ok(mut term) = signal(SignalKind::terminate()) {
        term.recv().await;
    }
}

/// The file of `--progress`, and the one that takes its place next.
#[derive(Clone)]
struct Progress {
    file: PathBuf,
    next: PathBuf,
}

impl Progress {
    fn of(file: &Path) -> Self {
        Self { file: file.to_owned(), next: file.with_extension("next") }
    }

    async fn tell(self, report: Arc<Mutex<Report>>) {
        loop {
            let now = report.lock().await.clone();
            let _ = self.write(&now);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn write(&self, report: &Report) -> std::io::Result<()> {
        std::fs::write(&self.next, serde_json::to_vec(report)?)?;
        std::fs::rename(&self.next, &self.file)
    }
}

type Connection = Client<Dial, Full<Bytes>>;

fn connection(plan: &Plan, dial: Dial) -> Connection {
    let mut builder = Client::builder(TokioExecutor::new());
    builder.http2_only(plan.http2).retry_canceled_requests(false);
    if plan.fresh {
        builder.pool_max_idle_per_host(0);
    }
    builder.build(dial)
}

async fn worker(
    plan: Arc<Plan>,
    (left, numbers): (Arc<AtomicI64>, Arc<AtomicU64>),
    client: Connection,
    report: Arc<Mutex<Report>>,
) {
    // The first number of a connection is the connection's own.
    let mut cookie: Option<(u64, String)> = None;
    while left.fetch_sub(1, Ordering::Relaxed) > 0 {
        let start = Instant::now();
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let asked = once(&client, &plan, number % plan.vary.max(1), cookie.as_ref().map(|(_, text)| &**text));
        let outcome = tokio::time::timeout(Duration::from_millis(plan.patience), asked).await;
        let waited = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        if plan.until_ok && matches!(&outcome, Ok(Ok(got)) if got.answer.status == 200) {
            left.store(0, Ordering::Relaxed);
        }
        let mut report = report.lock().await;
        report.sent += 1;
        report.slowest_ms = report.slowest_ms.max(waited / 1000);
        report.waits_us.push(waited);
        match outcome {
            Ok(Ok(got)) => {
                if let Some(given) = got.cookie.filter(|_| plan.keep_cookies) {
                    cookie.get_or_insert((number, String::new())).1 = given;
                }
                let place = match &cookie {
                    Some((own, _)) => Some(*own),
                    None => (plan.vary > 1).then_some(number % plan.vary),
                };
                report.count(got.answer, place);
            }
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
    fn count(&mut self, answer: Answer, place: Option<u64>) {
        *self.statuses.entry(answer.status).or_default() += 1;
        self.last = answer;
        let Answer { status, body, .. } = &self.last;
        if *status != 200 {
            self.last_failure.clone_from(body);
            return;
        }
        self.last_body.clone_from(body);
        let value: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        if let Some(name) = value["name"].as_str().or_else(|| value["podname"].as_str()) {
            *self.names.entry(name.to_owned()).or_default() += 1;
            let now = now_ms();
            self.seen.entry(name.to_owned()).or_insert((now, now)).1 = now;
            if let Some(place) = place {
                *self.places.entry(place).or_default().entry(name.to_owned()).or_default() += 1;
            }
        }
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

struct Got {
    answer: Answer,
    /// `name=value` of a cookie that was set.
    cookie: Option<String>,
}

async fn once(client: &Connection, plan: &Plan, number: u64, cookie: Option<&str>) -> Result<Got, String> {
    if let Some(address) = plan.url.strip_prefix("tcp://") {
        return over_tcp(address).await;
    }
    let method = Method::from_bytes(plan.method.as_bytes()).map_err(|e| e.to_string())?;
    let mut request = Request::builder().method(method).uri(&plan.url);
    for header in &plan.headers {
        let (name, value) = header.split_once(':').ok_or("a header without a colon")?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|e| e.to_string())?;
        let value = value.trim().replace(NUMBER, &number.to_string());
        request = request.header(name, HeaderValue::from_str(&value).map_err(|e| e.to_string())?);
    }
    if let Some(cookie) = cookie {
        request = request.header(http::header::COOKIE, cookie);
    }
    let request = request.body(Full::from(plan.body.clone())).map_err(|e| e.to_string())?;
    let response = client.request(request).await.map_err(|e| chain(&e))?;
    let status = response.status().as_u16();
    let set = response.headers().get(http::header::SET_COOKIE).and_then(|value| value.to_str().ok());
    let cookie = set.and_then(|set| set.split(';').next()).map(str::to_owned);
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let body = response.into_body().collect().await.map_err(|e| chain(&e))?.to_bytes();
    let answer = Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() };
    Ok(Got { answer, cookie })
}

/// A connection that is answered counts as 200.
async fn over_tcp(address: &str) -> Result<Got, String> {
    let converse = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"hello\n").await?;
        let mut text = vec![0; 4096];
        let length = stream.read(&mut text).await?;
        text.truncate(length);
        std::io::Result::Ok(text)
    };
    match converse.await {
        Ok(text) if text.is_empty() => Err("closed without a word".into()),
        Ok(text) => {
            let body = String::from_utf8_lossy(&text).into_owned();
            Ok(Got { answer: Answer { status: 200, body, ..Answer::default() }, cookie: None })
        }
        Err(error) => Err(error.to_string()),
    }
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
