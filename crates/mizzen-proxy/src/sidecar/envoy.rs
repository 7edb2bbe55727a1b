//! A stock Envoy in the proxy's place: a process of its own, its keys from our SDS socket, its names from a stream of ours.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use agent::host::end_with_starter;
use agent::sidecar::Agent;
use agent::status::Action;
use anyhow::Context as _;
use tokio::sync::mpsc;

use super::{SidecarArgs, tell_ready};

const SIGKILL: i32 = 9;

/// Starts a stock Envoy and follows its end, or lets it end when we are told to.
pub(super) async fn run(
    args: &SidecarArgs,
    agent: &Agent,
    program: &Path,
    mut actions: mpsc::Receiver<Action>,
    mut end: Pin<&mut impl Future<Output = io::Result<()>>>,
) -> anyhow::Result<ExitCode> {
    let mut command = tokio::process::Command::new(program);
    command
        .args(["--config-yaml", &agent.bootstrap().to_string()])
        .args(["--drain-time-s", &args.drain_time.to_string()])
        // What is asked to end says so in every answer from the first moment on.
        .args(["--drain-strategy", "immediate"])
        .args(["--log-level", "warning", "--disable-hot-restart"])
        .args(["--concurrency", &args.concurrency.unwrap_or(1).to_string()])
        .kill_on_drop(true);
    // Even if we are killed, nothing stays behind.
    end_with_starter(command.as_std_mut(), SIGKILL);
    let mut envoy = command.spawn().with_context(|| {
        format!("start {}, as the proxy's own user, who must be allowed to run it", program.display())
    })?;
    let mut told = args.ready_fd;
    loop {
        tokio::select! {
            ended = envoy.wait() => {
                let code = ended?.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1);
                return Ok(ExitCode::from(code));
            }
            () = agent.proxy_ready(), if told.is_some() => {
                if let Some(fd) = told.take() {
                    tell_ready(fd).context("--ready-fd")?;
                }
            }
            ended = &mut end => {
                ended?;
                break;
            }
            Some(action) = actions.recv() => {
                agent.set_draining();
                if action == Action::Quit {
                    break;
                }
                if let Err(error) = agent.tell_proxy("/drain_listeners?inboundonly&graceful").await {
                    tracing::warn!(%error, "Envoy cannot be asked to drain its callers");
                }
            }
        }
    }
    agent.set_draining();
    let limit = Duration::from_secs(args.drain_time);
    if let Err(error) = agent.tell_proxy("/drain_listeners?graceful&skip_exit").await {
        tracing::warn!(%error, "Envoy cannot be asked to drain");
    }
    if !agent.proxy_idle(limit).await {
        tracing::warn!(seconds = args.drain_time, "requests were still open at the end of the drain time");
    }
    agent.tell_proxy("/quitquitquit").await?;
    let _ = tokio::time::timeout(Duration::from_secs(2), envoy.wait()).await;
    Ok(ExitCode::SUCCESS)
}
