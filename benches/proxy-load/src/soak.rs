//! `cargo xtask soak`: mixed load while configuration changes, upstreams die and connections are cut.
//!
//! The proxy is a process of its own with its configuration in files; so is each upstream. What is done follows from a seed
//! (`plan`), each request knows what it is owed (`book`), and at the end everything has to add up (`verdict`). With
//! `--peer envoy` the same is done to Envoy, whose failures stand beside ours.

pub(crate) mod backend;
mod book;
mod client;
mod fit;
mod fleet;
mod layout;
mod load;
mod plan;
mod rude;
mod verdict;
mod watch;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use testkit::peers;
use tokio::sync::watch as told;
use tokio::time::{sleep, sleep_until, timeout};

use self::book::{Book, Class, Door, Fault, Tally};
use self::client::Way;
use self::fleet::Fleet;
use self::layout::{Layout, Ports, write};
use self::load::Shared;
use self::plan::{Change, Step, plan};
use self::verdict::Check;
use self::watch::{Sample, Stats};
use crate::keys::Keys;
use crate::process::{Asks, Process};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The mizzen-proxy that is soaked
    #[arg(long, value_name = "FILE")]
    proxy: PathBuf,
    /// How long
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// All changes and requests follow from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Do the same to this one, and compare
    #[arg(long, value_enum)]
    peer: Option<Peer>,
    /// The first of the ports that are used
    #[arg(long, default_value_t = 24_100)]
    port: u16,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Peer {
    Envoy,
}

/// How often the process is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long what has ended may take to be gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of one proxy.
struct Outcome {
    book: Book,
    checks: Vec<Check>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    ensure!(options.minutes > 0.0, "--minutes: more than 0");
    ensure!(options.proxy.is_file(), "--proxy: {} is no file", options.proxy.display());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ours = runtime.block_on(soak(options, "mizzen-proxy", |config| {
        let mut command = Command::new(&options.proxy);
        command.args(["--concurrency", "2", "--config"]).arg(config);
        command
    }))?;
    ours.print("mizzen-proxy");
    if let Some(Peer::Envoy) = options.peer {
        let envoy = peers::envoy().context("--peer envoy: run `cargo xtask peers envoy`")?;
        let theirs = runtime.block_on(soak(options, "Envoy", |config| {
            let mut command = Command::new(&envoy);
            command
                .args(["--concurrency", "2", "--disable-hot-restart", "--log-level", "error"])
                .args(["--drain-time-s", "2", "-c"])
                .arg(config);
            command
        }))?;
        theirs.print("Envoy");
        compare(&ours.book, &theirs.book);
    }
    let holds = ours.checks.iter().all(|check| check.holds);
    println!("\n{}", if holds { "All holds." } else { "**Not all holds.**" });
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Outcome {
    fn print(&self, name: &str) {
        println!("\n### {name}\n\n| what | found | wanted | |\n|---|---|---|---|");
        self.checks.iter().for_each(|check| println!("{check}"));
    }
}

/// Failures by kind, of both.
fn compare(ours: &Book, theirs: &Book) {
    println!("\n### Failures by kind\n\n| what | mizzen-proxy | Envoy |\n|---|---|---|");
    for (word, of) in [("met a fault", excused as fn(&Tally) -> &BTreeMap<String, u64>), ("lost", lost)] {
        let (ours, theirs) = (ours.failures(of), theirs.failures(of));
        let kinds: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        for kind in kinds {
            let count = |of: &BTreeMap<String, u64>| of.get(kind).copied().unwrap_or_default();
            println!("| {kind} ({word}) | {} | {} |", count(&ours), count(&theirs));
        }
    }
    println!("| requests | {} | {} |", ours.all(), theirs.all());
}

fn excused(tally: &Tally) -> &BTreeMap<String, u64> {
    &tally.excused
}

fn lost(tally: &Tally) -> &BTreeMap<String, u64> {
    &tally.lost
}

/// One proxy under the whole plan.
async fn soak(options: &Options, name: &str, command: impl Fn(&Path) -> Command) -> Result<Outcome> {
    let ports = Ports { base: options.port };
    for port in ports.all() {
        std::net::TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("port {port} is taken"))?;
    }
    let folder = tempfile::tempdir()?;
    let keys = Keys::make(folder.path())?;
    let files = folder.path().join("resources");
    std::fs::create_dir(&files)?;
    let layout = Layout::new(ports, &files, &keys);
    write(&files, &layout.files())?;
    let config = folder.path().join("config.json");
    std::fs::write(&config, layout.bootstrap().to_string())?;
    let mut command = command(&config);
    // Ctrl-C is for us alone.
    let mut process = Process::start(command.process_group(0), &folder.path().join("output"))?;
    process.ready(ports.admin(), Asks::Connection)?;
    until(async || watch::get(ports.admin(), "/ready").await.is_ok()).await.context("it is never ready")?;
    // Without upstreams and load: as it will be again at the end.
    sleep(LOOK).await;
    let start = Sample::of(process.pid())?;
    let mut fleet = Fleet::new(ports, &keys);
    fleet.start_all()?;
    until(async || healthy(ports.admin()).await).await.context("upstreams are never healthy")?;

    let tls = client::connector(&keys)?;
    let ways = move |class: Class| {
        let door = class.door();
        Way { port: ports.door(door), tls: (door == Door::Tls).then(|| tls.clone()) }
    };
    let shared = Arc::new(Shared { book: Mutex::default(), faults: Mutex::default(), ways: Box::new(ways) });
    let length = Duration::from_secs_f64(options.minutes * 60.0);
    let (stop, stopped) = told::channel(false);
    let mut run = Run {
        name,
        begun: Instant::now(),
        length,
        steps: plan(options.seed, length),
        layout,
        files: &files,
        fleet,
        process,
        shared: Arc::clone(&shared),
        points: Vec::new(),
    };
    println!("{name}: {:.1} minutes, {} changes, seed {}", options.minutes, run.steps.len(), options.seed);
    let workers = load::start(&shared, options.seed, &stopped);
    let went = run.go().await;
    let _ = stop.send(true);
    for worker in workers {
        timeout(PATIENCE, worker).await.context("a worker never ends")??;
    }
    if let Err(error) = went {
        bail!("{name} after {:?}: {error:#}\n{}", run.begun.elapsed(), run.process.last_words());
    }
    run.end(start, ports.admin()).await
}

/// Asks again and again; whether it came true in time.
async fn until(mut holds: impl AsyncFnMut() -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if holds().await {
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
    bail!("not within {PATIENCE:?}")
}

async fn healthy(admin: u16) -> bool {
    let stats = Stats::read(admin).await.unwrap_or_default();
    stats.get("cluster.mortal.membership_healthy") == plan::MORTAL as u64
}

struct Run<'a> {
    name: &'a str,
    begun: Instant,
    length: Duration,
    steps: Vec<Step>,
    layout: Layout<'a>,
    files: &'a Path,
    fleet: Fleet<'a>,
    process: Process,
    shared: Arc<Shared>,
    /// Memory, as seconds and kilobytes.
    points: Vec<(f64, f64)>,
}

impl Run<'_> {
    /// Until the time is over, or somebody has enough.
    async fn go(&mut self) -> Result<()> {
        let mut looks = tokio::time::interval(LOOK);
        let mut minute = Duration::from_secs(60);
        let mut next = 0;
        let mut enough = std::pin::pin!(tokio::signal::ctrl_c());
        loop {
            let due = self.steps.get(next).map_or(self.length, |step| step.at);
            tokio::select! {
                () = sleep_until((self.begun + due).into()) => {
                    let Some(step) = self.steps.get(next).cloned() else { return Ok(()) };
                    tokio::task::block_in_place(|| self.change(&step.change))?;
                    next += 1;
                }
                _ = looks.tick() => {
                    let sample = Sample::of(self.process.pid())?;
                    ensure!(self.process.is_running()?, "it has ended");
                    self.points.push((self.begun.elapsed().as_secs_f64(), sample.memory as f64));
                    if self.begun.elapsed() >= minute {
                        minute += Duration::from_secs(60);
                        self.tell(sample, next);
                    }
                }
                _ = &mut enough => {
                    println!("{}: ended early", self.name);
                    return Ok(());
                }
            }
        }
    }

    fn change(&mut self, change: &Change) -> Result<()> {
        let now = Instant::now;
        match change {
            Change::Kill(number) => {
                self.shared.faults().begin(Fault::Backend, now());
                self.fleet.kill(*number);
            }
            Change::Start(number) => {
                self.fleet.start(*number)?;
                self.shared.faults().end(Fault::Backend, now());
            }
            Change::Absent | Change::Listener { .. } => self.shared.faults().begin(Fault::Listener, now()),
            _ => {}
        }
        write(self.files, &self.layout.apply(change))?;
        if matches!(change, Change::Present | Change::Listener { .. }) {
            self.shared.faults().end(Fault::Listener, now());
        }
        Ok(())
    }

    fn tell(&self, sample: Sample, changes: usize) {
        let book = self.shared.book();
        let list = |all: BTreeMap<String, u64>| {
            let all: Vec<String> = all.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
            if all.is_empty() { "none".to_owned() } else { all.join(", ") }
        };
        println!(
            "{}: {:.0} min, {} requests, {} changes, {} kB, {} descriptors, {} threads; lost: {}; met a fault: {}",
            self.name,
            self.begun.elapsed().as_secs_f64() / 60.0,
            book.all(),
            changes,
            sample.memory,
            sample.descriptors,
            sample.threads,
            list(book.failures(lost)),
            list(book.failures(excused)),
        );
    }

    /// Judges: first the counters, while all is there; then what is left when all is gone.
    async fn end(mut self, start: Sample, admin: u16) -> Result<Outcome> {
        let is_idle = async || Stats::read(admin).await.is_ok_and(|it| it.sum(".downstream_rq_active") == 0);
        // Whether it is so is judged below.
        let _ = until(is_idle).await;
        let stats = Stats::read(admin).await?;
        let book = self.shared.book().clone();
        let mut checks = verdict::requests(&book);
        checks.extend(verdict::counters(&book, &stats));
        checks.extend(verdict::configuration(&stats));
        self.fleet.kill_all();
        let pid = self.process.pid();
        // The last reading is the one that is judged: health checks try their luck with upstreams again and again.
        let mut last = (Stats::default(), start);
        let is_at_rest = async || {
            let (Ok(stats), Ok(sample)) = (Stats::read(admin).await, Sample::of(pid)) else { return false };
            let holds = verdict::rest(&stats, start, sample).iter().all(|check| check.holds);
            last = (stats, sample);
            holds
        };
        let _ = until(is_at_rest).await;
        checks.extend(verdict::rest(&last.0, start, last.1));
        checks.extend(verdict::memory(&self.points));
        Ok(Outcome { book, checks })
    }
}
