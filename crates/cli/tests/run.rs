//! `mizzen run` against the embedded API, with a stand-in for the proxy: what is registered, when, and what remains.
//!
//! This program is `mizzen`, the proxy, the application and the test by turns, by the name that it is started under.

use std::{
    env, fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use cli::Cli;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use kube::{
    Api, Client, Config,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use libtest_mimic::{Arguments, Trial};
use nix::{
    libc,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(20);
const NOBODY: u32 = 65534;
const ROOT: &str = "the mesh's root";

fn main() -> ExitCode {
    let name = env::args().next().unwrap_or_default();
    match Path::new(&name).file_name().and_then(|n| n.to_str()) {
        Some("mizzen-proxy") => stand_in(),
        Some("application") => application(),
        Some("mizzen") => return mizzen(),
        Some("as-user") => return all("an ordinary user", &arguments()),
        // The helpers are started under the name of their file in /proc.
        _ if env::args().nth(1).is_some_and(|a| a == "hub") => return mizzen(),
        _ => return everybody(),
    }
    ExitCode::SUCCESS
}

/// As the usual test programs take them; one after the other, since all play on one control plane.
fn arguments() -> Arguments {
    Arguments { test_threads: Some(1), ..Arguments::from_args() }
}

fn everybody() -> ExitCode {
    let arguments = arguments();
    let plays =
        !arguments.list && tests("", &Arc::default()).iter().any(|test| !arguments.is_filtered_out(test));
    let ordinary = !plays || !nix::unistd::Uid::effective().is_root() || as_user();
    let own = all("the caller", &arguments);
    if ordinary { own } else { ExitCode::FAILURE }
}

fn mizzen() -> ExitCode {
    cli::execute(Cli::read()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Whether all went well.
fn as_user() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("as-user");
    fs::copy(env::current_exe().unwrap(), &copy).unwrap();
    open_to_all(folder.path());
    let mut command = Command::new(copy);
    command.args(env::args_os().skip(1)).uid(NOBODY).gid(NOBODY).current_dir("/");
    command.status().unwrap().success()
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}

/// What all tests play on; made by the first of them.
type Stage = Arc<OnceLock<(Mesh, Runtime)>>;

fn all(who: &str, arguments: &Arguments) -> ExitCode {
    tls::install_provider();
    let stage = Stage::default();
    let conclusion = libtest_mimic::run(arguments, tests(who, &stage));
    if let Some((mesh, runtime)) = Arc::into_inner(stage).and_then(OnceLock::into_inner) {
        runtime.block_on(mesh.api.shutdown());
    }
    conclusion.exit_code()
}

fn tests(who: &str, stage: &Stage) -> Vec<Trial> {
    let tests: [(&str, fn(&Mesh, &Runtime)); 4] = [
        ("output_and_exit_code_are_the_command_s_own", exit_code),
        ("a_command_that_is_killed_kills_its_starter_in_the_same_way", killed),
        ("a_workload_is_registered_ready_drained_and_gone", registered),
        ("a_starter_that_is_killed_takes_everything_with_it", starter_killed),
    ];
    let trial = |(name, test): (&str, fn(&Mesh, &Runtime))| {
        let stage = Arc::clone(stage);
        let play = move || {
            let (mesh, runtime) = stage.get_or_init(|| {
                let mut builder = tokio::runtime::Builder::new_multi_thread();
                let runtime = builder.worker_threads(2).enable_all().build().unwrap();
                (runtime.block_on(Mesh::start()), runtime)
            });
            test(mesh, runtime);
            Ok(())
        };
        Trial::test(name, play).with_kind(who)
    };
    tests.into_iter().map(trial).collect()
}

struct Mesh {
    folder: tempfile::TempDir,
    api: apiserver::Handle,
    client: Client,
}

impl Mesh {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        open_to_all(folder.path());
        let own = env::current_exe().unwrap();
        for name in ["mizzen", "mizzen-proxy", "application"] {
            fs::copy(&own, folder.path().join(name)).unwrap();
        }
        let mut config = apiserver::Config::new(folder.path().join("data"));
        config.listen = "127.0.0.1:0".parse().unwrap();
        let api = apiserver::Server::start(config).await.unwrap();
        let kubeconfig = Kubeconfig::read_from(api.kubeconfig_path()).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        let root: ConfigMap = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "istio-ca-root-cert"}, "data": {"root-cert.pem": ROOT},
        }))
        .unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        maps.create(&PostParams::default(), &root).await.unwrap();
        Self { folder, api, client }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.path("mizzen"));
        command
            .arg("run")
            .args(words)
            .env("KUBECONFIG", self.api.kubeconfig_path())
            .env("MIZZEN_HUB", self.hub())
            .env("XDG_STATE_HOME", self.path("state"))
            .env_remove("CARGO")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn hub(&self) -> String {
        format!("run-test-{}-{}", nix::unistd::Uid::effective(), std::process::id())
    }

    async fn entries(&self) -> Vec<serde_json::Value> {
        let list = self.api_of_entries().list(&ListParams::default()).await.unwrap();
        list.items.into_iter().map(|entry| serde_json::to_value(entry).unwrap()).collect()
    }

    async fn remove(&self, entry: &str) {
        self.api_of_entries().delete(entry, &DeleteParams::default()).await.unwrap();
    }

    fn api_of_entries(&self) -> Api<DynamicObject> {
        let kind = ApiResource {
            group: "networking.istio.io".into(),
            version: "v1".into(),
            api_version: "networking.istio.io/v1".into(),
            kind: "WorkloadEntry".into(),
            plural: "workloadentries".into(),
        };
        Api::namespaced_with(self.client.clone(), "default", &kind)
    }

    /// Until the entries are as they should be.
    async fn until(
        &self,
        what: &str,
        holds: impl Fn(&[serde_json::Value]) -> bool,
    ) -> Vec<serde_json::Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let entries = self.entries().await;
            if holds(&entries) {
                return entries;
            }
            assert!(Instant::now() < deadline, "{what}: {entries:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn health(entry: &serde_json::Value) -> &str {
    entry["status"]["conditions"][0]["status"].as_str().unwrap_or("not said")
}

fn exit_code(mesh: &Mesh, runtime: &Runtime) {
    let script = "echo to out; echo to err >&2; id -u; exit 7";
    let words =
        ["--service", "job", "--port", "http=80:8000", "--ready", "http://:15021/", "--", "sh", "-c", script];
    let output = mesh.run(&words).output().unwrap();
    let uid = nix::unistd::Uid::effective();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("to out\n{uid}\n"));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "to err\n");
    assert_eq!(output.status.code(), Some(7));
    assert!(runtime.block_on(mesh.entries()).is_empty());
    runtime.block_on(async {
        let accounts: Api<ServiceAccount> = Api::namespaced(mesh.client.clone(), "default");
        assert!(accounts.get_opt("job").await.unwrap().is_some(), "the account is made");
        let services: Api<Service> = Api::namespaced(mesh.client.clone(), "default");
        let service = services.get("job").await.unwrap().spec.unwrap();
        assert_eq!(service.selector.unwrap().get("app").map(String::as_str), Some("job"));
        assert_eq!(service.ports.unwrap()[0].port, 80);
    });
}

fn killed(mesh: &Mesh, _: &Runtime) {
    let output = mesh.run(&["--service", "job", "--", "sh", "-c", "kill -KILL $$"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.signal(), Some(libc::SIGKILL), "{told}");
}

fn registered(mesh: &Mesh, runtime: &Runtime) {
    let mut child = start_application(mesh);
    let entries = runtime.block_on(mesh.until("ready", |e| e.first().is_some_and(|e| health(e) == "True")));
    let spec = &entries[0]["spec"];
    assert!(spec["address"].as_str().unwrap().starts_with("10.44."), "{spec}");
    assert_eq!((spec["serviceAccount"].as_str(), spec["locality"].as_str()), (Some("hello"), Some("eu/a/1")));
    assert_eq!(spec["labels"]["version"], "v2");
    assert_eq!(spec["labels"]["tier"], "front");

    runtime.block_on(mesh.remove(entries[0]["metadata"]["name"].as_str().unwrap()));
    let uid = &entries[0]["metadata"]["uid"];
    let again = |e: &[serde_json::Value]| {
        e.first().is_some_and(|e| e["metadata"]["uid"] != *uid && health(e) == "True")
    };
    runtime.block_on(mesh.until("registered again", again));

    kill(pid(&child), Signal::SIGTERM).unwrap();
    runtime.block_on(mesh.until("withdrawn", |e| e.iter().all(|e| health(e) == "False")));
    let status = child.wait().unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    // It ended by itself after it was told, and was told after the proxy was drained.
    assert_eq!((status.code(), said.as_str()), (Some(3), "told to end after the drain\n"));
    assert!(runtime.block_on(mesh.entries()).is_empty());
}

fn start_application(mesh: &Mesh) -> Child {
    let application = mesh.path("application");
    let words = [
        ["--service", "hello", "--version", "v2", "--port", "http=8000", "--label", "tier=front"].as_slice(),
        &["--locality", "eu/a/1", "--", application.to_str().unwrap()],
    ];
    let mut command = mesh.run(&words.concat());
    command.env("PROXY_LOG", mesh.path("state/mizzen/log/hello-v2.log")).stderr(Stdio::inherit());
    command.spawn().unwrap()
}

fn starter_killed(mesh: &Mesh, _: &Runtime) {
    let script = format!("echo up; exec sleep 1000.{}", std::process::id());
    let mut child = mesh.run(&["--service", "sleeper", "--", "sh", "-c", &script]).spawn().unwrap();
    let mut up = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + PATIENCE;
    let hub = format!("@mizzen/hub/{}", mesh.hub());
    let left = || {
        let named = fs::read_to_string("/proc/net/unix").unwrap().contains(&hub);
        let lines =
            fs::read_dir("/proc").unwrap().flatten().filter_map(|e| fs::read(e.path().join("cmdline")).ok());
        let sleeper = format!("1000.{}", std::process::id());
        named || lines.filter(|l| String::from_utf8_lossy(l).contains(&sleeper)).count() > 0
    };
    while left() {
        assert!(Instant::now() < deadline, "the hub or the command is left");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// What of the proxy `mizzen run` sees.
fn stand_in() {
    let words: Vec<String> = env::args().collect();
    let value = |flag: &str| {
        let at =
            words.iter().position(|w| w == flag).unwrap_or_else(|| panic!("{flag} is missing: {words:?}"));
        words[at + 1].clone()
    };
    assert_eq!(words[1], "sidecar");
    assert!(value("--node-id").starts_with("sidecar~10.44."), "{words:?}");
    assert_eq!(value("--control-plane"), "10.44.0.1:15012");
    assert_eq!(fs::read_to_string(value("--root-cert")).unwrap(), ROOT);
    assert_eq!(
        fs::read_to_string(value("--token-file")).unwrap().split('.').count(),
        3,
        "a token of three parts"
    );
    let metadata: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(value("--metadata-json")).unwrap()).unwrap();
    assert_eq!(metadata["NAMESPACE"], "default");
    let broker: i32 = value("--egress-fd").parse().unwrap();
    assert!(
        fs::read_link(format!("/proc/self/fd/{broker}")).unwrap().to_string_lossy().starts_with("socket:")
    );
    let answers = |port: u16| {
        let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 512];
            let length = stream.read(&mut request).unwrap_or(0);
            if request[..length].starts_with(b"POST /drain ") {
                println!("drained");
                std::io::stdout().flush().unwrap();
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    };
    std::thread::spawn(move || answers(15020));
    answers(15021);
}

/// Listens, and says at the end whether the proxy was drained before it was told to end.
fn application() {
    let log = env::var("PROXY_LOG").unwrap();
    let signals = nix::sys::signal::SigSet::from(Signal::SIGTERM);
    signals.thread_block().unwrap();
    let _listener = TcpListener::bind("0.0.0.0:8000").unwrap();
    signals.wait().unwrap();
    let drained = fs::read_to_string(log).unwrap_or_default().contains("drained");
    println!("told to end {}", if drained { "after the drain" } else { "too early" });
    std::process::exit(3);
}
