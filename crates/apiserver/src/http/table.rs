//! Tables, as `kubectl get` shows them: Istio's printer columns, and kubectl's own for core kinds.

use super::respond::metadata_only;
use crate::engine::text;
use crate::kinds::{Core, Resource};
use serde_json::{Value, json};

/// What of the object travels with each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Include {
    None,
    Metadata,
    Object,
}

pub(super) fn table(
    resource: &Resource,
    items: Vec<Value>,
    metadata: Value,
    include: Include,
    now: i64,
) -> Value {
    let rows: Vec<Value> = items
        .into_iter()
        .map(|item| {
            let cells = cells(resource, &item, now);
            let object = match include {
                Include::None => Value::Null,
                Include::Metadata => metadata_only(&item),
                Include::Object => item,
            };
            json!({ "cells": cells, "object": object })
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns(resource), "rows": rows,
    })
}

/// Name, type, priority.
type Definition = (&'static str, &'static str, i32);

fn core_columns(core: Core) -> &'static [Definition] {
    match core {
        Core::Namespace => &[("Status", "string", 0), ("Age", "string", 0)],
        Core::Service => &[
            ("Type", "string", 0),
            ("Cluster-IP", "string", 0),
            ("External-IP", "string", 0),
            ("Port(s)", "string", 0),
            ("Age", "string", 0),
            ("Selector", "string", 1),
        ],
        Core::Pod => &[
            ("Ready", "string", 0),
            ("Status", "string", 0),
            ("Restarts", "string", 0),
            ("Age", "string", 0),
            ("IP", "string", 1),
            ("Node", "string", 1),
            ("Nominated Node", "string", 1),
            ("Readiness Gates", "string", 1),
        ],
        Core::Endpoints => &[("Endpoints", "string", 0), ("Age", "string", 0)],
        Core::EndpointSlice => &[
            ("AddressType", "string", 0),
            ("Ports", "string", 0),
            ("Endpoints", "string", 0),
            ("Age", "string", 0),
        ],
        Core::ServiceAccount => &[("Age", "string", 0)],
        Core::Secret => &[("Type", "string", 0), ("Data", "integer", 0), ("Age", "string", 0)],
        Core::ConfigMap => &[("Data", "integer", 0), ("Age", "string", 0)],
        Core::Node => &[
            ("Status", "string", 0),
            ("Roles", "string", 0),
            ("Age", "string", 0),
            ("Version", "string", 0),
            ("Internal-IP", "string", 1),
        ],
        Core::Event => &[
            ("Last Seen", "string", 0),
            ("Type", "string", 0),
            ("Reason", "string", 0),
            ("Object", "string", 0),
            ("Message", "string", 0),
        ],
        Core::Deployment => &[
            ("Ready", "string", 0),
            ("Up-to-date", "integer", 0),
            ("Available", "integer", 0),
            ("Age", "string", 0),
            ("Containers", "string", 1),
            ("Images", "string", 1),
            ("Selector", "string", 1),
        ],
        Core::ReplicaSet => &[
            ("Desired", "integer", 0),
            ("Current", "integer", 0),
            ("Ready", "integer", 0),
            ("Age", "string", 0),
            ("Containers", "string", 1),
            ("Images", "string", 1),
            ("Selector", "string", 1),
        ],
        Core::Lease => &[("Holder", "string", 0), ("Age", "string", 0)],
    }
}

fn definition(name: &str, typ: &str, format: &str, description: &str, priority: i32) -> Value {
    json!({ "name": name, "type": typ, "format": format, "description": description, "priority": priority })
}

fn columns(resource: &Resource) -> Vec<Value> {
    let mut out = vec![definition("Name", "string", "name", "Name of the object.", 0)];
    match resource.core {
        Some(core) => {
            let more = core_columns(core).iter();
            out.extend(more.map(|(name, typ, priority)| definition(name, typ, "", "", *priority)));
        }
        None if resource.columns.is_empty() => {
            out.push(definition("Age", "date", "", "When the object was made.", 0));
        }
        None => {
            let more = resource.columns.iter();
            out.extend(more.map(|c| definition(&c.name, &c.typ, "", &c.description, c.priority)));
        }
    }
    out
}

fn cells(resource: &Resource, object: &Value, now: i64) -> Vec<Value> {
    let mut out = vec![json!(text(object, "/metadata/name"))];
    match resource.core {
        Some(core) => out.extend(core_cells(core, object, now)),
        None if resource.columns.is_empty() => out.push(age(object, now)),
        None => {
            for column in &resource.columns {
                let value = at(object, &column.path);
                out.push(match column.typ.as_str() {
                    "date" => value.as_str().map_or(Value::Null, |time| json!(since(time, now))),
                    "integer" | "number" | "boolean" => value.clone(),
                    _ => printed(value),
                });
            }
        }
    }
    out
}

/// A simple JSON path such as `.spec.mtls.mode`.
fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    let pointer = path.replace('.', "/");
    object.pointer(&pointer).unwrap_or(&Value::Null)
}

fn printed(value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::String(text) => json!(text),
        other => json!(other.to_string()),
    }
}

fn age(object: &Value, now: i64) -> Value {
    match text(object, "/metadata/creationTimestamp") {
        "" => json!("<unknown>"),
        time => json!(since(time, now)),
    }
}

fn since(time: &str, now: i64) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(then) => duration(now - then.as_second()),
        Err(_) => "<unknown>".into(),
    }
}

/// A duration as people read it: two figures at most, coarser with age.
fn duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let with = |whole: i64, unit: &str, rest: i64, small: &str| {
        if rest == 0 { format!("{whole}{unit}") } else { format!("{whole}{unit}{rest}{small}") }
    };
    match seconds {
        i64::MIN..=-2 => "<invalid>".into(),
        -1..=0 => "0s".into(),
        1..120 => format!("{seconds}s"),
        120..600 => with(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => with(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => with(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => with(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

fn or_none(text: &str) -> Value {
    json!(if text.is_empty() { "<none>" } else { text })
}

fn count(object: &Value, pointer: &str) -> Value {
    json!(object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0))
}

fn size(object: &Value, fields: &[&str]) -> Value {
    json!(
        fields.iter().filter_map(|field| object[*field].as_object()).map(serde_json::Map::len).sum::<usize>()
    )
}

fn core_cells(core: Core, object: &Value, now: i64) -> Vec<Value> {
    let age = age(object, now);
    match core {
        Core::Namespace => vec![json!(text(object, "/status/phase")), age],
        Core::Service => service(object, age),
        Core::Pod => pod(object, age),
        Core::Endpoints => vec![endpoints(object), age],
        Core::EndpointSlice => slice(object, age),
        Core::ServiceAccount => vec![age],
        Core::Secret => vec![json!(text(object, "/type")), size(object, &["data"]), age],
        Core::ConfigMap => vec![size(object, &["data", "binaryData"]), age],
        Core::Node => node(object, age),
        Core::Event => event(object, now),
        Core::Deployment => {
            let ready = count(object, "/status/readyReplicas");
            let mut cells = vec![
                json!(format!("{ready}/{}", count(object, "/spec/replicas"))),
                count(object, "/status/updatedReplicas"),
                count(object, "/status/availableReplicas"),
                age,
            ];
            cells.extend(template(object));
            cells
        }
        Core::ReplicaSet => {
            let mut cells = vec![
                count(object, "/spec/replicas"),
                count(object, "/status/replicas"),
                count(object, "/status/readyReplicas"),
                age,
            ];
            cells.extend(template(object));
            cells
        }
        Core::Lease => vec![json!(text(object, "/spec/holderIdentity")), age],
    }
}

fn pairs(map: &Value) -> String {
    let pairs = map.as_object().into_iter().flatten();
    let mut out: Vec<String> = pairs.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
    out.sort();
    out.join(",")
}

fn service(object: &Value, age: Value) -> Vec<Value> {
    let kind = text(object, "/spec/type");
    let ports: Vec<String> = object["spec"]["ports"].as_array().into_iter().flatten().map(port).collect();
    let outside: Vec<&str> =
        object["spec"]["externalIPs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let external = match kind {
        "ExternalName" => text(object, "/spec/externalName").to_owned(),
        "LoadBalancer" => match text(object, "/status/loadBalancer/ingress/0/ip") {
            "" => "<pending>".into(),
            address => address.into(),
        },
        _ => outside.join(","),
    };
    vec![
        json!(kind),
        or_none(text(object, "/spec/clusterIP")),
        or_none(&external),
        or_none(&ports.join(",")),
        age,
        or_none(&pairs(&object["spec"]["selector"])),
    ]
}

fn port(port: &Value) -> String {
    let number = port["port"].as_i64().unwrap_or(0);
    let protocol = port["protocol"].as_str().unwrap_or("TCP");
    match port["nodePort"].as_i64() {
        Some(node) => format!("{number}:{node}/{protocol}"),
        None => format!("{number}/{protocol}"),
    }
}

fn pod(object: &Value, age: Value) -> Vec<Value> {
    let statuses: Vec<&Value> =
        object["status"]["containerStatuses"].as_array().into_iter().flatten().collect();
    let ready = statuses.iter().filter(|s| s["ready"] == true).count();
    let total = object["spec"]["containers"].as_array().map_or(0, Vec::len);
    let restarts: i64 = statuses.iter().filter_map(|s| s["restartCount"].as_i64()).sum();
    let status = if object.pointer("/metadata/deletionTimestamp").is_some() {
        "Terminating"
    } else if !text(object, "/status/reason").is_empty() {
        text(object, "/status/reason")
    } else {
        text(object, "/status/phase")
    };
    vec![
        json!(format!("{ready}/{total}")),
        json!(status),
        json!(restarts.to_string()),
        age,
        or_none(text(object, "/status/podIP")),
        or_none(text(object, "/spec/nodeName")),
        or_none(text(object, "/status/nominatedNodeName")),
        json!("<none>"),
    ]
}

fn first_of(mut list: Vec<String>, most: usize) -> Value {
    let more = list.len().saturating_sub(most);
    list.truncate(most);
    let mut text = list.join(",");
    if more > 0 {
        text.push_str(&format!(" + {more} more..."));
    }
    or_none(&text)
}

fn endpoints(object: &Value) -> Value {
    let mut out = Vec::new();
    for subset in object["subsets"].as_array().into_iter().flatten() {
        for address in subset["addresses"].as_array().into_iter().flatten() {
            for port in subset["ports"].as_array().into_iter().flatten() {
                out.push(format!("{}:{}", address["ip"].as_str().unwrap_or(""), port["port"]));
            }
        }
    }
    first_of(out, 3)
}

fn slice(object: &Value, age: Value) -> Vec<Value> {
    let ports = object["ports"].as_array().into_iter().flatten();
    let ports = ports.map(|p| p["port"].as_i64().map_or("*".into(), |n| n.to_string())).collect();
    let endpoints = object["endpoints"].as_array().into_iter().flatten();
    let addresses = endpoints.flat_map(|e| e["addresses"].as_array().into_iter().flatten());
    let addresses = addresses.filter_map(|a| a.as_str().map(str::to_owned)).collect();
    let ports: Vec<String> = ports;
    let ports = if ports.is_empty() { json!("<unset>") } else { first_of(ports, 3) };
    let addresses: Vec<String> = addresses;
    let addresses = if addresses.is_empty() { json!("<unset>") } else { first_of(addresses, 3) };
    vec![json!(text(object, "/addressType")), ports, addresses, age]
}

fn node(object: &Value, age: Value) -> Vec<Value> {
    let condition = |wanted: &str| {
        let list = object["status"]["conditions"].as_array().into_iter().flatten();
        list.filter(|c| c["type"] == wanted).any(|c| c["status"] == "True")
    };
    let known =
        object["status"]["conditions"].as_array().is_some_and(|l| l.iter().any(|c| c["type"] == "Ready"));
    let status = match (known, condition("Ready")) {
        (false, _) => "Unknown",
        (true, true) => "Ready",
        (true, false) => "NotReady",
    };
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    let roles: Vec<&str> = labels.filter_map(|(k, _)| k.strip_prefix("node-role.kubernetes.io/")).collect();
    let addresses = object["status"]["addresses"].as_array().into_iter().flatten();
    let internal = addresses.filter(|a| a["type"] == "InternalIP").find_map(|a| a["address"].as_str());
    vec![
        json!(status),
        or_none(&roles.join(",")),
        age,
        json!(text(object, "/status/nodeInfo/kubeletVersion")),
        or_none(internal.unwrap_or("")),
    ]
}

fn event(object: &Value, now: i64) -> Vec<Value> {
    let times = ["/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"];
    let seen = times.iter().map(|pointer| text(object, pointer)).find(|time| !time.is_empty());
    let kind = text(object, "/involvedObject/kind").to_lowercase();
    vec![
        json!(seen.map_or("<unknown>".into(), |time| since(time, now))),
        json!(text(object, "/type")),
        json!(text(object, "/reason")),
        json!(format!("{kind}/{}", text(object, "/involvedObject/name"))),
        json!(text(object, "/message").trim()),
    ]
}

fn template(object: &Value) -> [Value; 3] {
    let containers = object.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    let list = |key: &str| {
        let all = containers.into_iter().flatten().filter_map(|c| c[key].as_str());
        all.collect::<Vec<_>>().join(",")
    };
    let selector = pairs(&object["spec"]["selector"]["matchLabels"]);
    [json!(list("name")), json!(list("image")), json!(selector)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read_by_people() {
        for (seconds, wanted) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (599, "9m59s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (100_000, "27h"),
            (180_000, "2d2h"),
            (864_000, "10d"),
            (63_072_000, "2y"),
        ] {
            assert_eq!(duration(seconds), wanted, "{seconds}");
        }
    }
}
