//! The measurement: first sync, one endpoint, one route.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::ResourceType;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use xds::Mode;
use xds::grpc::Outbound;

use crate::process::Cost;
use crate::server;
use crate::sidecar::{self, Acknowledged};

/// Changes of each kind; the median run is printed.
const ROUNDS: usize = 5;

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
    cpu: f64,
    bytes: usize,
    responses: usize,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    let mut server = Server::start(&options.server)?;
    let pid = server.child.id();
    let idle = Cost::of(pid)?;
    let mode = if options.sotw { Mode::Sotw } else { Mode::Delta };
    let (tell, mut told) = mpsc::unbounded_channel();
    let started = Instant::now();
    connect(options, mode, &server.address, &tell).await?;
    let first = [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route];
    let sync = collect(&mut told, options.sidecars, &first, started, pid, idle.cpu).await?;
    let synced = Cost::of(pid)?;
    println!(
        "{mode:?}: {} services x {} endpoints, {} sidecars",
        options.server.services, options.server.endpoints, options.sidecars
    );
    print("first sync", &sync);
    println!(
        "  {:.1} MB a sidecar; memory peak {:.0} MB, now {:.0} MB",
        sync.bytes as f64 / 1e6 / options.sidecars as f64,
        synced.peak,
        synced.resident
    );
    for (change, of) in [("endpoint", ResourceType::Endpoint), ("route", ResourceType::Route)] {
        let mut steps = Vec::new();
        for _ in 0..ROUNDS {
            settle(&mut told).await;
            let before = Cost::of(pid)?.cpu;
            let started = Instant::now();
            writeln!(server.stdin, "{change}").context("the server has gone")?;
            steps.push(collect(&mut told, options.sidecars, &[of], started, pid, before).await?);
        }
        steps.sort_by_key(|step| step.p99);
        print(change, &steps[ROUNDS / 2]);
    }
    let end = Cost::of(pid)?;
    drop(told);
    println!(
        "  memory peak {:.0} MB, at the end {:.0} MB; idle before anybody came {:.0} MB",
        end.peak, end.resident, idle.resident
    );
    Ok(())
}

fn print(what: &str, step: &Step) {
    println!(
        "  {what}: p50 {:.3} s, p99 {:.3} s, last {:.3} s; CPU {:.2} s; {:.2} MB in {} responses",
        step.p50.as_secs_f64(),
        step.p99.as_secs_f64(),
        step.last.as_secs_f64(),
        step.cpu,
        step.bytes as f64 / 1e6,
        step.responses,
    );
}

impl Server {
    fn start(options: &server::Mesh) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .args(["--services", &options.services.to_string()])
            .args(["--endpoints", &options.endpoints.to_string()])
            .args(["--scoped", &options.scoped.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("no pipes")
        };
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
    tell: &mpsc::UnboundedSender<Acknowledged>,
) -> Result<()> {
    let mut connections = Vec::new();
    for _ in 0..options.connections {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(1 << 20).initial_connection_window_size(16 << 20);
        let (http, connection) = builder.handshake::<_, Outbound>(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        connections.push(http);
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

/// Waits until every sidecar has acknowledged each of the types since the start.
async fn collect(
    told: &mut mpsc::UnboundedReceiver<Acknowledged>,
    sidecars: usize,
    types: &[ResourceType],
    started: Instant,
    pid: u32,
    cpu_before: f64,
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
                times.push(one.at.saturating_duration_since(started));
            }
        }
    }
    let cpu = Cost::of(pid)?.cpu - cpu_before;
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    Ok(Step { p50: at(0.5), p99: at(0.99), last: at(1.0), cpu, bytes, responses })
}

/// Lets what is on its way arrive, so that the next step starts from rest.
async fn settle(told: &mut mpsc::UnboundedReceiver<Acknowledged>) {
    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(500), told.recv()).await {}
}
