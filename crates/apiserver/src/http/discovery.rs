//! Which groups, versions and resources there are: the legacy documents and the aggregated one.

use crate::kinds::{Core, Kinds, Resource};
use serde_json::{Value, json};

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Resources that are only asked, never stored: group, plural, singular, kind, namespaced.
pub(super) const REVIEWS: &[(&str, &str, &str, bool)] = &[
    ("authentication.k8s.io", "tokenreviews", "TokenReview", false),
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview", false),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview", false),
    ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview", false),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview", false),
];

struct Sub {
    name: &'static str,
    group: String,
    version: String,
    kind: String,
    verbs: &'static [&'static str],
}

fn subresources(resource: &Resource, version: &str) -> Vec<Sub> {
    let own = |name, verbs| Sub {
        name,
        group: resource.group.clone(),
        version: version.to_owned(),
        kind: resource.kind.clone(),
        verbs,
    };
    let mut out = Vec::new();
    if resource.core == Some(Core::Namespace) {
        out.push(own("finalize", &["update"]));
    }
    if resource.status {
        out.push(own("status", &["get", "patch", "update"]));
    }
    if resource.scales() {
        out.push(Sub {
            name: "scale",
            group: "autoscaling".into(),
            version: "v1".into(),
            kind: "Scale".into(),
            verbs: &["get", "patch", "update"],
        });
    }
    if resource.core == Some(Core::ServiceAccount) {
        out.push(Sub {
            name: "token",
            group: "authentication.k8s.io".into(),
            version: "v1".into(),
            kind: "TokenRequest".into(),
            verbs: &["create"],
        });
    }
    out
}

fn of<'a>(kinds: &'a Kinds, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Resource> {
    let matching =
        move |r: &&std::sync::Arc<Resource>| r.group == group && r.versions.iter().any(|v| v == version);
    kinds.resources.iter().filter(matching).map(AsRef::as_ref)
}

pub(super) fn api_versions(address: &str) -> Value {
    json!({ "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": address }] })
}

fn group_value(group: &str, versions: &[String]) -> Value {
    let version = |v: &String| json!({ "groupVersion": format!("{group}/{v}"), "version": v });
    json!({ "name": group, "versions": versions.iter().map(version).collect::<Vec<_>>(),
        "preferredVersion": version(&versions[0]) })
}

pub(super) fn groups(kinds: &Kinds) -> Value {
    let groups: Vec<Value> =
        kinds.groups().iter().map(|(group, versions)| group_value(group, versions)).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

pub(super) fn group(kinds: &Kinds, name: &str) -> Option<Value> {
    let groups = kinds.groups();
    let mut value = group_value(name, groups.get(name)?);
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    Some(value)
}

pub(super) fn resources(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for resource in of(kinds, group, version) {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": VERBS,
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        list.push(entry);
        for sub in subresources(resource, version) {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, sub.name), "singularName": "",
                "namespaced": resource.namespaced, "kind": sub.kind, "verbs": sub.verbs,
            });
            if sub.group != resource.group {
                entry["group"] = json!(sub.group);
                entry["version"] = json!(sub.version);
            }
            list.push(entry);
        }
    }
    for (_, plural, kind, namespaced) in REVIEWS.iter().filter(|(g, ..)| *g == group && version == "v1") {
        list.push(json!({ "name": plural, "singularName": kind.to_lowercase(), "namespaced": namespaced,
            "kind": kind, "verbs": ["create"] }));
    }
    let name = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let body =
        json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": list });
    (!list_is_empty(&body)).then_some(body)
}

fn list_is_empty(body: &Value) -> bool {
    body["resources"].as_array().is_none_or(Vec::is_empty)
}

/// The aggregated document of `/api` (the core group) or `/apis` (all others).
pub(super) fn aggregated(kinds: &Kinds, core: bool) -> Value {
    let items: Vec<Value> = match core {
        true => vec![json!({ "metadata": {}, "versions": [aggregated_version(kinds, "", "v1")] })],
        false => {
            let groups = kinds.groups();
            let item = |(group, versions): (&String, &Vec<String>)| {
                let versions: Vec<Value> =
                    versions.iter().map(|v| aggregated_version(kinds, group, v)).collect();
                json!({ "metadata": { "name": group }, "versions": versions })
            };
            groups.iter().map(item).collect()
        }
    };
    json!({ "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items })
}

fn aggregated_version(kinds: &Kinds, group: &str, version: &str) -> Value {
    let kind_of =
        |group: &str, version: &str, kind: &str| json!({ "group": group, "version": version, "kind": kind });
    let scope = |namespaced: bool| if namespaced { "Namespaced" } else { "Cluster" };
    let mut list = Vec::new();
    for resource in of(kinds, group, version) {
        let mut entry = json!({
            "resource": resource.plural, "responseKind": kind_of(group, version, &resource.kind),
            "scope": scope(resource.namespaced), "singularResource": resource.singular, "verbs": VERBS,
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        let subs: Vec<Value> = subresources(resource, version)
            .into_iter()
            .map(|sub| {
                json!({ "subresource": sub.name, "responseKind": kind_of(&sub.group, &sub.version, &sub.kind),
                    "verbs": sub.verbs })
            })
            .collect();
        if !subs.is_empty() {
            entry["subresources"] = json!(subs);
        }
        list.push(entry);
    }
    for (_, plural, kind, namespaced) in REVIEWS.iter().filter(|(g, ..)| *g == group && version == "v1") {
        list.push(json!({
            "resource": plural, "responseKind": kind_of(group, version, kind), "scope": scope(*namespaced),
            "singularResource": kind.to_lowercase(), "verbs": ["create"],
        }));
    }
    json!({ "version": version, "resources": list, "freshness": "Current" })
}
