//! `mizzen demo` as a person starts it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;

use crate::mesh::{Mesh, pid, program};
use crate::until;

const START: Duration = Duration::from_secs(90);
const END: Duration = Duration::from_secs(30);

/// Ends with its holder.
pub struct Demo {
    child: Child,
    folder: TempDir,
    /// The same mesh, for commands and load.
    pub mesh: Mesh,
}

impl Demo {
    /// Starts one and waits until it invites to try things.
    pub fn start(options: &[&str]) -> anyhow::Result<Self> {
        let (folder, child) = Self::spawn(options)?;
        let mut demo = Self { child, folder, mesh: Mesh::of(PathBuf::new())? };
        let up = until("the demo is up", START, || {
            let has_ended = demo.child.try_wait().ok().flatten().is_some();
            (has_ended || demo.said().contains("Ctrl-C ends everything")).then_some(!has_ended)
        });
        if !up.with_context(|| demo.said())? {
            bail!("the demo ended: {}", demo.said());
        }
        let said = demo.said();
        let kubeconfig = said.lines().find_map(|line| line.trim().strip_prefix("export KUBECONFIG="));
        demo.mesh = Mesh::of(kubeconfig.with_context(|| said.clone())?.into())?;
        Ok(demo)
    }

    /// Starts one that is to end by itself; what it said and how it ended.
    pub fn run(options: &[&str]) -> anyhow::Result<(ExitStatus, String)> {
        let (folder, mut child) = Self::spawn(options)?;
        let status = until("the demo ends", START, || child.try_wait().ok().flatten());
        if status.is_err() {
            let _ = child.kill();
        }
        Ok((status?, read(&folder.path().join("said"))))
    }

    /// All files that it makes are to be in its folder.
    fn spawn(options: &[&str]) -> anyhow::Result<(TempDir, Child)> {
        let folder = tempfile::tempdir()?;
        for name in ["tmp", "home"] {
            std::fs::create_dir(folder.path().join(name))?;
        }
        let said = File::create(folder.path().join("said"))?;
        let mut command = Command::new(program("mizzen"));
        for unset in ["CARGO", "KUBECONFIG", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"] {
            command.env_remove(unset);
        }
        command.arg("demo").args(options);
        command.env("TMPDIR", folder.path().join("tmp")).env("HOME", folder.path().join("home"));
        let child = command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said).spawn()?;
        Ok((folder, child))
    }

    pub fn said(&self) -> String {
        read(&self.folder.path().join("said"))
    }

    /// Ctrl-C; waits for the end, and returns the folders in which nothing may be left.
    pub fn interrupt(mut self) -> anyhow::Result<(ExitStatus, Vec<PathBuf>)> {
        kill(pid(&self.child), Signal::SIGINT)?;
        let status = until("the demo ends", END, || self.child.try_wait().ok().flatten())?;
        Ok((status, left_in(self.folder.path())?))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(pid(&self.child), Signal::SIGTERM);
            if until("the demo ends", END, || self.child.try_wait().ok().flatten()).is_err() {
                let _ = self.child.kill();
            }
        }
    }
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

/// All files below the demo's own folders.
fn left_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut left = Vec::new();
    let mut folders = vec![folder.join("tmp"), folder.join("home")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
            left.push(entry.path());
        }
    }
    Ok(left)
}
