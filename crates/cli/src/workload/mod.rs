//! A process as a workload of the mesh: registered, with a proxy beside it, ready, drained, gone.
//!
//! `mizzen run` makes one of it, `mizzen demo` a handful. The order is what loses no request: the application starts
//! when its proxy has configuration and certificate, gets traffic when it listens, and is told to end when it has none.

mod args;
mod door;
mod http;
mod join;
mod objects;
pub(crate) mod programs;
mod register;
mod settings;
mod sidecar;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use agent::{
    bootstrap::Discovery,
    capture::{self, RELAY_PORT, Relay},
    host::{
        AppOptions, Event, ExitStatus, GATEWAY, Launcher, Privilege, Streams, Target, Workload,
        WorkloadOptions, networks,
    },
};
use anyhow::{Context, bail};
use base::{Random, ThreadRandom};
use tempfile::TempDir;
use tokio::{
    sync::mpsc::UnboundedReceiver,
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

pub(crate) use args::{ProxyArgs, WhoArgs};
pub(crate) use door::{Door, Inside};
pub(crate) use http::{ReadyUrl, get, get_on};
pub(crate) use join::JoinFile;
use objects::Objects;
pub(crate) use objects::{DOOR, DOOR_PORT, Objects as MeshObjects, ensure_namespace};
use register::Register;
pub(crate) use register::Registry;
use sidecar::{Files, Identity, MemoryFile};

const STATUS_PORT: u16 = 15021;
const AGENT_PORT: u16 = 15020;
/// For the first configuration and certificate.
const PROXY_PATIENCE: Duration = Duration::from_secs(60);
/// For the control plane to publish its root.
const ROOT_PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
/// For the news of a withdrawn endpoint to reach every caller.
const NEWS: Duration = Duration::from_millis(750);
/// For requests that are under way when a workload is asked to end.
const DRAIN: Duration = Duration::from_secs(15);
/// For a proxy to end after its application: its own time for connections, and a rest for everything else.
const PROXY_END: Duration = Duration::from_secs(8);
const PROXY_REST: Duration = Duration::from_secs(3);

/// A port of the service: `http=9080`, or `http=80:9080` when the application listens on another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) number: u16,
    pub(crate) target: u16,
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not of the form NAME=PORT or NAME=PORT:APPLICATION-PORT, like http=9080");
        let (name, numbers) = text.split_once('=').ok_or_else(wrong)?;
        let (number, target) = numbers.split_once(':').unwrap_or((numbers, numbers));
        let parse = |number: &str| number.parse().ok().filter(|&number: &u16| number != 0).ok_or_else(wrong);
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || !name.chars().all(valid) {
            return Err(format!(
                "{name:?} is no name of a port: lower-case letters, digits and '-', protocol first"
            ));
        }
        Ok(Self { name: name.into(), number: parse(number)?, target: parse(target)? })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A proxy beside an application.
    Sidecar,
    /// A gateway: a proxy alone.
    Router,
}

/// What is to run, and as what.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) kind: Kind,
    pub(crate) service: String,
    pub(crate) version: Option<String>,
    pub(crate) ports: Vec<Port>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) service_account: Option<String>,
    pub(crate) namespace: String,
    pub(crate) locality: Option<String>,
    pub(crate) network: Option<String>,
    /// The WorkloadGroup by which its proxy registers it, on another host than the API server's.
    pub(crate) group: Option<String>,
    pub(crate) ready: Option<ReadyUrl>,
    pub(crate) user: Option<String>,
    pub(crate) concurrency: Option<u16>,
    /// For connections that are open when the proxy is asked to end.
    pub(crate) drain: Option<Duration>,
    pub(crate) control_plane: String,
    /// The application; nothing beside a router.
    pub(crate) command: Vec<OsString>,
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// Where the application's output goes; absent: where this process's goes.
    pub(crate) output: Option<PathBuf>,
    pub(crate) proxy_log: PathBuf,
    /// A stock Envoy to start in the place of our own proxy.
    pub(crate) envoy: Option<PathBuf>,
    pub(crate) xds: Discovery,
}

impl Spec {
    pub(crate) fn sidecar(service: &str) -> Self {
        Self {
            kind: Kind::Sidecar,
            service: service.into(),
            version: None,
            ports: Vec::new(),
            labels: BTreeMap::new(),
            service_account: None,
            namespace: "default".into(),
            locality: None,
            network: None,
            group: None,
            ready: None,
            user: None,
            concurrency: None,
            drain: None,
            control_plane: default_control_plane(),
            command: Vec::new(),
            environment: Vec::new(),
            output: None,
            proxy_log: "/dev/null".into(),
            envoy: None,
            xds: Discovery::default(),
        }
    }

    /// Every service has its own identity unless another is asked for.
    pub(crate) fn account(&self) -> &str {
        self.service_account.as_deref().unwrap_or(&self.service)
    }

    pub(crate) fn workload(&self) -> String {
        match &self.version {
            Some(version) => format!("{}-{version}", self.service),
            None => self.service.clone(),
        }
    }

    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        let version = self.version.as_deref();
        let workload = self.workload();
        let own = [
            ("app", Some(self.service.as_str())),
            ("version", version),
            ("service.istio.io/canonical-name", Some(self.service.as_str())),
            ("service.istio.io/canonical-revision", Some(version.unwrap_or("latest"))),
            ("service.istio.io/workload-name", Some(workload.as_str())),
            ("security.istio.io/tlsMode", Some("istio")),
        ];
        let own = own.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())));
        own.chain(self.labels.clone()).collect()
    }
}

/// Where `mizzen up` of the same user listens for proxies.
fn default_control_plane() -> String {
    SocketAddr::new(IpAddr::V4(GATEWAY), 15012).to_string()
}

/// What all workloads of this process share.
#[derive(Clone)]
pub(crate) struct Mesh {
    pub(crate) registry: Registry,
    pub(crate) launcher: Launcher,
    /// `mizzen-proxy`.
    pub(crate) proxy: PathBuf,
}

/// A workload that runs.
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    spec: Spec,
    register: Register,
    mesh: Mesh,
    workload: Arc<Workload>,
    events: UnboundedReceiver<Event>,
    files: Arc<Mutex<Files>>,
    renewal: JoinHandle<()>,
    registration: JoinHandle<()>,
    /// Goes with the workload.
    envoy_folder: Option<TempDir>,
    app_started: bool,
    ready: bool,
    /// What the entry should say.
    takes_traffic: Arc<AtomicBool>,
    app: Option<ExitStatus>,
    proxy_lives: bool,
}

impl Running {
    /// Registers the workload and brings it up to where its proxy is ready. The application runs not yet.
    pub(crate) async fn prepare(mesh: &Mesh, mut spec: Spec) -> anyhow::Result<Self> {
        if let Registry::Api(client) = &mesh.registry {
            settings::apply(client, &mut spec).await;
        }
        let (register, token, root) = mesh.registry.prepare(&spec).await?;

        let workload = Arc::new(Workload::prepare(&mesh.launcher, options(&spec)?)?);
        let name = format!("{}-{}", spec.workload(), suffix());
        let envoy_folder = spec.envoy.as_ref().map(|_| envoy_folder(workload.privilege())).transpose()?;
        let identity = Identity {
            spec: &spec,
            name: &name,
            address: workload.address(),
            address_6: workload.address_6(),
            envoy: None,
        };
        let files = Files {
            token: MemoryFile::new("token", &token.text)?,
            root: MemoryFile::new("root", &root)?,
            metadata: MemoryFile::new("metadata", &identity.metadata().to_string())?,
        };
        let address = workload.address().to_string();
        register.register(&name, &spec, &address).await?;
        let takes_traffic = Arc::new(AtomicBool::new(false));
        let registration = keep_registered(
            register.clone(),
            name.clone(),
            spec.clone(),
            address,
            Arc::clone(&takes_traffic),
        );
        let files = Arc::new(Mutex::new(files));
        let renewal = renew(register.clone(), spec.account().to_owned(), Arc::clone(&files), token.seconds);
        let mut running = Self {
            address: workload.address(),
            events: workload.event_stream(),
            mesh: mesh.clone(),
            proxy_lives: false,
            envoy_folder,
            app_started: false,
            ready: false,
            app: None,
            takes_traffic,
            renewal,
            registration,
            files,
            register,
            workload,
            spec,
            name,
        };
        match running.start_proxy().await {
            Ok(()) => Ok(running),
            Err(error) => {
                // The first error is the one to tell.
                let _ = running.end().await;
                Err(error)
            }
        }
    }

    async fn start_proxy(&mut self) -> anyhow::Result<()> {
        let program =
            File::open(&self.mesh.proxy).with_context(|| format!("open {}", self.mesh.proxy.display()))?;
        let log = open_log(&self.spec.proxy_log, self.workload.privilege())?;
        let identity = Identity {
            spec: &self.spec,
            name: &self.name,
            address: self.workload.address(),
            address_6: self.workload.address_6(),
            envoy: self.spec.envoy.as_deref().zip(self.envoy_folder.as_ref().map(TempDir::path)),
        };
        let options = {
            let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            sidecar::options(&identity, &files, program, Some(log))?
        };
        self.workload.start_proxy(&options)?;
        self.proxy_lives = true;
        let deadline = Instant::now() + PROXY_PATIENCE;
        while !self.answers(STATUS_PORT, "/healthz/ready").await {
            self.note_events();
            if self.app.is_some() {
                return Ok(());
            }
            if !self.proxy_lives {
                bail!("the proxy of {} ended before it was ready{}", self.name, self.last_words());
            }
            if Instant::now() > deadline {
                bail!(
                    "the proxy of {} has no configuration from {} after {} s{}",
                    self.name,
                    self.spec.control_plane,
                    PROXY_PATIENCE.as_secs(),
                    self.last_words()
                );
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Starts the application and waits until it listens, or answers where it was asked to. May be dropped and called
    /// again.
    pub(crate) async fn start(&mut self) -> anyhow::Result<()> {
        if self.ready {
            return Ok(());
        }
        if self.spec.kind == Kind::Sidecar {
            if !self.app_started {
                let own_session = self.spec.output.is_some();
                self.workload.start_app(AppOptions { own_session })?;
                self.app_started = true;
            }
            self.await_application().await?;
        }
        if self.app.is_none() {
            self.set_ready(true).await?;
            self.ready = true;
        }
        Ok(())
    }

    /// Says whether the workload takes traffic: to the API server, or to the proxy that registered it.
    async fn set_ready(&self, ready: bool) -> anyhow::Result<()> {
        self.takes_traffic.store(ready, Ordering::Relaxed);
        if let Register::Api(objects) = &self.register {
            return objects.set_ready(&self.name, ready).await;
        }
        let path = if ready { "/traffic/start" } else { "/traffic/stop" };
        let stream = self.connect(AGENT_PORT).await.context("the proxy's agent")?;
        let status = http::status(stream, "POST", path).await.context("the proxy's agent")?;
        anyhow::ensure!(status == 200, "the proxy's agent answers {path} with {status}");
        Ok(())
    }

    /// Whether it has been given traffic.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    async fn await_application(&mut self) -> anyhow::Result<()> {
        if let Some(url) = self.spec.ready.clone() {
            while self.app.is_none() && !self.answers(url.port, &url.path).await {
                self.note_events();
                sleep(PAUSE).await;
            }
            return Ok(());
        }
        let ports: Vec<u16> = self.spec.ports.iter().map(|port| port.target).collect();
        if ports.is_empty() {
            return Ok(());
        }
        self.workload.await_ports(ports)?;
        while self.app.is_none() {
            match self.events.recv().await {
                Some(Event::Listening { loopback_only }) => {
                    for port in loopback_only {
                        tracing::warn!(
                            "{} listens on 127.0.0.1:{port} only; callers reach it at {}: let it listen on all addresses",
                            self.name,
                            self.address
                        );
                    }
                    return Ok(());
                }
                Some(event) => self.note(&event),
                None => bail!("the namespaces of {} are gone", self.name),
            }
        }
        Ok(())
    }

    /// How the application ended; the proxy is started again should it end before.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        loop {
            if let Some(status) = self.app {
                return Ok(status);
            }
            if !self.proxy_lives {
                // The control plane may be away, too: the application goes on meanwhile.
                if let Err(error) = self.revive_proxy().await {
                    tracing::error!("{error:#}; trying again");
                    self.note_events();
                }
                continue;
            }
            match self.events.recv().await {
                Some(event) => self.note(&event),
                None => bail!("the namespaces of {} are gone", self.name),
            }
        }
    }

    async fn revive_proxy(&mut self) -> anyhow::Result<()> {
        tracing::error!("the proxy of {} ended{}; starting it again", self.name, self.last_words());
        sleep(Duration::from_secs(1)).await;
        if let Register::Api(_) = &self.register {
            self.set_ready(false).await?;
        }
        if let Err(error) = self.start_proxy().await {
            // One that lives and never gets ready: its end is the start of the next.
            let _ = self.workload.signal(Target::Proxy, nix::libc::SIGKILL);
            return Err(error);
        }
        self.set_ready(true).await
    }

    pub(crate) fn signal(&self, signal: i32) -> anyhow::Result<()> {
        Ok(self.workload.signal(Target::App, signal)?)
    }

    /// Takes the workload out of traffic: no new requests come, those under way are finished.
    pub(crate) async fn drain(&mut self) {
        if let Err(error) = self.set_ready(false).await {
            tracing::warn!("{error:#}; ending without the mesh's knowledge");
        }
        if self.spec.kind == Kind::Sidecar && self.spec.ports.is_empty() {
            // Nobody calls it.
            return;
        }
        sleep(NEWS).await;
        // Older proxies have no such door; then only the endpoint is withdrawn.
        if let Ok(stream) = self.connect(AGENT_PORT).await {
            let _ = http::status(stream, "POST", "/drain").await;
        }
        if self.workload.await_quiet(capture::INBOUND_PORT).is_err() {
            return;
        }
        let deadline = Instant::now() + self.spec.drain.unwrap_or(DRAIN);
        while self.app.is_none() {
            match timeout_at(deadline, self.events.recv()).await {
                Ok(Some(Event::Quiet) | None) | Err(_) => return,
                Ok(Some(event)) => self.note(&event),
            }
        }
    }

    /// Withdraws the workload, lets the proxy finish, and ends everything in its namespaces.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        self.renewal.abort();
        self.registration.abort();
        if self.proxy_lives && matches!(self.register, Register::Joined) {
            // A proxy that cannot be told goes without a word; its entry is removed after a while.
            let _ = self.set_ready(false).await;
        }
        let withdrawn = self.register.withdraw(&self.name).await;
        if self.proxy_lives && self.workload.signal(Target::Proxy, nix::libc::SIGTERM).is_ok() {
            let limit = self.spec.drain.map_or(PROXY_END, |drain| drain + PROXY_REST);
            let gone = async {
                while self.proxy_lives {
                    match self.events.recv().await {
                        Some(event) => self.note(&event),
                        None => break,
                    }
                }
            };
            // One that does not end by itself is ended with its namespaces.
            let _ = timeout(limit, gone).await;
        }
        let workload = Arc::clone(&self.workload);
        tokio::task::spawn_blocking(move || workload.end()).await?;
        withdrawn
    }

    /// Whether the path answers with success, within the workload.
    async fn answers(&self, port: u16, path: &str) -> bool {
        match self.connect(port).await {
            Ok(stream) => {
                http::status(stream, "GET", path).await.is_ok_and(|code| (200..400).contains(&code))
            }
            Err(_) => false,
        }
    }

    async fn connect(&self, port: u16) -> std::io::Result<tokio::net::TcpStream> {
        match self.workload.connect(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)).await {
            Ok(stream) => Ok(stream),
            // An application may listen on its address alone.
            Err(_) => self.workload.connect(SocketAddr::new(self.address, port)).await,
        }
    }

    fn note_events(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.note(&event);
        }
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Ended(Target::App, status) => self.app = Some(*status),
            Event::Ended(Target::Proxy, status) => {
                tracing::debug!(?status, "proxy ended");
                self.proxy_lives = false;
            }
            Event::Listening { .. } | Event::Quiet => {}
        }
    }

    /// What the proxy wrote last, for an error's end.
    fn last_words(&self) -> String {
        const LINES: usize = 12;
        let text = std::fs::read(&self.spec.proxy_log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LINES)..];
        if last.is_empty() { String::new() } else { format!("; its last words:\n{}", last.join("\n")) }
    }
}

/// The control plane publishes them soon after its start.
async fn root_certificates(objects: &Objects) -> anyhow::Result<String> {
    let deadline = Instant::now() + ROOT_PATIENCE;
    loop {
        if let Some(root) = objects.root_certificates().await? {
            return Ok(root);
        }
        if Instant::now() > deadline {
            bail!(
                "the namespace has no ConfigMap istio-ca-root-cert: is the control plane (`mizzen up`) running?"
            );
        }
        sleep(PAUSE).await;
    }
}

fn options(spec: &Spec) -> anyhow::Result<WorkloadOptions> {
    let namespace = &spec.namespace;
    let mut options = WorkloadOptions::new(spec.command.clone());
    options.environment.clone_from(&spec.environment);
    options.user.clone_from(&spec.user);
    options.search = [format!("{namespace}.svc."), "svc.".into(), String::new()]
        .map(|prefix| format!("{prefix}cluster.local"))
        .into();
    // Our own proxy gets sockets of the host; another's connections to other networks are carried on by the agent.
    let relay = spec.envoy.as_ref().map(|_| Relay { port: RELAY_PORT, inside: networks() });
    options.capture = (spec.kind == Kind::Sidecar).then(|| capture::Settings {
        relay,
        // Whoever asks another proxy for its metrics is not to be answered by its own.
        exclude_outbound: capture::OPEN_PORTS.to_vec(),
        ..capture::Settings::default()
    });
    if let Some(path) = &spec.output {
        let file = File::options().create(true).append(true).open(path);
        options.streams = Streams::To(file.with_context(|| format!("open {}", path.display()))?);
    }
    Ok(options)
}

/// A log that the proxy's own user may open again by its name.
fn open_log(path: &Path, privilege: Privilege) -> anyhow::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let file = File::options().create(true).append(true).open(path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    if privilege == Privilege::Root && file.metadata().is_ok_and(|m| m.is_file()) {
        std::os::unix::fs::fchown(&file, Some(capture::PROXY_ID), None)
            .with_context(|| format!("give {} to the proxy", path.display()))?;
    }
    Ok(file)
}

/// Where an Envoy finds its agent's socket.
fn envoy_folder(privilege: Privilege) -> anyhow::Result<TempDir> {
    let folder =
        tempfile::Builder::new().prefix("mizzen-").tempdir().context("make a folder for Envoy's socket")?;
    if privilege == Privilege::Root {
        std::os::unix::fs::chown(folder.path(), Some(capture::PROXY_ID), Some(capture::PROXY_ID))
            .context("give the folder of Envoy's socket to the proxy")?;
    }
    Ok(folder)
}

/// Keeps the proxy's token fresh.
fn renew(register: Register, account: String, files: Arc<Mutex<Files>>, seconds: u64) -> JoinHandle<()> {
    tokio::spawn(async move {
        let Register::Api(objects) = register else { return };
        let mut pause = Duration::from_secs(seconds.max(60) * 4 / 5);
        loop {
            sleep(pause).await;
            let renewed = objects.token(&account).await.and_then(|token| {
                let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
                files.token.replace(&token.text).map(|()| token.seconds)
            });
            pause = match renewed {
                Ok(seconds) => Duration::from_secs(seconds.max(60) * 4 / 5),
                Err(error) => {
                    tracing::warn!("the proxy's token is not renewed: {error:#}");
                    Duration::from_secs(10)
                }
            };
        }
    })
}

/// Registers the workload again should its entry go while it lives: by hand, or since the control plane was not reached
/// for longer than entries outlive their proxies.
fn keep_registered(
    register: Register,
    name: String,
    spec: Spec,
    address: String,
    takes_traffic: Arc<AtomicBool>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let Register::Api(objects) = register else { return };
        loop {
            objects.until_gone(&name).await;
            tracing::warn!("the entry of {name} was removed though it lives; it is registered again");
            let registered = async {
                objects.register(&name, &spec, &address).await?;
                match takes_traffic.load(Ordering::Relaxed) {
                    true => objects.set_ready(&name, true).await,
                    false => Ok(()),
                }
            };
            if let Err(error) = registered.await {
                tracing::warn!("{error:#}");
                sleep(Duration::from_secs(1)).await;
            }
        }
    })
}

/// Five letters and digits that are hard to confuse, as Kubernetes adds to names.
fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = ThreadRandom;
    let mut letter = || {
        let at = random.below(u64::try_from(LETTERS.len()).unwrap_or(1));
        usize::try_from(at).ok().and_then(|at| LETTERS.get(at)).map_or('x', |&letter| char::from(letter))
    };
    (0..5).map(|_| letter()).collect()
}

/// `KEY=VALUE`, for labels.
fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form KEY=VALUE"))?;
    if key.is_empty() { Err(format!("{text:?} has no key")) } else { Ok((key.into(), value.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_named_and_may_move() {
        let port = |name: &str, number, target| Port { name: name.into(), number, target };
        assert_eq!("http=9080".parse(), Ok(port("http", 9080, 9080)));
        assert_eq!("grpc-web=80:8080".parse(), Ok(port("grpc-web", 80, 8080)));
        for wrong in ["9080", "http=", "http=0", "http=70000", "=80", "HTTP=80", "http=80:", "http=80:x"] {
            assert!(wrong.parse::<Port>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_of_people_win_over_ours() {
        let mut spec = Spec::sidecar("reviews");
        spec.labels.insert("version".into(), "canary".into());
        spec.version = Some("v2".into());
        assert_eq!(spec.labels()["version"], "canary");
        assert_eq!(spec.labels()["service.istio.io/canonical-revision"], "v2");
        assert_eq!((spec.account(), spec.workload().as_str()), ("reviews", "reviews-v2"));
    }

    #[test]
    fn suffixes_are_names() {
        let suffix = suffix();
        assert!(suffix.len() == 5 && suffix.chars().all(|c| c.is_ascii_alphanumeric()), "{suffix}");
    }
}
