//! What a request would meet, and what requests met.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use e2e::mesh::{Logged, program};
use e2e::stage::Scenario;
use e2e::{Mesh, until, yaml};
use serde_json::Value;

pub(crate) const SCENARIOS: &[Scenario] =
    &[("explain_names_what_the_access_log_recorded", explain_agrees_with_the_log)];

const PATIENCE: Duration = Duration::from_secs(30);

/// A request, told apart by its path, or a connection.
struct Asked {
    from: &'static str,
    method: &'static str,
    url: &'static str,
    header: Option<&'static str>,
    /// The route and the cluster that the caller's proxy is to choose.
    route: Option<&'static str>,
    cluster: Option<&'static str>,
    status: u16,
    /// The policy that is to decide at the callee's proxy, if one does.
    policy: Option<&'static str>,
}

const fn get(url: &'static str, route: &'static str, cluster: &'static str) -> Asked {
    let cluster = Some(cluster);
    Asked {
        from: "client",
        method: "GET",
        url,
        header: None,
        route: Some(route),
        cluster,
        status: 200,
        policy: None,
    }
}

const GATEWAY: &str = "istio-ingressgateway.istio-system";
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

const V1: &str = "outbound|9080|v1|reviews.default.svc.cluster.local";
const V2: &str = "outbound|9080|v2|reviews.default.svc.cluster.local";
const RATINGS: &str = "outbound|9080||ratings.default.svc.cluster.local";
const DETAILS: &str = "outbound|9080||details.default.svc.cluster.local";

/// By match on header, method, path and query; by default; a mirror of none; answered by the proxy itself; to nowhere;
/// faulty; allowed and denied by policy; outside the mesh, declared and not; a connection; and through the gateway.
const REQUESTS: [Asked; 15] = [
    get("http://reviews:9080/reviews/0", "rest", V1),
    Asked { header: Some("end-user: jason"), ..get("http://reviews:9080/reviews/jason", "jason", V2) },
    Asked { method: "POST", ..get("http://reviews:9080/reviews/post", "posts", V2) },
    get("http://reviews:9080/reviews/query?beta=yes", "beta", V2),
    Asked { cluster: None, status: 301, ..get("http://reviews:9080/moved/away", "moved", "") },
    Asked { cluster: None, status: 503, ..get("http://reviews:9080/gone/0", "gone", "") },
    get("http://ratings.default.svc.cluster.local:9080/ratings/0", "default", RATINGS),
    Asked {
        header: Some("x-fault: yes"),
        status: 555,
        ..get("http://ratings:9080/ratings/faulty", "faulty", RATINGS)
    },
    Asked { policy: Some("readers"), ..get("http://details:9080/details/0", "default", DETAILS) },
    Asked { status: 403, policy: Some("secrets"), ..get("http://details:9080/secret/0", "default", DETAILS) },
    Asked { method: "DELETE", status: 403, ..get("http://details:9080/details/delete", "default", DETAILS) },
    Asked { status: 503, ..get("http://10.44.255.1:9080/outside", "allow_any", "PassthroughCluster") },
    get("http://api.example.test:9080/declared", "default", "outbound|9080||api.example.test"),
    Asked {
        route: None,
        ..get("tcp://mysqldb:3306", "", "outbound|3306||mysqldb.default.svc.cluster.local")
    },
    Asked { from: GATEWAY, ..get("http://shop.example.com:8080/reviews/door", "door", V1) },
];

/// For each of these requests `mizzen explain` names the same route, policy and cluster that the proxies' logs recorded.
fn explain_agrees_with_the_log() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    mesh.log_requests()?;
    let _v1 = mesh.serve("reviews", "v1", "reviews-v1")?;
    let _v2 = mesh.serve("reviews", "v2", "reviews-v2")?;
    let _ratings = mesh.serve("ratings", "v1", "ratings-v1")?;
    let _details = mesh.serve("details", "v1", "details-v1")?;
    let _mysqldb = mesh.serve_with("mysqldb", "v1", "mysqldb-v1", &["--port", "tcp=3306:9080"])?;
    let _gateway = mesh.gateway(&["--listen", "8081=8080"])?;
    e2e::outside::addresses()?;
    let mut server = Command::new(program("mizzen-e2e"));
    server.args(["serve", "--name", "outside"]);
    let _outside = mesh.spawn(server, "outside", PathBuf::new())?;
    let mut shell = mesh.run("client", "shell", &[]);
    shell.args(["--", "sleep", "300"]);
    let _shell = mesh.spawn(shell, "shell", mesh.folder().join("none"))?;
    for host in ["reviews", "ratings", "details"] {
        mesh.until_answers(&format!("http://{host}:9080/"))?;
    }
    let parts = [yaml::subsets("reviews", &["v1", "v2"]), yaml::door(8080), RULES.into(), declared()];
    mesh.apply(&parts.join("---"))?;
    mesh.mizzen_ok(&["wait", "authorizationpolicy", "readers"])?;
    mesh.mizzen_ok(&["wait"])?;

    let play = &|number: usize| -> anyhow::Result<()> {
        let asked = &REQUESTS[number];
        agrees(&mesh, asked, &format!("client-{number}"))
            .with_context(|| format!("{} {} {:?}", asked.method, asked.url, asked.header))
    };
    // Some beside each other: each waits for the start of a workload.
    for first in (0..REQUESTS.len()).step_by(3) {
        std::thread::scope(|scope| {
            let numbers = first..REQUESTS.len().min(first + 3);
            let plays: Vec<_> = numbers.map(|number| scope.spawn(move || play(number))).collect();
            plays.into_iter().try_for_each(|play| play.join().unwrap_or_else(|_| bail!("a play panicked")))
        })?;
    }
    a_draw(&mesh)
}

/// Where chance decides, it decides between the clusters that `explain` names.
fn a_draw(mesh: &Mesh) -> anyhow::Result<()> {
    let asked = get("http://reviews:9080/half", "half", V1);
    let explained = explain(mesh, &asked)?;
    let steps = explained["outbound"]["steps"].as_array().context("no steps")?;
    let drawn = steps.iter().find(|step| step["step"] == "weights").context("no weights")?;
    ensure!(drawn["reason"] == format!("50 of 100 to {V1}, 50 of 100 to {V2}"), "{drawn}");
    let report = mesh.load_as("drawing", &[], &["--url", asked.url, "--count", "40"])?;
    ensure!(report.failed() == 0, "{report:?}");
    let lines = mesh.logged("drawing");
    let clusters: BTreeSet<&str> = lines.iter().filter_map(|line| line.cluster.as_deref()).collect();
    ensure!(clusters == BTreeSet::from([V1, V2]), "{clusters:?}");
    ensure!(lines.iter().all(|line| line.route.as_deref() == asked.route), "{lines:?}");
    Ok(())
}

fn agrees(mesh: &Mesh, asked: &Asked, name: &str) -> anyhow::Result<()> {
    let explained = explain(mesh, asked)?;
    let (outbound, inbound) = (&explained["outbound"], &explained["inbound"]);
    let mut load = vec!["--url", asked.url, "--method", asked.method, "--count", "1", "--connections", "1"];
    load.extend(asked.header.iter().flat_map(|header| ["--header", header]));
    let (report, name) = if asked.from == GATEWAY {
        (mesh.load_from_outside(&[&load[..], &["--connect", "127.0.0.1:8081"]].concat())?, "gateway")
    } else {
        (mesh.load_as(name, &[], &[&load[..], &["--metrics"]].concat())?, name)
    };
    ensure!(report.status(asked.status) == 1, "not {}: {report:?}", asked.status);

    // It is counted for the service that it was meant for, whoever answered.
    let service = asked.cluster.and_then(|cluster| Some(cluster.rsplit_once('|')?.1));
    if let Some(service) = service.filter(|_| asked.from != GATEWAY) {
        let code = asked.status.to_string();
        let requests = [("destination_service", service), ("response_code", &code)];
        let counted = match asked.url.starts_with("tcp:") {
            true => report.counted("istio_tcp_connections_opened_total", &requests[..1]),
            false => report.counted("istio_requests_total", &requests),
        };
        ensure!(counted == 1.0, "{service}: {}", report.metrics);
    }

    let client = logged(mesh, name, asked)?;
    let said = |field: &str| outbound[field].as_str();
    ensure!(client.route.as_deref() == said("route"), "route: {client:?}, explained {outbound:#}");
    ensure!(client.cluster.as_deref() == said("cluster"), "cluster: {client:?}, explained {outbound:#}");
    ensure!(said("route") == asked.route && said("cluster") == asked.cluster, "not as meant: {outbound:#}");
    if asked.status == 403 || asked.policy.is_some() {
        let server = logged(mesh, "details-v1", asked)?;
        ensure!(server.route.as_deref() == inbound["route"].as_str(), "{server:?}, explained {inbound:#}");
        let recorded = server.details.clone().unwrap_or_default();
        ensure!(
            server.cluster.is_some() && server.cluster.as_deref() == inbound["cluster"].as_str(),
            "{server:?}, explained {inbound:#}"
        );
        if asked.status == 403 {
            ensure!(recorded.contains("rbac_access_denied"), "{server:?}");
            let outcome = inbound["outcome"].as_str().unwrap_or_default();
            ensure!(outcome.contains("answers 403 (rbac_access_denied"), "{inbound:#}");
        }
        let policies = inbound["policies"].as_array().context("no policies")?;
        let names = policies.iter().filter_map(Value::as_str);
        match (asked.policy, asked.status) {
            // A denial that a policy decided is recorded with its name.
            (Some(policy), 403) => {
                ensure!(recorded.contains(&format!("policy[{policy}]")), "{server:?}");
                let denied = names
                    .filter(|said| said.contains(&format!("policy[{policy}]")) && said.contains("denied"));
                ensure!(denied.count() == 1, "{inbound:#}");
            }
            (Some(policy), _) => {
                let allowed = names
                    .filter(|said| said.contains(&format!("policy[{policy}]")) && said.contains("allowed"));
                ensure!(allowed.count() == 1, "{inbound:#}");
            }
            // No rule allows it.
            (None, _) => {
                ensure!(recorded.contains("matched_policy[none]"), "{server:?}, explained {inbound:#}")
            }
        }
    }
    Ok(())
}

fn explain(mesh: &Mesh, asked: &Asked) -> anyhow::Result<Value> {
    let mut arguments = vec!["explain", "--from", asked.from, "-X", asked.method, "-o", "json"];
    arguments.extend(asked.header.iter().flat_map(|header| ["-H", header]));
    arguments.push(asked.url);
    Ok(serde_json::from_str(&mesh.mizzen_ok(&arguments)?)?)
}

/// The line of the request, once the proxy has written it; that of a connection has no path.
fn logged(mesh: &Mesh, name: &str, asked: &Asked) -> anyhow::Result<Logged> {
    let path = asked.url.splitn(4, '/').nth(3).map(|path| format!("/{path}"));
    let line = until("the request is logged", PATIENCE, || {
        mesh.logged(name).into_iter().find(|line| line.path == path)
    });
    line.with_context(|| format!("{name}: {:?}", mesh.logged(name)))
}

/// A host outside the mesh.
fn declared() -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: api, namespace: default}}
spec:
  hosts: [api.example.test]
  addresses: [240.1.2.3]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 9080, name: http, protocol: HTTP}}]
  endpoints: [{{address: {OUTSIDE}}}]
"
    )
}

const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews]
  http:
  - name: jason
    match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - name: posts
    match: [{method: {exact: POST}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - name: beta
    match: [{uri: {regex: '/reviews/[a-z]+'}, queryParams: {beta: {exact: 'yes'}}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - name: moved
    match: [{uri: {prefix: /moved}}]
    redirect: {uri: /reviews/0}
  - name: gone
    match: [{uri: {prefix: /gone}}]
    route: [{destination: {host: reviews, subset: v9}}]
  - name: half
    match: [{uri: {prefix: /half}}]
    route:
    - {destination: {host: reviews, subset: v1}, weight: 50}
    - {destination: {host: reviews, subset: v2}, weight: 50}
  - name: rest
    route:
    - {destination: {host: reviews, subset: v1}, weight: 100}
    - {destination: {host: reviews, subset: v2}, weight: 0}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings, namespace: default}
spec:
  hosts: [ratings]
  http:
  - name: faulty
    match: [{headers: {x-fault: {exact: 'yes'}}}]
    fault: {abort: {percentage: {value: 100}, httpStatus: 555}}
    route: [{destination: {host: ratings}}]
  - name: default
    route: [{destination: {host: ratings}}]
    timeout: 5s
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: door, namespace: default}
spec:
  hosts: [shop.example.com]
  gateways: [door]
  http: [{name: door, route: [{destination: {host: reviews, subset: v1, port: {number: 9080}}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: secrets, namespace: default}
spec:
  selector: {matchLabels: {app: details}}
  action: DENY
  rules: [{to: [{operation: {paths: [/secret/*]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: default}
spec:
  selector: {matchLabels: {app: details}}
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]
    to: [{operation: {methods: [GET]}}]
";
