//! `mizzen run`: any process becomes a workload.
//!
//! Its output, signals and exit code are its own; of the mesh it sees nothing.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use agent::host::{ExitStatus, Launcher};
use anyhow::{Context, bail};
use nix::libc;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    GlobalArgs,
    workload::{JoinFile, Mesh, Port, ProxyArgs, ReadyUrl, Registry, Running, Spec, programs},
};

#[derive(Debug, clap::Args)]
#[command(disable_version_flag = true)]
pub struct RunArgs {
    /// Name of the service that the process belongs to
    #[arg(long, value_name = "NAME")]
    service: String,
    /// Its version: the label that subsets choose by
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// A port of the service, named by its protocol: http=9080, or http=80:9080 if the process listens on another
    #[arg(long = "port", value_name = "NAME=PORT[:PORT]")]
    ports: Vec<Port>,
    /// It is ready when this answers, instead of when it listens on its ports: http://:9080/health
    #[arg(long, value_name = "URL")]
    ready: Option<ReadyUrl>,
    /// User to run the command as (root only)
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    #[command(flatten)]
    proxy: ProxyArgs,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
pub struct HubArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// A helper process: starts with one thread and makes none.
pub(crate) fn hub(args: &HubArgs) -> anyhow::Result<ExitCode> {
    Ok(agent::host::entry(&args.arguments))
}

pub(crate) fn execute(args: &RunArgs) -> anyhow::Result<ExitCode> {
    runtime::logging::init(runtime::logging::Format::Text, "warn");
    let join = args.proxy.join_file()?;
    let spec = spec(args, join.as_ref())?;
    let status = crate::block_on(run(spec, join, &args.global))?;
    match status {
        ExitStatus::Code(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        ExitStatus::Signal(signal) => end_by(signal),
    }
}

fn spec(args: &RunArgs, join: Option<&JoinFile>) -> anyhow::Result<Spec> {
    let mut spec = Spec::sidecar(&args.service);
    spec.version.clone_from(&args.version);
    spec.ports.clone_from(&args.ports);
    args.proxy.describe(&mut spec, join)?;
    spec.ready.clone_from(&args.ready);
    spec.user.clone_from(&args.user);
    spec.group = join.map(|_| spec.workload());
    spec.command.clone_from(&args.command);
    if let Some(namespace) = args.global.namespace() {
        spec.namespace = namespace.into();
    }
    spec.proxy_log = args.proxy.log_of(&spec.workload());
    Ok(spec)
}

/// Where a user's programs keep what they would rather not lose.
pub(crate) fn state_folder() -> PathBuf {
    let home =
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".local/state");
    std::env::var_os("XDG_STATE_HOME").map_or_else(home, PathBuf::from).join("mizzen")
}

async fn run(spec: Spec, join: Option<JoinFile>, global: &GlobalArgs) -> anyhow::Result<ExitStatus> {
    // From the first moment, so that none ends this process before the workload is withdrawn.
    let mut signals = Signals::new()?;
    let mesh = Mesh {
        registry: registry(join, global).await?,
        launcher: Launcher::default(),
        proxy: programs::find(&["mizzen-proxy"])?.remove(0),
    };
    let mut running = tokio::select! {
        running = Running::prepare(&mesh, spec) => running?,
        () = signals.end() => bail!("interrupted before the command was started"),
    };
    let outcome = supervise(&mut running, &mut signals).await;
    if let Err(error) = running.end().await {
        // What the command said by its exit code stands.
        eprintln!("mizzen: {error:#}");
    }
    outcome
}

/// The API server, or nothing but a token for a control plane elsewhere.
pub(crate) async fn registry(join: Option<JoinFile>, global: &GlobalArgs) -> anyhow::Result<Registry> {
    Ok(match join {
        Some(join) => Registry::Joined(join.into()),
        None => Registry::Api(global.server.answering_client().await?),
    })
}

async fn supervise(running: &mut Running, signals: &mut Signals) -> anyhow::Result<ExitStatus> {
    let mut asked_to_end = false;
    loop {
        let next = tokio::select! {
            status = live(running) => return status,
            next = signals.next() => next,
        };
        match next {
            Ask::End if running.is_ready() && !asked_to_end => {
                asked_to_end = true;
                tokio::select! {
                    () = running.drain() => {}
                    // Asked again: at once.
                    () = signals.end() => {}
                }
                running.signal(libc::SIGTERM)?;
            }
            Ask::End => running.signal(libc::SIGTERM)?,
            Ask::Forward(signal) => running.signal(signal)?,
        }
    }
}

/// May be dropped and called again: what was done is remembered.
async fn live(running: &mut Running) -> anyhow::Result<ExitStatus> {
    running.start().await?;
    running.ended().await
}

enum Ask {
    /// Drain, then end.
    End,
    /// The application's own affair.
    Forward(i32),
}

pub(crate) struct Signals {
    watched: Vec<(i32, Signal)>,
    /// The terminal sends its signals to the application by itself.
    terminal: bool,
}

impl Signals {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let numbers =
            [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2];
        let watch = |number| anyhow::Ok((number, signal(SignalKind::from_raw(number))?));
        let watched = numbers.into_iter().map(watch).collect::<anyhow::Result<_>>();
        Ok(Self {
            watched: watched.context("listen for signals")?,
            terminal: std::io::IsTerminal::is_terminal(&std::io::stdin()),
        })
    }

    async fn next(&mut self) -> Ask {
        loop {
            match self.number().await {
                libc::SIGTERM => return Ask::End,
                libc::SIGINT | libc::SIGQUIT | libc::SIGHUP if self.terminal => {}
                number => return Ask::Forward(number),
            }
        }
    }

    /// The next wish that all should end.
    pub(crate) async fn end(&mut self) {
        while !matches!(self.number().await, libc::SIGTERM | libc::SIGINT | libc::SIGHUP) {}
    }

    async fn number(&mut self) -> i32 {
        let signals = self.watched.iter_mut().map(|(number, signal)| {
            Box::pin(async move {
                signal.recv().await;
                *number
            })
        });
        futures::future::select_all(signals).await.0
    }
}

/// Ends this process as the application ended, so that a shell sees the same.
fn end_by(signal: i32) -> anyhow::Result<ExitCode> {
    agent::host::end_by(signal)?;
    // A signal that does not end a process by itself.
    Ok(ExitCode::from(u8::try_from(128 + signal).unwrap_or(1)))
}
