//! Clusters: host, port, subset, direction, type, and the DestinationRule that shapes them.

use serde_json::Value;

use super::{ClusterName, View, at, dash, field, resources, row, shown, text};

pub(super) fn view(dump: &Value, fqdn: Option<&str>, port: Option<u64>) -> View {
    let mut all = resources(
        dump,
        &["dynamicActiveClusters", "dynamicWarmingClusters", "staticClusters"],
        &[],
        "cluster",
    );
    all.retain(|cluster| {
        let name = ClusterName::of(text(field(cluster, "name")));
        fqdn.is_none_or(|fqdn| name.host.starts_with(fqdn))
            && port.is_none_or(|port| name.port.parse() == Ok(port))
    });
    all.sort_by_key(|cluster| {
        let name = ClusterName::of(text(field(cluster, "name")));
        (
            name.host.to_owned(),
            name.direction.to_owned(),
            name.port.parse::<u32>().ok(),
            name.subset.to_owned(),
        )
    });
    let mut lines = vec![row(["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"])];
    for cluster in &all {
        let name = ClusterName::of(text(field(cluster, "name")));
        let mut line = row(["", "", "", "", "", ""]);
        line[0] = dash(name.host);
        line[1] = dash(name.port);
        line[2] = dash(name.subset);
        line[3] = dash(name.direction);
        line[4] = kind(cluster);
        line[5] = rule(cluster);
        lines.push(line);
    }
    View { lines, resources: all.into_iter().map(shown).collect() }
}

/// Left out in JSON where it is the default.
fn kind(cluster: &Value) -> String {
    let custom = text(at(cluster, &["clusterType", "name"]));
    if !custom.is_empty() {
        return custom.to_owned();
    }
    let kind = text(field(cluster, "type"));
    if kind.is_empty() { "STATIC".into() } else { kind.to_owned() }
}

fn rule(cluster: &Value) -> String {
    let path = text(at(cluster, &["metadata", "filterMetadata", "istio", "config"]));
    let mut parts = path.split('/').skip_while(|part| *part != "namespaces").skip(1);
    match (parts.next(), parts.nth(1)) {
        (Some(namespace), Some(name)) => format!("{name}.{namespace}"),
        _ => "-".into(),
    }
}
