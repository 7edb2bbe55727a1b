//! A mesh as a user starts it: `mizzen up`, `mizzen run`, `kubectl apply`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use agent::host::{Hub, Launcher};
use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use testkit::hosts::Wire;

use crate::cluster::Cluster;
use crate::hold::Held;
use crate::load::Report;
use crate::probe::Heard;
use crate::serve::{Event, What};
use crate::{Proxies, processes, stage, until};

const START: Duration = Duration::from_secs(30);

/// A control plane, its store, and what was started on it. All ends with it.
pub struct Mesh {
    folder: TempDir,
    /// More arguments of `mizzen up`.
    options: Vec<String>,
    up: Option<Child>,
    kubeconfig: PathBuf,
    /// The API server that it stands on, unless that is the embedded one.
    cluster: Option<Cluster>,
}

/// A process of the mesh, started with `mizzen run`.
pub struct Workload {
    child: Child,
    name: String,
    /// Where its script is, and beside it what it noted; see [`crate::serve`].
    script: PathBuf,
}

/// What proxies log of a request where [`Mesh::log_requests`] was called.
const LOG_FORMAT: &str = r#"{"path": "%REQ(:PATH)%", "method": "%REQ(:METHOD)%", "code": "%RESPONSE_CODE%",
 "flags": "%RESPONSE_FLAGS%", "details": "%RESPONSE_CODE_DETAILS%", "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
 "cluster": "%UPSTREAM_CLUSTER%", "host": "%UPSTREAM_HOST%", "route": "%ROUTE_NAME%"}"#;

/// One request, as a proxy logged it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Logged {
    pub path: Option<String>,
    pub method: Option<String>,
    pub code: u16,
    pub flags: Option<String>,
    pub details: Option<String>,
    pub attempts: u32,
    pub cluster: Option<String>,
    pub host: Option<String>,
    pub route: Option<String>,
}

/// The programs under test, built beside the tests.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let folder = own.parent().unwrap_or(Path::new("."));
    // target/debug/deps/scenarios-… stands one folder below the programs, of which this may be one.
    let above = folder.parent().filter(|_| folder.ends_with("deps"));
    above.unwrap_or(folder).join(name)
}

impl Mesh {
    /// Starts the control plane and waits until it is ready.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&[])
    }

    /// The same with more arguments of `mizzen up`.
    pub fn start_with(options: &[&str]) -> anyhow::Result<Self> {
        Self::start_prepared(options, |_| Ok(()))
    }

    /// The same on a data folder, which is not there yet, that is prepared first.
    pub fn start_prepared(
        options: &[&str],
        prepare: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let folder = tempfile::tempdir()?;
        let cluster = Cluster::if_chosen()?;
        let embedded = || folder.path().join("data/kubeconfig");
        let kubeconfig = cluster.as_ref().map_or_else(embedded, Cluster::kubeconfig);
        let mut mesh = Self { folder, options, up: None, kubeconfig, cluster };
        prepare(&mesh.folder.path().join("data"))?;
        mesh.restart()?;
        Ok(mesh)
    }

    /// One whose control plane somebody else started.
    pub fn of(kubeconfig: PathBuf) -> anyhow::Result<Self> {
        Ok(Self { folder: tempfile::tempdir()?, options: Vec::new(), up: None, kubeconfig, cluster: None })
    }

    /// Starts the control plane on the store as it is, after [`Mesh::kill_control_plane`] or at first.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let log = self.log("up")?;
        let mut command = Command::new(program("mizzen"));
        if self.cluster.is_some() {
            command.arg("--kubeconfig").arg(self.kubeconfig());
        }
        let child = command
            .args(["up", "--data-dir"])
            .arg(self.folder.path().join("data"))
            .args(&self.options)
            .env("MIZZEN_LOG", "info")
            .env_remove("CARGO")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("mizzen up")?;
        self.up = Some(child);
        let ready = until("the control plane is ready", START, || {
            get("127.0.0.1:8080", "/ready").filter(|s| *s == 200)
        });
        ready.with_context(|| self.logs("up")).map(drop)
    }

    /// `kill -9`.
    pub fn kill_control_plane(&mut self) {
        if let Some(mut up) = self.up.take() {
            let _ = up.kill();
            let _ = up.wait();
        }
    }

    /// Its process.
    pub fn control_plane(&self) -> Option<u32> {
        let id = self.up.as_ref()?.id();
        processes::lives(id).then_some(id)
    }

    /// SIGTERM, as an orchestrator does; waits for the end.
    pub fn stop_control_plane(&mut self) -> anyhow::Result<()> {
        match self.up.take() {
            Some(mut up) => terminate(&mut up, Duration::from_secs(20)),
            None => Ok(()),
        }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    /// The real API server that it stands on, where one was chosen.
    pub fn cluster(&mut self) -> Option<&mut Cluster> {
        self.cluster.as_mut()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn log(&self, name: &str) -> anyhow::Result<File> {
        let file = self.folder.path().join(format!("{name}.log"));
        Ok(File::options().create(true).append(true).open(file)?)
    }

    /// Everything that a process wrote.
    pub fn whole_log(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    /// The end of it, for the message of a failure.
    pub fn logs(&self, name: &str) -> String {
        let text = self.whole_log(name);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// The ends of all logs, each under its name.
    fn all_logs(&self) -> String {
        let entries = std::fs::read_dir(self.folder.path()).into_iter().flatten().flatten();
        let names =
            entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".log")?.to_owned()));
        names.map(|name| format!("== {name}\n{}\n", self.logs(&name))).collect()
    }

    /// `mizzen` with arguments, against this mesh.
    pub fn mizzen<I: IntoIterator<Item: Into<OsString>>>(&self, arguments: I) -> Command {
        let mut command = Command::new(program("mizzen"));
        command
            .args(arguments.into_iter().map(Into::into))
            .env("KUBECONFIG", self.kubeconfig())
            // Under cargo it would build the other programs first; they are built by now.
            .env_remove("CARGO")
            .stdin(Stdio::null());
        command
    }

    /// The real kubectl against this mesh.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        Ok(self.kubectl_command(arguments)?.output()?)
    }

    /// The same, not yet started.
    pub fn kubectl_command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let kubectl = testkit::peers::need("kubectl").context("needs kubectl")?;
        let mut command = Command::new(kubectl);
        command.args(arguments).env("KUBECONFIG", self.kubeconfig()).env("HOME", self.folder.path());
        command.env("GOGC", "off");
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Applies YAML with kubectl; what the server says against it is the error.
    pub fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        let output = self.kubectl_with(&["apply"], yaml)?;
        ensure!(output.status.success(), "kubectl apply: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// kubectl with `-f` and a file of this text.
    pub fn kubectl_with(&self, arguments: &[&str], yaml: &str) -> anyhow::Result<Output> {
        let mut file = tempfile::NamedTempFile::new_in(self.folder.path())?;
        file.write_all(yaml.as_bytes())?;
        let file = file.path().display().to_string();
        self.kubectl(&[arguments, &["-f", &file]].concat())
    }

    /// `mizzen` with arguments against this mesh, to its end: what it printed. Any exit code but 0 is an error.
    pub fn mizzen_ok(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.mizzen(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "mizzen {arguments:?}: {}: {said}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub fn kubectl_ok(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.kubectl(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {arguments:?}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies YAML and waits until every proxy has accepted the resource `KIND NAME`.
    pub fn apply_and_wait(&self, yaml: &str, kind: &str, name: &str) -> anyhow::Result<()> {
        self.apply(yaml)?;
        let output = self.mizzen(["wait", kind, name]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "mizzen wait {kind} {name}: {said}\n{}", self.all_logs());
        Ok(())
    }

    /// Every proxy logs every request from now on; see [`Mesh::logged`].
    pub fn log_requests(&self) -> anyhow::Result<()> {
        let mesh = serde_json::json!({
            "accessLogFile": "/dev/stdout", "accessLogEncoding": "JSON", "accessLogFormat": LOG_FORMAT,
        });
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
            "data": {"mesh": mesh.to_string()},
        });
        self.apply(&config.to_string())
    }

    /// The requests that the proxy of a replica or load logged, so far or in all once it has ended.
    pub fn logged(&self, name: &str) -> Vec<Logged> {
        let text = std::fs::read_to_string(self.proxy_log(name)).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn proxy_log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.proxy.log"))
    }

    /// Applies YAML and waits until every proxy concerned has accepted it.
    pub fn steer(&self, yaml: &str) -> anyhow::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(self.folder.path())?;
        file.write_all(yaml.as_bytes())?;
        let file = file.path().display().to_string();
        let applied = self.kubectl_ok(&["apply", "-o", "json", "-f", &file])?;
        let applied: serde_json::Value = serde_json::from_str(&applied)?;
        let one = [applied.clone()];
        for object in applied["items"].as_array().map_or(&one[..], Vec::as_slice) {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let metadata = &object["metadata"];
            self.wait(&text(&metadata["namespace"]), &text(&object["kind"]), &text(&metadata["name"]))?;
        }
        Ok(())
    }

    /// Waits until every proxy concerned has accepted a resource as it is now.
    pub fn wait(&self, namespace: &str, kind: &str, name: &str) -> anyhow::Result<()> {
        let output = self.mizzen(["-n", namespace, "wait", kind, name]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "mizzen wait {kind} {name}: {said}");
        Ok(())
    }

    /// Starts a replica of a service that answers with `name`.
    pub fn serve(&self, service: &str, version: &str, name: &str) -> anyhow::Result<Workload> {
        self.serve_with(service, version, name, &["--port", "http=9080"])
    }

    /// The same with other arguments of `mizzen run`; the application always listens on 9080.
    pub fn serve_with(
        &self,
        service: &str,
        version: &str,
        name: &str,
        options: &[&str],
    ) -> anyhow::Result<Workload> {
        let script = self.folder.path().join(format!("{name}.script"));
        std::fs::write(&script, "")?;
        let mut command = self.run(service, name, options);
        command.args(Proxies::of_next_callee()?);
        command.args(["--version", version, "--"]).arg(program("mizzen-e2e"));
        command.args(["serve", "--name", name, "--script"]).arg(&script);
        command.arg("--events").arg(script.with_extension("events"));
        self.spawn(command, name, script)
    }

    /// `mizzen run` up to its `--`, with the proxy's log where [`Mesh::logged`] looks.
    pub fn run(&self, service: &str, name: &str, options: &[&str]) -> Command {
        let mut command = self.mizzen(["run", "--service", service]);
        command.args(options).arg("--proxy-log").arg(self.proxy_log(name));
        command
    }

    /// Starts a command as a workload: a service with one port.
    pub fn start_service<I>(&self, service: &str, port: &str, command: I) -> anyhow::Result<Workload>
    where
        I: IntoIterator<Item: Into<OsString>>,
    {
        let mut run = self.run(service, service, &["--port", port]);
        run.arg("--").args(command.into_iter().map(Into::into));
        self.spawn(run, service, PathBuf::new())
    }

    /// Objects of a kind in the default namespace, as the API server shows them.
    pub fn objects(&self, kind: &str) -> anyhow::Result<Vec<serde_json::Value>> {
        let text = self.kubectl_ok(&["get", kind, "-o", "json"])?;
        let mut list: serde_json::Value = serde_json::from_str(&text)?;
        Ok(serde_json::from_value(list["items"].take())?)
    }

    /// The address of an app's first workload.
    pub fn address(&self, app: &str) -> anyhow::Result<IpAddr> {
        let path = "jsonpath={.items[0].spec.address}";
        let address =
            self.kubectl_ok(&["get", "workloadentries", "-l", &format!("app={app}"), "-o", path])?;
        address.parse().with_context(|| format!("{app} is at {address:?}"))
    }

    /// What connects to a port of that workload from the mesh's network, where no proxy stands before the caller.
    pub fn bare(
        &self,
        app: &str,
        port: u16,
    ) -> anyhow::Result<impl Fn() -> io::Result<TcpStream> + Send + use<>> {
        let target = SocketAddr::new(self.address(app)?, port);
        let hub = Hub::join(&Launcher::default())?;
        Ok(move || {
            let socket = hub.stream_socket(target.is_ipv6())?;
            socket.set_nonblocking(false)?;
            socket.connect(&target.into())?;
            Ok(TcpStream::from(socket))
        })
    }

    /// How far every proxy is, as the control plane's own page says.
    pub fn proxies(&self) -> anyhow::Result<serde_json::Value> {
        let (_, body) = get_page("127.0.0.1:15014", "/debug/syncz").context("no answer of /debug/syncz")?;
        serde_json::from_str(&body).context(body)
    }

    /// Starts any command, as a workload or not.
    pub fn spawn(&self, mut command: Command, name: &str, script: PathBuf) -> anyhow::Result<Workload> {
        let log = self.log(name)?;
        let child = command.stdout(log.try_clone()?).stderr(log).spawn().with_context(|| name.to_owned())?;
        Ok(Workload { child, name: name.to_owned(), script })
    }

    /// Starts a gateway with arguments of `mizzen gateway`; returns when its ports of this machine lead to it.
    pub fn gateway(&self, arguments: &[&str]) -> anyhow::Result<Workload> {
        let name = "gateway";
        let mut command = self.mizzen(["gateway", "--proxy-log"]);
        command.arg(self.proxy_log(name)).args(Proxies::of_next_caller()?).args(arguments);
        let mut gateway = self.spawn(command, name, PathBuf::new())?;
        let doors = arguments.iter().filter(|argument| **argument == "--listen").count();
        let open = || {
            let ended = gateway.child.try_wait().ok().flatten().is_some();
            (ended || self.logs(name).matches(" listens on ").count() >= doors).then_some(!ended)
        };
        match until("the gateway is ready", START, open) {
            Ok(true) => Ok(gateway),
            Ok(false) => bail!("the gateway ended: {}", self.logs(name)),
            Err(error) => Err(error.context(self.all_logs())),
        }
    }

    /// A file to join with, by arguments of `mizzen token create`.
    pub fn token(&self, name: &str, arguments: &[&str]) -> anyhow::Result<PathBuf> {
        let output =
            self.mizzen(["token", "create"]).args(arguments).output().context("mizzen token create")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "mizzen token create {arguments:?}: {said}");
        let file = self.folder.path().join(format!("{name}.join"));
        std::fs::write(&file, output.stdout)?;
        Ok(file)
    }

    /// What one TCP connection to HOST:PORT hears from a workload of that account.
    pub fn probe(&self, account: &str, to: &str, say: &str) -> anyhow::Result<Heard> {
        let mut command = self.mizzen(["run", "--service", account]);
        command.args(Proxies::of_next_caller()?).arg("--");
        command.arg(program("mizzen-e2e")).args(["probe", "--to", to, "--say", say]);
        let output = command.output().context("probe")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the probe of {to} failed: {said}");
        serde_json::from_slice(&output.stdout).with_context(|| said.into_owned())
    }

    /// Load from this machine, outside the mesh.
    pub fn load_from_outside(&self, arguments: &[&str]) -> anyhow::Result<Report> {
        self.outside(arguments)?.report()
    }

    /// The same; returns when the first request is over.
    pub fn start_load_from_outside(&self, arguments: &[&str]) -> anyhow::Result<Load> {
        let load = self.outside(arguments)?;
        until("the load begins", START, || (load.so_far().sent > 0).then_some(()))?;
        Ok(load)
    }

    fn outside(&self, arguments: &[&str]) -> anyhow::Result<Load> {
        let mut command = Command::new(program("mizzen-e2e"));
        let progress = self.next_progress();
        command.arg("load").args(arguments).arg("--progress").arg(&progress).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(self.log("outside")?);
        let child = command.spawn().context("load from outside")?;
        let log = self.folder.path().join("outside.log");
        Ok(Load { client: Client { child, log, report: PhantomData }, progress })
    }

    /// Load from a workload of the mesh, with arguments of [`crate::load::Plan`]; waits for its report.
    pub fn load(&self, arguments: &[&str]) -> anyhow::Result<Report> {
        self.start_load(arguments)?.report()
    }

    pub fn start_load(&self, arguments: &[&str]) -> anyhow::Result<Load> {
        self.start_load_as("client", &[], arguments)
    }

    /// The same under a name of its own, with more arguments of `mizzen run`.
    pub fn start_load_as(&self, name: &str, options: &[&str], arguments: &[&str]) -> anyhow::Result<Load> {
        self.start_load_from("client", name, options, arguments)
    }

    /// The same from another service.
    pub fn start_load_from(
        &self,
        service: &str,
        name: &str,
        options: &[&str],
        arguments: &[&str],
    ) -> anyhow::Result<Load> {
        let progress = self.next_progress();
        let file = progress.display().to_string();
        let arguments = [arguments, &["--progress", &file]].concat();
        let client = self.start_client(service, name, options, "load", &arguments)?;
        Ok(Load { client, progress })
    }

    /// The same to its end.
    pub fn load_as(&self, name: &str, options: &[&str], arguments: &[&str]) -> anyhow::Result<Report> {
        self.start_load_as(name, options, arguments)?.report()
    }

    /// A connection that stays open, with arguments of [`crate::hold::Options`].
    pub fn start_hold(&self, arguments: &[&str]) -> anyhow::Result<Client<Held>> {
        self.start_client("client", "client", &[], "hold", arguments)
    }

    fn start_client<R>(
        &self,
        service: &str,
        name: &str,
        options: &[&str],
        part: &str,
        arguments: &[&str],
    ) -> anyhow::Result<Client<R>> {
        let mut command = self.run(service, name, options);
        command.args(Proxies::of_next_caller()?).arg("--");
        command.arg(program("mizzen-e2e")).arg(part).args(arguments);
        let child =
            command.stdout(Stdio::piped()).stderr(self.log(name)?).spawn().context(part.to_owned())?;
        Ok(Client { child, log: self.folder.path().join(format!("{name}.log")), report: PhantomData })
    }

    /// A file of its own for each load.
    fn next_progress(&self) -> PathBuf {
        static LOADS: AtomicU32 = AtomicU32::new(0);
        self.folder.path().join(format!("{}.progress", LOADS.fetch_add(1, Ordering::Relaxed)))
    }

    /// Waits until a URL answers 200 inside the mesh.
    pub fn until_answers(&self, url: &str) -> anyhow::Result<()> {
        let load = self.start_load(&["--url", url, "--connections", "1", "--pause", "20", "--until-ok"])?;
        let answered = until(&format!("{url} answers"), START, || (load.so_far().ok() > 0).then_some(()));
        answered.with_context(|| self.all_logs())?;
        load.report().map(drop)
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if let Some(up) = &mut self.up {
            let _ = terminate(up, Duration::from_secs(5));
        }
        stage::keep_for_a_failure(self.all_logs());
    }
}

/// A client in the mesh that says at its end what it saw.
pub struct Client<R> {
    child: Child,
    log: PathBuf,
    report: PhantomData<R>,
}

/// Load that is under way.
pub struct Load {
    client: Client<Report>,
    progress: PathBuf,
}

impl Load {
    /// What was counted up to a moment ago.
    pub fn so_far(&self) -> Report {
        let text = std::fs::read(&self.progress).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Waits for at least so many more answers and says what they were.
    pub fn next(&self, count: u64) -> anyhow::Result<Report> {
        // Requests that were under way when the question was asked may be answered as before.
        let before = until("requests go on", START, || {
            let now = self.so_far();
            (now.sent > 0).then_some(now)
        })?;
        until("requests go on", START, || {
            let now = self.so_far();
            (now.sent >= before.sent + count).then(|| now.since(&before))
        })
    }

    /// Waits until requests are answered by exactly these, and none fails.
    pub fn until_only(&self, names: &[&str]) -> anyhow::Result<Report> {
        let mut last = Report::default();
        let only = until(&format!("all goes to {names:?}"), START, || {
            last = self.next(60).ok()?;
            let exactly =
                last.names.len() == names.len() && names.iter().all(|n| last.names.contains_key(*n));
            (exactly && last.failed() == 0).then(|| last.clone())
        });
        only.with_context(|| format!("{last:?}"))
    }

    /// Waits until the newest answer has this status; how long that took.
    pub fn until_answered(&self, status: u16) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let answered = || (self.so_far().last.status == status).then(|| began.elapsed());
        until(&format!("requests are answered {status}"), START, answered)
    }

    /// Waits until more answers are of a kind than there are now; how long that took.
    pub fn until_more(&self, of_kind: impl Fn(&Report) -> u64) -> anyhow::Result<Duration> {
        let (began, before) = (Instant::now(), of_kind(&self.so_far()));
        let more = || (of_kind(&self.so_far()) > before).then(|| began.elapsed());
        until("requests are answered otherwise", START, more)
    }

    /// Waits for what it counted, while a load that lingers stays.
    pub fn counted(&mut self) -> anyhow::Result<Report> {
        self.client.counted()
    }

    /// The process of that program beside it.
    pub fn process(&self, program: &str) -> anyhow::Result<u32> {
        processes::below(self.client.child.id(), program)
    }

    /// Ends it and reads what it counted.
    pub fn stop(self) -> anyhow::Result<Report> {
        self.client.stop()
    }

    /// Ends it once it sent at least so many requests, however quickly the rest went, and reads what it counted.
    pub fn stop_after(self, least: u64) -> anyhow::Result<Report> {
        until(&format!("{least} requests were sent"), START, || (self.so_far().sent >= least).then_some(()))?;
        self.stop()
    }

    /// Waits for its end and reads what it counted.
    pub fn report(self) -> anyhow::Result<Report> {
        self.client.report()
    }
}

impl<R: DeserializeOwned> Client<R> {
    /// Ends it and reads what it saw.
    pub fn stop(self) -> anyhow::Result<R> {
        kill(pid(&self.child), Signal::SIGTERM)?;
        self.report()
    }

    /// Waits for what it counted, while a load that lingers stays.
    pub fn counted(&mut self) -> anyhow::Result<R> {
        let output = self.child.stdout.as_mut().context("no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let log = || std::fs::read_to_string(&self.log).unwrap_or_default();
        serde_json::from_str(&line).with_context(|| format!("{line:?}: {}", log()))
    }

    /// Waits for its end and reads what it counted.
    pub fn report(mut self) -> anyhow::Result<R> {
        let mut text = String::new();
        self.child.stdout.take().context("no output")?.read_to_string(&mut text)?;
        let status = self.child.wait()?;
        let log = || std::fs::read_to_string(&self.log).unwrap_or_default();
        ensure!(status.success(), "the client ended with {status}: {}", log());
        serde_json::from_str(text.trim()).with_context(|| format!("{text:?}: {}", log()))
    }
}

/// One that nobody asked for its report.
impl<R> Drop for Client<R> {
    fn drop(&mut self) {
        let _ = end_at_once(&mut self.child, Duration::from_secs(5));
    }
}

impl Workload {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process of `mizzen run`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process of that program in the workload: the application, or `mizzen-proxy`.
    pub fn process(&self, program: &str) -> anyhow::Result<u32> {
        processes::below(self.child.id(), program).with_context(|| self.name.clone())
    }

    /// From now on it behaves so; see [`crate::serve`].
    pub fn behave(&self, script: &str) -> anyhow::Result<()> {
        let next = self.script.with_extension("next");
        std::fs::write(&next, script)?;
        Ok(std::fs::rename(next, &self.script)?)
    }

    /// What became of the requests that its application got, in their order.
    pub fn events(&self) -> Vec<Event> {
        let text = std::fs::read_to_string(self.script.with_extension("events")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// How many requests its application has read whole.
    pub fn begun(&self) -> usize {
        self.events().iter().filter(|event| event.what == What::Begun).count()
    }

    /// The wire on which the others reach its application's port.
    pub fn wire(&self) -> anyhow::Result<Wire> {
        let found = self.applications().next().with_context(|| format!("no process of {}", self.name))?;
        Ok(Wire::of(&found.to_string(), 9080))
    }

    /// The processes of its application: those that run its script, and not those that start them.
    fn applications(&self) -> impl Iterator<Item = u32> {
        let script = self.script.display().to_string();
        processes::all().filter(move |pid| {
            let words = processes::words(*pid);
            words.first().is_some_and(|first| first.ends_with("mizzen-e2e")) && words.contains(&script)
        })
    }

    /// SIGTERM, as an orchestrator does; waits for the end.
    pub fn stop(mut self) -> anyhow::Result<()> {
        terminate(&mut self.child, Duration::from_secs(20))
    }

    /// The same without waiting for the end: what comes back waits for it.
    pub fn leave(self) -> impl FnOnce() -> anyhow::Result<()> {
        let leaving = std::thread::spawn(|| self.stop());
        || leaving.join().unwrap_or_else(|_| bail!("stopping a workload panicked"))
    }

    /// `kill -9` of the application alone, as when it crashes.
    pub fn crash(&self) -> anyhow::Result<()> {
        self.applications().try_for_each(|id| Ok(kill(raw(id), Signal::SIGKILL)?))
    }

    /// `kill -9` of the whole workload.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = end_at_once(&mut self.child, Duration::from_secs(5));
    }
}

pub(crate) fn pid(child: &Child) -> Pid {
    raw(child.id())
}

fn raw(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap_or(i32::MAX))
}

fn terminate(child: &mut Child, within: Duration) -> anyhow::Result<()> {
    if child.try_wait()?.is_some() {
        return Ok(());
    }
    kill(pid(child), Signal::SIGTERM)?;
    if until("the process ends", within, || child.try_wait().ok().flatten()).is_err() {
        child.kill()?;
        child.wait()?;
        bail!("the process did not end within {within:?} of SIGTERM");
    }
    Ok(())
}

/// The same for one whose callers are gone: who is asked again does not wait for them.
fn end_at_once(child: &mut Child, within: Duration) -> anyhow::Result<()> {
    for _ in 0..2 {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        kill(pid(child), Signal::SIGTERM)?;
        std::thread::sleep(Duration::from_millis(50));
    }
    terminate(child, within)
}

/// The status of a plain GET.
pub fn get(address: &str, path: &str) -> Option<u16> {
    get_page(address, path).map(|(status, _)| status)
}

/// The body of a plain GET that is answered 200.
pub fn get_text(address: &str, path: &str) -> Option<String> {
    get_page(address, path).filter(|(status, _)| *status == 200).map(|(_, body)| body)
}

/// Status and body of a plain GET.
pub fn get_page(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {address}\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Some((status, body.to_owned()))
}
