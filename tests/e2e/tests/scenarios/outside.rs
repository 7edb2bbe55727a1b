//! What lies outside the mesh.

use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use e2e::load::Report;
use e2e::mesh::program;
use e2e::outside::Outside;
use e2e::stage::Scenario;
use e2e::{Mesh, Workload, outside, until};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("outside_passes_by_default_and_is_counted", passes),
    ("outside_has_timeout_and_retries_by_a_service_entry", declared),
    ("outside_is_reached_over_tls_for_plain_callers", over_tls),
    ("outside_is_refused_by_registry_only", refused),
];

const PATIENCE: Duration = Duration::from_secs(20);
const API: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const OLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
const SECURE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 12);
/// A port on which the mesh speaks HTTP, and one of which it knows nothing.
const URL: &str = "http://api.example.test:9080/things";
const UNKNOWN_PORT: &str = "http://api.example.test:8888/things";
/// The server there speaks first.
const TCP: &str = "tcp://old.example.test:7000";

/// A mesh in which details may call, and an outside with an API, an old TCP service, and names for both.
struct World {
    mesh: Mesh,
    _outside: Outside,
    api: Workload,
    _other_port: Workload,
}

fn world() -> anyhow::Result<World> {
    let names = [("api.example.test", API), ("old.example.test", OLD), ("secure.example.test", SECURE)];
    let outside = Outside::make(&names)?;
    outside::greet(OLD, 7000, "220 old but polite\r\n")?;
    let mesh = Mesh::start()?;
    let serve = |name: &str, port: &str| -> anyhow::Result<Workload> {
        let script = mesh.folder().join(format!("{name}.script"));
        std::fs::write(&script, "")?;
        let mut command = Command::new(program("mizzen-e2e"));
        command.args(["serve", "--name", name, "--port", port, "--script"]).arg(&script);
        mesh.spawn(command, name, script)
    };
    let (api, other_port) = (serve("api", "9080")?, serve("other-port", "8888")?);
    mesh.apply(
        "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
",
    )?;
    Ok(World { mesh, _outside: outside, api, _other_port: other_port })
}

impl World {
    fn call(&self, url: &str, count: &str) -> anyhow::Result<Report> {
        let arguments = ["--url", url, "--count", count, "--connections", "2", "--metrics"];
        self.mesh.start_load_from("details", "details", &[], &arguments)?.report()
    }
}

/// The requests, or the connections, that were counted for a service.
fn requests(report: &Report, service: &str, code: &str) -> f64 {
    let labels = [("destination_service_name", service), ("response_code", code), ("reporter", "source")];
    report.counted("istio_requests_total", &labels)
}

fn connections(report: &Report, service: &str) -> f64 {
    report.counted("istio_tcp_connections_opened_total", &[("destination_service_name", service)])
}

/// A host outside the mesh is reached by its name, on any port, and counted; the host's resolver is on its loopback.
fn passes() -> anyhow::Result<()> {
    let world = world()?;
    let report = world.call(URL, "20")?;
    ensure!(report.names.get("api") == Some(&20), "{report:?}");
    ensure!(requests(&report, "PassthroughCluster", "200") == 20.0, "{}", report.metrics);
    let host = [("destination_service", "api.example.test:9080"), ("source_workload", "details")];
    ensure!(report.counted("istio_requests_total", &host) == 20.0, "{}", report.metrics);
    let report = world.call(UNKNOWN_PORT, "20")?;
    ensure!(report.names.get("other-port") == Some(&20), "{report:?}");
    ensure!(connections(&report, "PassthroughCluster") >= 1.0, "{}", report.metrics);
    let report = world.call(TCP, "5")?;
    ensure!(report.ok() == 5, "{report:?}");
    ensure!(connections(&report, "PassthroughCluster") == 5.0, "{}", report.metrics);
    let report = world.call("http://nowhere.example.test:9080/", "1")?;
    ensure!(report.failed() == 1 && !report.errors.is_empty(), "a name that does not exist: {report:?}");
    Ok(())
}

const ENTRY: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: default}
spec:
  hosts: [api.example.test]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{number: 9080, name: http, protocol: HTTP}]
";

fn routes(rule: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: api, namespace: default}}
spec:
  hosts: [api.example.test]
  http:
  - route: [{{destination: {{host: api.example.test}}}}]
    {rule}
"
    )
}

/// A ServiceEntry gives a host outside a name in metrics, a timeout and retries; declaring it under load loses nothing.
fn declared() -> anyhow::Result<()> {
    let world = world()?;
    let mesh = &world.mesh;
    let load = mesh.start_load_from(
        "details",
        "steady",
        &[],
        &["--url", URL, "--connections", "2", "--pause", "5"],
    )?;
    load.until_only(&["api"])?;
    mesh.steer(ENTRY)?;
    load.until_only(&["api"])?;
    let report = load.stop()?;
    ensure!(report.failed() == 0, "declaring the host lost requests: {report:?}");
    let report = world.call(URL, "20")?;
    ensure!(requests(&report, "api.example.test", "200") == 20.0, "{}", report.metrics);

    mesh.steer(&routes("timeout: 500ms"))?;
    world.api.behave("delay=5000")?;
    let report = world.call(URL, "2")?;
    ensure!(report.status(504) == 2 && report.last_failure == "upstream request timeout", "{report:?}");
    ensure!(requests(&report, "api.example.test", "504") == 2.0, "{}", report.metrics);

    world.api.behave("status=503")?;
    mesh.steer(&routes("retries: {attempts: 3, retryOn: 5xx}"))?;
    let before = served(&world.call(URL, "1")?);
    let after = served(&world.call(URL, "1")?);
    ensure!(after - before == 4, "one try and three retries are four, not {}", after - before);
    mesh.steer(&routes("retries: {attempts: 0}"))?;
    let after = served(&world.call(URL, "1")?);
    let again = served(&world.call(URL, "1")?);
    ensure!(again - after == 1, "no retries were asked for, {} tries were made", again - after);
    Ok(())
}

/// How many requests the application says it has served.
fn served(report: &Report) -> u64 {
    serde_json::from_str::<serde_json::Value>(&report.last_failure)
        .ok()
        .and_then(|body| body["served"].as_u64())
        .unwrap_or_default()
}

/// The application calls by plain HTTP, and the proxy speaks TLS to whoever proves to be that host, and to nobody else.
fn over_tls() -> anyhow::Result<()> {
    let (Some(python), Some(openssl)) = (testkit::peers::need("python3"), testkit::peers::need("openssl"))
    else {
        return Ok(());
    };
    let world = world()?;
    let folder = world.mesh.folder();
    outside::certify(&openssl, folder, "secure.example.test")?;
    // The proxy has a user of its own.
    std::fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    let mut server = Command::new(python);
    server.arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("apps/tls_server.py"));
    server.args([SECURE.to_string(), "443".into()]);
    server.args([folder.join("secure.example.test.pem"), folder.join("secure.example.test.key")]);
    let _server = world.mesh.spawn(server, "secure", PathBuf::new())?;
    world.mesh.steer(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: secure, namespace: default}
spec:
  hosts: [secure.example.test]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{number: 9080, name: http, protocol: HTTP, targetPort: 443}]
",
    )?;
    let roots = folder.join("ca.pem").display().to_string();
    let call_by = |selector: &str, tls: &str| -> anyhow::Result<Report> {
        world.mesh.steer(&format!(
            "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: secure, namespace: default}}
spec:
  host: secure.example.test
  workloadSelector: {{matchLabels: {{{selector}}}}}
  trafficPolicy: {{tls: {tls}}}
"
        ))?;
        world.call("http://secure.example.test:9080/secret", "10")
    };
    let call = |tls: &str| call_by("", tls);
    let trusted = format!("{{mode: SIMPLE, caCertificates: {roots}}}");
    let good = until("TLS is spoken", PATIENCE, || call(&trusted).ok().filter(|report| report.ok() == 10))?;
    println!("{:?}", good.names);
    let says = "secure.example.test by TLSv1.3";
    ensure!(good.names.get(says) == Some(&10), "{good:?}");
    for wrong in [
        // Nobody on this machine vouches for the server.
        "{mode: SIMPLE}".to_owned(),
        format!("{{mode: SIMPLE, caCertificates: {roots}, subjectAltNames: [other.example.test]}}"),
        // Then it must be the host that is asked for.
        format!("{{mode: SIMPLE, caCertificates: {roots}, sni: other.example.test}}"),
        // Plain HTTP to a server that speaks TLS.
        "{mode: DISABLE}".to_owned(),
    ] {
        let report = call(&wrong)?;
        ensure!(report.ok() == 0, "{wrong} let the call through: {report:?}");
        ensure!(report.errors.is_empty(), "{wrong}: {report:?}");
    }
    let report = call("{mode: SIMPLE, insecureSkipVerify: true}")?;
    ensure!(report.ok() == 10, "{report:?}");
    ensure!(call(&trusted)?.ok() == 10, "the first rule does not hold any more");
    // Roots from a Secret, for the workloads that the rule is for and nobody else.
    let file = format!("--from-file=ca.crt={roots}");
    world.mesh.kubectl_ok(&["create", "secret", "generic", "trusted", &file])?;
    let secret = "{mode: SIMPLE, credentialName: trusted}";
    until("the Secret is read", PATIENCE, || {
        call_by("app: details", secret).ok().filter(|report| report.ok() == 10)
    })?;
    for selector in ["app: other", ""] {
        ensure!(call_by(selector, secret)?.ok() == 0, "{selector:?} lets details read the Secret");
    }
    Ok(())
}

/// `REGISTRY_ONLY`, of the mesh or of a Sidecar, answers 502 and closes TCP for what is not registered, and counts it.
fn refused() -> anyhow::Result<()> {
    let world = world()?;
    let mesh = &world.mesh;
    let open = |url: &str| -> anyhow::Result<()> {
        let report = world.call(url, "4")?;
        ensure!(report.ok() == 4, "{url} is refused: {report:?}");
        Ok(())
    };
    let closed = || -> anyhow::Result<()> {
        let report = world.call(URL, "4")?;
        ensure!(report.status(502) == 4, "not refused by 502: {report:?}");
        ensure!(requests(&report, "BlackHoleCluster", "502") == 4.0, "{}", report.metrics);
        for url in [UNKNOWN_PORT, TCP] {
            let report = world.call(url, "4")?;
            ensure!(report.errors.values().sum::<u64>() == 4, "{url} is not closed: {report:?}");
            ensure!(connections(&report, "BlackHoleCluster") >= 4.0, "{}", report.metrics);
        }
        Ok(())
    };
    open(URL)?;
    mesh.steer(&mesh_config("REGISTRY_ONLY"))?;
    closed()?;
    mesh.steer(ENTRY)?;
    open(URL)?;
    mesh.kubectl_ok(&["delete", "serviceentry", "api"])?;
    // A Sidecar speaks for its workloads, whatever the mesh says.
    mesh.steer(&sidecar("ALLOW_ANY"))?;
    open(URL)?;
    open(TCP)?;
    mesh.steer(&mesh_config("ALLOW_ANY"))?;
    mesh.steer(&sidecar("REGISTRY_ONLY"))?;
    closed()
}

fn mesh_config(mode: &str) -> String {
    format!(
        "
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: |
    outboundTrafficPolicy: {{mode: {mode}}}
"
    )
}

fn sidecar(mode: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: default, namespace: default}}
spec:
  outboundTrafficPolicy: {{mode: {mode}}}
"
    )
}
