//! Routes: configuration, virtual host, domains, match, where it leads, and the resource that says so.

use serde_json::Value;

use super::{View, at, dash, destination, field, list, resources, row, shown, text};

pub(super) fn view(dump: &Value, name: Option<&str>) -> View {
    let mut all = resources(dump, &["dynamicRouteConfigs", "staticRouteConfigs"], &[], "routeConfig");
    all.retain(|config| name.is_none_or(|name| text(field(config, "name")) == name));
    all.sort_by_key(|config| {
        let name = text(field(config, "name")).to_owned();
        (name.parse::<u32>().ok(), name)
    });
    let mut lines = vec![row(["NAME", "VHOST NAME", "DOMAINS", "MATCH", "DESTINATION", "VIRTUAL SERVICE"])];
    for config in &all {
        let name = text(field(config, "name"));
        for host in list(field(config, "virtualHosts")) {
            let vhost = text(field(host, "name"));
            for route in list(field(host, "routes")) {
                let cells =
                    [name, vhost, &domains(host), &matches(field(route, "match")), &action(route), ""];
                let mut line = row(cells);
                line[5] = owner(route);
                lines.push(line);
            }
        }
    }
    View { lines, resources: all.into_iter().map(shown).collect() }
}

/// The first two, and how many more there are.
fn domains(host: &Value) -> String {
    let all = list(field(host, "domains"));
    let shown: Vec<&str> = all.iter().take(2).map(text).collect();
    let more = all.len().saturating_sub(2);
    if more > 0 { format!("{} + {more} more", shown.join(", ")) } else { shown.join(", ") }
}

fn matches(of: &Value) -> String {
    let mut said = String::new();
    for (name, sign) in [("prefix", "*"), ("path", ""), ("pathSeparatedPrefix", "/*"), ("connectMatcher", "")]
    {
        let value = field(of, name);
        if value.is_string() {
            said = format!("{}{sign}", text(value));
        } else if !value.is_null() {
            said = "CONNECT".into();
        }
    }
    let regex = text(at(of, &["safeRegex", "regex"]));
    if !regex.is_empty() {
        said = format!("regex {regex}");
    }
    for header in list(field(of, "headers")) {
        let name = text(field(header, "name"));
        said.push_str(&if name == ":method" {
            format!(" method {}", string_match(field(header, "stringMatch")))
        } else {
            format!(" {name}: {}", string_match(field(header, "stringMatch")))
        });
    }
    for parameter in list(field(of, "queryParameters")) {
        let name = text(field(parameter, "name"));
        said.push_str(&format!(" ?{name}={}", string_match(field(parameter, "stringMatch"))));
    }
    said
}

fn string_match(of: &Value) -> String {
    for (name, before, after) in
        [("exact", "", ""), ("prefix", "", "*"), ("suffix", "*", ""), ("contains", "*", "*")]
    {
        if let Some(value) = field(of, name).as_str() {
            return format!("{before}{value}{after}");
        }
    }
    match at(of, &["safeRegex", "regex"]).as_str() {
        Some(regex) => format!("regex {regex}"),
        None => "present".into(),
    }
}

fn action(route: &Value) -> String {
    let redirect = field(route, "redirect");
    let direct = field(route, "directResponse");
    if !redirect.is_null() {
        let to = ["schemeRedirect", "hostRedirect", "pathRedirect", "prefixRewrite"];
        let to: Vec<&str> =
            to.iter().map(|name| text(field(redirect, name))).filter(|t| !t.is_empty()).collect();
        let https = field(redirect, "httpsRedirect").as_bool() == Some(true);
        return format!("redirect to {}", if https { "https".to_owned() } else { to.join(" ") });
    }
    if !direct.is_null() {
        return format!("answers {}", field(direct, "status"));
    }
    destination(field(route, "route"))
}

/// `reviews.default`, from the path of the resource that configured the route.
fn owner(route: &Value) -> String {
    let path = text(at(route, &["metadata", "filterMetadata", "istio", "config"]));
    let mut parts = path.split('/').skip_while(|part| *part != "namespaces").skip(1);
    let (namespace, _, name) = (parts.next(), parts.next(), parts.next());
    match (namespace, name) {
        (Some(namespace), Some(name)) => format!("{name}.{namespace}"),
        _ => dash(path),
    }
}
