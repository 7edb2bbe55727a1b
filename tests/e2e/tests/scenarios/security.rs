//! Identity and authorization.

use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::capture::{Packets, TLS_RECORDS};
use e2e::load::{Report, visit};
use e2e::mesh::{get_text, program};
use e2e::proxies::Proxy;
use e2e::serve::What;
use e2e::stage::Scenario;
use e2e::{Mesh, Proxies, Workload, processes, until, until_ok, yaml};
use serde_json::{Value, json};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("identity_every_call_is_mutual_tls", on_the_wire),
    ("identity_an_impostor_is_refused", impostor),
    ("identity_is_proven_and_strict_refuses_plaintext", identity),
    ("identity_is_of_the_trust_domain_that_the_mesh_says", trust_domain),
    ("identity_certificates_are_renewed_under_load", renewal),
    ("identity_roots_are_rotated_under_load", rotation),
    ("authorization_guards_the_database", database_at_once),
    ("authorization_by_method_and_path", authorization_at_once),
    ("authorization_at_the_gateway", at_the_gateway),
];

const URL: &str = "http://reviews:9080/reviews/0";
const PATIENCE: Duration = Duration::from_secs(20);
const MARKER: &str = "nobody-may-read-this-on-the-wire";
/// What reviews says of a book.
const REVIEWER: &str = "Reviewer1";

/// With no PeerAuthentication at all every call of Bookinfo is mutual TLS, on the wire too; every certificate has its
/// SPIFFE URI; no key is in any file.
fn on_the_wire() -> anyhow::Result<()> {
    e2e::stage::own_temporary_folders()?;
    let began = SystemTime::now();
    let mesh = Mesh::start()?;
    let parts = [("details", "v1"), ("ratings", "v1"), ("reviews", "v3"), ("productpage", "v1")];
    let services: Vec<Workload> =
        parts.iter().map(|(service, version)| bookinfo(&mesh, service, version)).collect::<Result<_, _>>()?;
    let gateway = mesh.gateway(&["--listen", "8081=8080"])?;
    let page = "http://productpage:9080/productpage";
    mesh.until_answers(page)?;
    let [_, _, reviews, _] = services.as_slice() else { unreachable!("four were started") };
    let capture = Capture::start(&mesh, reviews)?;
    let asked =
        mesh.load(&["--url", page, "--count", "20", "--header", &format!("x-request-id: {MARKER}")])?;
    ensure!(asked.failed() == 0 && asked.last.body.contains(REVIEWER), "{asked:?}");

    let packets = capture.packets()?;
    ensure!(!packets.contains(MARKER) && !packets.contains(REVIEWER), "plaintext is on the wire");
    let words = packets.first_words(9080);
    // From productpage, and to ratings: each flow has two directions.
    ensure!(words.len() >= 4, "the capture missed the calls: {words:?}");
    ensure!(words.iter().all(|(_, _, first)| TLS_RECORDS.contains(first)), "not all of it is TLS: {words:?}");

    for (workload, (service, _)) in services.iter().zip(parts) {
        let pid = workload.process("bookinfo")?;
        proves(pid, &spiffe(service))?;
        let metrics = processes::inside(pid, || get_text("127.0.0.1:15000", "/stats/prometheus"))?;
        let metrics = metrics.with_context(|| format!("metrics of {service}"))?;
        let received: Vec<&str> = metrics
            .lines()
            .filter(|line| {
                line.starts_with("istio_requests_total{") && line.contains("reporter=\"destination\"")
            })
            .collect();
        ensure!(!received.is_empty(), "{service} counted no request");
        let secure = |line: &&str| line.contains("connection_security_policy=\"mutual_tls\"");
        ensure!(received.iter().all(secure), "{service}: {received:#?}");
    }
    let of_gateway = "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway";
    proves(gateway.process("mizzen-proxy")?, of_gateway)?;

    // Where plaintext is asked for the capture shows it: what was not found before was not there.
    mesh.apply(PLAINTEXT)?;
    until("plaintext is seen on the wire", PATIENCE, || {
        mesh.load(&["--url", page, "--count", "4"]).ok().filter(|report| report.failed() == 0)?;
        capture.packets().ok()?.contains(REVIEWER).then_some(())
    })?;
    drop(capture);
    no_key_in_any_file(&mesh, began)
}

/// A peer with a valid certificate of another account that answers for reviews is refused by the caller.
pub(crate) fn impostor() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    mesh.log_requests()?;
    let impostor = mesh.serve("impostor", "v1", "impostor")?;
    mesh.until_answers("http://impostor:9080/")?;
    let address = mesh.address("impostor")?;
    let claim = |account: &str| {
        mesh.apply(&format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: reviews, namespace: default}}
spec: {{selector: {{app: reviews}}, ports: [{{name: http, port: 9080}}]}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: claims-to-be-reviews, namespace: default}}
spec: {{address: {address}, labels: {{app: reviews}}, serviceAccount: {account}}}
"
        ))
    };
    claim("reviews")?;
    let served = || -> anyhow::Result<u64> {
        let report = mesh.load(&["--url", "http://impostor:9080/", "--count", "1"])?;
        let body: serde_json::Value = serde_json::from_str(&report.last.body)?;
        body["served"].as_u64().with_context(|| format!("{report:?}"))
    };
    let before = served()?;
    let refused = until_ok("the impostor is reached", PATIENCE, || {
        let report = mesh.load(&["--url", URL, "--count", "5", "--metrics"])?;
        // Callers are told nothing of the reasons. A stock Envoy counts them, under a name that it finds in the cluster's.
        let refusals = "envoy_cluster_default_svc_cluster_local__ssl_fail_verify_san";
        let for_its_name = match Proxies::caller_is_stock() {
            true => report.counted(refusals, &[]) > 0.0,
            false => mesh.logged("client").last().is_some_and(|line| {
                line.details.as_ref().is_some_and(|details| details.contains("TLS_error"))
            }),
        };
        ensure!(for_its_name, "{report:?}");
        Ok(report)
    })
    .with_context(|| mesh.logs("client"))?;
    ensure!(refused.status(503) == 5, "an impostor answered for reviews: {refused:?}");
    ensure!(served()? == before + 1, "requests for reviews reached the impostor");
    // The account is all that was wrong with it.
    claim("impostor")?;
    until("the same peer is taken for what it is", PATIENCE, || {
        mesh.load(&["--url", URL, "--count", "5"]).ok().filter(|report| report.ok() == 5)
    })?;
    drop(impostor);
    Ok(())
}

/// The mesh is renamed while it runs: who comes later has certificates of its new name, who was there is still known by
/// the old one, and policies mean both.
fn trust_domain() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let _before = mesh.serve("reviews", "v1", "before")?;
    mesh.apply(&peer_authentication("STRICT"))?;
    mesh.until_answers(URL)?;
    mesh.apply(
        "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: '{trustDomain: example.org, trustDomainAliases: [cluster.local]}'}
",
    )?;
    until("the authority knows", PATIENCE, || {
        mesh.whole_log("up").contains("trust-domain.changed").then_some(())
    })?;
    let _after = mesh.serve("reviews", "v1", "after")?;
    let report = until("both are reached", PATIENCE, || {
        let report = mesh.load(&["--url", URL, "--count", "40", "--fresh"]).ok()?;
        (report.failed() == 0 && report.names.len() == 2).then_some(report)
    })?;
    let caller = "URI=spiffe://example.org/ns/default/sa/client";
    ensure!(report.last.body.contains(caller), "the caller is another: {report:?}");
    let policy = |rest: &str| {
        format!(
            "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: reviews, namespace: default}}
spec: {{selector: {{matchLabels: {{app: reviews}}}}, {rest}}}
"
        )
    };
    let named = "rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]}]";
    mesh.steer(&policy(named))?;
    let report = mesh.load(&["--url", URL, "--count", "40", "--fresh"])?;
    ensure!(report.failed() == 0, "the former name is not known any more: {report:?}");
    for (domain, refused) in [("example.org", 20), ("cluster.local", 0)] {
        let denied =
            format!("action: DENY, rules: [{{when: [{{key: source.trustDomain, values: [{domain}]}}]}}]");
        mesh.steer(&policy(&denied))?;
        let report = mesh.load(&["--url", URL, "--count", "20"])?;
        ensure!(report.status(403) == refused, "{domain}: {report:?}");
    }
    Ok(())
}

/// Between two workloads: with no policy at all mutual TLS, on the wire too; then plaintext where it is asked for, which
/// STRICT refuses; and the identity that a caller proves is what policies see. No key is in any file meanwhile.
pub(crate) fn identity() -> anyhow::Result<()> {
    e2e::stage::own_temporary_folders()?;
    let began = SystemTime::now();
    let mesh = Mesh::start()?;
    let reviews = mesh.serve("reviews", "v1", "one")?;
    let marked = format!("x-marker: {MARKER}");
    let load =
        mesh.start_load(&["--url", URL, "--connections", "2", "--pause", "10", "--header", &marked])?;
    load.until_only(&["one"])?;
    let capture = Capture::start(&mesh, &reviews)?;
    let secure = until("the calls are captured", PATIENCE, || {
        let report = load.next(10).ok()?;
        (capture.packets().ok()?.first_words(9080).len() >= 2).then_some(report)
    })?;
    let packets = capture.packets()?;
    let words = packets.first_words(9080);
    ensure!(words.iter().all(|(_, _, first)| TLS_RECORDS.contains(first)), "not all of it is TLS: {words:?}");
    ensure!(secure.failed() == 0 && !packets.contains(MARKER), "plaintext is on the wire");
    let (own, callers) = (spiffe("reviews"), spiffe("client"));
    let peer = format!("By={own};");
    let told = |what: &str| secure.last_body.contains(what);
    ensure!(told(&peer) && told(&format!("URI={callers}")), "not mutual: {}", secure.last_body);
    for (pid, id) in [(reviews.process("mizzen-e2e")?, own), (load.process("mizzen-e2e")?, callers)] {
        proves(pid, &id)?;
    }
    // A peer that has neither a proxy nor a certificate is let in until STRICT is asked for.
    let heard = ask_bare(&mesh)?;
    ensure!(heard.starts_with("HTTP/1.1 200 "), "PERMISSIVE refuses plaintext: {heard:?}");

    mesh.apply(PLAINTEXT)?;
    // Plaintext is let in, and a capture shows it: what was not found before was not there.
    until("plaintext is seen on the wire", PATIENCE, || {
        let report = load.next(10).ok()?;
        (report.failed() == 0 && capture.packets().ok()?.contains(MARKER)).then_some(())
    })?;
    mesh.apply(&peer_authentication("STRICT"))?;
    // Of new connections: one of our proxies lets those that stand end by themselves.
    let refused = until("plaintext is refused", PATIENCE, || {
        mesh.load(&["--url", URL, "--count", "5"]).ok().filter(|report| report.ok() == 0)
    })?;
    ensure!(refused.status(503) == 5, "{refused:?}");
    let heard = ask_bare(&mesh)?;
    ensure!(heard.is_empty(), "STRICT answers plaintext: {heard:?}");
    let asked = reviews.events().iter().filter(|e| e.path == BARE && e.what == What::Begun).count();
    ensure!(asked == 1, "{asked} requests of a peer without a certificate reached reviews");
    mesh.kubectl_ok(&["delete", "destinationrule", "reviews"])?;
    mesh.apply(&allow("reviews", "client"))?;
    // The client's identity is the only one that is let in: were it not proven, this would be denied.
    until("the client is let in by its identity", PATIENCE, || {
        mesh.load(&["--url", URL, "--count", "20"]).ok().filter(|report| report.failed() == 0)
    })?;
    no_key_in_any_file(&mesh, began)
}

const PLAINTEXT: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec: {host: reviews, trafficPolicy: {tls: {mode: DISABLE}}}
";

/// The path that [`ask_bare`] asks for.
const BARE: &str = "/bare";

/// All that reviews answers to a plaintext request which no proxy sends.
fn ask_bare(mesh: &Mesh) -> anyhow::Result<String> {
    let mut stream = mesh.bare("reviews", 9080)?()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut heard = Vec::new();
    let request = format!("GET {BARE} HTTP/1.1\r\nhost: reviews:9080\r\nconnection: close\r\n\r\n");
    let ended = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_end(&mut heard));
    let open = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    ensure!(!open, "the connection was left to hang");
    Ok(String::from_utf8_lossy(&heard).into_owned())
}

fn spiffe(account: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
}

/// Every certificate that the proxy beside a process shows to others has this identity and no other.
fn proves(pid: u32, id: &str) -> anyhow::Result<()> {
    let page = processes::inside(pid, || visit("http://127.0.0.1:15000/certs", 1))??.last_body;
    let page: Value = serde_json::from_str(&page).context(page)?;
    let chains = page["certificates"].as_array().into_iter().flatten();
    let mut leaves =
        chains.filter_map(|certificate| certificate["cert_chain"].as_array()?.first()).peekable();
    ensure!(leaves.peek().is_some(), "no certificate for {id}: {page:#}");
    let other = leaves.find(|leaf| leaf["subject_alt_names"] != json!([{"uri": id}]));
    ensure!(other.is_none(), "not {id} alone: {other:#?}");
    Ok(())
}

/// With certificates of one minute nothing fails under load while all of them are renewed and the first ones expire:
/// between our proxies and stock Envoys, in whatever way these ask the control plane, each as caller and as callee. No
/// renewed key is in any file either.
fn renewal() -> anyhow::Result<()> {
    e2e::stage::own_temporary_folders()?;
    let began = SystemTime::now();
    if testkit::peers::envoy().is_some() {
        let [delta, sotw, rest] = ["delta", "sotw", "rest"].map(Proxy::Envoy);
        let all = vec![Proxy::Mizzen, delta, sotw, rest];
        Proxies { callers: all.clone(), callees: all }.choose()?;
    }
    let mesh = Mesh::start_with(&["--workload-cert-ttl", "1m"])?;
    let replicas = ["one", "two", "three", "four"];
    let _replicas =
        replicas.map(|name| mesh.serve("reviews", "v1", name)).into_iter().collect::<Result<Vec<_>, _>>()?;
    let load = |name, more: &[&str]| {
        let steady = ["--url", URL, "--connections", "2"];
        mesh.start_load_as(name, &[], &[&steady[..], more].concat())
    };
    let loads = [
        ("kept", load("kept", &["--pause", "20"])?),
        ("fresh", load("fresh", &["--pause", "50", "--fresh"])?),
        ("HTTP/2", load("http2", &["--pause", "30", "--http2"])?),
    ];
    for (_, load) in &loads {
        load.until_only(&replicas)?;
    }
    let socket = mesh.start_hold(&["--websocket", "reviews:9080"])?;
    let before = loads.each_ref().map(|(_, load)| load.so_far());
    let issued = |account: &str| {
        let id = format!("identity={} ", spiffe(account));
        mesh.whole_log("up").lines().filter(|l| l.contains("certificate.issued") && l.contains(&id)).count()
    };
    // The first certificates of all eight have expired when each was renewed twice.
    let first = Instant::now();
    until("all certificates were renewed twice", Duration::from_secs(150), || {
        let renewed = issued("reviews") >= 12 && issued("client") >= 12;
        (renewed && first.elapsed() > Duration::from_secs(65)).then_some(())
    })?;
    let mut sent = 0;
    for ((kind, load), before) in loads.into_iter().zip(&before) {
        let report = load.stop_after(before.sent + 200)?.since(before);
        ensure!(report.failed() == 0, "{kind} connections failed: {report:?}");
        ensure!(report.names.len() == replicas.len(), "{kind}: {:?}", report.names);
        sent += report.sent;
    }
    let held = socket.stop()?;
    ensure!(held.problem.is_none() && held.received == held.sent, "the WebSocket was cut: {held:?}");
    println!("{sent} requests, {} certificates", issued("reviews") + issued("client"));
    no_key_in_any_file(&mesh, began)
}

/// A new root is trusted by everybody before it signs, and old and new leaves meet, while traffic flows.
fn rotation() -> anyhow::Result<()> {
    let (first, second) = (Root::new("first")?, Root::new("second")?);
    let mesh = Mesh::start_prepared(&["--workload-cert-ttl", "1m"], |data| {
        first.plug_in(&data.join("cacerts"), &[&first])
    })?;
    let folder = mesh.folder().join("data/cacerts");
    let reviews = mesh.serve("reviews", "v1", "one")?;
    mesh.until_answers(URL)?;
    let steady = mesh.start_load(&["--url", URL, "--connections", "2", "--pause", "20"])?;
    let fresh = mesh.start_load(&["--url", URL, "--connections", "2", "--pause", "50", "--fresh"])?;
    let pid = reviews.process("mizzen-e2e")?;
    let trusted = |root: &Root| {
        let certificates = processes::inside(pid, || get_text("127.0.0.1:15000", "/certs")).ok()??;
        certificates.contains(&root.serial).then_some(certificates)
    };
    ensure!(until("the first root is trusted", PATIENCE, || trusted(&first)).is_ok(), "no first root");
    // Both are trusted first, without waiting for anybody's renewal.
    let asked = Instant::now();
    first.plug_in(&folder, &[&first, &second])?;
    until("the second root is trusted", Duration::from_secs(25), || trusted(&second))?;
    println!("a new root was trusted after {:?}", asked.elapsed());
    second.plug_in(&folder, &[&second, &first])?;
    let late = mesh.serve("reviews", "v1", "late")?;
    until("leaves of both roots serve", PATIENCE, || {
        let report = mesh.load(&["--url", URL, "--count", "40", "--fresh"]).ok()?;
        (report.names.len() == 2 && report.failed() == 0).then_some(())
    })?;
    drop(late);
    let (steady, fresh) = (steady.stop_after(100)?, fresh.stop_after(100)?);
    for (kind, report) in [("kept", &steady), ("fresh", &fresh)] {
        ensure!(report.failed() == 0, "{kind} connections failed: {report:?}");
    }
    Ok(())
}

/// Only the account of ratings v2 may open a TCP connection to the real database, whose server speaks first.
pub(crate) fn database() -> anyhow::Result<()> {
    guarded_database().map(drop)
}

/// The same, and a changed policy acts within a second.
fn database_at_once() -> anyhow::Result<()> {
    guarded_database()?.map_or(Ok(()), |moments| at_once(&moments))
}

fn guarded_database() -> anyhow::Result<Option<Moments>> {
    let (Some(server), Some(install)) =
        (testkit::peers::need("mariadbd"), testkit::peers::need("mariadb-install-db"))
    else {
        return Ok(None);
    };
    let mesh = Mesh::start()?;
    let _database = mariadb(&mesh, &server, &install)?;
    let mut command = mesh.mizzen(["run", "--service", "ratings", "--version", "v2", "--port", "http=9080"]);
    command.args(Proxies::of_next_caller()?);
    command.args(["--service-account", "bookinfo-ratings-v2", "--"]).arg(program("bookinfo"));
    command.args(["ratings", "--version", "v2"]);
    let _ratings = mesh.spawn(command, "ratings-v2", PathBuf::new())?;
    let stars = "http://ratings:9080/ratings/0";
    mesh.until_answers(stars)?;
    let other = || mesh.probe("other", "mysqldb:3306", "");
    let heard = other()?;
    ensure!(heard.reached() && heard.text.contains("MariaDB"), "without a policy all may: {heard:?}");

    mesh.apply(&allow("mysqldb", "bookinfo-ratings-v2"))?;
    let refused =
        until("all others are refused", PATIENCE, || other().ok().filter(|heard| !heard.reached()))?;
    ensure!(refused.end != "open", "the connection was left to hang: {refused:?}");
    let accounts = ["other", "ratings", "reviews", "mysqldb"];
    let heard: Vec<_> = std::thread::scope(|scope| {
        let probes = accounts.map(|account| scope.spawn(|| mesh.probe(account, "mysqldb:3306", "")));
        probes.into_iter().map(|probe| probe.join().unwrap_or_else(|_| bail!("a probe panicked"))).collect()
    });
    for (account, heard) in accounts.iter().zip(heard) {
        let heard = heard?;
        ensure!(!heard.reached(), "{account} reached the database: {heard:?}");
    }
    let allowed = mesh.load(&["--url", stars, "--count", "20", "--connections", "2"])?;
    ensure!(allowed.failed() == 0, "ratings v2 does not reach its database: {allowed:?}");
    // It is the real database's data.
    ensure!(allowed.last.body.contains(r#""Reviewer1":3,"Reviewer2":2"#), "{allowed:?}");

    // The same account is the only one when the policy names another.
    mesh.apply(&allow("mysqldb", "other"))?;
    until("ratings v2 is refused", PATIENCE, || {
        mesh.load(&["--url", stars, "--count", "1"]).ok().filter(|report| report.status(500) == 1)
    })?;
    // Who is named now may, and opens one connection after the other while that changes.
    let to = "tcp://mysqldb:3306";
    let load =
        mesh.start_load_from("other", "other", &[], &["--url", to, "--connections", "1", "--pause", "10"])?;
    let before = load.next(5)?;
    ensure!(before.failed() == 0 && before.last.body.contains("MariaDB"), "who is named may not: {before:?}");
    let moments = flips(
        |account| mesh.apply(&allow("mysqldb", account)),
        [
            ("bookinfo-ratings-v2", &|| load.until_more(Report::failed)),
            ("other", &|| load.until_more(Report::ok)),
        ],
    )?;
    Ok(Some(moments))
}

/// A rule on method and path answers 403 with Envoy's body, and a changed policy acts on open connections.
pub(crate) fn authorization() -> anyhow::Result<()> {
    by_method_and_path().map(drop)
}

/// The same, and a changed policy acts within a second.
fn authorization_at_once() -> anyhow::Result<()> {
    at_once(&by_method_and_path()?)
}

/// How long it took, from the end of kubectl on, until a connection that was open all along was answered otherwise:
/// denied, let through, and so on.
type Moments = Vec<Duration>;

/// Changes a policy a few times under load, to and fro, and waits each time until that is seen.
fn flips(
    policy: impl Fn(&str) -> anyhow::Result<()>,
    steps: [(&str, &dyn Fn() -> anyhow::Result<Duration>); 2],
) -> anyhow::Result<Moments> {
    let flips = steps.iter().cycle().take(6).map(|(what, until_seen)| {
        policy(what)?;
        until_seen()
    });
    flips.collect()
}

fn at_once(moments: &Moments) -> anyhow::Result<()> {
    println!("a changed policy acted {moments:?} after kubectl returned");
    // On a machine that does other things as well, one of three may be late.
    for first in [0, 1] {
        let in_time = moments.iter().skip(first).step_by(2).filter(|took| **took < Duration::from_secs(1));
        ensure!(in_time.count() >= 2, "{moments:?}");
    }
    Ok(())
}

fn by_method_and_path() -> anyhow::Result<Moments> {
    let mesh = Mesh::start()?;
    let _reviews = mesh.serve("reviews", "v1", "one")?;
    let policy = |methods: &str, paths: &str| {
        mesh.apply(&format!(
            "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: reviews, namespace: default}}
spec:
  selector: {{matchLabels: {{app: reviews}}}}
  action: DENY
  rules: [{{to: [{{operation: {{methods: [{methods}], paths: ['{paths}']}}}}]}}]
"
        ))
    };
    let table = [
        ("GET", "/reviews/0", 403),
        ("GET", "/reviews/0?x=1", 403),
        ("GET", "/other/../reviews/0", 403),
        ("POST", "/reviews/0", 200),
        ("GET", "/other", 200),
    ];
    mesh.until_answers(URL)?;
    // One connection all along: let through, denied, let through again.
    let load = mesh.start_load(&["--url", URL, "--connections", "1", "--pause", "10"])?;
    load.until_only(&["one"])?;
    let let_in = load.so_far();
    policy("GET", "/reviews/*")?;
    load.until_answered(403)?;
    std::thread::scope(|scope| {
        let answers = table.map(|(method, path, status)| {
            let (mesh, url) = (&mesh, format!("http://reviews:9080{path}"));
            scope.spawn(move || -> anyhow::Result<()> {
                let report = mesh.load(&["--url", &url, "--method", method, "--count", "1"])?;
                ensure!(report.status(status) == 1, "{method} {path} is not answered {status}: {report:?}");
                Ok(())
            })
        });
        answers.into_iter().try_for_each(|answer| answer.join().unwrap_or_else(|_| bail!("a load panicked")))
    })?;
    policy("GET", "/other")?;
    load.until_answered(200)?;
    let moments = flips(
        |paths| policy("GET", paths),
        [("/reviews/*", &|| load.until_answered(403)), ("/other", &|| load.until_answered(200))],
    )?;
    let report = load.stop()?;
    ensure!(report.last_failure == "RBAC: access denied", "{report:?}");
    let since = report.since(&let_in);
    ensure!(since.ok() + since.status(403) == since.sent && report.opened == 1, "{report:?}");
    ensure!(report.last.status == 200, "the open connection stayed denied: {report:?}");
    let changes = mesh.whole_log("up");
    let audited = changes.lines().filter(|l| l.contains("policy.changed") && l.contains("default/reviews"));
    ensure!(audited.count() >= 8, "the policy's changes left no audit lines");
    Ok(moments)
}

/// The same at the gateway: who comes from outside is denied by method, path and host, and a change acts at once.
pub(crate) fn at_the_gateway() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let _reviews = mesh.serve("reviews", "v1", "one")?;
    let _gateway = mesh.gateway(&["--listen", "8081=8080"])?;
    mesh.apply(&yaml::door_to(8080, "reviews", 9080))?;
    let url = |path: &str| format!("http://127.0.0.1:8081{path}");
    let ask = |method: &str, path: &str| {
        mesh.load_from_outside(&[
            "--url",
            &url(path),
            "--method",
            method,
            "--count",
            "1",
            "--connections",
            "1",
        ])
    };
    until("the gateway leads to reviews", PATIENCE, || {
        ask("GET", "/reviews/0").ok().filter(|r| r.ok() == 1)
    })?;
    let load =
        mesh.start_load_from_outside(&["--url", &url("/reviews/0"), "--connections", "1", "--pause", "5"])?;
    let policy = |paths: &str| {
        mesh.apply(&format!(
            "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: door, namespace: istio-system}}
spec:
  selector: {{matchLabels: {{istio: ingressgateway}}}}
  action: ALLOW
  rules: [{{to: [{{operation: {{methods: [GET], paths: [{paths}]}}}}]}}]
"
        ))
    };
    policy("/public/*")?;
    let denied = until("the gateway denies", PATIENCE, || {
        ask("GET", "/reviews/0").ok().filter(|report| report.status(403) == 1)
    })?;
    ensure!(denied.last.body == "RBAC: access denied", "{denied:?}");
    for (method, path, status) in [("GET", "/public/x", 200), ("POST", "/public/x", 403), ("GET", "/", 403)] {
        let report = ask(method, path)?;
        ensure!(report.status(status) == 1, "{method} {path} is not answered {status}: {report:?}");
    }
    policy("/public/*, /reviews/*")?;
    load.until_answered(200)?;
    let moments = flips(
        policy,
        [
            ("/public/*", &|| load.until_answered(403)),
            ("/public/*, /reviews/*", &|| load.until_answered(200)),
        ],
    )?;
    at_once(&moments)?;
    let report = load.stop()?;
    ensure!(
        report.status(403) > 0 && report.errors.is_empty(),
        "the open connection was not denied: {report:?}"
    );
    // A stock Envoy asks its callers for new connections when a listener changes.
    ensure!(Proxies::caller_is_stock() || report.opened == 1, "{} connections", report.opened);
    ensure!(report.last.status == 200, "the open connection stayed denied: {report:?}");
    Ok(())
}

fn peer_authentication(mode: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: default}}
spec: {{mtls: {{mode: {mode}}}}}
"
    )
}

/// Only that account may call the app.
fn allow(app: &str, account: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {app}, namespace: default}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
  rules: [{{from: [{{source: {{principals: [cluster.local/ns/default/sa/{account}]}}}}]}}]
"
    )
}

fn bookinfo(mesh: &Mesh, service: &str, version: &str) -> anyhow::Result<Workload> {
    let mut command =
        mesh.mizzen(["run", "--service", service, "--version", version, "--port", "http=9080", "--"]);
    command.arg(program("bookinfo")).args([service]).env("SERVICE_VERSION", version);
    mesh.spawn(command, service, PathBuf::new())
}

/// A real MariaDB with Bookinfo's table, as a workload.
fn mariadb(mesh: &Mesh, server: &Path, install: &Path) -> anyhow::Result<Workload> {
    const SCHEMA: &str = "\
CREATE DATABASE test;
CREATE TABLE test.ratings (ReviewID INT NOT NULL, Rating INT, PRIMARY KEY (ReviewID));
INSERT INTO test.ratings VALUES (1, 3), (2, 2);
CREATE OR REPLACE USER 'root'@'%' IDENTIFIED BY 'password';
GRANT ALL ON *.* TO 'root'@'%';
";
    let data = mesh.folder().join("mariadb");
    let made = Command::new(install)
        .args(["--no-defaults", "--user=root", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .arg(format!("--datadir={}", data.display()))
        .stdout(Stdio::null())
        .status()?;
    ensure!(made.success(), "mariadb-install-db: {made}");
    let schema = mesh.folder().join("schema.sql");
    std::fs::write(&schema, SCHEMA)?;
    let mut command = mesh.mizzen(["run", "--service", "mysqldb", "--port", "tcp=3306"]);
    // Always ours: a stock Envoy refuses a connection only when its caller has spoken, and this server speaks first.
    command
        .arg("--")
        .arg(server)
        .args(["--no-defaults", "--user=root", "--skip-name-resolve", "--port=3306"])
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--socket={}", mesh.folder().join("s").display()))
        .arg(format!("--init-file={}", schema.display()));
    mesh.spawn(command, "mysqldb", PathBuf::new())
}

/// What goes over the link of a workload, from its start on.
struct Capture {
    _reader: Workload,
    file: PathBuf,
}

impl Capture {
    fn start(mesh: &Mesh, workload: &Workload) -> anyhow::Result<Self> {
        let file = mesh.folder().join("capture.pcap");
        let pid = workload.process("mizzen-proxy")?;
        let mut command = Command::new(program("mizzen-e2e"));
        command.args(["capture", "--pid", &pid.to_string(), "--file"]).arg(&file);
        let reader = mesh.spawn(command, "capture", PathBuf::new())?;
        until("the capture runs", PATIENCE, || Packets::read(&file).ok())
            .with_context(|| mesh.logs("capture"))?;
        Ok(Self { _reader: reader, file })
    }

    fn packets(&self) -> anyhow::Result<Packets> {
        Packets::read(&self.file)
    }
}

/// Neither in the mesh's folder, nor in temporary folders, nor in logs, nor in anything that a process holds open.
fn no_key_in_any_file(mesh: &Mesh, began: SystemTime) -> anyhow::Result<()> {
    // Those that are put there are found, in each form that a key may have: so others would be.
    let key = rcgen::KeyPair::generate()?;
    let der = key.serialize_der();
    let forms = [key.serialize_pem().into_bytes(), STANDARD.encode(&der).into_bytes(), der];
    let mut planted = Vec::new();
    for (number, form) in forms.iter().enumerate() {
        let file = mesh.folder().join(format!("planted-{number}"));
        std::fs::write(&file, form)?;
        planted.push(file);
    }
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let logs = home.join(".local/state/mizzen");
    let folders = [mesh.folder(), Path::new("/tmp"), Path::new("/dev/shm"), Path::new("/run"), &logs];
    let mut looked_at = 0;
    let mut found = Vec::new();
    for file in folders.iter().flat_map(|folder| walk(folder)) {
        let new = std::fs::metadata(&file).and_then(|file| file.modified()).is_ok_and(|at| at >= began);
        if new {
            let content = std::fs::read(&file).unwrap_or_default();
            looked_at += 1;
            if holds_key(&content) {
                found.push(file);
            }
        }
    }
    // A folder may lie in another one.
    found.sort();
    found.dedup();
    ensure!(found == planted, "private keys lie in {found:?}, and were put in {planted:?}");
    planted.iter().try_for_each(std::fs::remove_file)?;
    ensure!(looked_at > 5, "only {looked_at} files were looked at");
    for pid in processes::descendants(std::process::id()) {
        for (name, mut file) in processes::open_files(pid) {
            let mut content = Vec::new();
            // Programs hold the words, not the keys.
            if file.read_to_end(&mut content).is_ok() && !content.starts_with(b"\x7fELF") {
                ensure!(!holds_key(&content), "a private key lies in {}", name.display());
            }
        }
    }
    Ok(())
}

/// PEM of whatever kind, or the beginning of PKCS #8 or SEC1 for a key on P-256, in base64 as well.
fn holds_key(content: &[u8]) -> bool {
    const PKCS8: &[u8] = &[
        0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
        0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04,
    ];
    let has = |what: &[u8]| content.windows(what.len()).any(|window| window == what);
    let base64 = [&b"MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg"[..], b"MHcCAQEEI"];
    has(b"PRIVATE KEY-----")
        || has(PKCS8)
        || has(&[0x02, 0x01, 0x01, 0x04, 0x20])
        || base64.into_iter().any(has)
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let entries = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_symlink()));
    entries
        .flat_map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { vec![entry.path()] })
        .collect()
}

/// A root that people plug in as Istio's `cacerts`.
struct Root {
    certificate: String,
    key: String,
    serial: String,
}

impl Root {
    fn new(name: &str) -> anyhow::Result<Self> {
        use rcgen::{
            BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, SerialNumber,
        };
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let bytes: Vec<u8> = name.bytes().take(8).collect();
        params.serial_number = Some(SerialNumber::from_slice(&bytes));
        let certificate = params.self_signed(&key)?.pem();
        let serial = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { certificate, key: key.serialize_pem(), serial })
    }

    /// Signs from now on, with these roots announced.
    fn plug_in(&self, folder: &Path, roots: &[&Self]) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        let roots: String = roots.iter().map(|root| root.certificate.as_str()).collect();
        for (name, content) in [
            ("root-cert.pem", roots.as_str()),
            ("cert-chain.pem", ""),
            ("ca-key.pem", &self.key),
            ("ca-cert.pem", &self.certificate),
        ] {
            let next = folder.join(format!("{name}.next"));
            std::fs::write(&next, content)?;
            std::fs::rename(next, folder.join(name))?;
        }
        Ok(())
    }
}
