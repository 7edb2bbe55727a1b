//! Real servers that watch a mesh from outside of it, each on [`ADDRESS`].

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{ask, until};

/// Where servers outside of the mesh are; every workload reaches it.
pub const ADDRESS: &str = "192.0.2.1";

/// A Java virtual machine takes its time on a machine that is busy.
const START: Duration = Duration::from_secs(90);

/// A server that ends with its holder.
pub struct Server {
    child: Child,
    ready: String,
}

/// Gives the scenario's network the address; nothing leaves it.
pub fn open_address() -> anyhow::Result<()> {
    let added = Command::new("ip").args(["address", "add", &format!("{ADDRESS}/32"), "dev", "lo"]).status();
    ensure!(added.context("ip (iproute2)")?.success(), "{ADDRESS} cannot be added");
    Ok(())
}

impl Server {
    /// Zipkin; none where this machine has no such server.
    pub fn zipkin(folder: &Path) -> anyhow::Result<Option<Self>> {
        let (Some(java), Some(jar)) =
            (testkit::peers::need("java"), testkit::peers::need("zipkin-server-3.6.1-exec.jar"))
        else {
            return Ok(None);
        };
        let mut command = Command::new(java);
        command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-jar"]).arg(jar);
        command.args(["--armeria.ports[0].port=9411", &format!("--armeria.ports[0].ip={ADDRESS}")]);
        Self::start(command, folder, "zipkin", ":9411/health").map(Some)
    }

    /// Jaeger, which takes OTLP by gRPC on 4317 and by HTTP on 4318.
    pub fn jaeger(folder: &Path) -> anyhow::Result<Option<Self>> {
        let Some(jaeger) = testkit::peers::need("jaeger") else { return Ok(None) };
        let mut command = Command::new(jaeger);
        command.args([
            &format!("--collector.otlp.grpc.host-port={ADDRESS}:4317"),
            &format!("--collector.otlp.http.host-port={ADDRESS}:4318"),
            &format!("--query.http-server.host-port={ADDRESS}:16686"),
        ]);
        Self::start(command, folder, "jaeger", ":16686/api/services").map(Some)
    }

    fn start(mut command: Command, folder: &Path, name: &str, ready: &str) -> anyhow::Result<Self> {
        let log = File::create(folder.join(format!("{name}.log")))?;
        command.current_dir(folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| name.to_owned())?;
        Ok(Self { child, ready: format!("http://{ADDRESS}{ready}") })
    }

    /// Waits until it answers.
    pub fn ready(&self) -> anyhow::Result<()> {
        let answers = || ask::ask(&self.ready, &[]).ok().filter(|answer| answer.status == 200);
        until(&format!("{} answers", self.ready), START, answers).map(drop)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX));
        let _ = kill(pid, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}
