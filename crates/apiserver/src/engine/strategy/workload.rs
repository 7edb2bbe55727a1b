//! Pods and Deployments: stored and defaulted as usual, though nothing here runs them.

use crate::engine::{name_of, namespace_of, text};
use crate::kinds::{Core, Resource};
use crate::status::Cause;
use serde_json::{Value, json};

fn default_to(object: &mut Value, key: &str, value: Value) {
    if let Some(map) = object.as_object_mut()
        && map.get(key).is_none_or(Value::is_null)
    {
        map.insert(key.to_owned(), value);
    }
}

pub(super) fn pod_status(object: &mut Value) {
    object["status"] = json!({ "phase": "Pending", "qosClass": quality(&object["spec"]) });
    default_to(&mut object["spec"], "serviceAccountName", json!("default"));
    let account = object["spec"]["serviceAccountName"].clone();
    default_to(&mut object["spec"], "serviceAccount", account);
}

fn quality(spec: &Value) -> &'static str {
    let containers: Vec<&Value> = spec["containers"].as_array().into_iter().flatten().collect();
    let amount = |c: &Value, kind: &str, what: &str| c.pointer(&format!("/resources/{kind}/{what}")).cloned();
    let empty = |c: &&Value| {
        ["limits", "requests"]
            .iter()
            .all(|kind| amount(c, kind, "cpu").is_none() && amount(c, kind, "memory").is_none())
    };
    let guaranteed = |c: &&Value| {
        ["cpu", "memory"].iter().all(|what| {
            let limit = amount(c, "limits", what);
            limit.is_some() && amount(c, "requests", what).is_none_or(|r| Some(r) == limit)
        })
    };
    if containers.iter().all(empty) {
        "BestEffort"
    } else if containers.iter().all(guaranteed) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

pub(super) fn pod_defaults(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    default_to(spec, "restartPolicy", json!("Always"));
    default_to(spec, "terminationGracePeriodSeconds", json!(30));
    default_to(spec, "dnsPolicy", json!("ClusterFirst"));
    default_to(spec, "securityContext", json!({}));
    default_to(spec, "schedulerName", json!("default-scheduler"));
    if spec.get("containers").is_some() {
        for list in ["containers", "initContainers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                container_defaults(container);
            }
        }
    }
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        default_to(spec, "serviceAccount", account);
    }
}

fn container_defaults(container: &mut Value) {
    let image = text(container, "/image").to_owned();
    let tail = image.rsplit('/').next().unwrap_or("");
    let latest = !tail.contains('@') && tail.split_once(':').is_none_or(|(_, tag)| tag == "latest");
    let pull = if latest { "Always" } else { "IfNotPresent" };
    default_to(container, "resources", json!({}));
    default_to(container, "terminationMessagePath", json!("/dev/termination-log"));
    default_to(container, "terminationMessagePolicy", json!("File"));
    default_to(container, "imagePullPolicy", json!(pull));
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        default_to(port, "protocol", json!("TCP"));
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get_mut(probe) else { continue };
        for (key, value) in
            [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
        {
            default_to(probe, key, json!(value));
        }
        if let Some(get) = probe.get_mut("httpGet") {
            default_to(get, "path", json!("/"));
            default_to(get, "scheme", json!("HTTP"));
        }
    }
}

fn template_defaults(object: &mut Value) {
    if let Some(spec) = object.pointer_mut("/spec/template/spec") {
        pod_defaults(spec);
    }
}

pub(super) fn deployment_defaults(object: &mut Value) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        return;
    }
    default_to(spec, "replicas", json!(1));
    default_to(spec, "strategy", json!({}));
    default_to(&mut spec["strategy"], "type", json!("RollingUpdate"));
    if spec["strategy"]["type"] == "RollingUpdate" {
        default_to(&mut spec["strategy"], "rollingUpdate", json!({}));
        let rolling = &mut spec["strategy"]["rollingUpdate"];
        default_to(rolling, "maxUnavailable", json!("25%"));
        default_to(rolling, "maxSurge", json!("25%"));
    }
    default_to(spec, "revisionHistoryLimit", json!(10));
    default_to(spec, "progressDeadlineSeconds", json!(600));
    template_defaults(object);
}

pub(super) fn replica_set_defaults(object: &mut Value) {
    if object["spec"].is_object() {
        default_to(&mut object["spec"], "replicas", json!(1));
    }
    template_defaults(object);
}

/// What is said when a Deployment is stored here, where no pods run.
pub(super) fn no_runtime(object: &Value) -> String {
    let template = &object["spec"]["template"];
    let app = match text(template, "/metadata/labels/app") {
        "" => name_of(object),
        app => app,
    };
    let version = match text(template, "/metadata/labels/version") {
        "" => String::new(),
        version => format!(" --version {version}"),
    };
    let namespace = match namespace_of(object) {
        "" | "default" => String::new(),
        namespace => format!(" --namespace {namespace}"),
    };
    let port = template.pointer("/spec/containers/0/ports/0/containerPort");
    let port = port.map_or(String::new(), |port| format!(" --port http={port}"));
    format!(
        "stored, but nothing here runs pods; start the process itself: mizzen run --service \
         {app}{version}{namespace}{port} -- COMMAND"
    )
}

pub(super) fn validate_pod(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    containers(&object["spec"], "spec", causes);
    if let Some(old) = old
        && images_aside(&old["spec"]) != images_aside(&object["spec"])
    {
        let why = "pod updates may not change fields other than `spec.containers[*].image`,\
                   `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
                   existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                   previously negative)";
        causes.push(Cause::forbidden("spec", why));
    }
}

/// A pod's specification without what an update may change.
fn images_aside(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            container["image"] = Value::Null;
        }
    }
    if let Some(map) = spec.as_object_mut() {
        for key in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "nodeName"] {
            map.shift_remove(key);
        }
    }
    spec
}

fn containers(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let list = spec["containers"].as_array().cloned().unwrap_or_default();
    if list.is_empty() {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    let mut names = Vec::new();
    for (index, container) in list.iter().enumerate() {
        let at = |field: &str| format!("{path}.containers[{index}].{field}");
        let name = text(container, "/name");
        if name.is_empty() {
            causes.push(Cause::required(at("name"), ""));
        } else if !crate::engine::meta::is_label(name) {
            causes.push(Cause::invalid(at("name"), &json!(name), crate::engine::meta::label_rule()));
        } else if names.contains(&name) {
            causes.push(Cause::duplicate(at("name"), &json!(name)));
        }
        names.push(name);
        if text(container, "/image").is_empty() {
            causes.push(Cause::required(at("image"), ""));
        }
    }
}

pub(super) fn validate_deployment(
    resource: &Resource,
    object: &Value,
    old: Option<&Value>,
    causes: &mut Vec<Cause>,
) {
    let spec = &object["spec"];
    let selector = spec.get("selector").filter(|s| s.as_object().is_some_and(|s| !s.is_empty()));
    let labels = spec.pointer("/template/metadata/labels").cloned().unwrap_or(json!({}));
    match selector {
        None => causes.push(Cause::required("spec.selector", "")),
        Some(selector) => {
            let wanted = selector.get("matchLabels").and_then(Value::as_object);
            let fits = wanted.is_none_or(|w| w.iter().all(|(k, v)| labels.get(k) == Some(v)));
            if !fits {
                let why = "`selector` does not match template `labels`";
                causes.push(Cause::invalid("spec.template.metadata.labels", &labels, why));
            }
        }
    }
    if spec["replicas"].as_i64().is_some_and(|n| n < 0) {
        let why = "must be greater than or equal to 0";
        causes.push(Cause::invalid("spec.replicas", &spec["replicas"], why));
    }
    if let Some(old) = old.filter(|_| resource.core == Some(Core::Deployment))
        && old["spec"]["selector"] != spec["selector"]
    {
        causes.push(Cause::invalid("spec.selector", &spec["selector"], "field is immutable"));
    }
    containers(&spec["template"]["spec"], "spec.template.spec", causes);
}
