//! Below a real istiod: the proxy and its agent where Envoy and Istio's agent would be, istiod and its authority as they are.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use agent::dns::Resolvers;
use agent::egress::Egress;
use anyhow::{Context, ensure};
use e2e::ask::ask;
use e2e::istiod::Istiod;
use e2e::load::Report;
use e2e::mesh::program;
use e2e::stage::Scenario;
use e2e::{processes, until, until_ok};
use testkit::hosts::{Host, Lan};

pub(crate) const SCENARIOS: &[Scenario] =
    &[("the_proxy_stands_below_a_real_istiod", stands), ("the_proxy_outlives_a_real_istiod", outlives)];

const PATIENCE: Duration = Duration::from_secs(30);
/// The Service's own address, which capture hands to the proxy.
const REVIEWS: &str = "10.96.2.4:9080";
const URL: &str = "http://reviews:9080/reviews/0";

/// The hosts, and the pods that they are.
const PLACES: [(&str, &str); 5] = [
    ("productpage", "productpage-v1-6c4bf9-a"),
    ("v1", "reviews-v1-6c4bf9-a"),
    ("v2", "reviews-v2-6c4bf9-a"),
    ("v3", "reviews-v3-6c4bf9-a"),
    ("gateway", "istio-ingressgateway-0"),
];

/// How both ends count a request.
const COUNTED: [(&str, &[&str]); 2] = [
    (
        "productpage",
        &[
            "reporter=\"source\"",
            "destination_workload=\"reviews-v1\"",
            // What it says of itself; its endpoint has no such thing.
            "destination_app=\"reviews\"",
            "response_code=\"200\"",
        ],
    ),
    (
        "v1",
        &[
            "reporter=\"destination\"",
            "source_workload=\"productpage-v1\"",
            "source_principal=\"spiffe://cluster.local/ns/default/sa/bookinfo-productpage\"",
            "connection_security_policy=\"mutual_tls\"",
        ],
    ),
];

/// What capture does in a pod, for what is called here. The proxy itself only calls pods.
const CAPTURE: &str = "table ip capture {
    chain output { type nat hook output priority -100; ip daddr 10.96.0.0/16 meta l4proto tcp redirect to :15001; }
    chain prerouting { type nat hook prerouting priority -100; tcp dport 9080 redirect to :15006; }
}";

const RULES: &str = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  - {name: v3, labels: {version: v3}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews]
  http:
  - match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - timeout: 500ms
    route:
    - {destination: {host: reviews, subset: v1}, weight: 50}
    - {destination: {host: reviews, subset: v3}, weight: 50}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: bookinfo, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [bookinfo.example.com]}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [bookinfo.example.com], tls: {mode: SIMPLE, credentialName: bookinfo-cert}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bookinfo, namespace: default}
spec:
  hosts: [bookinfo.example.com]
  gateways: [bookinfo]
  http: [{match: [{uri: {exact: /productpage}}], route: [{destination: {host: productpage}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: reviews-deny, namespace: default}
spec: {selector: {matchLabels: {app: reviews}}, action: DENY, rules: [{to: [{operation: {paths: [/admin*]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: reviews-allow, namespace: default}
spec:
  selector: {matchLabels: {app: reviews}}
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/bookinfo-productpage]}}]}]
"#;

const ONLY_V1: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}}]}]}
";

const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
";

/// Some of the pods, and what they stand below.
struct Mesh {
    istiod: Istiod,
    lan: Lan,
}

impl Mesh {
    fn start(places: &[(&str, &str)]) -> anyhow::Result<Option<Self>> {
        let Some(istiod) = Istiod::start(RULES)? else { return Ok(None) };
        let names: Vec<&str> = places.iter().map(|(name, _)| *name).collect();
        let mut mesh = Self { istiod, lan: Lan::new(&names)? };
        for (name, pod) in places {
            mesh.move_in(name, pod)?;
        }
        for name in names {
            until_ok(&format!("{name} is ready"), PATIENCE, || {
                let answer =
                    inside(mesh.lan.host(name), || ask("http://127.0.0.1:15021/healthz/ready", &[]))??;
                ensure!(answer.status == 200, "{answer:?}");
                Ok(())
            })?;
        }
        until_ok("reviews answers", PATIENCE, || {
            let report = mesh.reviews("1", &[])?;
            ensure!(report.failed() == 0, "{report:?}");
            Ok(())
        })?;
        Ok(Some(mesh))
    }

    /// The pod's address, its capture, its application and its proxy.
    fn move_in(&mut self, name: &str, pod: &str) -> anyhow::Result<()> {
        let (istiod, host) = (&mut self.istiod, self.lan.host(name));
        let pod = istiod.pod(pod)?;
        done(host.command("ip").args(["addr", "add", &format!("{}/24", pod.address), "dev", "eth0"]))?;
        if name != "gateway" {
            done(host.command("nft").arg(CAPTURE))?;
            let script = istiod.at(&format!("{name}.script"));
            std::fs::write(&script, "")?;
            let mut application = host.command(program("mizzen-e2e"));
            istiod.keep(name, application.args(["serve", "--name", name, "--script", &script]))?;
        }
        let [a, b, c, _] = host.address().octets();
        let agent = istiod.agent(&pod, &format!("{a}.{b}.{c}.1:15012"))?;
        istiod.keep(&format!("{name}-proxy"), host.command(program("mizzen-proxy")).args(agent))
    }

    /// So many calls by productpage.
    fn reviews(&self, count: &str, more: &[&str]) -> anyhow::Result<Report> {
        let call = ["--url", URL, "--connect", REVIEWS, "--count", count];
        load(self.lan.host("productpage"), &[&call, more].concat())
    }
}

/// istiod gone, traffic flows as it was told last; istiod back, proxies hear what they missed.
fn outlives() -> anyhow::Result<()> {
    let few = |(name, _): &(&str, &str)| ["productpage", "v1", "v3"].contains(name);
    let places: Vec<_> = PLACES.into_iter().filter(few).collect();
    let Some(mut mesh) = Mesh::start(&places)? else { return Ok(()) };
    mesh.istiod.kill();
    let alone = mesh.reviews("100", &["--fresh"])?;
    ensure!(alone.failed() == 0 && alone.names.len() == 2, "{alone:?}");
    mesh.istiod.apply(ONLY_V1)?;
    mesh.istiod.serve()?;
    until("what was missed is heard", PATIENCE, || {
        (mesh.reviews("10", &[]).ok()?.share("v1") == 1.0).then_some(())
    })?;
    ensure!(mesh.istiod.refused()? == 0, "something was refused");
    Ok(())
}

/// Identities by istiod's authority, configuration by its stream: all of it is taken, every request meets the fate that
/// the rules say, and a rule that changes acts at once.
fn stands() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::start(&PLACES)? else { return Ok(()) };
    let (istiod, lan) = (&mesh.istiod, &mesh.lan);
    let certificate = store_certificate(istiod)?;
    let reviews = |count: &str, more: &[&str]| mesh.reviews(count, more);
    let productpage = lan.host("productpage");
    let split = reviews("200", &[])?;
    ensure!(split.failed() == 0 && split.names.len() == 2, "{split:?}");
    ensure!((0.3..0.7).contains(&split.share("v1")), "the weights are 50 and 50: {split:?}");
    ensure!(
        split.last.body.contains("URI=spiffe://cluster.local/ns/default/sa/bookinfo-productpage"),
        "{split:?}"
    );
    let jason = reviews("20", &["--header", "end-user: jason"])?;
    ensure!(jason.share("v2") == 1.0, "{jason:?}");

    let denied =
        load(productpage, &["--url", "http://reviews:9080/admin/x", "--connect", REVIEWS, "--count", "1"])?;
    ensure!(denied.last.status == 403 && denied.last.body == "RBAC: access denied", "{denied:?}");
    // PERMISSIVE: plaintext comes in, and is nobody who is allowed.
    let directly = ["--url", URL, "--connect", "10.244.1.16:9080", "--count", "1", "--fresh"];
    let stranger = load(lan.host("gateway"), &directly)?;
    ensure!(stranger.last.status == 403, "{stranger:?}");

    let scripts = ["v1", "v3"].map(|name| istiod.at(&format!("{name}.script")));
    scripts.iter().try_for_each(|script| std::fs::write(script, "delay=3000"))?;
    let late = reviews("2", &["--connections", "2"])?;
    ensure!(late.status(504) == 2 && (450..2_500).contains(&late.slowest_ms), "{late:?}");
    scripts.iter().try_for_each(|script| std::fs::write(script, ""))?;

    at_the_gateway(lan, &certificate)?;

    istiod.apply(ONLY_V1)?;
    until("the new rule acts", PATIENCE, || (reviews("10", &[]).ok()?.share("v1") == 1.0).then_some(()))?;
    istiod.apply(STRICT)?;
    until("plaintext is refused", PATIENCE, || {
        (load(lan.host("gateway"), &directly).ok()?.errors.len() == 1).then_some(())
    })?;
    let still = reviews("20", &[])?;
    ensure!(still.failed() == 0, "{still:?}");

    let found = inside(productpage, || look_up("reviews.default.svc.cluster.local"))??;
    ensure!(found == [IpAddr::from([10, 96, 2, 4])], "istiod's table of names says otherwise: {found:?}");
    for (name, labels) in COUNTED {
        let metrics = inside(lan.host(name), || ask("http://127.0.0.1:15090/stats/prometheus", &[]))??.body;
        let mut series = metrics.lines().filter(|line| line.starts_with("istio_requests_total{"));
        ensure!(
            series.any(|line| labels.iter().all(|label| line.contains(label))),
            "{name}: {labels:?}: {metrics}"
        );
    }
    let refused = istiod.refused()?;
    ensure!(refused == 0, "istiod counts {refused} refusals");
    for (name, _) in PLACES {
        let dump = inside(lan.host(name), || ask("http://127.0.0.1:15000/config_dump", &[]))??.body;
        ensure!(dump.contains("virtualInbound") != (name == "gateway"), "{name}: {dump}");
        ensure!(!dump.contains("error_state"), "{name} refused something: {dump}");
        let stats = inside(lan.host(name), || ask("http://127.0.0.1:15000/stats", &[]))??.body;
        for update in ["cluster_manager.cds", "listener_manager.lds"] {
            let count = |what: &str| {
                let start = format!("{update}.{what}: ");
                stats.lines().find_map(|line| line.strip_prefix(&start)?.parse::<u64>().ok())
            };
            let (taken, refused) = (count("update_success"), count("update_rejected"));
            ensure!(
                taken > Some(0) && refused == Some(0),
                "{name}: {update}: {taken:?} taken, {refused:?} refused"
            );
        }
    }
    Ok(())
}

/// Plain and by TLS, with a certificate from istiod.
fn at_the_gateway(lan: &Lan, certificate: &Path) -> anyhow::Result<()> {
    let address = lan.host("gateway").address();
    let visit = |scheme: &str, port: u16, path: &str| {
        let mut command = Command::new(program("mizzen-e2e"));
        command.args(["load", "--count", "5", "--url", &format!("{scheme}://bookinfo.example.com{path}")]);
        command.args(["--connect", &format!("{address}:{port}"), "--roots"]).arg(certificate);
        report(command)
    };
    for (scheme, port) in [("http", 8080), ("https", 8443)] {
        until_ok(&format!("the gateway serves {scheme}"), PATIENCE, || {
            let page = visit(scheme, port, "/productpage")?;
            ensure!(page.failed() == 0 && page.share("productpage") == 1.0, "{page:?}");
            let caller = "URI=spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway";
            ensure!(page.last.body.contains(caller), "{page:?}");
            Ok(())
        })?;
    }
    let elsewhere = visit("http", 8080, "/elsewhere")?;
    ensure!(elsewhere.status(404) == 5, "{elsewhere:?}");
    Ok(())
}

/// As the application would, whose questions capture hands to the agent.
fn look_up(name: &str) -> anyhow::Result<Vec<IpAddr>> {
    let agent = Resolvers::new([([127, 0, 0, 1], 15053).into()], Egress::direct());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(agent.look_up(name, true, false))?.addresses)
}

/// In the place where istiod looks for the gateway's `credentialName`.
fn store_certificate(istiod: &Istiod) -> anyhow::Result<std::path::PathBuf> {
    let made = rcgen::generate_simple_self_signed(vec!["bookinfo.example.com".to_owned()])?;
    let (certificate, key) = (istiod.at("bookinfo.crt"), istiod.at("bookinfo.key"));
    std::fs::write(&certificate, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    let files = [format!("--cert={certificate}"), format!("--key={key}")];
    istiod.kubectl(&[
        "-n",
        "istio-system",
        "create",
        "secret",
        "tls",
        "bookinfo-cert",
        &files[0],
        &files[1],
    ])?;
    Ok(certificate.into())
}

fn inside<T: Send>(host: &Host, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    processes::inside(host.pid().parse()?, work)
}

/// Load from a host.
fn load(host: &Host, arguments: &[&str]) -> anyhow::Result<Report> {
    let mut command = host.command(program("mizzen-e2e"));
    command.arg("load").args(arguments);
    report(command)
}

fn report(mut command: Command) -> anyhow::Result<Report> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    serde_json::from_slice(&output.stdout).with_context(|| said.into_owned())
}

fn done(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
