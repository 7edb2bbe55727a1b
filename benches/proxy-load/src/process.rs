//! A program that is measured: started, asked what it costs, stopped.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use testkit::cost::{self, Cost};

use crate::load;

/// How long a program may take until it answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running program with its children.
pub(crate) struct Process {
    child: Child,
    /// What it printed.
    log: PathBuf,
    started: Instant,
}

impl Process {
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let output = File::create(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child, log: log.to_owned(), started })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    pub(crate) fn cost(&self) -> Result<Cost> {
        Cost::with_children(self.child.id())
    }

    /// Waits until the port answers, as told; returns how long that took since the start.
    pub(crate) fn ready(&mut self, port: u16, asks: Asks) -> Result<Duration> {
        while self.started.elapsed() < PATIENCE {
            let answered = match asks {
                Asks::Http => load::http::get(port).is_ok(),
                Asks::Connection => std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(),
            };
            if answered {
                return Ok(self.started.elapsed());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}: {}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("no answer after {PATIENCE:?}: {}", self.last_words())
    }

    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

/// What tells that a program is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    /// A request is answered 200.
    Http,
    /// A connection is taken.
    Connection,
}

impl Drop for Process {
    fn drop(&mut self) {
        let children = cost::children(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        for child in children.into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            let _ = kill_process(child, Signal::KILL);
        }
    }
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
