//! Pods and EndpointSlices that a cluster's own controllers make become endpoints, and leave.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use e2e::mesh::get_text;
use e2e::{Mesh, processes, until, until_ok};

const PATIENCE: Duration = Duration::from_secs(30);

const CLUSTER: &str = "outbound|9080||reviews.default.svc.cluster.local";

const APPLICATION: &str = "
apiVersion: v1
kind: Node
metadata: {name: fake, labels: {topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-a}}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews, namespace: default}
spec:
  replicas: 3
  selector: {matchLabels: {app: reviews}}
  template:
    metadata: {labels: {app: reviews, version: v1}}
    spec: {nodeName: fake, containers: [{name: reviews, image: none}]}
";

pub(super) fn come_and_go() -> anyhow::Result<()> {
    let mut mesh = Mesh::start()?;
    let Some(cluster) = mesh.cluster() else { bail!("this is for a real API server") };
    if !cluster.run_pods()? {
        return Ok(());
    }
    // Somebody who would call them.
    let client = mesh.serve("client", "v1", "client")?;
    let proxy = until("the client's proxy is connected", PATIENCE, || {
        let listed = mesh.mizzen(["proxy-status", "-o", "json"]).output().ok()?;
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).ok()?;
        Some(listed["proxies"].as_array()?.first()?["proxy"].as_str()?.to_owned())
    })?;
    mesh.apply(APPLICATION)?;
    let endpoints = |count: usize| {
        // What the control plane sends is what the proxy has.
        until_ok(&format!("{count} endpoints at the proxy"), PATIENCE, || {
            let clusters = || get_text("127.0.0.1:15000", "/clusters");
            let clusters =
                processes::inside(client.process("mizzen-proxy")?, clusters)?.context("/clusters")?;
            let of_reviews =
                clusters.lines().filter_map(|line| line.strip_prefix(CLUSTER)?.strip_prefix("::10.55.0."));
            let known: BTreeSet<&str> = of_reviews.filter_map(|line| line.split("::").next()).collect();
            ensure!(known.len() == count, "{known:?}");
            Ok(())
        })?;
        until(&format!("{count} endpoints"), PATIENCE, || {
            let shown =
                mesh.mizzen(["proxy-config", "endpoints", &proxy, "--cluster", CLUSTER]).output().ok()?;
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            let healthy = |line: &&str| {
                line.starts_with("10.55.0.") && line.contains("HEALTHY") && line.contains("eu/eu-a")
            };
            (shown.lines().filter(healthy).count() == count).then_some(())
        })
        .with_context(|| mesh.logs("up"))
    };
    endpoints(3)?;
    mesh.kubectl_ok(&["scale", "deployment", "reviews", "--replicas=1"])?;
    endpoints(1)?;
    mesh.kubectl_ok(&["scale", "deployment", "reviews", "--replicas=5"])?;
    endpoints(5)?;
    mesh.kubectl_ok(&["delete", "pod", "-l", "app=reviews", "--wait=false"])?;
    mesh.kubectl_ok(&[
        "wait",
        "--for=jsonpath={.status.readyReplicas}=5",
        "deployment/reviews",
        "--timeout=30s",
    ])?;
    endpoints(5)?;
    mesh.kubectl_ok(&["delete", "deployment", "reviews"])?;
    endpoints(0)
}
