//! Listeners: address, port, what each filter chain matches, where it leads.

use serde_json::Value;

use super::{View, address, at, destination, field, list, resources, row, shown, text};

pub(super) fn view(dump: &Value, port: Option<u64>) -> View {
    let mut all = resources(
        dump,
        &["dynamicListeners", "staticListeners"],
        &["activeState", "warmingState"],
        "listener",
    );
    all.retain(|listener| port.is_none() || address(field(listener, "address")).1 == port);
    all.sort_by_key(|listener| {
        let (host, port) = address(field(listener, "address"));
        (port, host)
    });
    let mut lines = vec![row(["ADDRESS", "PORT", "MATCH", "DESTINATION"])];
    for listener in &all {
        let (host, port) = address(field(listener, "address"));
        let port = port.map_or_else(|| "-".to_owned(), |port| port.to_string());
        let chains = list(field(listener, "filterChains"));
        let default = field(listener, "defaultFilterChain");
        for chain in chains {
            let to = leads_to(chain);
            lines.push(vec![host.clone(), port.clone(), matches(field(chain, "filterChainMatch")), to]);
        }
        if !default.is_null() {
            lines.push(vec![host.clone(), port.clone(), "else".into(), leads_to(default)]);
        }
    }
    View { lines, resources: all.into_iter().map(shown).collect() }
}

fn matches(of: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(port) = field(of, "destinationPort").as_u64() {
        parts.push(format!("Port: {port}"));
    }
    let ranges = |name: &str| {
        let range = |range: &Value| {
            let prefix = text(field(range, "addressPrefix"));
            let length = field(range, "prefixLen").as_u64().unwrap_or(0);
            format!("{prefix}/{length}")
        };
        list(field(of, name)).iter().map(range).collect::<Vec<_>>().join(",")
    };
    let texts = |name: &str| list(field(of, name)).iter().map(text).collect::<Vec<_>>().join(",");
    let transport = text(field(of, "transportProtocol"));
    for (what, value) in [
        ("Addr", ranges("prefixRanges")),
        ("Source", ranges("sourcePrefixRanges")),
        ("SNI", texts("serverNames")),
        ("Trans", transport.to_owned()),
        ("App", texts("applicationProtocols")),
    ] {
        if !value.is_empty() {
            parts.push(format!("{what}: {value}"));
        }
    }
    if parts.is_empty() { "ALL".into() } else { parts.join("; ") }
}

/// What the chain's last filter does.
fn leads_to(chain: &Value) -> String {
    let Some(last) = list(field(chain, "filters")).last() else { return "closed at once".into() };
    let config = field(last, "typedConfig");
    let kind = text(field(config, "@type")).rsplit('.').next().unwrap_or_default();
    match kind {
        "HttpConnectionManager" => {
            let name = text(at(config, &["rds", "routeConfigName"]));
            if name.is_empty() { inline(field(config, "routeConfig")) } else { format!("Route: {name}") }
        }
        "TcpProxy" => format!("Cluster: {}", destination(config)),
        _ => text(field(last, "name")).to_owned(),
    }
}

/// An inline route configuration: its only destination, else its name.
fn inline(config: &Value) -> String {
    let actions = list(field(config, "virtualHosts")).iter().flat_map(|host| list(field(host, "routes")));
    let mut to: Vec<String> = actions.map(|route| destination(field(route, "route"))).collect();
    to.sort_unstable();
    to.dedup();
    match to.as_slice() {
        [only] => format!("Cluster: {only}"),
        _ => format!("Inline Route: {}", text(field(config, "name"))),
    }
}
