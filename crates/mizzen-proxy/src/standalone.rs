//! `mizzen-proxy --config FILE`: a proxy from an Envoy v3 bootstrap, YAML or JSON, without an agent.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use proxy::bootstrap::{Overrides, settings};

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
    /// How long requests may take to end after SIGTERM, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    drain_time_s: u64,
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
    let handle = proxy::start(settings).await?;
    crate::memory::give_back();
    tokio::select! {
        () = handle.stopped() => {}
        ended = runtime::shutdown::requested() => {
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
