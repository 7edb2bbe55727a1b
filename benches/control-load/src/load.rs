//! The measurement: first sync, one endpoint, one route.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::ResourceType;
use testkit::cost::{Cost, load_average};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use xds::Mode;
use xds::grpc::Outbound;

use crate::sidecar::{self, Acknowledged};
use crate::table::{Figure, Scale, Setup, Table, time};
use crate::{keys, server};

/// Changes of each kind.
const ROUNDS: usize = 7;

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    server: server::Mesh,
    #[arg(long, default_value_t = 1000)]
    sidecars: usize,
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// State of the world instead of delta
    #[arg(long)]
    sotw: bool,
}

impl Options {
    fn setup(&self) -> Setup {
        let scale = match (self.server.services, self.server.endpoints, self.sidecars) {
            (1000, 10, 1000) => Scale::Wide,
            (10_000, 10, 100) => Scale::Deep,
            _ => Scale::Other,
        };
        Setup { scale, scoped: self.server.scoped > 0, tls: self.server.tls }
    }
}

struct Server {
    child: Child,
    stdin: ChildStdin,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What one step took.
#[derive(Debug, Clone, Copy)]
struct Step {
    p50: Duration,
    p99: Duration,
    last: Duration,
    /// Of the control plane, and of the sidecars.
    cpu: [f64; 2],
    bytes: usize,
    responses: usize,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    let (served, client) = if options.server.tls { Some(keys::make()?) } else { None }.unzip();
    let mut server = Server::start(&options.server, served.as_ref())?;
    let idle = Cost::of(server.child.id())?;
    let mode = if options.sotw { Mode::Sotw } else { Mode::Delta };
    let (tell, mut told) = mpsc::unbounded_channel();
    let meter = Meter::start(server.child.id())?;
    connect(options, mode, &server.address, client.as_ref(), &tell).await?;
    let first = [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route];
    let sync = collect(&mut told, options.sidecars, &first, &meter).await?;
    let synced = Cost::of(server.child.id())?;
    let mut changes = Vec::new();
    for (change, of) in [("endpoint", ResourceType::Endpoint), ("route", ResourceType::Route)] {
        let mut steps = Vec::new();
        for _ in 0..ROUNDS {
            let meter = Meter::start(server.child.id())?;
            writeln!(server.stdin, "{change}").context("the server has gone")?;
            steps.push(collect(&mut told, options.sidecars, &[of], &meter).await?);
        }
        steps.sort_by_key(|step| step.p99);
        changes.push(steps);
    }
    let end = Cost::of(server.child.id())?;
    drop(told);
    print(options, &sync, &changes, [idle, synced, end]);
    Ok(())
}

fn print(options: &Options, sync: &Step, changes: &[Vec<Step>], [idle, synced, end]: [Cost; 3]) {
    let setup = options.setup();
    let server::Mesh { services, endpoints, scoped, tls, embedded } = options.server;
    println!(
        "{services} services x {endpoints} endpoints{}, {} sidecars{}, {}, {} {} connections; {} processors, load {}",
        if embedded { " in the embedded API" } else { "" },
        options.sidecars,
        if scoped > 0 { format!(" that see {scoped} services each") } else { String::new() },
        if options.sotw { "state of the world" } else { "delta" },
        options.connections,
        if tls { "TLS" } else { "plaintext" },
        std::thread::available_parallelism().map_or(0, usize::from),
        load_average(),
    );
    let mut table = Table::new();
    table.row("first sync: last sidecar", time(sync.last), setup.beside(Figure::SyncTime));
    table.row("  CPU", seconds(sync.cpu), setup.beside(Figure::SyncCpu));
    let of_each = format!("{:.2} MB", sync.bytes as f64 / 1e6 / options.sidecars as f64);
    table.row("  sent to each sidecar", of_each, setup.beside(Figure::SyncBytes));
    let peak = format!("{:.0} MB", synced.peak);
    table.row("  memory, peak", peak, setup.beside(Figure::Memory));
    table.note("  memory before anybody came", format!("{:.0} MB", idle.resident));
    let figures = [(Figure::EndpointTime, Figure::EndpointCpu), (Figure::RouteTime, Figure::RouteCpu)];
    for ((name, steps), (of_time, of_cpu)) in ["endpoint", "route"].iter().zip(changes).zip(figures) {
        let (best, median) = (&steps[0], &steps[steps.len() / 2]);
        table.row(&format!("one {name}, median of {ROUNDS}"), times(median), setup.beside(of_time));
        table.note("  best of them", times(best));
        let mean = |of: usize| steps.iter().map(|step| step.cpu[of]).sum::<f64>() / steps.len() as f64;
        table.row("  CPU, mean", seconds([mean(0), mean(1)]), setup.beside(of_cpu));
        let sent = format!("{:.2} MB in {} responses", median.bytes as f64 / 1e6, median.responses);
        table.note("  sent", sent);
    }
    let after = format!("{:.0} MB (peak {:.0} MB)", end.resident, end.peak);
    table.row("memory at the end", after, setup.beside(Figure::MemoryAfter));
    println!("{table}");
}

fn times(step: &Step) -> String {
    format!("p50 {}, p99 {}, last {}", time(step.p50), time(step.p99), time(step.last))
}

fn seconds([control_plane, sidecars]: [f64; 2]) -> String {
    format!("{control_plane:.2} s (sidecars {sidecars:.2} s)")
}

impl Server {
    fn start(options: &server::Mesh, served: Option<&keys::Served>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("serve")
            .args(["--services", &options.services.to_string()])
            .args(["--endpoints", &options.endpoints.to_string()])
            .args(["--scoped", &options.scoped.to_string()])
            .args(options.tls.then_some("--tls"))
            .args(options.embedded.then_some("--embedded"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("no pipes")
        };
        if let Some(served) = served {
            writeln!(stdin, "{}", serde_json::to_string(served)?)?;
        }
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.split_whitespace().next().context("the server did not start")?.to_owned();
        Ok(Self { child, stdin, address })
    }
}

async fn connect(
    options: &Options,
    mode: Mode,
    address: &str,
    client: Option<&keys::Client>,
    tell: &mpsc::UnboundedSender<Acknowledged>,
) -> Result<()> {
    let mut connections = Vec::new();
    for _ in 0..options.connections {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        connections.push(match client {
            Some(client) => {
                let connector = tokio_rustls::TlsConnector::from(client.config.clone());
                speak(connector.connect(client.name.clone(), stream).await?).await?
            }
            None => speak(stream).await?,
        });
    }
    for number in 0..options.sidecars {
        let http = connections[number % connections.len()].clone();
        let (tell, address, services) = (tell.clone(), address.to_owned(), options.server.services);
        tokio::spawn(async move {
            let ended = sidecar::run(number, services, mode, address, http, tell.clone()).await;
            // At the end nobody listens any more, and the server is stopped.
            if let Err(e) = ended
                && !tell.is_closed()
            {
                eprintln!("sidecar {number}: {e:#}");
            }
        });
    }
    Ok(())
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Outbound>> {
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(1 << 20).initial_connection_window_size(16 << 20);
    let (http, connection) = builder.handshake::<_, Outbound>(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(http)
}

/// When a step began, and what both processes had cost by then.
struct Meter {
    server: u32,
    started: Instant,
    cpu: [f64; 2],
}

impl Meter {
    fn start(server: u32) -> Result<Self> {
        Ok(Self { server, cpu: Self::read(server)?, started: Instant::now() })
    }

    fn read(server: u32) -> Result<[f64; 2]> {
        Ok([Cost::of(server)?.cpu, Cost::of(std::process::id())?.cpu])
    }

    fn cpu(&self) -> Result<[f64; 2]> {
        let now = Self::read(self.server)?;
        Ok([now[0] - self.cpu[0], now[1] - self.cpu[1]])
    }
}

/// Waits until every sidecar has acknowledged each of the types since the start.
async fn collect(
    told: &mut mpsc::UnboundedReceiver<Acknowledged>,
    sidecars: usize,
    types: &[ResourceType],
    meter: &Meter,
) -> Result<Step> {
    let mut missing: Vec<usize> = vec![types.len(); sidecars];
    let mut seen = vec![[false; ResourceType::ALL.len()]; sidecars];
    let mut times = Vec::with_capacity(sidecars);
    let (mut bytes, mut responses) = (0, 0);
    while times.len() < sidecars {
        let next = tokio::time::timeout(Duration::from_secs(180), told.recv()).await;
        let Some(one) = next.with_context(|| format!("only {} sidecars have it after 180 s", times.len()))?
        else {
            bail!("the sidecars have gone");
        };
        bytes += one.bytes;
        responses += 1;
        let waits = types.contains(&one.resource_type) && one.resources > 0;
        if waits && !std::mem::replace(&mut seen[one.sidecar][one.resource_type as usize], true) {
            missing[one.sidecar] -= 1;
            if missing[one.sidecar] == 0 {
                times.push(one.at.saturating_duration_since(meter.started));
            }
        }
    }
    settle(told).await;
    let cpu = meter.cpu()?;
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    Ok(Step { p50: at(0.5), p99: at(0.99), last: at(1.0), cpu, bytes, responses })
}

/// Lets what is on its way arrive: its cost counts, and the next step starts from rest.
async fn settle(told: &mut mpsc::UnboundedReceiver<Acknowledged>) {
    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(500), told.recv()).await {}
}
