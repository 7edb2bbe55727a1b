//! Services.

use crate::engine::meta::is_label;
use crate::engine::text;
use crate::status::Cause;
use serde_json::{Value, json};

fn default_to(object: &mut Value, key: &str, value: Value) {
    if let Some(map) = object.as_object_mut()
        && map.get(key).is_none_or(|v| v.is_null() || v.as_str() == Some(""))
    {
        map.insert(key.to_owned(), value);
    }
}

pub(super) fn defaults(object: &mut Value) {
    if !object.get("spec").is_some_and(Value::is_object) {
        object["spec"] = json!({});
    }
    let spec = &mut object["spec"];
    default_to(spec, "type", json!("ClusterIP"));
    default_to(spec, "sessionAffinity", json!("None"));
    let kind = text(spec, "/type").to_owned();
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        default_to(port, "protocol", json!("TCP"));
        let number = port.get("port").cloned().unwrap_or(Value::Null);
        let absent = port.get("targetPort").is_none_or(|t| t == &json!(0) || t == &json!(""));
        if absent && kind != "ExternalName" {
            port["targetPort"] = number;
        }
    }
    if kind == "ExternalName" {
        return;
    }
    default_to(spec, "internalTrafficPolicy", json!("Cluster"));
    if kind != "ClusterIP" {
        default_to(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        default_to(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
    if text(spec, "/sessionAffinity") == "ClientIP" && spec.get("sessionAffinityConfig").is_none() {
        spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": 10800 } });
    }
}

/// What the real server fills in only when it allocates, so that no manager owns it.
pub(super) fn families(object: &mut Value) {
    let spec = &mut object["spec"];
    if text(spec, "/type") == "ExternalName" {
        return;
    }
    let address = text(spec, "/clusterIP").to_owned();
    let list = spec.pointer("/clusterIPs/0").and_then(Value::as_str).unwrap_or("").to_owned();
    if address.is_empty() && !list.is_empty() {
        spec["clusterIP"] = json!(list);
    } else if !address.is_empty() && list.is_empty() {
        spec["clusterIPs"] = json!([address]);
    }
    let headless = text(spec, "/clusterIP") == "None";
    let selects = spec.get("selector").and_then(Value::as_object).is_some_and(|s| !s.is_empty());
    let any = headless && !selects;
    default_to(spec, "ipFamilies", if any { json!(["IPv4", "IPv6"]) } else { json!(["IPv4"]) });
    let policy = if any { "RequireDualStack" } else { "SingleStack" };
    default_to(spec, "ipFamilyPolicy", json!(policy));
}

/// An update that leaves the address out keeps it.
pub(super) fn carry_over(current: &Value, new: &mut Value) {
    let external = |s: &Value| text(s, "/spec/type") == "ExternalName";
    if !new.get("spec").is_some_and(Value::is_object) {
        new["spec"] = json!({});
    }
    if external(new) {
        if !external(current)
            && let Some(spec) = new["spec"].as_object_mut()
        {
            spec.shift_remove("clusterIP");
            spec.shift_remove("clusterIPs");
        }
        return;
    }
    for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if let Some(old) = current.pointer(&format!("/spec/{key}")) {
            default_to(&mut new["spec"], key, old.clone());
        }
    }
}

pub(super) fn validate(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    let kind = text(spec, "/type");
    let ports = spec.get("ports").and_then(Value::as_array).cloned().unwrap_or_default();
    let headless = text(spec, "/clusterIP") == "None";
    if ports.is_empty() && !headless && kind != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    match kind {
        "ClusterIP" | "NodePort" | "LoadBalancer" => {}
        "ExternalName" => {
            if !text(spec, "/clusterIP").is_empty() {
                causes.push(Cause::forbidden(
                    "spec.clusterIPs",
                    "may not be set when `type` is 'ExternalName'",
                ));
            }
            if text(spec, "/externalName").is_empty() {
                causes.push(Cause::required("spec.externalName", ""));
            }
        }
        other => {
            let allowed = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
            causes.push(Cause::unsupported("spec.type", &json!(other), &allowed));
        }
    }
    if !matches!(text(spec, "/sessionAffinity"), "None" | "ClientIP") {
        let given = json!(text(spec, "/sessionAffinity"));
        causes.push(Cause::unsupported("spec.sessionAffinity", &given, &["ClientIP", "None"]));
    }
    validate_ports(&ports, causes);
    if let Some(old) = old {
        validate_change(old, object, causes);
    }
    let address = text(spec, "/clusterIP");
    if !address.is_empty() && !headless && address.parse::<std::net::IpAddr>().is_err() {
        let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        causes.push(Cause::invalid("spec.clusterIPs[0]", &json!(address), why));
    }
}

fn validate_change(old: &Value, new: &Value, causes: &mut Vec<Cause>) {
    let external = |s: &Value| text(s, "/spec/type") == "ExternalName";
    let (before, after) = (text(old, "/spec/clusterIP"), text(new, "/spec/clusterIP"));
    if !external(old) && !external(new) && !before.is_empty() && before != after {
        causes.push(Cause::invalid("spec.clusterIPs[0]", &json!(after), "may not change once set"));
    }
}

fn validate_ports(ports: &[Value], causes: &mut Vec<Cause>) {
    let mut names: Vec<&str> = Vec::new();
    let mut numbers: Vec<(i64, &str)> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let at = |field: &str| format!("spec.ports[{index}].{field}");
        let name = text(port, "/name");
        if name.is_empty() && ports.len() > 1 {
            causes.push(Cause::required(at("name"), ""));
        } else if !name.is_empty() {
            if !is_label(name) {
                causes.push(Cause::invalid(at("name"), &json!(name), crate::engine::meta::label_rule()));
            } else if names.contains(&name) {
                causes.push(Cause::duplicate(at("name"), &json!(name)));
            }
            names.push(name);
        }
        let number = port.get("port").and_then(Value::as_i64).unwrap_or(0);
        range(at("port"), number, causes);
        let protocol = text(port, "/protocol");
        if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            causes.push(Cause::unsupported(at("protocol"), &json!(protocol), &["SCTP", "TCP", "UDP"]));
        }
        match port.get("targetPort") {
            Some(Value::Number(n)) => range(at("targetPort"), n.as_i64().unwrap_or(0), causes),
            Some(Value::String(name)) => target_name(at("targetPort"), name, causes),
            _ => {}
        }
        if numbers.contains(&(number, protocol)) {
            let value = json!({ "port": number, "protocol": protocol });
            let mut cause = Cause::duplicate(format!("spec.ports[{index}]"), &value);
            cause.message = format!("Duplicate value: {{\"protocol\":{protocol:?},\"port\":{number}}}");
            causes.push(cause);
        }
        numbers.push((number, protocol));
    }
}

fn range(field: String, number: i64, causes: &mut Vec<Cause>) {
    if !(1..=65535).contains(&number) {
        causes.push(Cause::invalid(field, &json!(number), "must be between 1 and 65535, inclusive"));
    }
}

fn target_name(field: String, name: &str, causes: &mut Vec<Cause>) {
    let fine = name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
    let mut refuse = |why: &str| causes.push(Cause::invalid(field.clone(), &json!(name), why));
    if name.len() > 15 {
        refuse("must be no more than 15 characters");
    }
    if !fine {
        refuse("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    }
    if !name.bytes().any(|c| c.is_ascii_lowercase()) {
        refuse("must contain at least one letter (a-z)");
    }
    if name.contains("--") {
        refuse("must not contain consecutive hyphens");
    }
    if name.starts_with('-') || name.ends_with('-') {
        refuse("must not begin or end with a hyphen");
    }
}
