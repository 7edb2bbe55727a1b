//! Namespaces, Secrets, ConfigMaps, EndpointSlices.

use crate::engine::{name_of, text};
use crate::status::Cause;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

pub(super) fn namespace(object: &mut Value) {
    object["spec"] = json!({ "finalizers": ["kubernetes"] });
    object["status"] = json!({ "phase": "Active" });
}

/// Every namespace carries its name as a label.
pub(super) fn namespace_label(object: &mut Value) {
    let name = name_of(object).to_owned();
    let metadata = &mut object["metadata"];
    if !metadata.get("labels").is_some_and(Value::is_object) {
        metadata["labels"] = json!({});
    }
    metadata["labels"]["kubernetes.io/metadata.name"] = json!(name);
}

pub(super) fn secret_defaults(object: &mut Value) {
    if let Some(given) = object.as_object_mut().and_then(|map| map.shift_remove("stringData")) {
        if !object.get("data").is_some_and(Value::is_object) {
            object["data"] = json!({});
        }
        for (key, value) in given.as_object().into_iter().flatten() {
            object["data"][key] = json!(STANDARD.encode(value.as_str().unwrap_or("")));
        }
    }
    if text(object, "/type").is_empty() {
        object["type"] = json!("Opaque");
    }
}

pub(super) fn slice_defaults(object: &mut Value) {
    for endpoint in object.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten() {
        if endpoint.get("conditions").is_none() {
            endpoint["conditions"] = json!({});
        }
    }
    for port in object.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        for (key, value) in [("name", json!("")), ("protocol", json!("TCP"))] {
            if port.get(key).is_none() {
                port[key] = value;
            }
        }
    }
}

fn keys(object: &Value, field: &str, causes: &mut Vec<Cause>) {
    const RULE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
                        'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
                        '[-._a-zA-Z0-9]+')";
    for key in object.get(field).and_then(Value::as_object).into_iter().flatten().map(|(key, _)| key) {
        let fine = !key.is_empty() && key.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c));
        if !fine || key.len() > 253 {
            causes.push(Cause::invalid(format!("{field}[{key}]"), &json!(key), RULE));
        }
    }
}

fn immutable(object: &Value, old: Option<&Value>, fields: &[&str], causes: &mut Vec<Cause>) {
    let Some(old) = old.filter(|old| old.get("immutable") == Some(&json!(true))) else { return };
    if object.get("immutable") != Some(&json!(true)) {
        causes.push(Cause::forbidden("immutable", "field is immutable when `immutable` is set"));
    }
    for field in fields.iter().filter(|field| object.get(**field) != old.get(**field)) {
        causes.push(Cause::forbidden(*field, "field is immutable when `immutable` is set"));
    }
}

pub(super) fn validate_secret(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    if let Some(old) = old
        && old.get("type") != object.get("type")
    {
        let given = object.get("type").cloned().unwrap_or_default();
        causes.push(Cause::invalid("type", &given, "field is immutable"));
    }
    immutable(object, old, &["data"], causes);
    keys(object, "data", causes);
    if text(object, "/type") == "kubernetes.io/tls" {
        for key in ["tls.crt", "tls.key"] {
            if object.pointer(&format!("/data/{key}")).is_none() {
                causes.push(Cause::required(format!("data[{key}]"), ""));
            }
        }
    }
}

pub(super) fn validate_config_map(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    immutable(object, old, &["data", "binaryData"], causes);
    keys(object, "data", causes);
    keys(object, "binaryData", causes);
}

pub(super) fn validate_slice(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let kind = text(object, "/addressType");
    if kind.is_empty() {
        causes.push(Cause::required("addressType", ""));
    } else if !matches!(kind, "IPv4" | "IPv6" | "FQDN") {
        causes.push(Cause::unsupported("addressType", &json!(kind), &["FQDN", "IPv4", "IPv6"]));
    }
    if old.is_some_and(|old| text(old, "/addressType") != kind) {
        causes.push(Cause::invalid("addressType", &json!(kind), "field is immutable"));
    }
    for (i, endpoint) in object["endpoints"].as_array().into_iter().flatten().enumerate() {
        let addresses = endpoint["addresses"].as_array().cloned().unwrap_or_default();
        if addresses.is_empty() {
            let field = format!("endpoints[{i}].addresses");
            causes.push(Cause::required(field, "must contain at least 1 address"));
        }
        for (j, address) in addresses.iter().enumerate() {
            let field = format!("endpoints[{i}].addresses[{j}]");
            let parsed = address.as_str().and_then(|a| a.parse::<std::net::IpAddr>().ok());
            match (kind, parsed) {
                ("IPv4", Some(ip)) if ip.is_ipv4() => {}
                ("IPv6", Some(ip)) if ip.is_ipv6() => {}
                ("IPv4" | "IPv6", _) => {
                    causes.push(Cause::invalid(field, address, format!("must be an {kind} address")));
                }
                _ => {}
            }
        }
    }
}
