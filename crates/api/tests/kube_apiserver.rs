//! A real kube-apiserver takes our CRDs, accepts what we accept, and refuses wrong YAML by the schemas alone.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use api::Kind;
use serde_json::{Value, json};
use testkit::peers::need;

const TOKEN: &str = "a-token-for-tests";

/// etcd and kube-apiserver, gone when dropped.
struct Cluster {
    folder: tempfile::TempDir,
    kubectl: PathBuf,
    server: String,
    children: Vec<Child>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn spawn(program: &Path, log: &Path, args: &[String]) -> Child {
    let log = std::fs::File::create(log).expect("a log file");
    let errors = log.try_clone().expect("a log file");
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

impl Cluster {
    /// Nothing if this machine lacks one of the programs.
    fn start() -> Option<Self> {
        let [etcd, server, kubectl, openssl] = ["etcd", "kube-apiserver", "kubectl", "openssl"].map(need);
        let (etcd, server, kubectl, openssl) = (etcd?, server?, kubectl?, openssl?);
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path();
        let at = |name: &str| dir.join(name).display().to_string();
        let [client, peer, secure] = [free_port(), free_port(), free_port()];
        let key = at("sa.key");
        let made = Command::new(openssl).args(["genrsa", "-out", &key, "2048"]).output().expect("openssl");
        assert!(made.status.success(), "{made:?}");
        std::fs::write(dir.join("tokens"), format!("{TOKEN},tester,1,system:masters\n"))
            .expect("a token file");
        let etcd_args = [
            format!("--data-dir={}", at("etcd")),
            format!("--listen-client-urls=http://127.0.0.1:{client}"),
            format!("--advertise-client-urls=http://127.0.0.1:{client}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            "--unsafe-no-fsync".into(),
        ];
        let server_args = [
            format!("--etcd-servers=http://127.0.0.1:{client}"),
            format!("--secure-port={secure}"),
            "--bind-address=127.0.0.1".into(),
            format!("--cert-dir={}", at("certificates")),
            format!("--token-auth-file={}", at("tokens")),
            "--disable-admission-plugins=ServiceAccount".into(),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={key}"),
            format!("--service-account-signing-key-file={key}"),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
        ];
        let children = vec![
            spawn(&etcd, &dir.join("etcd.log"), &etcd_args),
            spawn(&server, &dir.join("server.log"), &server_args),
        ];
        let mut cluster = Self { kubectl, server: format!("https://127.0.0.1:{secure}"), children, folder };
        cluster.ready();
        Some(cluster)
    }

    fn ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(90);
        while !self.run(&["get", "--raw", "/readyz"], None).status.success() {
            let log = || std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "kube-apiserver is not ready:\n{}", log());
            for child in &mut self.children {
                let ended = child.try_wait().expect("a child");
                assert!(ended.is_none(), "ended with {ended:?}:\n{}", log());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn run(&self, args: &[&str], input: Option<&str>) -> Output {
        let home = self.folder.path();
        let mut child = Command::new(&self.kubectl)
            .args(["--server", &self.server, "--token", TOKEN, "--insecure-skip-tls-verify"])
            .args(args)
            .env("HOME", home)
            .env("KUBECONFIG", home.join("none"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl");
        let mut stdin = child.stdin.take().expect("its input");
        let text = input.unwrap_or_default().to_string();
        let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
        let output = child.wait_with_output().expect("its output");
        let _ = writer.join();
        output
    }

    fn must(&self, args: &[&str], input: Option<&str>) -> String {
        let output = self.run(args, input);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "kubectl {args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// What the server says when it refuses.
    fn refusal(&self, object: &Value) -> Option<String> {
        let args = ["create", "--dry-run=server", "--validate=strict", "-f", "-"];
        let output = self.run(&args, Some(&object.to_string()));
        (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn object(kind: Kind, spec: &str) -> Value {
    let spec = api::yaml::documents(spec).expect("YAML").remove(0);
    let info = kind.info();
    json!({"apiVersion": info.api_version(), "kind": info.name, "metadata": {"name": "x"}, "spec": spec})
}

/// Specs that schemas alone can refuse, and words that the refusal has.
const WRONG: [(Kind, &str, &str); 14] = [
    (
        Kind::VirtualService,
        "{hosts: [a], http: [{route: [{destination: {host: a}, weigth: 1}]}]}",
        "unknown field \"spec.http[0].route[0].weigth\"",
    ),
    (
        Kind::VirtualService,
        "{hosts: [a], http: [{route: [{destination: {host: a}, weight: -1}]}]}",
        "spec.http[0].route[0].weight in body should be greater than or equal to 0",
    ),
    (
        Kind::VirtualService,
        "{hosts: [a], http: [{timeout: 5sec, route: [{destination: {host: a}}]}]}",
        "spec.http[0].timeout",
    ),
    (
        Kind::VirtualService,
        "{hosts: [a], http: [{timeout: 0s, route: [{destination: {host: a}}]}]}",
        "must be a duration of at least 1ms",
    ),
    (
        Kind::VirtualService,
        "{hosts: [a], http: [{timeout: 5, route: [{destination: {host: a}}]}]}",
        "spec.http[0].timeout in body must be of type string: \"integer\"",
    ),
    (
        Kind::VirtualService,
        "{hosts: [a], http: [{match: [{uri: {exact: a, prefix: b}}], route: [{destination: {host: a}}]}]}",
        "spec.http[0].match[0].uri",
    ),
    (
        Kind::VirtualService,
        "{hosts: [a], http: [{route: [{weight: 1}]}]}",
        "spec.http[0].route[0].destination: Required value",
    ),
    (
        Kind::DestinationRule,
        "{host: a, trafficPolicy: {loadBalancer: {simple: ROUNDROBIN}}}",
        "spec.trafficPolicy.loadBalancer.simple: Unsupported value: \"ROUNDROBIN\": supported values:",
    ),
    (Kind::DestinationRule, "{}", "spec.host: Required value"),
    (Kind::ServiceEntry, "{hosts: []}", "spec.hosts"),
    (Kind::ServiceEntry, "{hosts: [a], ports: [{number: 0, name: a}]}", "spec.ports[0].number"),
    (Kind::PeerAuthentication, "{mtls: {mode: STRICTT}}", "spec.mtls.mode: Unsupported value: \"STRICTT\""),
    (
        Kind::AuthorizationPolicy,
        "{selector: {matchLabels: {a: b}}, targetRef: {kind: Gateway, name: g}}",
        "spec",
    ),
    (Kind::Telemetry, "{tracing: [{randomSamplingPercentage: 101}]}", "less than or equal to 100"),
];

#[test]
fn a_real_api_server_takes_the_crds_and_refuses_wrong_yaml() {
    let Some(cluster) = Cluster::start() else { return };
    let crds = json!({"apiVersion": "v1", "kind": "List", "items": api::crds()});
    cluster.must(&["create", "--validate=strict", "-f", "-"], Some(&crds.to_string()));
    cluster.must(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"], None);
    let stored: Value =
        serde_json::from_str(&cluster.must(&["get", "crd", "-o", "json"], None)).expect("JSON");
    for crd in stored["items"].as_array().expect("CRDs") {
        for condition in crd["status"]["conditions"].as_array().expect("conditions") {
            let good = condition["type"] != "NonStructuralSchema" && condition["status"] == "True";
            assert!(good, "{}: {condition}", crd["metadata"]["name"]);
        }
    }
    accepts(&cluster);
    let mut failures = String::new();
    for (kind, spec, words) in WRONG {
        let object = object(kind, spec);
        let said = cluster.refusal(&object).unwrap_or_else(|| "nothing".into());
        if !said.contains(words) {
            let _ = writeln!(failures, "{kind} {spec}\n  wants {words:?}\n  says {said}");
        }
        let ours = api::validate(kind, &object).errors;
        assert!(!ours.is_empty(), "{kind} {spec}: accepted by us");
        // Where the server's own words are of use, ours are the same; hints come on top.
        let clumsy = said.contains("(oneOf)") || said.contains("type conversion error");
        for error in ours.iter().filter(|_| !clumsy) {
            if !said.contains(&error.message) || !said.contains(&error.path) {
                let _ = writeln!(failures, "{kind} {spec}\n  we say {error}\n  it says {said}");
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
    shows(&cluster);
}

/// What we accept is accepted, in every version, and stored as it was written.
fn accepts(cluster: &Cluster) {
    for namespace in ["edge", "istio-system"] {
        cluster.must(&["create", "namespace", namespace], None);
    }
    for text in [include_str!("data/everything.yaml"), include_str!("data/bookinfo.yaml")] {
        cluster.must(&["apply", "--validate=strict", "-f", "-"], Some(text));
    }
    for kind in Kind::all() {
        let info = kind.info();
        for version in info.versions {
            let path = format!("/apis/{}/{version}/{}", info.group, info.plural);
            let list: Value =
                serde_json::from_str(&cluster.must(&["get", "--raw", &path], None)).expect("JSON");
            let items = list["items"].as_array().expect("items");
            assert!(!items.is_empty(), "{path} is empty");
            for item in items {
                let found = api::validate(kind, item);
                assert_eq!(found.errors, [], "{path} {}", item["metadata"]["name"]);
            }
        }
    }
}

/// Short names, categories and columns.
fn shows(cluster: &Cluster) {
    for kind in Kind::all() {
        let info = kind.info();
        for name in info.short_names {
            cluster.must(&["get", name, "--all-namespaces"], None);
        }
        for category in info.categories {
            let listed = cluster.must(&["get", category, "--all-namespaces", "-o", "name"], None);
            assert!(listed.contains(&format!("{}.{}/", info.singular, info.group)), "{category}: {listed}");
        }
        let explained = cluster.must(&["explain", &format!("{}.{}", info.plural, info.group)], None);
        assert!(explained.contains("spec"), "{explained}");
    }
    let table = cluster.must(&["get", "vs", "bookinfo"], None);
    let columns: Vec<_> = table.lines().next().expect("a header").split_whitespace().collect();
    assert_eq!(columns, ["NAME", "GATEWAYS", "HOSTS", "AGE"]);
}
