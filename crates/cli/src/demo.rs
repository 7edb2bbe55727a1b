//! `mizzen demo`: Bookinfo in a mesh on this machine, with traffic, until Ctrl-C.
//!
//! The control plane is `mizzen up` as a process of its own; the services are what `mizzen run` makes. All that is
//! made lives in processes, their namespaces and one temporary folder.

mod check;
mod database;
mod parts;
mod plane;
mod traffic;

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use agent::host::Launcher;
use anyhow::{Context, bail};
use futures::future::{join_all, try_join_all};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    check::{findings, obstacles},
    workload::{Door, Inside, Mesh, Registry, Running, ensure_namespace, programs},
};
use database::Database;
use plane::Plane;
use traffic::Traffic;

#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Port of the product page on this machine
    #[arg(long, default_value_t = 9080)]
    port: u16,
    /// Check that everything works and exit: 0 if it does, 1 if not
    #[arg(long)]
    check: bool,
    /// Keep the folder with the logs
    #[arg(long)]
    keep: bool,
    /// Requests per second that are sent to the page
    #[arg(long, default_value_t = 5, value_name = "N")]
    rate: u16,
    /// Start sooner: with the sample's own small database, even where MariaDB is installed
    #[arg(long)]
    small_database: bool,
}

pub(crate) fn execute(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    runtime::logging::init(runtime::logging::Format::Text, "error");
    let obstacles = obstacles(&findings()?);
    if !obstacles.is_empty() {
        bail!("this machine does not allow a mesh yet; `mizzen check` tells all\n{obstacles}");
    }
    let programs = programs::find(&["mizzen-proxy", "bookinfo"])?;
    let [proxy, bookinfo] = programs.try_into().map_err(|_| anyhow::anyhow!("a program is missing"))?;
    crate::block_on(demo(args, Programs { proxy, bookinfo }))
}

struct Programs {
    proxy: PathBuf,
    bookinfo: PathBuf,
}

async fn demo(args: &DemoArgs, programs: Programs) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let folder =
        tempfile::Builder::new().prefix("mizzen-demo-").tempdir().context("make a folder for the demo")?;
    let mut stage = Stage::new(folder.path());
    let outcome = tokio::select! {
        outcome = perform(args, &programs, &mut stage) => outcome,
        _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => Ok(ExitCode::SUCCESS),
    };
    stage.clear().await;
    let has_logs = folder.path().read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if args.keep || outcome.is_err() && has_logs {
        eprintln!("logs are kept in {}", folder.keep().display());
    }
    outcome
}

/// Everything that must be ended, whatever happens.
struct Stage {
    folder: PathBuf,
    plane: Option<Plane>,
    running: Vec<Running>,
    progress: ProgressBar,
}

impl Stage {
    fn new(folder: &Path) -> Self {
        let progress = ProgressBar::new_spinner();
        progress.set_style(
            ProgressStyle::with_template("{spinner} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        Self { folder: folder.to_owned(), plane: None, running: Vec::new(), progress }
    }

    fn say(&self, what: impl Into<String>) {
        let what = what.into();
        if self.progress.is_hidden() {
            eprintln!("{what}");
        }
        self.progress.set_message(what);
        self.progress.enable_steady_tick(Duration::from_millis(100));
    }

    async fn clear(&mut self) {
        self.say("taking everything down");
        for ended in join_all(self.running.drain(..).map(Running::end)).await {
            if let Err(error) = ended {
                tracing::debug!("{error:#}");
            }
        }
        if let Some(plane) = self.plane.take() {
            plane.end().await;
        }
        self.progress.finish_and_clear();
    }
}

async fn perform(args: &DemoArgs, programs: &Programs, stage: &mut Stage) -> anyhow::Result<ExitCode> {
    // Before any work: a port in use is the commonest obstacle.
    let door = Door::open((Ipv4Addr::LOCALHOST, args.port).into())
        .await
        .context("the product page's port: choose another with --port")?;
    stage.say("starting the control plane");
    let launcher = Launcher::default();
    // The database takes a few seconds to be made.
    let folder = stage.folder.clone();
    let made = async {
        anyhow::Ok(match args.small_database {
            true => Database::Sample("as asked".into()),
            false => Database::make(&folder).await,
        })
    };
    let (plane, database) = tokio::try_join!(Plane::start(&stage.folder, &launcher), made)?;
    stage.plane = Some(plane);
    let plane = stage.plane.as_ref().context("the control plane")?;
    let client = plane.client().await?;
    let registry = Registry::Api(client.clone());
    let mesh = Mesh { registry, launcher, proxy: programs.proxy.clone() };
    stage.say("applying the routes of Bookinfo");
    ensure_namespace(client, parts::GATEWAY_NAMESPACE).await?;
    plane.apply(&parts::manifests(&stage.folder)?).await?;

    stage.say("starting the gateway and Bookinfo's services");
    let specs = parts::all(&programs.bookinfo, &database, &stage.folder);
    let prepared = try_join_all(specs.into_iter().map(|spec| Running::prepare(&mesh, spec))).await?;
    stage.running = prepared;
    try_join_all(stage.running.iter_mut().map(Running::start)).await?;
    let gateway = stage.running.first().context("the gateway")?;
    let hub = Arc::new(agent::host::Hub::join(&mesh.launcher)?);
    let gateway = Inside { hub: Arc::clone(&hub), address: (gateway.address, parts::GATEWAY_PORT).into() };

    stage.say("waiting for the product page");
    plane.await_settled().await?;
    check::await_page(&gateway).await?;
    // Who comes earlier waits at the door instead of being told 503.
    let _door = door.lead_to(gateway);
    if args.check {
        let proxies = stage.running.iter().map(|running| check::Proxy::of(running, &hub)).collect();
        let report = check::Demo { port: args.port, plane, proxies, database: &database }.check().await;
        stage.progress.finish_and_clear();
        return Ok(report);
    }
    let traffic = Traffic::start(args.port, args.rate);
    stage.progress.finish_and_clear();
    let console = plane.console_signed_in()?;
    print!("{}", parts::welcome(args.port, &console, &database, plane.kubeconfig(), &stage.folder));
    let ended = join_ended(&mut stage.running).await;
    drop(traffic);
    ended
}

/// The demo lasts until it is interrupted, or until a service of it ends by itself.
async fn join_ended(running: &mut [Running]) -> anyhow::Result<ExitCode> {
    let all = running.iter_mut().map(|running| {
        Box::pin(async move {
            let status = running.ended().await;
            (running.name.clone(), status)
        })
    });
    let ((name, status), _, _) = futures::future::select_all(all).await;
    bail!("{name} ended by itself with exit code {}", status?.code())
}
