//! The demo's control plane: `mizzen up` as a process of its own, with everything in the demo's folder.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use agent::host::Launcher;
use anyhow::{Context, bail, ensure};
use http::Uri;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use nix::{
    libc,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::{
    control::{ControlArgs, MeshStatus},
    dashboard,
};

const API_PORT: u16 = 6443;
const CONSOLE_PORT: u16 = 20001;
const START: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Plane {
    child: Child,
    kubeconfig: PathBuf,
    log: PathBuf,
}

impl Plane {
    pub(super) async fn start(folder: &Path, launcher: &Launcher) -> anyhow::Result<Self> {
        ensure!(
            TcpListener::bind((Ipv4Addr::LOCALHOST, API_PORT)).is_ok(),
            "port {API_PORT} is in use: another `mizzen up` or `mizzen demo` runs on this machine; end it first"
        );
        let data = folder.join("data");
        let log = folder.join("control-plane.log");
        let file = std::fs::File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let mut command =
            std::process::Command::new(std::env::current_exe().context("where this program is")?);
        command
            .args(["up", "--api-port", &API_PORT.to_string(), "--console-port", &CONSOLE_PORT.to_string()])
            .arg("--data-dir")
            .arg(&data)
            .env("MIZZEN_HUB", &launcher.hub)
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        // The terminal's Ctrl-C is for the demo, which ends its control plane last.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        agent::host::end_with_starter(&mut command, libc::SIGTERM);
        let child = Command::from(command).kill_on_drop(true).spawn().context("start the control plane")?;
        let mut plane = Self { child, kubeconfig: data.join("kubeconfig"), log };
        plane.await_ready().await?;
        Ok(plane)
    }

    /// Until it answers as an API server does.
    async fn await_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        loop {
            if let Some(status) = self.child.try_wait().context("wait for the control plane")? {
                bail!("the control plane ended ({status}):\n{}", self.last_words());
            }
            if self.kubeconfig.is_file() {
                let client = self.client().await?;
                if client.apiserver_version().await.is_ok() {
                    return Ok(());
                }
            }
            if Instant::now() > deadline {
                bail!(
                    "the control plane does not answer after {} s:\n{}",
                    START.as_secs(),
                    self.last_words()
                );
            }
            sleep(PAUSE).await;
        }
    }

    pub(super) async fn client(&self) -> anyhow::Result<Client> {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).context("the control plane's kubeconfig")?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        Client::try_from(config.context("the control plane's kubeconfig")?).context("make a client")
    }

    /// How the proxies are.
    pub(super) async fn status(&self) -> anyhow::Result<MeshStatus> {
        let control = ControlArgs { control: Uri::from_static("http://127.0.0.1:15014") };
        control.status().await
    }

    /// Until every proxy has accepted everything that was applied and started so far.
    pub(super) async fn await_settled(&self) -> anyhow::Result<()> {
        let settled = async {
            while !self.status().await.is_ok_and(|status| status.is_settled()) {
                sleep(PAUSE).await;
            }
        };
        timeout(START, settled)
            .await
            .context("the proxies do not accept their configuration; `mizzen proxy-status` says why")
    }

    /// Where the console listens.
    pub(super) fn console(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), CONSOLE_PORT)
    }

    /// The user's token, which the console wants.
    pub(super) fn token(&self) -> anyhow::Result<Option<String>> {
        dashboard::token(&self.kubeconfig)
    }

    /// An address at which one is signed in.
    pub(super) fn console_signed_in(&self) -> anyhow::Result<String> {
        Ok(dashboard::address(&format!("http://{}", self.console()), self.token()?.as_deref()))
    }

    pub(super) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// By the command that people use.
    pub(super) async fn apply(&self, manifests: &[PathBuf]) -> anyhow::Result<()> {
        let output = self.mizzen(&["apply"], manifests).await?;
        ensure!(output.status.success(), "mizzen apply: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    pub(super) async fn mizzen(
        &self,
        words: &[&str],
        manifests: &[PathBuf],
    ) -> anyhow::Result<std::process::Output> {
        let mut command = Command::new(std::env::current_exe().context("where this program is")?);
        command.args(words).arg("--kubeconfig").arg(&self.kubeconfig).stdin(Stdio::null()).kill_on_drop(true);
        for manifest in manifests {
            command.arg("-f").arg(manifest);
        }
        command.output().await.with_context(|| format!("mizzen {}", words.join(" ")))
    }

    /// Asks it to end, and insists after a while.
    pub(super) async fn end(mut self) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        if let Some(pid) = pid {
            // One that has ended by itself needs no signal.
            let _ = kill(pid, Signal::SIGTERM);
        }
        if timeout(END, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    fn last_words(&self) -> String {
        const LINES: usize = 20;
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}
