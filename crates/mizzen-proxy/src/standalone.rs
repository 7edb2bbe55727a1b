//! `mizzen-proxy --config FILE`: a proxy from an Envoy v3 bootstrap, YAML or JSON, without an agent.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use proxy::Handle;
use proxy::bootstrap::{Overrides, settings};
use proxy::restart::{Parent, Successor, Times};

/// What a proxy without an agent is told.
#[derive(Debug, clap::Args)]
pub(crate) struct StandaloneArgs {
    /// An Envoy v3 bootstrap, YAML or JSON; - for standard input
    #[arg(long, short = 'c', value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// serve, or validate and exit
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    mode: Mode,
    /// Worker threads; all cores if absent
    #[arg(long)]
    concurrency: Option<usize>,
    /// The admin port, in place of the bootstrap's
    #[arg(long)]
    admin_port: Option<u16>,
    /// The node's id, in place of the bootstrap's
    #[arg(long, value_name = "ID")]
    service_node: Option<String>,
    /// Keep what control planes send in this file, and start from it when none answers
    #[arg(long, value_name = "FILE")]
    last_good: Option<PathBuf>,
    /// How long requests may take to end after SIGTERM, and how long connections without a request are kept when another
    /// process has taken over, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    drain_time_s: u64,
    /// The how-manieth process this is: above 0, the one before is replaced without losing a connection
    #[arg(long, value_name = "N", requires = "base_id")]
    restart_epoch: Option<u32>,
    /// Let this process be replaced by a later one with the same number, and the next --restart-epoch
    #[arg(long, value_name = "N")]
    base_id: Option<u32>,
    /// Where processes that replace each other meet; @NAME is in no file system
    #[arg(long, value_name = "PATH", default_value = "@mizzen_proxy", requires = "base_id")]
    socket_path: String,
    /// How long the process before may take to end, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    parent_shutdown_time_s: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    Serve,
    Validate,
}

/// Runs until it is told to end.
pub(crate) fn run(args: &StandaloneArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(args))
}

async fn serve(args: &StandaloneArgs) -> anyhow::Result<ExitCode> {
    let Some(path) = &args.config else { bail!("--config FILE is needed") };
    let overrides = Overrides {
        concurrency: args.concurrency,
        admin_port: args.admin_port,
        node_id: args.service_node.clone(),
        stdout: None,
        drain_time: Some(Duration::from_secs(args.drain_time_s)),
        last_good: args.last_good.clone(),
    };
    let mut settings = settings(read(path)?, &overrides).with_context(|| path.display().to_string())?;
    if args.mode == Mode::Validate {
        settings.check().map_err(|rejections| {
            let lines: Vec<String> = rejections.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("{}: {}", path.display(), lines.join("\n"))
        })?;
        println!("configuration '{}' OK", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    let meeting =
        args.base_id.map(|base| (format!("{}_{base}", args.socket_path), args.restart_epoch.unwrap_or(0)));
    let mut parent = None;
    if let Some((path, epoch)) = &meeting {
        settings.replaceable = true;
        if let Some(before) = epoch.checked_sub(1) {
            let path = format!("{path}_{before}");
            let (found, inherited) = Parent::connect(&path)
                .with_context(|| format!("--restart-epoch {epoch}: the process before, at {path}"))?;
            settings.inherited = inherited;
            settings.parent = Some(found.clone());
            parent = Some(found);
        }
    }
    let mut end = pin!(runtime::shutdown::requested());
    let handle = proxy::start(settings).await?;
    let mut successor = match &meeting {
        Some((path, epoch)) => {
            let path = format!("{path}_{epoch}");
            let listening = Successor::listen(&path, handle.clone());
            Some(listening.with_context(|| format!("--base-id: cannot listen at {path}"))?)
        }
        None => None,
    };
    crate::memory::give_back();
    let times = Times {
        drain: Duration::from_secs(args.drain_time_s),
        shutdown: Duration::from_secs(args.parent_shutdown_time_s),
    };
    let taking_over = async {
        handle.ready().await;
        if let Some(parent) = &parent {
            match parent.drain(times).await {
                Ok(()) => tracing::info!("this process serves in the place of the one before"),
                Err(error) => tracing::warn!(%error, "the process before does not say that it goes"),
            }
        }
        std::future::pending::<()>().await;
    };
    let replaced = async {
        match &mut successor {
            Some(successor) => successor.takes_over().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = handle.stopped() => {}
        () = taking_over => {}
        times = replaced => {
            tracing::info!("another process serves: this one ends when its connections do");
            tokio::select! {
                ended = &mut end => ended?,
                () = go(&handle, times) => {}
            }
            handle.flush_logs().await;
            if let Some(successor) = successor.take() {
                successor.end().await;
            }
            handle.stop().await;
        }
        ended = &mut end => {
            ended?;
            if !handle.drain().await {
                tracing::warn!(seconds = args.drain_time_s, "requests were still open at the end of the drain time");
            }
            handle.flush_logs().await;
            handle.stop().await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends every connection with its next request, then those without one, and is over with the last or when time is up.
async fn go(handle: &Handle, times: Times) {
    let cut_idle = async {
        tokio::time::sleep(times.drain).await;
        handle.cut_idle().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = cut_idle => {}
        whole = handle.drain_gently(times.shutdown) => if !whole {
            tracing::warn!(seconds = times.shutdown.as_secs(), "connections were still open at the end");
        }
    }
}

/// The bootstrap in its JSON form. JSON is YAML, but many times as much of it is read in the same time by a reader of its own.
fn read(path: &Path) -> anyhow::Result<serde_json::Value> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    }
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(&text)
    {
        return Ok(value);
    }
    serde_yaml_ng::from_str(&text).with_context(|| path.display().to_string())
}
