//! The console in a real browser, on Bookinfo as `mizzen demo` plays it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::load::visit;
use e2e::mesh::program;
use e2e::stage::Scenario;
use e2e::{Browser, Demo, Mesh, Workload, until};
use serde_json::Value;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("the_console_draws_the_mesh", draws),
    ("a_failing_edge_turns_red_in_the_console", turns_red),
    ("the_console_s_figures_are_prometheus_own", agrees),
    ("weights_faults_timeouts_and_policies_are_moved_and_rolled_back_in_the_console", steers),
];

const CONSOLE: &str = "http://127.0.0.1:20001";
const PAGE: &str = "http://127.0.0.1:9080/productpage";
const DETAILS: &str = "http://details:9080/details/0";
const REVIEWS: &str = "http://127.0.0.1:9080/api/v1/products/0/reviews";
const HOST: &str = "reviews.default.svc.cluster.local";
const PATIENCE: Duration = Duration::from_secs(30);

/// How many pages are asked for where the graph is looked at.
const PAGES: u32 = 100;

/// Every edge that Bookinfo has.
const EDGES: [(&str, &str); 10] = [
    ("istio-ingressgateway", "productpage-v1"),
    ("productpage-v1", "details-v1"),
    ("productpage-v1", "reviews-v1"),
    ("productpage-v1", "reviews-v2"),
    ("productpage-v1", "reviews-v3"),
    ("reviews-v2", "ratings-v1"),
    ("reviews-v2", "ratings-v2"),
    ("reviews-v3", "ratings-v1"),
    ("reviews-v3", "ratings-v2"),
    ("ratings-v2", "mysqldb-v1"),
];

/// Where pictures are kept for people to look at.
pub(crate) fn picture(name: &str) -> PathBuf {
    program("console-pictures").join(name)
}

/// Signs in as `mizzen dashboard` does.
pub(crate) fn sign_in(browser: &Browser, mesh: &Mesh, view: &str) -> anyhow::Result<()> {
    browser.open(mesh.mizzen_ok(&["dashboard", "--no-browser"])?.trim())?;
    until("the console is signed in", PATIENCE, || {
        browser.text("[data-testid=proxies]").ok().flatten().filter(|text| text.contains("in sync"))
    })?;
    show(browser, view)
}

fn show(browser: &Browser, view: &str) -> anyhow::Result<()> {
    browser.run(&format!("location.hash = '#/{view}'")).map(drop)
}

/// The attributes of all edges, by their ends.
fn edges(browser: &Browser) -> anyhow::Result<BTreeMap<(String, String), Value>> {
    let script =
        "return [...document.querySelectorAll('.edge')].map(e => ({...e.dataset, text: e.textContent}))";
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let found = browser.run(script)?;
    let of = |edge: &Value| ((text(&edge["source"]), text(&edge["destination"])), edge.clone());
    Ok(found.as_array().into_iter().flatten().map(of).collect())
}

fn number(value: &Value) -> f64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN)
}

/// The graph shows every edge with its rate and a closed lock, the gateway left, the database right with bytes per
/// second.
fn draws() -> anyhow::Result<()> {
    let Some(browser) = Browser::start()? else { return Ok(()) };
    let demo = Demo::start(&["--small-database", "--rate", "0"])?;
    sign_in(&browser, &demo.mesh, "graph")?;
    // All that was ever counted: rates are of the whole time since the start, so that every page is in them.
    browser.click("[data-window=all]")?;
    let report = visit(PAGE, PAGES)?;
    ensure!(report.ok() == u64::from(PAGES), "{report:?}");
    let mut seen = BTreeMap::new();
    let all = until("every edge is drawn with its rate", PATIENCE, || {
        seen = edges(&browser).ok()?;
        let way_in = seen.get(&edge("istio-ingressgateway", "productpage-v1"))?;
        // The demo itself looked at a few before it invited anybody.
        let share = number(&way_in["rate"]) * number(&way_in["seconds"]) / f64::from(PAGES);
        let all_came = (0.99..1.2).contains(&share);
        (all_came && EDGES.iter().all(|(from, to)| seen.get(&edge(from, to)).is_some_and(flows)))
            .then_some(())
    });
    all.with_context(|| format!("{seen:#?}"))?;
    // While all was starting nobody may have answered the demo's first look: an edge to no workload.
    seen.retain(|(_, to), _| !to.contains(".svc."));
    ensure!(seen.len() == EDGES.len(), "there are others: {:?}", seen.keys());
    for (ends, edge) in &seen {
        ensure!(edge["mtls"] == "true" && edge["health"] == "good", "{ends:?}: {edge}");
    }
    ensure!(seen[&edge("ratings-v2", "mysqldb-v1")]["protocol"] == "tcp", "{seen:?}");
    browser.click("[data-window='10']")?;
    until("the database's edge has bytes a second", PATIENCE, || {
        visit(PAGE, 6).ok()?;
        let seen = edges(&browser).ok()?;
        let database = seen.get(&edge("ratings-v2", "mysqldb-v1"))?;
        (flows(database) && database["text"].as_str()?.contains("B/s")).then_some(())
    })?;
    let nodes = browser.run("return [...document.querySelectorAll('.node')].map(n => [n.dataset.workload, n.dataset.kind, Number(n.dataset.x)])")?;
    let mut nodes: Vec<_> = nodes.as_array().into_iter().flatten().collect();
    nodes.sort_by(|a, b| a[2].as_f64().unwrap_or_default().total_cmp(&b[2].as_f64().unwrap_or_default()));
    let (first, last) = (nodes.first().context("no nodes")?, nodes.last().context("no nodes")?);
    ensure!(first[0] == "istio-ingressgateway" && first[1] == "gateway", "{nodes:?}");
    ensure!(last[0] == "mysqldb-v1" && last[1] == "database", "{nodes:?}");
    browser.picture(&picture("graph.png"))?;

    for view in ["services", "workloads", "workloads/default/reviews-v2", "resources"] {
        show(&browser, view)?;
        browser.until_shows("main", "reviews")?;
        browser.picture(&picture(&format!("{}.png", view.replace('/', "-"))))?;
    }
    Ok(())
}

/// Of two versions one fails: the edge to it turns red, and says how much fails and with which status.
fn turns_red() -> anyhow::Result<()> {
    let Some(browser) = Browser::start()? else { return Ok(()) };
    let mesh = Mesh::start()?;
    let _well = mesh.serve("details", "v1", "well")?;
    let _sick = sick(&mesh, "details", "v2")?;
    let _load = mesh.start_load_from(
        "productpage",
        "productpage",
        &[],
        &["--url", DETAILS, "--connections", "2", "--pause", "20"],
    )?;
    sign_in(&browser, &mesh, "graph")?;
    let red = until("the failing edge turns red", PATIENCE, || {
        let mut seen = edges(&browser).ok()?.into_iter();
        seen.find(|((_, to), edge)| to == "details-v2" && edge["health"] == "bad").map(|(_, edge)| edge)
    })?;
    ensure!(red["text"].as_str().is_some_and(|text| text.contains("100 % errors")), "{red}");
    let colour = |edge: &str| {
        browser.run(&format!("return getComputedStyle(document.querySelector('{edge} .label')).stroke"))
    };
    let (bad, good) =
        (colour(".edge[data-destination=details-v2]")?, colour(".edge[data-destination=details-v1]")?);
    ensure!(is_red(&bad) && !is_red(&good), "the failing edge is {bad}, the others are {good}");
    browser.click(".edge[data-destination=details-v2]")?;
    browser.until_shows("aside .responses", "503")?;
    browser.picture(&picture("graph-failing.png"))
}

/// Whether of a computed colour much more is red than anything else.
fn is_red(colour: &Value) -> bool {
    let text = colour.as_str().unwrap_or_default();
    let parts: Vec<f64> =
        text.split(|c: char| !c.is_ascii_digit() && c != '.').filter_map(|n| n.parse().ok()).collect();
    matches!(parts[..], [red, green, blue, ..] if red > 1.5 * green && red > 1.5 * blue)
}

fn edge(from: &str, to: &str) -> (String, String) {
    (from.to_owned(), to.to_owned())
}

/// Whether something flows on it.
fn flows(edge: &Value) -> bool {
    let figure = if edge["protocol"] == "tcp" { "bytes" } else { "rate" };
    number(&edge[figure]) > 0.0
}

/// One more version of a service, which answers 503.
fn sick(mesh: &Mesh, service: &str, version: &str) -> anyhow::Result<Workload> {
    let sick = mesh.serve(service, version, "sick")?;
    sick.behave("status=503")?;
    until("it is known", PATIENCE, || {
        let entries = mesh.mizzen_ok(&["get", "workloadentries"]).ok()?;
        entries.contains(&format!("{service}-{version}-")).then_some(())
    })?;
    Ok(sick)
}

/// After the last request the service page shows exactly what Prometheus says: requests, errors, percentiles and bytes.
fn agrees() -> anyhow::Result<()> {
    let Some(browser) = Browser::start()? else { return Ok(()) };
    let Some(prometheus) = testkit::peers::need("prometheus") else { return Ok(()) };
    let demo = Demo::start(&["--small-database", "--rate", "0"])?;
    let mesh = &demo.mesh;
    let _sick = sick(mesh, "reviews", "v4")?;
    let _prometheus = start_prometheus(mesh, prometheus)?;
    let report = visit(PAGE, 80)?;
    ensure!(report.ok() == 80, "{report:?}");
    sign_in(&browser, mesh, &format!("services/{HOST}"))?;
    browser.click("[data-window=all]")?;
    let mut last = String::new();
    let equal = until("the console's figures are Prometheus'", PATIENCE, || {
        let (ours, theirs) = (shown(&browser).ok()?, asked(mesh).ok()?);
        last = format!("console {ours:?}, Prometheus {theirs:?}");
        let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-6 * b.abs().max(1.0);
        (ours[0] > 80.0 && ours.iter().zip(&theirs).all(close)).then_some(ours)
    });
    let figures = equal.with_context(|| last)?;
    ensure!(figures[1] > 0.0, "no request failed: {figures:?}");
    browser.picture(&picture("service.png"))
}

/// The figures of the service page: requests, failures, p50, p99, bytes.
fn shown(browser: &Browser) -> anyhow::Result<[f64; 5]> {
    let found = browser.run("return {...document.querySelector('[data-testid=service] dl').dataset}")?;
    Ok(["requests", "failed", "p50", "p99", "bytes"].map(|name| number(&found[name])))
}

/// The same as Prometheus has them.
fn asked(mesh: &Mesh) -> anyhow::Result<[f64; 5]> {
    let of = format!("reporter=\"source\",destination_service=\"{HOST}\"");
    let queries = [
        format!("sum(istio_requests_total{{{of}}})"),
        format!("sum(istio_requests_total{{{of},response_code=~\"5..|0\"}})"),
        format!("histogram_quantile(0.5, sum by (le) (istio_request_duration_milliseconds_bucket{{{of}}}))"),
        format!("histogram_quantile(0.99, sum by (le) (istio_request_duration_milliseconds_bucket{{{of}}}))"),
        format!("sum(istio_request_bytes_sum{{{of}}}) + sum(istio_response_bytes_sum{{{of}}})"),
    ];
    // One request for all of them, told apart by a label.
    let parts = queries
        .iter()
        .zip('a'..)
        .map(|(query, name)| format!("label_replace({query}, \"q\", \"{name}\", \"\", \"\")"));
    let query: String =
        parts.collect::<Vec<_>>().join(" or ").bytes().map(|byte| format!("%{byte:02X}")).collect();
    let url = format!("http://prometheus:9090/api/v1/query?query={query}");
    let report = mesh.load_as("asker", &[], &["--url", &url, "--count", "1", "--connections", "1"])?;
    let answer: Value = serde_json::from_str(&report.last_body)?;
    let mut figures = [f64::NAN; 5];
    for result in answer["data"]["result"].as_array().into_iter().flatten() {
        let at = result["metric"]["q"].as_str().and_then(|q| q.bytes().next()).map(|q| usize::from(q - b'a'));
        if let Some(figure) = at.and_then(|at| figures.get_mut(at)) {
            *figure = number(&result["value"][1]);
        }
    }
    Ok(figures)
}

/// A real Prometheus in the mesh that scrapes every proxy.
fn start_prometheus(mesh: &Mesh, program: PathBuf) -> anyhow::Result<Workload> {
    let entries: Value =
        serde_json::from_str(&mesh.mizzen_ok(&["get", "workloadentries", "-A", "-o", "json"])?)?;
    let addresses =
        entries["items"].as_array().into_iter().flatten().filter_map(|e| e["spec"]["address"].as_str());
    let targets: Vec<String> = addresses.map(|address| format!("'{address}:15090'")).collect();
    ensure!(targets.len() >= 9, "{targets:?}");
    let config = mesh.folder().join("prometheus.yml");
    std::fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: mesh\n  \
             metrics_path: /stats/prometheus\n  static_configs: [{{targets: [{}]}}]\n",
            targets.join(", ")
        ),
    )?;
    let data = mesh.folder().join("prometheus");
    let mut command = mesh.run("prometheus", "prometheus", &["--port", "http=9090"]);
    command.arg("--").arg(program).arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", data.display())).arg("--web.listen-address=0.0.0.0:9090");
    let prometheus = mesh.spawn(command, "prometheus", config)?;
    mesh.until_answers("http://prometheus:9090/-/ready")?;
    Ok(prometheus)
}

/// A weight moved in the console moves traffic, with the user's own token, its YAML and effect shown first; so do
/// faults, timeouts and policies, and each is rolled back there.
fn steers() -> anyhow::Result<()> {
    let Some(browser) = Browser::start()? else { return Ok(()) };
    let demo = Demo::start(&["--small-database", "--rate", "10"])?;
    let mesh = &demo.mesh;
    browser.open(&format!("{CONSOLE}/#token=wrong"))?;
    browser.until_shows("[data-testid=sign-in]", "does not know this token")?;

    sign_in(&browser, mesh, &format!("services/{HOST}"))?;
    browser.fill("[data-subset=v1] input", "0")?;
    browser.fill("[data-subset=v3] input", "100")?;
    browser.click("[data-testid=steer] [data-testid=preview]")?;
    browser.until_shows("[data-testid=yaml]", "subset: v3")?;
    browser.until_shows("[data-testid=effects]", "reviews v3 gets 100 % of the requests")?;
    browser.until_shows("[data-testid=verdict]", "The API server takes it")?;
    browser.picture(&picture("steer.png"))?;
    ensure!(
        !mesh.kubectl(&["get", "virtualservice", "reviews"])?.status.success(),
        "written before it was applied"
    );
    apply(&browser)?;
    until_stars(&["red"])?;
    let managers = ["get", "virtualservice", "reviews", "--show-managed-fields", "-o", "yaml"];
    ensure!(mesh.kubectl_ok(&managers)?.contains("manager: mizzen-console"), "whose hand was it?");
    browser.picture(&picture("steered.png"))?;
    roll_back(&browser)?;
    until_stars(&["black", "none", "red"])?;
    ensure!(
        !mesh.kubectl(&["get", "virtualservice", "reviews"])?.status.success(),
        "the rule is still there"
    );

    show(&browser, "services/details.default.svc.cluster.local")?;
    browser.until_shows("h1", "details")?;
    let without_details = |page: &str| page.contains("product details are currently unavailable");
    browser.fill("[name=abortPercent]", "100")?;
    browser.fill("[name=timeout]", "2s")?;
    browser.click("[data-testid=steer] [data-testid=preview]")?;
    browser.until_shows("[data-testid=effects]", "100 % of the requests are answered 503")?;
    browser.until_shows("[data-testid=effects]", "longer than 2s is answered 504")?;
    apply(&browser)?;
    until_page("details fail", without_details)?;
    ensure!(mesh.kubectl_ok(&["get", "vs", "details", "-o", "yaml"])?.contains("timeout: 2s"), "no timeout");
    roll_back(&browser)?;
    until_page("details are back", |page| !without_details(page))?;

    browser.click("[data-testid=policies] [value=some]")?;
    browser.click("[data-testid=policies] [name$=bookinfo-productpage]")?;
    browser.click("[data-testid=preview-callers]")?;
    browser.until_shows("[data-testid=effects]", "is refused with 403")?;
    apply(&browser)?;
    until_page("productpage is refused", without_details)?;
    roll_back(&browser)?;
    until_page("productpage is let in", |page| !without_details(page))?;

    show(&browser, "resources")?;
    browser.click("tr[data-name=reviews]")?;
    let wrong = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: reviews, namespace: default}\n\
                 spec: {host: reviews, subsets: [{nam: v1}]}\n";
    browser.fill("[data-testid=editor] textarea", wrong)?;
    browser.click("[data-testid=editor] [data-testid=preview]")?;
    browser.until_shows("[role=alert]", "spec.subsets[0].nam")?;
    browser.picture(&picture("refused.png"))?;
    let changes = browser.until_shows("[data-testid=changes]", "rolled back")?;
    ensure!(changes.matches("rolled back").count() == 3, "{changes}");
    Ok(())
}

fn apply(browser: &Browser) -> anyhow::Result<()> {
    browser.until_shows("[data-testid=verdict]", "takes it")?;
    browser.click("[data-testid=apply]")?;
    browser.until_shows("[data-testid=accepted]", "accepted by all").map(drop)
}

fn roll_back(browser: &Browser) -> anyhow::Result<()> {
    browser.click("[data-testid=rollback]")?;
    until("the proposal is gone", PATIENCE, || {
        browser.text(".proposal").is_ok_and(|text| text.is_none()).then_some(())
    })
}

/// Until reviews come with exactly these stars.
fn until_stars(wanted: &[&str]) -> anyhow::Result<()> {
    let mut seen = Vec::new();
    let found = until("the stars are as wanted", PATIENCE, || {
        let mut stars: Vec<&str> = Vec::new();
        for _ in 0..24 {
            let body = visit(REVIEWS, 1).ok()?.last_body;
            stars.push(
                ["red", "black"].into_iter().find(|c| body.contains(&format!("\"{c}\""))).unwrap_or("none"),
            );
        }
        stars.sort_unstable();
        stars.dedup();
        seen.clone_from(&stars);
        (stars == wanted).then_some(())
    });
    found.with_context(|| format!("{seen:?}"))
}

fn until_page(what: &str, is_so: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    until(what, PATIENCE, || {
        let report = visit(PAGE, 1).ok()?;
        (report.ok() == 1 && is_so(&report.last_body)).then_some(())
    })
}
