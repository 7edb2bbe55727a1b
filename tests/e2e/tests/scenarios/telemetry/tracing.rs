//! Traces, in a real Zipkin and a real Jaeger.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::ask::{ask, ask_json};
use e2e::mesh::program;
use e2e::watchers::{ADDRESS, Server, open_address};
use e2e::{Browser, Mesh, Workload, until, until_ok};
use serde_json::json;

use super::spans::{Expected, check_page, in_jaeger, in_zipkin, of_service_in_jaeger};
use super::{bookinfo, configure, wait};
use crate::console::{picture, sign_in};

const PATIENCE: Duration = Duration::from_secs(30);
const PAGE: &str = "http://127.0.0.1:9080/productpage";
const DELAY_MS: u64 = 400;

const ROUTES: &str = include_str!("../../../../../samples/bookinfo/networking/bookinfo-gateway.yaml");

/// One request is one trace from gateway to ratings, with the right parents and times; in Zipkin by B3 headers, and by
/// OTLP in Jaeger by W3C headers, below the span of a caller outside.
pub(super) fn joined() -> anyhow::Result<()> {
    open_address()?;
    let folder = tempfile::tempdir()?;
    // The Java machine starts while the mesh does.
    let (Some(zipkin), Some(jaeger)) = (Server::zipkin(folder.path())?, Server::jaeger(folder.path())?)
    else {
        return Ok(());
    };
    let mesh = traced_mesh("zipkin")?;
    mesh.apply(&delay())?;
    let _gateway = mesh.gateway(&["--listen", "9080=8080"])?;
    let _services: Vec<Workload> =
        [("productpage", "v1"), ("details", "v1"), ("reviews", "v2"), ("ratings", "v1")]
            .iter()
            .map(|(service, version)| bookinfo(&mesh, service, version, "http=9080"))
            .collect::<anyhow::Result<_>>()?;
    until("the page shows stars", PATIENCE, || page("").ok().filter(|body| body.contains("★★★★★")))?;

    zipkin.ready()?;
    page("?probe=zipkin")?;
    let expected = Expected { root_parent: None, delay: DELAY_MS * 1000 };
    until_ok("the whole trace is in Zipkin", PATIENCE, || {
        check_page(&in_zipkin("probe=zipkin")?, &expected)
    })?;

    jaeger.ready()?;
    mesh.apply(&telemetry("jaeger"))?;
    wait(&mesh, &["telemetry", "mesh", "-n", "istio-system"])?;
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let answer = ask(
        &format!("{PAGE}?probe=jaeger"),
        &[("traceparent", &format!("00-{trace}-{parent}-01")), ("tracestate", "scenario=11")],
    )?;
    ensure!(answer.status == 200, "{answer:?}");
    let expected = Expected { root_parent: Some(parent), ..expected };
    until_ok("the whole trace is in Jaeger", PATIENCE, || {
        let spans = in_jaeger(trace)?;
        check_page(&spans, &expected)?;
        let told = spans.iter().all(|span| span.state == "scenario=11");
        ensure!(told, "tracestate is lost: {spans:#?}");
        Ok(())
    })
}

/// A service that hands no headers on makes two traces of one, and the console says which service that is.
pub(super) fn split() -> anyhow::Result<()> {
    open_address()?;
    let folder = tempfile::tempdir()?;
    let Some(jaeger) = Server::jaeger(folder.path())? else { return Ok(()) };
    let mesh = traced_mesh("jaeger")?;
    let _ratings = mesh.serve("ratings", "v1", "ratings")?;
    let mut command = mesh.run("reviews", "careless", &["--version", "v4", "--port", "http=9080"]);
    command.arg("--").arg(program("mizzen-e2e"));
    command.args(["serve", "--name", "careless", "--calls", "http://ratings:9080/ratings/0"]);
    let _reviews = mesh.spawn(command, "careless", PathBuf::new())?;
    let _details = bookinfo(&mesh, "details", "v1", "http=9080")?;
    let _page = bookinfo(&mesh, "productpage", "v1", "http=9080")?;
    let _gateway = mesh.gateway(&["--listen", "9080=8080"])?;
    until("the page is there", PATIENCE, || page("").ok())?;
    jaeger.ready()?;

    let token = token(&mesh)?;
    let named = until("the console names the service", PATIENCE, || {
        page("?probe=split").ok()?;
        let url = "http://127.0.0.1:20001/api/traces?window=60";
        let traces = ask_json(url, &[("authorization", &format!("Bearer {token}"))]).ok()?;
        traces["splitBy"].as_array().filter(|found| !found.is_empty()).cloned()
    })?;
    ensure!(named.len() == 1, "others are named too: {named:?}");
    let it = &named[0];
    ensure!(it["name"] == "reviews-v4" && it["app"] == "reviews" && it["namespace"] == "default", "{it}");
    ensure!(it["lostPercent"] == 100.0, "{it}");
    if let Some(browser) = Browser::start()? {
        sign_in(&browser, &mesh, "graph")?;
        let splitter = "[data-testid=splitter]";
        browser.until_shows(splitter, "reviews-v4 splits traces: 100 % of its calls")?;
        browser.picture(&picture("graph-split.png"))?;
    }
    // What it splits: the page's trace ends at reviews, and ratings is asked in a trace that reviews begins.
    until("both halves are in Jaeger", PATIENCE, || {
        let pages = of_service_in_jaeger("istio-ingressgateway.istio-system").ok()?;
        let upper = pages.iter().find(|spans| spans.iter().any(|span| span.service == "reviews.default"))?;
        let ends = upper.iter().all(|span| span.service != "ratings.default");
        let asked = of_service_in_jaeger("ratings.default").ok()?;
        let lower = asked.iter().find(|spans| spans.len() == 2)?;
        let root = lower.iter().find(|span| span.parent.is_none())?;
        (ends && root.service == "reviews.default" && !root.server).then_some(())
    })
}

/// A mesh that traces every request, and Bookinfo's routes.
fn traced_mesh(provider: &str) -> anyhow::Result<Mesh> {
    let mesh = Mesh::start()?;
    configure(
        &mesh,
        &json!({"extensionProviders": [
            {"name": "zipkin", "zipkin": {"service": "zipkin.example.com", "port": 9411}},
            {"name": "jaeger", "opentelemetry": {"service": "jaeger.example.com", "port": 4317}},
        ]}),
    )?;
    let collector = |name: &str, port: u16, protocol: &str| {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {"name": name, "namespace": "istio-system"},
            "spec": {
                "hosts": [format!("{name}.example.com")], "location": "MESH_EXTERNAL", "resolution": "STATIC",
                "ports": [{"number": port, "name": protocol, "protocol": protocol.to_uppercase()}],
                "endpoints": [{"address": ADDRESS}],
            },
        })
        .to_string()
    };
    // YAML first: by the first of them the reader tells what all are.
    let all = [
        telemetry(provider),
        ROUTES.into(),
        collector("zipkin", 9411, "http"),
        collector("jaeger", 4317, "grpc"),
    ];
    mesh.apply(&all.join("\n---\n"))?;
    Ok(mesh)
}

fn telemetry(provider: &str) -> String {
    format!(
        "
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {{name: mesh, namespace: istio-system}}
spec:
  tracing: [{{providers: [{{name: {provider}}}], randomSamplingPercentage: 100}}]
"
    )
}

fn delay() -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: ratings, namespace: default}}
spec:
  hosts: [ratings]
  http:
  - fault: {{delay: {{percentage: {{value: 100}}, fixedDelay: {DELAY_MS}ms}}}}
    route: [{{destination: {{host: ratings}}}}]
"
    )
}

fn page(query: &str) -> anyhow::Result<String> {
    let answer = ask(&format!("{PAGE}{query}"), &[])?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(answer.body)
}

/// The token of the user to whom the kubeconfig belongs.
fn token(mesh: &Mesh) -> anyhow::Result<String> {
    let kubeconfig = std::fs::read_to_string(mesh.kubeconfig())?;
    let line = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("token:"));
    Ok(line.context("the kubeconfig has no token")?.trim().trim_matches('"').to_owned())
}
