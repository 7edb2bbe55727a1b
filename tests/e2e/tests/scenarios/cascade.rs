//! Failures that spread, and what stops them.

use std::path::PathBuf;

use anyhow::ensure;
use e2e::mesh::program;
use e2e::stage::Scenario;
use e2e::{Mesh, Workload, until};

pub(crate) const SCENARIOS: &[Scenario] = &[("slow_ratings_take_the_whole_page_down", cascade)];

const PAGE: &str = "http://productpage:9080/productpage";
const REVIEWS: &str = "http://productpage:9080/api/v1/products/0/reviews";
const HEALTH: &str = "http://productpage:9080/health";
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// Slow ratings exhaust the workers of productpage until even `/health` stops answering. A timeout and a breaker, applied
/// live, bring it back while ratings stays slow: only the stars are missing.
fn cascade() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    mesh.log_requests()?;
    let _page = bookinfo(&mesh, "productpage", "v1", "productpage", &["--workers", "8"])?;
    let _details = bookinfo(&mesh, "details", "v1", "details", &[])?;
    let _reviews = bookinfo(&mesh, "reviews", "v2", "reviews", &[])?;
    let good = bookinfo(&mesh, "ratings", "v1", "ratings-good", &[])?;
    until("the page shows stars", PATIENCE, || {
        let report =
            mesh.load_as("first", &[], &["--url", PAGE, "--count", "1", "--connections", "1"]).ok()?;
        (report.ok() == 1 && report.last_body.contains("★★★★★")).then_some(())
    })?;

    let _slow = bookinfo(&mesh, "ratings", "v1", "ratings-slow", &["--delay-ms", "30000"])?;
    good.stop()?;
    let visitors =
        mesh.start_load_as("visitors", &[], &["--url", PAGE, "--connections", "24", "--patience", "60000"])?;
    let health = |count: &str| {
        let load = ["--url", HEALTH, "--count", count, "--connections", count, "--patience", "1500"];
        mesh.load_as("probe", &[], &load)
    };
    // Of several questions none is answered: a single one may only have come at a bad moment.
    until("even /health stops answering", PATIENCE, || {
        let report = health("3").ok()?;
        (report.errors.get("no answer in time") == Some(&3)).then_some(())
    })?;

    mesh.apply(CURE)?;
    until("/health answers again", PATIENCE, || health("1").ok().filter(|report| report.ok() == 1))?;
    let report = until("the page answers again", PATIENCE, || {
        let load = ["--url", PAGE, "--count", "4", "--connections", "2", "--patience", "5000"];
        mesh.load_as("reader", &[], &load).ok().filter(|report| report.ok() == report.sent)
    })?;
    let page = &report.last_body;
    ensure!(
        page.contains("Ratings service is currently unavailable"),
        "ratings are not slow any more: {page}"
    );
    ensure!(!page.contains('★') && page.contains("Reviewer1") && page.contains("paperback"), "{page}");
    // While visitors still crowd in, the reviews themselves come every time.
    let reviews = mesh.load_as("reader", &[], &["--url", REVIEWS, "--count", "20", "--connections", "10"])?;
    ensure!(reviews.ok() == 20 && reviews.last_body.contains("Reviewer1"), "{reviews:?}");
    let visitors = visitors.stop()?;
    ensure!(visitors.failed() == 0, "{visitors:?}");
    // ratings is as slow as before: its callers are told by the timeout, and beyond the breaker at once.
    let logged = mesh.logged("reviews");
    let flagged = |flag: &str| logged.iter().filter(|r| r.flags.as_deref() == Some(flag)).count();
    ensure!(flagged("UT") > 0 && flagged("UO") > 0, "{} UT, {} UO", flagged("UT"), flagged("UO"));
    Ok(())
}

const CURE: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings, namespace: default}
spec:
  hosts: [ratings]
  http: [{route: [{destination: {host: ratings}}], timeout: 500ms}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ratings, namespace: default}
spec:
  host: ratings
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}
";

fn bookinfo(
    mesh: &Mesh,
    service: &str,
    version: &str,
    name: &str,
    options: &[&str],
) -> anyhow::Result<Workload> {
    let mut command = mesh.run(service, name, &["--version", version, "--port", "http=9080"]);
    command.arg("--").arg(program("bookinfo")).arg(service).args(options);
    if service == "reviews" || service == "ratings" {
        command.args(["--version", version]);
    }
    mesh.spawn(command, name, PathBuf::new())
}
