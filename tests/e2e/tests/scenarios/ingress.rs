//! The way in.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::dial::fingerprint;
use e2e::load::Report;
use e2e::mesh::program;
use e2e::stage::Scenario;
use e2e::{Mesh, Workload, until, until_ok, yaml};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("ingress_two_hosts_by_tls_and_a_certificate_replaced_live", two_hosts),
    ("ingress_routes_move_under_load", moving_routes),
    ("ingress_paths_leave_a_monolith_one_by_one_and_return", monolith),
];

const PATIENCE: Duration = Duration::from_secs(20);
const HTTP: &str = "127.0.0.1:8081";
const HTTPS: &str = "127.0.0.1:8443";

/// Two hosts, each with its own certificate; plaintext is sent to TLS; a certificate is replaced, by a good one and by
/// broken ones, and no request fails.
fn two_hosts() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let _books = mesh.serve("books", "v1", "books")?;
    let _shop = mesh.serve("shop", "v1", "shop")?;
    let _gateway = mesh.gateway(&["--listen", "8081=8080", "--listen", "8443"])?;
    let (books, shop) = (Certificate::new("books.example.com")?, Certificate::new("shop.example.com")?);
    books.store(&mesh, "books-tls")?;
    shop.store(&mesh, "shop-tls")?;
    mesh.apply(&format!("{GATEWAY}{}{}", route("books", &["/"]), route("shop", &["/"])))?;
    let next = Certificate::new("books.example.com")?;
    let roots = mesh.folder().join("roots.pem");
    std::fs::write(&roots, [&books, &shop, &next].map(|c| c.certificate.as_str()).concat())?;
    let outside = Outside { mesh: &mesh, roots: &roots };

    let served = until("both hosts are served", PATIENCE, || {
        let books = outside.ask("https://books.example.com:8443/").ok().filter(|r| r.ok() == 1)?;
        let shop = outside.ask("https://shop.example.com:8443/").ok().filter(|r| r.ok() == 1)?;
        Some((books, shop))
    })?;
    for (report, name, certificate) in [(&served.0, "books", &books), (&served.1, "shop", &shop)] {
        ensure!(report.names.contains_key(name), "another service answered: {report:?}");
        ensure!(
            report.certificates.contains_key(&certificate.fingerprint),
            "another's certificate: {report:?}"
        );
    }
    let stranger = outside.ask("https://other.example.com:8443/")?;
    ensure!(stranger.ok() == 0 && !stranger.errors.is_empty(), "a host that is not served: {stranger:?}");

    let redirected = outside.ask("http://books.example.com/a?b=c")?;
    let location = redirected.last.headers.get("location").map(String::as_str);
    ensure!(redirected.status(301) == 1, "{redirected:?}");
    ensure!(location == Some("https://books.example.com/a?b=c"), "{redirected:?}");

    let kept = outside.load("https://books.example.com:8443/", &["--pause", "5"])?;
    let fresh = outside.load("https://books.example.com:8443/", &["--pause", "10", "--fresh"])?;
    next.store(&mesh, "books-tls")?;
    until("the new certificate is served", PATIENCE, || {
        let report = outside.ask("https://books.example.com:8443/").ok()?;
        report.certificates.contains_key(&next.fingerprint).then_some(())
    })?;
    let other = outside.ask("https://shop.example.com:8443/")?;
    ensure!(other.certificates.contains_key(&shop.fingerprint), "the other host's changed too: {other:?}");
    fresh.next(20)?;

    // What is no pair and what is no certificate is refused by name, and the last good one serves on.
    let mixed = Certificate { key: shop.key, ..next.clone() };
    let nonsense = Certificate { certificate: "nonsense\n".into(), ..next.clone() };
    for (broken, reason) in [(mixed, "does not belong to the certificate"), (nonsense, "no PEM block")] {
        broken.store(&mesh, "books-tls")?;
        until_ok("the broken certificate is refused by name", PATIENCE, || {
            let status = mesh.mizzen_ok(&["proxy-status", "-o", "json"])?;
            ensure!(status.contains("books-tls") && status.contains(reason), "{reason}: {status}");
            Ok(())
        })?;
        let report = outside.ask("https://books.example.com:8443/")?;
        ensure!(report.certificates.contains_key(&next.fingerprint), "{reason}: {report:?}");
    }
    let (kept, fresh) = (kept.stop_after(20)?, fresh.stop_after(20)?);
    ensure!(kept.failed() == 0, "a kept connection failed: {kept:?}");
    ensure!(fresh.failed() == 0, "a new connection failed: {fresh:?}");
    ensure!(kept.certificates.len() == 1, "connections were closed: {kept:?}");
    let both = [&books, &next].iter().all(|c| fresh.certificates.contains_key(&c.fingerprint));
    ensure!(both && fresh.certificates.len() == 2, "the load saw not just both certificates: {fresh:?}");
    println!("{} requests while the certificate was replaced", kept.sent + fresh.sent);
    Ok(())
}

/// Routes are added, moved to another service and removed, and only what was asked for changes.
fn moving_routes() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let _books = mesh.serve("books", "v1", "books")?;
    let _shop = mesh.serve("shop", "v1", "shop")?;
    let _gateway = mesh.gateway(&["--listen", "8081=8080"])?;
    mesh.apply(&yaml::door(8080))?;
    let routes = |list: &[(&str, &str)]| mesh.apply(&paths(list));
    let outside = Outside { mesh: &mesh, roots: Path::new("") };
    let answers = |path: &str, name: &str| {
        let report = outside.ask(&format!("http://any.example.com:8081{path}")).ok()?;
        report.names.contains_key(name).then_some(())
    };
    routes(&[("/books", "books")])?;
    until("the first route is there", PATIENCE, || answers("/books/1", "books"))?;
    let steady = outside.load("http://any.example.com:8081/books/1", &["--pause", "2"])?;
    let moved = outside.load("http://any.example.com:8081/moved/1", &["--pause", "2"])?;

    routes(&[("/books", "books"), ("/moved", "books")])?;
    until("a route is added", PATIENCE, || answers("/moved/1", "books"))?;
    moved.until_only(&["books"])?;
    let before = moved.so_far();
    routes(&[("/books", "books"), ("/moved", "shop")])?;
    until("it is moved", PATIENCE, || answers("/moved/1", "shop"))?;
    moved.until_only(&["shop"])?;
    let while_moving = moved.so_far().since(&before);
    ensure!(while_moving.failed() == 0, "there was no route for a moment: {while_moving:?}");
    routes(&[("/books", "books")])?;
    until("it is removed", PATIENCE, || {
        outside.ask("http://any.example.com:8081/moved/1").ok().filter(|report| report.status(404) == 1)
    })?;
    let (steady, moved) = (steady.stop_after(30)?, moved.stop_after(30)?);
    ensure!(steady.failed() == 0 && steady.share("books") == 1.0, "{steady:?}");
    // Before it came and after it went there was no route: all else was answered, by both services in turn.
    ensure!(moved.ok() + moved.status(404) == moved.sent, "requests were lost: {moved:?}");
    ensure!(moved.names.len() == 2, "the load did not see the move: {moved:?}");
    println!("{} requests, {} of them while the route moved", steady.sent + moved.sent, moved.ok());
    Ok(())
}

/// Paths move one by one from a monolith outside the mesh to services inside and back, and no request is lost.
fn monolith() -> anyhow::Result<()> {
    const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
    let address = Command::new("ip").args(["addr", "add", &format!("{OUTSIDE}/32"), "dev", "lo"]).status()?;
    ensure!(address.success(), "no address for the monolith");
    let mesh = Mesh::start()?;
    let mut command = Command::new(program("mizzen-e2e"));
    command.args(["serve", "--name", "monolith", "--port", "7000"]);
    let _monolith: Workload = mesh.spawn(command, "monolith", PathBuf::new())?;
    let _catalog = mesh.serve("catalog", "v1", "catalog")?;
    let _orders = mesh.serve("orders", "v1", "orders")?;
    let _gateway = mesh.gateway(&["--listen", "8081=8080"])?;
    mesh.apply(&yaml::door(8080))?;
    mesh.apply(&format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: monolith, namespace: default}}
spec:
  hosts: [monolith.example.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 7000, name: http, protocol: HTTP}}]
  endpoints: [{{address: {OUTSIDE}}}]
"
    ))?;
    let outside = Outside { mesh: &mesh, roots: Path::new("") };
    let answers = |path: &str, name: &str| {
        let report = outside.ask(&format!("http://any.example.com:8081{path}")).ok()?;
        report.names.contains_key(name).then_some(())
    };
    let move_to = |list: &[(&str, &str)]| -> anyhow::Result<()> {
        let rest = ("/", "monolith.example.com");
        mesh.apply(&paths(&[list, &[rest]].concat()))?;
        for (path, name) in list.iter().copied().chain([rest]) {
            let name = name.split('.').next().unwrap_or(name);
            until(&format!("{path} leads to {name}"), PATIENCE, || answers(path, name))
                .with_context(|| mesh.logs("gateway.proxy"))?;
        }
        Ok(())
    };
    move_to(&[])?;
    let loads = ["/catalog", "/orders", "/account"].map(|path| {
        let url = format!("http://any.example.com:8081{path}");
        outside.load(&url, &["--pause", "3"])
    });
    // Out one by one, and back one by one.
    move_to(&[("/catalog", "catalog")])?;
    move_to(&[("/catalog", "catalog"), ("/orders", "orders")])?;
    move_to(&[("/orders", "orders")])?;
    move_to(&[])?;
    let mut total = 0;
    for (load, expected) in loads.into_iter().zip([Some("catalog"), Some("orders"), None]) {
        let report = load?.stop_after(30)?;
        ensure!(report.failed() == 0, "requests were lost: {report:?}");
        let names: Vec<&str> = report.names.keys().map(String::as_str).collect();
        let mut wanted = vec!["monolith"];
        wanted.extend(expected);
        wanted.sort_unstable();
        ensure!(names == wanted, "{names:?} answered, and {wanted:?} should have: {report:?}");
        total += report.sent;
    }
    println!("{total} requests, none lost");
    Ok(())
}

const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: door, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 8080, name: http, protocol: HTTP}
    hosts: [books.example.com, shop.example.com]
    tls: {httpsRedirect: true}
  - port: {number: 8443, name: https-books, protocol: HTTPS}
    hosts: [books.example.com]
    tls: {mode: SIMPLE, credentialName: books-tls}
  - port: {number: 8443, name: https-shop, protocol: HTTPS}
    hosts: [shop.example.com]
    tls: {mode: SIMPLE, credentialName: shop-tls}
";

/// The host `NAME.example.com` leads to the service of that name.
fn route(name: &str, prefixes: &[&str]) -> String {
    let list: Vec<(&str, &str)> = prefixes.iter().map(|prefix| (*prefix, name)).collect();
    virtual_service(name, &format!("{name}.example.com"), &list)
}

/// All hosts, path by path.
fn paths(list: &[(&str, &str)]) -> String {
    virtual_service("door", "*", list)
}

fn virtual_service(name: &str, host: &str, list: &[(&str, &str)]) -> String {
    let routes: String = list
        .iter()
        .map(|(prefix, to)| {
            let port = if to.contains('.') { 7000 } else { 9080 };
            format!(
                "
  - match: [{{uri: {{prefix: {prefix}}}}}]
    route: [{{destination: {{host: {to}, port: {{number: {port}}}}}}}]"
            )
        })
        .collect();
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: ['{host}']
  gateways: [door]
  http:{routes}
"
    )
}

/// Who comes from outside.
struct Outside<'a> {
    mesh: &'a Mesh,
    roots: &'a Path,
}

impl Outside<'_> {
    fn arguments<'a>(&'a self, url: &'a str) -> Vec<&'a str> {
        let to = if url.starts_with("https") { HTTPS } else { HTTP };
        let mut arguments = vec!["--url", url, "--connect", to];
        if let Some(roots) = self.roots.to_str().filter(|roots| !roots.is_empty()) {
            arguments.extend(["--roots", roots]);
        }
        arguments
    }

    fn ask(&self, url: &str) -> anyhow::Result<Report> {
        let mut arguments = self.arguments(url);
        arguments.extend(["--count", "1", "--connections", "1"]);
        self.mesh.load_from_outside(&arguments)
    }

    fn load(&self, url: &str, more: &[&str]) -> anyhow::Result<e2e::mesh::Load> {
        let mut arguments = self.arguments(url);
        arguments.extend(["--connections", "2"]);
        arguments.extend(more);
        self.mesh.start_load_from_outside(&arguments)
    }
}

/// A certificate that signs itself.
#[derive(Clone)]
pub(crate) struct Certificate {
    certificate: String,
    key: String,
    fingerprint: String,
}

impl Certificate {
    pub(crate) fn new(host: &str) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec![host.to_owned()])?;
        Ok(Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
            fingerprint: fingerprint(made.cert.der()),
        })
    }

    /// As a Secret beside the gateway, made or replaced.
    pub(crate) fn store(&self, mesh: &Mesh, name: &str) -> anyhow::Result<()> {
        let block = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
        mesh.apply(&format!(
            "
apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: istio-system}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{}  tls.key: |
{}",
            block(&self.certificate),
            block(&self.key)
        ))
    }
}
