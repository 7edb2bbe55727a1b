//! Metrics, traces and logs.

mod logs;
mod metrics;
mod spans;
mod tracing;

use std::path::PathBuf;

use e2e::mesh::program;
use e2e::stage::Scenario;
use e2e::{Mesh, Workload};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("one_trace_joins_gateway_to_ratings_in_zipkin_and_jaeger", tracing::joined),
    ("a_service_that_forwards_no_headers_splits_the_trace_and_is_named", tracing::split),
    ("metrics_in_prometheus_agree_with_the_load", metrics::scraped),
    ("every_request_leaves_one_line_beside_the_services_own_output", logs::lines),
    ("what_a_proxy_logs_of_itself_is_changed_at_its_admin_port", logs::levels),
];

/// MeshConfig as it is from now on.
fn configure(mesh: &Mesh, config: &serde_json::Value) -> anyhow::Result<()> {
    let map = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": config.to_string()},
    });
    mesh.apply(&map.to_string())
}

/// Waits until every proxy has accepted a resource.
fn wait(mesh: &Mesh, arguments: &[&str]) -> anyhow::Result<()> {
    let output = mesh.mizzen(["wait"]).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "mizzen wait {arguments:?}: {said}");
    Ok(())
}

/// A service of Bookinfo.
fn bookinfo(mesh: &Mesh, service: &str, version: &str, port: &str) -> anyhow::Result<Workload> {
    let name = format!("{service}-{version}");
    let mut command = mesh.run(service, &name, &["--version", version, "--port", port]);
    command.env("SERVICE_VERSION", version);
    command.arg("--").arg(program("bookinfo")).arg(service);
    mesh.spawn(command, &name, PathBuf::new())
}
