//! The two proxies: started on the same bootstrap, asked for their counters, ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::bootstrap::{admin_port, placed};
use crate::message::{Body, Reader, text};

/// Which proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Envoy,
    Mizzen,
}

/// Loopback addresses that no other run on this machine has.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    run: (u8, u8),
}

impl Place {
    pub fn of_this_process() -> Self {
        let [.., high, low] = std::process::id().to_be_bytes();
        Self { run: (64 + high % 64, low) }
    }

    fn host(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.run.0, self.run.1, last)
    }

    pub fn proxy(self, kind: Kind) -> Ipv4Addr {
        self.host(if kind == Kind::Envoy { 1 } else { 2 })
    }

    pub fn upstream(self, kind: Kind) -> Ipv4Addr {
        self.host(if kind == Kind::Envoy { 3 } else { 4 })
    }

    /// Where the client of a case comes from: the same for both, another for each case.
    pub fn client(self, case: usize) -> IpAddr {
        Ipv4Addr::new(127, 128 + self.run.0 % 64, (case / 250) as u8, (case % 250) as u8 + 1).into()
    }
}

/// A running proxy.
pub struct Contestant {
    pub kind: Kind,
    pub place: Place,
    folder: PathBuf,
    child: Child,
}

/// The program that was built beside this test.
fn mizzen_proxy() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe()?;
    let built = here.ancestors().nth(2).context("not in a target folder")?.join("mizzen-proxy");
    anyhow::ensure!(built.is_file(), "{} is missing: cargo build -p mizzen-proxy", built.display());
    Ok(built)
}

fn command(kind: Kind, envoy: &Path, config: &Path) -> anyhow::Result<Command> {
    let mut command = match kind {
        Kind::Envoy => {
            let mut command = Command::new(envoy);
            command.args(["--disable-hot-restart", "-l", "error", "--file-flush-interval-msec", "50"]);
            command
        }
        Kind::Mizzen => {
            let mut command = Command::new(mizzen_proxy()?);
            command.args(["--drain-time-s", "1"]).env("MIZZEN_LOG", "warn");
            command
        }
    };
    let config_flag = if kind == Kind::Envoy { "-c" } else { "--config" };
    command.args(["--concurrency", "1", config_flag]).arg(config);
    command.kill_on_drop(true).stdin(Stdio::null());
    Ok(command)
}

impl Contestant {
    /// Starts it and waits until it serves.
    pub async fn start(
        kind: Kind,
        envoy: &Path,
        place: Place,
        bootstrap: &Value,
        folder: &Path,
        flags: &[String],
    ) -> anyhow::Result<Self> {
        let config = write(kind, place, bootstrap, folder)?;
        let output = File::create(folder.join("output"))?;
        let mut command = command(kind, envoy, &config)?;
        command.args(flags);
        let child = command.stdout(output.try_clone()?).stderr(output).spawn().context("cannot start")?;
        let mut started = Self { kind, place, folder: folder.to_owned(), child };
        for _ in 0..600 {
            if let Some(status) = started.child.try_wait()? {
                anyhow::bail!("{kind:?} ended with {status}: {}", started.output());
            }
            if matches!(started.get("/ready").await, Ok((200, _))) {
                return Ok(started);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("{kind:?} does not serve: {}", started.output())
    }

    /// What it wrote, at most its end.
    pub fn output(&self) -> String {
        let text = std::fs::read(self.folder.join("output")).unwrap_or_default();
        text[text.len().saturating_sub(4000)..].iter().map(|b| char::from(*b)).collect()
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let mut stream = TcpStream::connect((self.place.proxy(self.kind), admin_port())).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut reader = Reader::new(stream);
        let ended = |e| anyhow::anyhow!("{path}: {e:?}");
        let mut message = reader.head().await.map_err(ended)?;
        reader.body(&mut message, Body::OfResponse).await.map_err(ended)?;
        Ok((message.status(), text(&message.body)))
    }

    /// Counters and gauges by name.
    pub async fn stats(&self) -> anyhow::Result<BTreeMap<String, i64>> {
        let (status, text) = self.get("/stats").await?;
        anyhow::ensure!(status == 200, "/stats answers {status}");
        Ok(text
            .lines()
            .filter_map(|line| line.rsplit_once(": "))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect())
    }

    /// What it says against each host, by cluster and address.
    pub async fn health(&self, place: Place) -> anyhow::Result<BTreeMap<String, String>> {
        let (status, text) = self.get("/clusters").await?;
        anyhow::ensure!(status == 200, "/clusters answers {status}");
        let text = text.replace(&place.upstream(self.kind).to_string(), "UPSTREAM");
        let lines = text.lines().filter_map(|line| line.split_once("::health_flags::"));
        Ok(lines.map(|(host, flags)| (host.to_owned(), flags.to_owned())).collect())
    }

    /// Ends it; its access log is whole then.
    pub async fn stop(mut self) -> anyhow::Result<String> {
        if let Some(pid) = self.child.id() {
            kill(Pid::from_raw(pid as i32), Signal::SIGTERM)?;
        }
        let ended = tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await;
        if ended.is_err() {
            self.child.kill().await?;
        }
        let log = std::fs::read(self.folder.join("access.log")).unwrap_or_default();
        Ok(text(&log))
    }
}

fn write(kind: Kind, place: Place, bootstrap: &Value, folder: &Path) -> anyhow::Result<PathBuf> {
    let addresses = (place.proxy(kind).to_string(), place.upstream(kind).to_string());
    let placed = placed(bootstrap, &addresses.0, &addresses.1, &folder.to_string_lossy());
    let file = folder.join("bootstrap.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&placed)?)?;
    Ok(file)
}

/// What it has to say against a bootstrap; nothing where it takes it.
pub async fn objection(
    kind: Kind,
    envoy: &Path,
    place: Place,
    bootstrap: &Value,
    folder: &Path,
) -> anyhow::Result<Option<String>> {
    let config = write(kind, place, bootstrap, folder)?;
    let mut command = command(kind, envoy, &config)?;
    let output = command.args(["--mode", "validate"]).output().await?;
    Ok((!output.status.success()).then(|| format!("{}{}", text(&output.stdout), text(&output.stderr))))
}
