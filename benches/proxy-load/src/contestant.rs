//! Whom the benchmark compares, and how each is started.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use testkit::cost::Cost;
use testkit::peers;

use crate::process::{Asks, Process};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Envoy,
    Haproxy,
    Nginx,
    Traefik,
    Mizzen,
}

impl Kind {
    /// Ours goes last, so that what it is compared with stands above it.
    pub(crate) const ALL: [Self; 5] = [Self::Envoy, Self::Haproxy, Self::Nginx, Self::Traefik, Self::Mizzen];
    /// Those that take Envoy's configuration.
    pub(crate) const MESH: [Self; 2] = [Self::Envoy, Self::Mizzen];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Envoy => ENVOY,
            Self::Haproxy => HAPROXY,
            Self::Nginx => "nginx",
            Self::Traefik => "Traefik",
            Self::Mizzen => MIZZEN,
        }
    }

    /// Runs with this configuration on so many worker threads, in the foreground; who knows but one has one.
    fn command(self, program: &Path, folder: &Path, config: &Path, port: u16, workers: usize) -> Command {
        let mut command = Command::new(program);
        let workers = workers.to_string();
        match self {
            Self::Envoy => command
                .args(["--concurrency", &workers, "--disable-hot-restart", "--log-level", "error"])
                .arg("-c"),
            Self::Haproxy => command.args(["-db", "-q", "-f"]),
            Self::Nginx => command.args(["-e", "stderr", "-p"]).arg(folder).arg("-c"),
            Self::Traefik => command
                .env("GOMAXPROCS", "1")
                .args(["--global.checknewversion=false", "--global.sendanonymoususage=false"])
                .args(["--log.level=ERROR", &format!("--entrypoints.web.address=127.0.0.1:{port}")])
                .arg("--providers.file.filename"),
            Self::Mizzen => command.args(["--concurrency", &workers, "--config"]),
        };
        command.arg(config);
        command
    }

    /// The argument that makes it tell its version.
    fn version_argument(self) -> &'static str {
        match self {
            Self::Envoy | Self::Mizzen => "--version",
            Self::Haproxy | Self::Nginx => "-v",
            Self::Traefik => "version",
        }
    }
}

pub(crate) const ENVOY: &str = "Envoy";
pub(crate) const HAPROXY: &str = "HAProxy";
pub(crate) const MIZZEN: &str = "mizzen-proxy";
/// Ours with Istio's metrics, which stock Envoy cannot count.
pub(crate) const MIZZEN_STATS: &str = "mizzen-proxy + istio.stats";

/// Who has the mesh chain: Envoy and ours on the same bootstrap, and ours with Istio's metrics.
pub(crate) const MESHES: [(&str, Kind, bool); 3] =
    [(ENVOY, Kind::Envoy, false), (MIZZEN, Kind::Mizzen, false), (MIZZEN_STATS, Kind::Mizzen, true)];

/// The programs that are there.
pub(crate) struct Programs {
    mizzen: PathBuf,
}

impl Programs {
    pub(crate) fn new(mizzen: PathBuf) -> Self {
        Self { mizzen }
    }

    pub(crate) fn of(&self, kind: Kind) -> Option<PathBuf> {
        match kind {
            Kind::Envoy => peers::envoy(),
            Kind::Haproxy => peers::find("haproxy"),
            Kind::Nginx => peers::find("nginx"),
            Kind::Traefik => peers::find("traefik"),
            Kind::Mizzen => Some(self.mizzen.clone()),
        }
    }

    /// Name and version, as far as the program tells.
    pub(crate) fn version(&self, kind: Kind) -> String {
        let Some(program) = self.of(kind) else { return format!("{} (not here)", kind.name()) };
        let output = Command::new(program).arg(kind.version_argument()).output();
        let text = output.map(|it| [it.stdout, it.stderr].concat()).unwrap_or_default();
        let version =
            version_in(&String::from_utf8_lossy(&text)).unwrap_or_else(|| "of unknown version".into());
        format!("{} {version}", kind.name())
    }
}

/// The first three numbers with dots between, behind the word where there is one: before it may stand a path.
fn version_in(text: &str) -> Option<String> {
    let rest = text.find("ersion").map_or(text, |at| &text[at..]);
    let mut parts = rest.split(|it: char| !it.is_ascii_digit() && it != '.');
    parts.find(|part| part.split('.').filter(|number| !number.is_empty()).count() == 3).map(str::to_owned)
}

/// One who is measured: a proxy, or several on one way.
pub(crate) struct Contestant {
    pub(crate) name: String,
    /// Where the load goes.
    pub(crate) port: u16,
    processes: Vec<Process>,
    /// What it wrote, which is emptied between two loads.
    logs: Vec<PathBuf>,
    /// From the start to the first answer, of the one that the load reaches.
    pub(crate) started: Duration,
}

/// What a contestant's one process is told.
pub(crate) struct Part {
    pub(crate) port: u16,
    pub(crate) config: String,
    pub(crate) asks: Asks,
}

impl Contestant {
    /// Starts the parts in their order, on one worker thread each; the last is the one that the load reaches.
    pub(crate) fn start(
        name: &str,
        kind: Kind,
        program: &Path,
        folder: &Path,
        parts: Vec<Part>,
    ) -> Result<Self> {
        Self::start_with(name, kind, program, folder, parts, 1)
    }

    pub(crate) fn start_with(
        name: &str,
        kind: Kind,
        program: &Path,
        folder: &Path,
        parts: Vec<Part>,
        workers: usize,
    ) -> Result<Self> {
        let mut contestant = Self {
            name: name.to_owned(),
            port: 0,
            processes: Vec::new(),
            logs: Vec::new(),
            started: Duration::ZERO,
        };
        for (number, part) in parts.into_iter().enumerate() {
            let folder = folder.join(number.to_string());
            std::fs::create_dir_all(&folder)?;
            // Envoy and Traefik go by the name's ending; JSON is YAML to those that read YAML.
            let config = folder.join(match kind {
                Kind::Envoy | Kind::Mizzen => "config.json",
                Kind::Traefik => "config.yaml",
                Kind::Haproxy | Kind::Nginx => "config.cfg",
            });
            std::fs::write(&config, &part.config)?;
            let mut command = kind.command(program, &folder, &config, part.port, workers);
            let mut process = Process::start(&mut command, &folder.join("output"))?;
            contestant.started = process.ready(part.port, part.asks).with_context(|| name.to_owned())?;
            contestant.port = part.port;
            contestant.processes.push(process);
        }
        Ok(contestant)
    }

    /// Names a file that it writes.
    pub(crate) fn writes(mut self, log: PathBuf) -> Self {
        self.logs.push(log);
        self
    }

    /// All its processes together.
    pub(crate) fn cost(&self) -> Result<Cost> {
        let mut sum = Cost::default();
        for process in &self.processes {
            let one = process.cost().with_context(|| self.name.clone())?;
            sum.cpu += one.cpu;
            sum.resident += one.resident;
            sum.peak += one.peak;
        }
        Ok(sum)
    }

    pub(crate) fn empty_logs(&self) {
        for log in &self.logs {
            // One that was never written is as empty as it has to be.
            let _ = std::fs::OpenOptions::new().write(true).truncate(true).open(log);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::version_in;

    #[test]
    fn versions_are_found_in_what_each_program_says() {
        for (text, version) in [
            ("\n/lib/python3.11.2/envoy  version: 1a2b3c4d/1.40.0/Clean/RELEASE/BoringSSL", "1.40.0"),
            ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/", "2.6.12"),
            ("nginx version: nginx/1.22.1", "1.22.1"),
            ("mizzen-proxy 0.1.0", "0.1.0"),
        ] {
            assert_eq!(version_in(text).as_deref(), Some(version));
        }
    }
}
