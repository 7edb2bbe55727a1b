//! Discovery and the shifting of traffic.

use std::time::Duration;

use anyhow::ensure;
use e2e::stage::Scenario;
use e2e::{Mesh, until};

pub(crate) const SCENARIOS: &[Scenario] =
    &[("discovery_by_name_with_no_configuration", discovery), ("traffic_shift_by_weight", shift)];

const REVIEWS: &str = "http://reviews:9080/reviews/0";

/// A service is reached by its name with no configuration; replicas come and go and no request is lost.
pub(crate) fn discovery() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let _one = mesh.serve("reviews", "v1", "one")?;
    mesh.until_answers(REVIEWS)?;
    let load = mesh.start_load(&["--url", REVIEWS, "--connections", "4", "--pause", "5"])?;
    let two = mesh.serve("reviews", "v1", "two")?;
    let _three = mesh.serve("reviews", "v1", "three")?;
    until("all three get traffic", Duration::from_secs(20), || {
        let report = mesh.load(&["--url", REVIEWS, "--count", "60", "--fresh"]).ok()?;
        (report.names.len() == 3).then_some(())
    })?;
    two.stop()?;
    let after = mesh.load(&["--url", REVIEWS, "--count", "100", "--fresh"])?;
    ensure!(
        !after.names.contains_key("two") && after.failed() == 0,
        "a replica that left still gets traffic: {after:?}"
    );
    let report = load.stop()?;
    ensure!(report.failed() == 0 && report.sent > 100, "requests were lost: {report:?}");
    Ok(())
}

/// A VirtualService splits by weight within two points over 10,000 requests, and moving all of it loses none.
pub(crate) fn shift() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let _v2 = mesh.serve("reviews", "v2", "v2")?;
    let _v3 = mesh.serve("reviews", "v3", "v3")?;
    mesh.until_answers(REVIEWS)?;
    mesh.apply(RULE)?;
    mesh.apply(&split(50))?;
    mesh.kubectl_ok(&["get", "virtualservice", "reviews"])?;
    until("the split holds", Duration::from_secs(10), || {
        let report = mesh.load(&["--url", REVIEWS, "--count", "200"]).ok()?;
        (report.names.len() == 2).then_some(())
    })?;
    let report = mesh.load(&["--url", REVIEWS, "--count", "10000", "--connections", "8"])?;
    ensure!((report.share("v2") - 0.5).abs() <= 0.02, "not half and half: {report:?}");

    let load = mesh.start_load(&["--url", REVIEWS, "--connections", "4", "--pause", "2"])?;
    mesh.apply(&split(0))?;
    until("all goes to v3", Duration::from_secs(10), || {
        let report = mesh.load(&["--url", REVIEWS, "--count", "50"]).ok()?;
        (report.share("v3") == 1.0).then_some(())
    })?;
    mesh.kubectl_ok(&["delete", "virtualservice", "reviews"])?;
    until("without a rule both get traffic", Duration::from_secs(10), || {
        let report = mesh.load(&["--url", REVIEWS, "--count", "50"]).ok()?;
        (report.names.len() == 2).then_some(())
    })?;
    let report = load.stop()?;
    ensure!(report.failed() == 0 && report.sent > 100, "requests were lost: {report:?}");
    Ok(())
}

const RULE: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec:
  host: reviews
  subsets:
  - {name: v2, labels: {version: v2}}
  - {name: v3, labels: {version: v3}}
";

fn split(v2: u32) -> String {
    let v3 = 100 - v2;
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: default}}
spec:
  hosts: [reviews]
  http:
  - match: [{{headers: {{end-user: {{exact: jason}}}}}}]
    route: [{{destination: {{host: reviews, subset: v2}}}}]
  - route:
    - {{destination: {{host: reviews, subset: v2}}, weight: {v2}}}
    - {{destination: {{host: reviews, subset: v3}}, weight: {v3}}}
"
    )
}
