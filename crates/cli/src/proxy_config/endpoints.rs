//! Endpoints: address, health, cluster, whether they take the mesh's mutual TLS.

use serde_json::Value;

use super::{View, address, at, field, list, resources, row, shown, text};

pub(super) fn view(dump: &Value, cluster: Option<&str>) -> View {
    let sections = ["dynamicEndpointConfigs", "staticEndpointConfigs"];
    let mut all = resources(dump, &sections, &[], "endpointConfig");
    // Static clusters carry theirs with them.
    let clusters = resources(dump, &["dynamicActiveClusters", "staticClusters"], &[], "cluster");
    all.extend(clusters.iter().map(|cluster| field(cluster, "loadAssignment")).filter(|own| !own.is_null()));
    all.retain(|assignment| cluster.is_none_or(|part| text(field(assignment, "clusterName")).contains(part)));
    let mut body = Vec::new();
    for assignment in &all {
        let name = text(field(assignment, "clusterName"));
        for group in list(field(assignment, "endpoints")) {
            for endpoint in list(field(group, "lbEndpoints")) {
                body.push(line(endpoint, group, name));
            }
        }
    }
    body.sort();
    body.dedup();
    let mut lines = vec![row(["ENDPOINT", "STATUS", "LOCALITY", "TLS", "CLUSTER"])];
    lines.extend(body);
    View { lines, resources: all.into_iter().map(shown).collect() }
}

fn line(endpoint: &Value, group: &Value, cluster: &str) -> Vec<String> {
    let (host, port) = address(at(endpoint, &["endpoint", "address"]));
    let shown = match port {
        Some(port) if host.contains(':') => format!("[{host}]:{port}"),
        Some(port) => format!("{host}:{port}"),
        None => host,
    };
    let health = match text(field(endpoint, "healthStatus")) {
        "" | "UNKNOWN" => "HEALTHY",
        other => other,
    };
    let locality = field(group, "locality");
    let places: Vec<&str> = ["region", "zone", "subZone"]
        .iter()
        .map(|part| text(field(locality, part)))
        .take_while(|part| !part.is_empty())
        .collect();
    let place = if places.is_empty() { "-".to_owned() } else { places.join("/") };
    let labels = at(endpoint, &["metadata", "filterMetadata", "envoy.transport_socket_match"]);
    let tls = if text(field(labels, "tlsMode")) == "istio" { "mutual" } else { "-" };
    vec![shown, health.to_owned(), place, tls.to_owned(), cluster.to_owned()]
}
