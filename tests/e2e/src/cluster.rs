//! A real API server for a mesh: etcd and kube-apiserver, and where they are wanted a controller manager and kwok, whose
//! kubelets only say that they run something.
//!
//! A scenario says once, before it starts its mesh, that it wants one: it has a process of its own. The same body so
//! plays on either API server.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;
use testkit::peers::need;

use crate::mesh::program;
use crate::until;

const START: Duration = Duration::from_secs(90);
const SERVER: &str = "https://127.0.0.1:6443";
const KEY: &str = "account.key";
const TOKEN: &str = "an-administrators-token";
/// The server wants to tell others an address that is not the loopback's.
const ADDRESS: &str = "192.0.2.1";
/// What a kubelet would do, for kwok.
const STAGES: &str = include_str!("stages.yaml");

static WANTED: OnceLock<()> = OnceLock::new();

/// From now on meshes of this process stand on a real API server; false where this machine has none.
pub fn choose() -> bool {
    there() && WANTED.set(()).is_ok()
}

/// Whether this machine can have one.
pub(crate) fn there() -> bool {
    ["etcd", "kube-apiserver", "openssl"].into_iter().all(|program| need(program).is_some())
}

/// etcd and kube-apiserver; they end with it.
pub struct Cluster {
    folder: TempDir,
    children: Vec<(String, Child)>,
}

impl Cluster {
    /// One, if it was chosen.
    pub(crate) fn if_chosen() -> anyhow::Result<Option<Self>> {
        WANTED.get().map(|()| Self::start()).transpose()
    }

    /// One whatever was chosen.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let added = run(Command::new("ip").args(["addr", "add", &format!("{ADDRESS}/32"), "dev", "lo"]));
        added.context("an address for the API server")?;
        let folder = tempfile::tempdir()?;
        let prepared = prepare()?;
        run(Command::new("cp").args(["-r", "--sparse=always", "-T"]).arg(prepared).arg(folder.path()))?;
        Self::serve(folder)
    }

    /// Starts the servers on what is in a folder, and waits until they are ready.
    fn serve(folder: TempDir) -> anyhow::Result<Self> {
        let mut cluster = Self { folder, children: Vec::new() };
        let key = cluster.at(KEY);
        std::fs::write(cluster.at("tokens"), format!("{TOKEN},admin,1,system:masters\n"))?;
        std::fs::write(cluster.kubeconfig(), kubeconfig())?;
        cluster.spawn("etcd", &[format!("--data-dir={}", cluster.at("etcd")), "--unsafe-no-fsync".into()])?;
        cluster.spawn(
            "kube-apiserver",
            &[
                "--etcd-servers=http://127.0.0.1:2379".into(),
                "--secure-port=6443".into(),
                "--bind-address=127.0.0.1".into(),
                format!("--advertise-address={ADDRESS}"),
                format!("--cert-dir={}", cluster.at("certificates")),
                format!("--token-auth-file={}", cluster.at("tokens")),
                // Without a controller manager no namespace has a default account.
                "--disable-admission-plugins=ServiceAccount".into(),
                "--service-account-issuer=https://kubernetes.default.svc".into(),
                format!("--service-account-key-file={key}"),
                format!("--service-account-signing-key-file={key}"),
                "--service-cluster-ip-range=10.96.0.0/16".into(),
            ],
        )?;
        until("kube-apiserver listens", START, || TcpStream::connect("127.0.0.1:6443").ok())
            .with_context(|| cluster.log("kube-apiserver"))?;
        until("kube-apiserver is ready", START, || cluster.kubectl(&["get", "--raw", "/readyz"]).ok())
            .with_context(|| cluster.log("kube-apiserver"))?;
        Ok(cluster)
    }

    fn take_definitions(&self, definitions: &[u8]) -> anyhow::Result<()> {
        let file = self.at("crds.yaml");
        std::fs::write(&file, definitions)?;
        self.kubectl(&["create", "--validate=strict", "-f", &file])?;
        self.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"]).map(drop)
    }

    /// Starts the controllers that make Pods and EndpointSlices, and the kubelets that do as if; false where this
    /// machine has none.
    pub fn run_pods(&mut self) -> anyhow::Result<bool> {
        if need("kube-controller-manager").is_none() || need("kwok").is_none() {
            return Ok(false);
        }
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig().display());
        let controllers = ["deployment", "replicaset", "endpointslice", "namespace", "garbage-collector"];
        let controllers: Vec<String> = controllers.map(|name| format!("{name}-controller")).to_vec();
        self.spawn(
            "kube-controller-manager",
            &[
                kubeconfig.clone(),
                format!("--controllers={}", controllers.join(",")),
                "--leader-elect=false".into(),
                "--bind-address=127.0.0.1".into(),
                format!("--cert-dir={}", self.at("certificates")),
            ],
        )?;
        let stages = self.at("stages.yaml");
        std::fs::write(&stages, STAGES)?;
        self.spawn(
            "kwok",
            &[
                kubeconfig,
                format!("--config={stages}"),
                "--manage-all-nodes=true".into(),
                "--cidr=10.55.0.0/24".into(),
                format!("--node-ip={ADDRESS}"),
                "--server-address=127.0.0.1:10247".into(),
            ],
        )?;
        Ok(true)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    pub(crate) fn at(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub(crate) fn log(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.at(&format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// The ends of all logs but the API server's own, each under its name.
    pub(crate) fn logs(&self) -> String {
        let entries = std::fs::read_dir(self.folder.path()).into_iter().flatten().flatten();
        let names =
            entries.filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".log")?.to_owned()));
        let names = names.filter(|name| !matches!(name.as_str(), "etcd" | "kube-apiserver"));
        names.map(|name| format!("== {name}\n{}\n", self.log(&name))).collect()
    }

    fn spawn(&mut self, name: &str, arguments: &[String]) -> anyhow::Result<()> {
        let mut command = Command::new(need(name).with_context(|| format!("needs {name}"))?);
        self.keep(name, command.args(arguments))
    }

    /// Starts what ends with the servers, in their folder, which its log goes to as well.
    pub(crate) fn keep(&mut self, name: &str, command: &mut Command) -> anyhow::Result<()> {
        let log = File::create(self.at(&format!("{name}.log")))?;
        command.current_dir(self.folder.path()).env("HOME", self.folder.path()).stdin(Stdio::null());
        let child = command.stdout(log.try_clone()?).stderr(log).spawn();
        self.children.push((name.to_owned(), child.with_context(|| name.to_owned())?));
        Ok(())
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let kubectl = need("kubectl").context("needs kubectl")?;
        let mut command = Command::new(kubectl);
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.folder.path()).env("GOGC", "off");
        run(command.args(arguments))
    }

    fn stop(&mut self) {
        while let Some((_, child)) = self.children.pop() {
            kill(child);
        }
    }

    /// Ends what [`Cluster::keep`] started under that name.
    pub(crate) fn end(&mut self, name: &str) {
        for (_, child) in self.children.extract_if(.., |(of, _)| of == name) {
            kill(child);
        }
    }
}

fn kill(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A folder with what a server writes when it first starts, and with what `mizzen crds` prints applied to it. It is made
/// once, beside the programs: half of the time that a server takes to be ready goes there.
fn prepare() -> anyhow::Result<PathBuf> {
    let definitions = Command::new(program("mizzen")).arg("crds").output().context("mizzen crds")?;
    ensure!(definitions.status.success(), "mizzen crds: {}", String::from_utf8_lossy(&definitions.stderr));
    let mut hasher = DefaultHasher::new();
    (need("kube-apiserver"), &definitions.stdout).hash(&mut hasher);
    let prepared = program(&format!("api-server-{:016x}", hasher.finish()));
    let lock = File::create(program("api-server.lock"))?;
    let _alone = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    if prepared.exists() {
        return Ok(prepared);
    }
    let folder = tempfile::tempdir_in(prepared.parent().context("the programs' folder")?)?;
    let key = folder.path().join(KEY);
    run(Command::new("openssl")
        .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"])
        .arg(key))?;
    let mut cluster = Cluster::serve(folder)?;
    cluster.take_definitions(&definitions.stdout)?;
    cluster.stop();
    std::fs::rename(cluster.folder.path(), &prepared)?;
    Ok(prepared)
}

fn kubeconfig() -> String {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "real",
        "clusters": [{"name": "real", "cluster": {"server": SERVER, "insecure-skip-tls-verify": true}}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": "real", "context": {"cluster": "real", "user": "admin"}}],
    })
    .to_string()
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
