//! The soak's upstreams: processes that are killed and started again.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::layout::Ports;
use super::plan::{MORTAL, STEADY};
use crate::keys::Keys;

pub(crate) struct Fleet<'a> {
    ports: Ports,
    keys: &'a Keys,
    children: Vec<Option<Child>>,
}

impl<'a> Fleet<'a> {
    /// Nobody is there yet.
    pub(crate) fn new(ports: Ports, keys: &'a Keys) -> Self {
        Self { ports, keys, children: (0..STEADY + MORTAL).map(|_| None).collect() }
    }

    /// All that are not there.
    pub(crate) fn start_all(&mut self) -> Result<()> {
        (0..self.children.len()).try_for_each(|number| self.start(number))
    }

    /// Returns when it serves.
    pub(crate) fn start(&mut self, number: usize) -> Result<()> {
        if self.children[number].is_some() {
            return Ok(());
        }
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["soak-upstream", "--port", &self.ports.backend(number).to_string(), "--root"])
            .arg(&self.keys.root)
            .arg("--chain")
            .arg(&self.keys.answer.chain)
            .arg("--key")
            .arg(&self.keys.answer.key)
            // Ctrl-C is for us alone.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        self.children[number] = Some(child);
        ensure!(line.trim() == "ready", "upstream {number} did not start");
        Ok(())
    }

    pub(crate) fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.children[number].take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn kill_all(&mut self) {
        (0..self.children.len()).for_each(|number| self.kill(number));
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        self.kill_all();
    }
}
