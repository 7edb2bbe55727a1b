//! Bad input: each gets a clear error, nothing is lost, nothing crashes, and the mesh serves on.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use e2e::garbage::Report;
use e2e::mesh::program;
use e2e::stage::Scenario;
use e2e::{Mesh, until, yaml};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use tempfile::TempDir;
use testkit::relay::Relay;

use crate::ingress::Certificate;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("bad_manifests_and_bodies_are_refused_and_change_nothing", manifests),
    ("wrong_tokens_and_certificates_are_refused", credentials),
    ("garbage_on_every_port_harms_nobody", garbage),
    ("full_disk_refuses_writes_and_loses_nothing", full_disk),
    ("port_in_use_is_told_and_harms_nobody", port_in_use),
];

const URL: &str = "http://reviews:9080/reviews/0";
const PATIENCE: Duration = Duration::from_secs(20);
/// Of the control plane, in the order in which they are opened.
const PORTS: [u16; 6] = [6443, 15010, 15012, 15014, 8080, 20001];

/// Malformed YAML, wrong types, nonsense and far too much: at `kubectl`, at `mizzen apply`, and at the API itself.
fn manifests() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let _reviews = mesh.serve("reviews", "v1", "one")?;
    mesh.until_answers(URL)?;
    mesh.apply(ROUTE)?;
    // What the control plane says of it is written a moment later.
    mesh.kubectl_ok(&["wait", "--for=condition=Reconciled", "virtualservice/reviews"])?;
    let before = mesh.kubectl_ok(&["get", "virtualservice", "reviews", "-o", "yaml"])?;
    let file = mesh.folder().join("bad.yaml");

    for (yaml, words) in [
        ("a: [", "document 1"),
        ("kind: VirtualService\n  spec: {", "document 1"),
        ("- just\n- a list\n", "apiVersion"),
        ("just text", "apiVersion"),
        ("apiVersion: networking.istio.io/v1\nkind: Nonsense\nmetadata: {name: x}\n", "Nonsense"),
        (&laughs(), "document 1"),
        (&ROUTE.replace("timeout: 5s", "timeout: {a: 1}"), "spec.http[0].timeout"),
        (&ROUTE.replace("hosts: [reviews]", "hosts: 7"), "spec.hosts"),
        (&ROUTE.replace("weight: 100", "weight: many"), "spec.http[0].route[0].weight"),
        (&ROUTE.replace("weight: 100", "wieght: 100"), "wieght"),
        (&ROUTE.replace("istio.io/v1", "istio.io/v9"), "networking.istio.io/v1"),
    ] {
        std::fs::write(&file, yaml)?;
        let output = mesh.mizzen(["apply", "-f"]).arg(&file).output()?;
        refused(&format!("mizzen apply of {:.60}", yaml), &output, words)?;
        let path = file.display().to_string();
        let output = mesh.kubectl(&["apply", "-f", &path])?;
        ensure!(!output.status.success(), "kubectl applied {yaml:.60}");
    }

    let raw = |text: &str| -> anyhow::Result<Output> {
        std::fs::write(&file, text)?;
        let path = file.display().to_string();
        mesh.kubectl(&["create", "--raw", "/api/v1/namespaces/default/configmaps", "-f", &path])
    };
    let large = |bytes: usize| {
        format!(
            r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"big"}},"data":{{"k":"{}"}}}}"#,
            "x".repeat(bytes)
        )
    };
    for (what, text, words) in [
        ("half a body", r#"{"kind":"#.to_owned(), "json parse error"),
        ("a list", "[1,2]".to_owned(), "object"),
        ("wrong types", r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":[]}"#.to_owned(), "metadata"),
        ("endless nesting", "[".repeat(200_000), "json parse error"),
        ("a body of 4 MB", large(4 << 20), "too large"),
    ] {
        refused(what, &raw(&text)?, words)?;
    }

    // The console, which passes bodies on, reads as little of one.
    let answer = post("127.0.0.1:20001", "/api/k8s/api/v1/namespaces/default/configmaps", 8 << 20)?;
    ensure!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("body too large"), "{answer}");

    let after = mesh.kubectl_ok(&["get", "virtualservice", "reviews", "-o", "yaml"])?;
    ensure!(before == after, "what was stored before is another now:\n{before}\n{after}");
    still_serves(&mesh)
}

/// Tokens that are none, that are meant for somebody else, and certificates of strangers or of the past: at the control
/// plane, and at a sidecar.
fn credentials() -> anyhow::Result<()> {
    let ca = Ca::new("the mesh's root")?;
    let mesh = Mesh::start_prepared(&[], |data| ca.plug_in(&data.join("cacerts")))?;
    let _reviews = mesh.serve("reviews", "v1", "one")?;
    mesh.until_answers(URL)?;
    let token = |arguments: &[&str]| -> anyhow::Result<String> {
        let all = [["create", "token", "reviews"].as_slice(), arguments].concat();
        Ok(mesh.kubectl_ok(&all)?.trim().to_owned())
    };

    // The API server.
    let good = token(&[])?;
    let mut forged = good.clone().into_bytes();
    let last = forged.len() - 5;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged)?;
    let elsewhere = token(&["--audience", "istio-ca"])?;
    for (what, token) in
        [("nonsense", "nonsense"), ("a forged one", &forged), ("one for another audience", &elsewhere)]
    {
        let output = anonymous(&mesh, token)?;
        refused(&format!("the API with {what}"), &output, "must be logged in")?;
    }
    refused("the API with an account's token", &anonymous(&mesh, &good)?, "forbidden")?;
    let output = mesh.kubectl(&["create", "token", "reviews", "--duration", "1s"])?;
    refused("a token of a second", &output, "10 minutes")?;

    // The authority, by the agent that asks it.
    for (what, token, words) in [
        ("nonsense", "nonsense", "does not accept the token"),
        ("a forged token", forged.as_str(), "does not accept the token"),
        ("a token for another audience", good.as_str(), "audience"),
        ("no token", "", "no credentials"),
        ("a token of another account", &token_of(&mesh, "client")?, "must agree"),
    ] {
        let said = agent(&mesh, &ca, token)?;
        ensure!(said.contains(words), "{what}: the agent says nothing of {words:?}:\n{said}");
    }
    let stranger = Ca::new("another root")?;
    let said = agent(&mesh, &stranger, &elsewhere)?;
    ensure!(said.contains("certificate"), "the agent trusts a control plane of another root:\n{said}");

    // The TLS of the control plane, and of a sidecar, which a relay leads to.
    let relay = TcpListener::bind("127.0.0.1:0")?;
    let sidecar = relay.local_addr()?.to_string();
    let _relay = Relay::start(relay, mesh.bare("reviews", 9080)?)?;
    let doors = [("127.0.0.1:15012", "h2"), (&*sidecar, "istio,h2")];
    std::thread::scope(|scope| {
        let (mesh, ca, stranger) = (&mesh, &ca, &stranger);
        let judged = doors.map(|(to, alpn)| {
            scope.spawn(move || {
                certificates(ca, stranger, |leaf| hello(mesh, to, alpn, leaf)).with_context(|| to.to_owned())
            })
        });
        judged
            .into_iter()
            .try_for_each(|door| door.join().unwrap_or_else(|_| bail!("a door's play panicked")))
    })?;
    still_serves(&mesh)
}

/// Of certificates only that of this root is taken, in its time and with an identity.
fn certificates(
    ca: &Ca,
    stranger: &Ca,
    hello: impl Fn(&Leaf) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let id = "spiffe://cluster.local/ns/default/sa/reviews";
    for (what, certificate, words) in [
        ("one of another root", stranger.leaf(id, Life::Now)?, "alert"),
        ("one that expired", ca.leaf(id, Life::Past)?, "expired"),
        ("one that is not valid yet", ca.leaf(id, Life::Future)?, "alert"),
        ("one without an identity", ca.leaf("https://example.com/", Life::Now)?, "alert"),
    ] {
        let said = hello(&certificate)?;
        ensure!(said.to_lowercase().contains(words), "a certificate, {what}, is not refused:\n{said}");
    }
    let said = hello(&ca.leaf(id, Life::Now)?)?;
    ensure!(!said.to_lowercase().contains("alert"), "a good certificate is refused:\n{said}");
    Ok(())
}

/// Every port of the control plane, of a workload, of a gateway and of a door between networks, from the outside and from
/// the inside, while others call as ever.
fn garbage() -> anyhow::Result<()> {
    let mesh = Mesh::start_with(&["--network", "here"])?;
    let victim = mesh.serve("reviews", "v1", "victim")?;
    let listens = ["--listen", "8081=8080", "--listen", "8443", "--door", "127.0.0.1", "--network", "here"];
    let gateway = mesh.gateway(&[&["--name", "istio-eastwestgateway"], &listens[..]].concat())?;
    Certificate::new("books.example.com")?.store(&mesh, "books-tls")?;
    mesh.apply(
        &format!("{}{TLS_SERVER}", yaml::door_to(8080, "reviews", 9080)).replace("ingress", "eastwest"),
    )?;
    mesh.until_answers(URL)?;
    let by_gateway = ["--url", "http://127.0.0.1:8081/", "--connections", "1", "--pause", "10"];
    until("the gateway leads to reviews", PATIENCE, || {
        mesh.load_from_outside(&[&by_gateway[..], &["--count", "1"]].concat())
            .ok()
            .filter(|report| report.ok() == 1)
    })?;
    let others = [
        ("a caller", mesh.start_load(&["--url", URL, "--connections", "1", "--pause", "10"])?),
        ("a visitor", mesh.start_load_from_outside(&by_gateway)?),
    ];
    let address = mesh.address("reviews")?;
    let before = mesh.proxies()?;
    let control_plane = mesh.control_plane().context("no control plane")?;

    let edge = [8081, 8443, 15443];
    let ports: Vec<String> = PORTS.iter().chain(&edge).map(|port| format!("127.0.0.1:{port}")).collect();
    let output = Command::new(program("mizzen-e2e")).args(["garbage", "--tcp"]).args(&ports).output()?;
    let outside: Report = serde_json::from_slice(&output.stdout)?;

    // A workload throws at its own sidecar, at its neighbour's, and at the control plane's door in the hub. Then it
    // calls its neighbour as ever.
    let own = [15000, 15001, 15006, 15008, 15020, 15021, 15053, 15090].map(|p| format!("127.0.0.1:{p}"));
    let theirs =
        [9080, 15000, 15001, 15006, 15008, 15020, 15021, 15053, 15090].map(|p| format!("{address}:{p}"));
    let tool = program("mizzen-e2e").display().to_string();
    let script = format!(
        "{tool} garbage --tcp {} {} 10.44.0.1:15012 --udp 127.0.0.1:15053 {address}:15053 && {tool} load --url {URL} --count 50 --fresh",
        own.join(" "),
        theirs.join(" "),
    );
    let log = mesh.folder().join("thrower-proxy.log");
    let mut thrower = mesh.mizzen([
        "run",
        "--service",
        "thrower",
        "--port",
        "http=9999",
        "--ready",
        "http://:15021/healthz/ready",
        "--proxy-log",
    ]);
    let output = thrower.arg(&log).args(["--", "sh", "-c", &script]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    let mut lines = said.lines();
    let inside: Report = serde_json::from_str(lines.next().context("no report of garbage")?)?;
    let load: e2e::load::Report = serde_json::from_str(lines.next().context("no report of load")?)?;
    for (port, kinds) in outside.iter().chain(&inside) {
        println!("{port}: {kinds:#?}");
    }
    ensure!(load.failed() == 0, "the thrower's own sidecar serves no more: {load:?}");
    for (who, load) in others {
        let report = load.stop()?;
        ensure!(report.failed() == 0 && report.sent > 50, "{who} was disturbed: {report:?}");
    }
    ensure!(gateway.process("mizzen-proxy").is_ok(), "the gateway is gone");

    expect(&outside, "127.0.0.1:6443", "noise", "TLS alert")?;
    expect(&outside, "127.0.0.1:15012", "noise", "TLS alert")?;
    expect(&outside, "127.0.0.1:15010", "gRPC: noise for a discovery request", "gRPC")?;
    // Ports that know by the first bytes that nobody is meant do not answer.
    for port in ["127.0.0.1:8443", "127.0.0.1:15443"] {
        expect(&outside, port, "noise", "closed")?;
        expect(&outside, port, "half a TLS hello", "closed")?;
    }
    for port in ["127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:15014", "127.0.0.1:20001"] {
        expect(&outside, port, "NUL in a header", "HTTP/1.1 400")?;
    }
    for port in [15000, 15020, 15021, 15090] {
        expect(&inside, &format!("127.0.0.1:{port}"), "NUL in a header", "HTTP/1.1 400")?;
    }
    expect(&inside, &format!("{address}:9080"), "NUL in a header", "HTTP/1.1 400")?;

    for port in [15001, 15006].map(|port| format!("127.0.0.1:{port}")) {
        expect(&inside, &port, "noise", "closed")?;
    }
    // Nobody listens there as long as nothing asks for HBONE.
    expect(&inside, "127.0.0.1:15008", "noise", "refused")?;
    ensure!(mesh.control_plane() == Some(control_plane), "the control plane is another process");
    let after = mesh.proxies()?;
    let stream = |status: &Value| {
        let mut proxies = status["proxies"].as_array().into_iter().flatten();
        proxies
            .find(|p| p["proxy"].as_str().is_some_and(|p| p.starts_with("reviews")))
            .map(|p| p["connection"].clone())
    };
    ensure!(stream(&before) == stream(&after), "the victim's stream is another: {before:#}{after:#}");
    for entry in std::fs::read_dir(mesh.folder())?.flatten() {
        let text = std::fs::read(entry.path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let panic = text.lines().find(|line| line.contains("panicked at"));
        ensure!(panic.is_none(), "{}: {}", entry.path().display(), panic.unwrap_or_default());
    }
    drop(victim);
    Ok(())
}

/// The store's disk is full: whoever writes is told, whoever reads or calls notices nothing, also after a restart.
fn full_disk() -> anyhow::Result<()> {
    let disk = SmallDisk::new(16)?;
    let mut mesh = Mesh::start_prepared(&[], |data| Ok(std::os::unix::fs::symlink(disk.path(), data)?))?;
    let _reviews = mesh.serve("reviews", "v1", "one")?;
    mesh.until_answers(URL)?;
    mesh.apply(ROUTE)?;
    let load = mesh.start_load(&["--url", URL, "--connections", "2", "--pause", "10", "--fresh"])?;
    until("the load is under way", PATIENCE, || {
        let entries = mesh.objects("workloadentries").ok()?;
        let is_ready = |entry: &Value| entry["status"]["conditions"][0]["status"] == "True";
        (entries.len() == 2 && entries.iter().all(is_ready)).then_some(())
    })?;
    let file = mesh.folder().join("big.yaml");
    let store = |number: usize| -> anyhow::Result<Output> {
        let text = "x".repeat(100_000);
        let head = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m{number}}}");
        std::fs::write(&file, format!("{head}\ndata: {{k: {text}}}\n"))?;
        mesh.kubectl(&["create", "-f", &file.display().to_string()])
    };
    ensure!(store(0)?.status.success(), "there is no room from the start");
    disk.fill()?;
    let essence = "jsonpath={.metadata.uid} {.metadata.generation} {.spec}";
    let route = |mesh: &Mesh| mesh.kubectl_ok(&["get", "virtualservice", "reviews", "-o", essence]);
    let before = route(&mesh)?;
    let mut stored = 1;
    let refusal = loop {
        ensure!(stored < 200, "the disk never fills");
        let output = store(stored)?;
        if !output.status.success() {
            break String::from_utf8_lossy(&output.stderr).into_owned();
        }
        stored += 1;
    };
    println!("{stored} objects of 100 kB fitted; then: {refusal}");
    ensure!(refusal.to_lowercase().contains("no space") || refusal.contains("full"), "{refusal}");
    ensure!(route(&mesh)? == before, "the route is another: {before}");
    // What needs to be stored is refused with the reason; a workload that is there already needs nothing.
    let mut run = mesh.mizzen(["run", "--service", "latecomer", "--port", "http=9080", "--", "true"]);
    let output = run.output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    println!("mizzen run on a full disk: {} {told}", output.status);
    ensure!(
        !output.status.success() && told.contains("not stored: No space left"),
        "{}: {told}",
        output.status
    );
    let during = load.next(200)?;
    ensure!(during.failed() == 0, "the full disk cost requests: {during:?}");
    let report = load.stop()?;
    ensure!(report.failed() == 0, "the full disk cost requests: {report:?}");

    mesh.kill_control_plane();
    mesh.restart().context("a restart with a full disk")?;
    ensure!(route(&mesh)? == before, "the route is another: {before}");
    disk.clear()?;
    until("there is room again", PATIENCE, || mesh.apply(&ROUTE.replace("5s", "6s")).ok())?;
    let kept = mesh.kubectl_ok(&["get", "configmaps", "-o", "name"])?;
    let kept: BTreeSet<&str> = kept.lines().filter_map(|name| name.strip_prefix("configmap/m")).collect();
    let stored: BTreeSet<String> = (0..stored).map(|number| number.to_string()).collect();
    ensure!(stored.iter().map(String::as_str).eq(kept.iter().copied()), "stored {stored:?}, kept {kept:?}");
    still_serves(&mesh)
}

/// Whoever has the port keeps it; whoever wants it is told which, and leaves no trace.
fn port_in_use() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let up = |data: &Path| -> anyhow::Result<Output> {
        let mut command = Command::new(program("mizzen"));
        command.args(["up", "--no-hub", "--data-dir"]).arg(data).env_remove("CARGO").stdin(Stdio::null());
        Ok(command.output()?)
    };
    for port in PORTS {
        let _taken = TcpListener::bind(("127.0.0.1", port))?;
        let output = up(&folder.path().join("one"))?;
        refused(&format!("mizzen up with {port} in use"), &output, &format!("127.0.0.1:{port}"))?;
    }
    let mesh = Mesh::start()?;
    let _reviews = mesh.serve("reviews", "v1", "one")?;
    mesh.until_answers(URL)?;
    refused("a second mizzen up", &up(&folder.path().join("two"))?, "127.0.0.1:6443")?;
    let data = mesh.kubeconfig();
    let data = data.parent().context("no data folder")?;
    refused("a second mizzen up on the same store", &up(data)?, "in use")?;
    for (arguments, port) in
        [(["--listen", "8081=8080"].as_slice(), 8081), (&["--door", "127.0.0.1", "--network", "here"], 15443)]
    {
        let _taken = TcpListener::bind(("127.0.0.1", port))?;
        let output = mesh.mizzen(["gateway"]).args(arguments).output()?;
        refused(&format!("mizzen gateway with {port} in use"), &output, &format!("127.0.0.1:{port}"))?;
    }
    let entries = mesh.kubectl_ok(&["get", "workloadentries", "-n", "istio-system", "-o", "name"])?;
    ensure!(entries.is_empty(), "a gateway that never was left traces: {entries}");
    still_serves(&mesh)
}

/// What a server answers to a body of so many bytes before it has read all of it.
fn post(address: &str, path: &str, length: usize) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n\r\n")?;
    let mut writing = stream.try_clone()?;
    let body = std::thread::spawn(move || {
        std::io::copy(&mut std::io::repeat(b'x').take(length as u64), &mut writing)
    });
    let mut answer = [0; 1024];
    let read = stream.read(&mut answer)?;
    // The server may have closed it by now; if not, nobody waits until it reads the rest.
    let _ = stream.shutdown(Shutdown::Both);
    drop(body.join());
    Ok(String::from_utf8_lossy(&answer[..read]).into_owned())
}

fn refused(what: &str, output: &Output, words: &str) -> anyhow::Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "{what}: accepted: {}", String::from_utf8_lossy(&output.stdout));
    ensure!(output.status.code().is_some(), "{what}: it crashed with {}: {said}", output.status);
    ensure!(said.contains(words), "{what}: nothing is said of {words:?}: {said}");
    ensure!(said.len() < 4096 && !said.contains("panicked"), "{what}: no clear error: {said}");
    Ok(())
}

fn still_serves(mesh: &Mesh) -> anyhow::Result<()> {
    let report = mesh.load(&["--url", URL, "--count", "50", "--fresh"])?;
    ensure!(report.failed() == 0, "the mesh serves no more: {report:?}");
    let status = mesh.proxies()?;
    ensure!(!status.to_string().contains("NACK"), "a proxy refused something: {status:#}");
    Ok(())
}

fn expect(report: &Report, port: &str, kind: &str, words: &str) -> anyhow::Result<()> {
    let outcome = report.get(port).and_then(|kinds| kinds.get(kind));
    let outcome = outcome.with_context(|| format!("{kind} was not thrown at {port}"))?;
    ensure!(outcome.contains(words), "{port}: {kind}: {outcome:?}, not {words:?}");
    Ok(())
}

/// Asks the API server with this token and no other.
fn anonymous(mesh: &Mesh, token: &str) -> anyhow::Result<Output> {
    let text = std::fs::read_to_string(mesh.kubeconfig())?;
    let own = text.lines().find_map(|line| line.trim().strip_prefix("token: ")).context("no token")?;
    let file = mesh.folder().join("anonymous");
    std::fs::write(&file, text.replace(own, token))?;
    mesh.kubectl(&["--kubeconfig", &file.display().to_string(), "get", "services"])
}

fn token_of(mesh: &Mesh, account: &str) -> anyhow::Result<String> {
    Ok(mesh.kubectl_ok(&["create", "token", account, "--audience", "istio-ca"])?.trim().to_owned())
}

/// What an agent of reviews says that has this token and trusts this root; ended when it has said why it fails.
fn agent(mesh: &Mesh, trusted: &Ca, token: &str) -> anyhow::Result<String> {
    let file = |name: &str, text: &str| -> anyhow::Result<PathBuf> {
        let path = mesh.folder().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    };
    let log = mesh.folder().join("agent.txt");
    let mut command = Command::new(program("mizzen-proxy"));
    command
        .args(["sidecar", "--node-id", "sidecar~127.0.0.1~x.default~default.svc.cluster.local"])
        .args(["--control-plane", "127.0.0.1:15012", "--root-cert"])
        .arg(file("agent-root.pem", &trusted.root())?)
        .arg("--metadata-json")
        .arg(file("agent.json", r#"{"NAMESPACE": "default", "SERVICE_ACCOUNT": "reviews"}"#)?);
    if !token.is_empty() {
        command.arg("--token-file").arg(file("agent.token", token)?);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?).spawn()?;
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    let said = until("the agent says why it fails", PATIENCE, || {
        let ended = child.try_wait().ok().flatten().is_some();
        (ended || read().contains("no new certificate")).then_some(())
    });
    let _ = child.kill();
    let _ = child.wait();
    said.with_context(read)?;
    Ok(read())
}

/// What OpenSSL says of a connection to HOST:PORT with this certificate.
fn hello(mesh: &Mesh, to: &str, alpn: &str, certificate: &Leaf) -> anyhow::Result<String> {
    let (chain, key) = (mesh.folder().join(format!("{to}.pem")), mesh.folder().join(format!("{to}.key")));
    std::fs::write(&chain, &certificate.chain)?;
    std::fs::write(&key, &certificate.key)?;
    let mut client = Command::new("openssl");
    client.args(["s_client", "-connect", to, "-alpn", alpn, "-ign_eof", "-cert"]);
    client.arg(chain).arg("-key").arg(key);
    let mut child = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    // An HTTP/2 client with nothing to ask; the end of its connection ends OpenSSL.
    input.write_all(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0",
    )?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
    let patience = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(3));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    });
    let output = child.wait_with_output()?;
    drop(input);
    drop(patience);
    Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[derive(Clone, Copy)]
enum Life {
    Past,
    Now,
    Future,
}

struct Leaf {
    chain: String,
    key: String,
}

/// An authority whose key the test has.
struct Ca {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Ca {
    fn new(name: &str) -> anyhow::Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Ok(Self { certificate, issuer: rcgen::Issuer::new(params, key) })
    }

    fn root(&self) -> String {
        self.certificate.pem()
    }

    /// As the files of Istio's Secret `cacerts`.
    fn plug_in(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        for name in ["ca-cert.pem", "cert-chain.pem", "root-cert.pem"] {
            std::fs::write(folder.join(name), self.root())?;
        }
        Ok(std::fs::write(folder.join("ca-key.pem"), self.issuer.key().serialize_pem())?)
    }

    fn leaf(&self, id: &str, life: Life) -> anyhow::Result<Leaf> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into()?)];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let (from, to) = match life {
            Life::Past => (2020, 2021),
            Life::Now => (2020, 2100),
            Life::Future => (2090, 2100),
        };
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf { chain: certificate.pem(), key: key.serialize_pem() })
    }
}

/// A small disk in a mount namespace of this scenario.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(megabytes: u32) -> anyhow::Result<Self> {
        let nothing: Option<&str> = None;
        unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
        let folder = tempfile::tempdir()?;
        let options = format!("size={megabytes}m,mode=700");
        mount(Some("tmpfs"), folder.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
        Ok(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Leaves no byte.
    fn fill(&self) -> anyhow::Result<()> {
        let mut file = File::create(self.ballast())?;
        let block = vec![0; 1 << 16];
        loop {
            match file.write(&block) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => bail!(error),
            }
        }
    }

    fn clear(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.ballast())?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(self.path(), MntFlags::MNT_DETACH);
    }
}

/// What the gateway serves on 8443.
const TLS_SERVER: &str = "---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: secure, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 8443, name: https, protocol: HTTPS}
    hosts: [books.example.com]
    tls: {mode: SIMPLE, credentialName: books-tls}
";

/// A few lines that stand for 10^9 words.
fn laughs() -> String {
    let mut text = String::from("a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n");
    for n in 1..9 {
        let before = format!("*a{}", n - 1);
        text += &format!("a{n}: &a{n} [{}]\n", vec![before; 10].join(", "));
    }
    text
}

const ROUTE: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews]
  http:
  - timeout: 5s
    route: [{destination: {host: reviews}, weight: 100}]
";
