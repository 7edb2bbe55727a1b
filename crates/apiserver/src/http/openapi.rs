//! OpenAPI v3, from which kubectl validates, explains and builds its patches; and the v2 document.

use crate::kinds::{Kinds, Resource};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The documents, made once.
pub(crate) struct Documents {
    /// By path below `/openapi/v3/`: content and its hash.
    v3: BTreeMap<String, (Bytes, String)>,
    pub(super) v2: Bytes,
    /// The same in protobuf.
    pub(super) v2_protobuf: Bytes,
}

const PREFIX: &str = "#/components/schemas/";

impl Documents {
    pub(super) fn new(kinds: &Kinds) -> Self {
        let mut paths: BTreeSet<(String, String)> = BTreeSet::from([(String::new(), "v1".to_owned())]);
        for resource in &kinds.resources {
            paths.extend(resource.versions.iter().map(|v| (resource.group.clone(), v.clone())));
        }
        let v3 = paths.iter().map(|(group, version)| {
            let bytes = serde_json::to_vec(&group_document(kinds, group, version)).unwrap_or_default();
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
            let hash: String = digest.as_ref().iter().take(16).map(|b| format!("{b:02X}")).collect();
            let path =
                if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            (path, (Bytes::from(bytes), hash))
        });
        let document = v2(kinds);
        Self {
            v3: v3.collect(),
            v2: serde_json::to_vec(&document).unwrap_or_default().into(),
            v2_protobuf: super::openapi_v2::encode(&document),
        }
    }

    pub(super) fn index(&self) -> Value {
        let entry = |(path, (_, hash)): (&String, &(Bytes, String))| {
            (path.clone(), json!({ "serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}") }))
        };
        json!({ "paths": self.v3.iter().map(entry).collect::<Map<_, _>>() })
    }

    pub(super) fn get(&self, path: &str) -> Option<Bytes> {
        self.v3.get(path).map(|(bytes, _)| bytes.clone())
    }
}

fn group_document(kinds: &Kinds, group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let mut wanted: Vec<String> = ["DeleteOptions", "Status", "ListMeta"]
        .map(|n| format!("io.k8s.apimachinery.pkg.apis.meta.v1.{n}"))
        .to_vec();
    let mut schemas = Map::new();
    for resource in &kinds.resources {
        if resource.group == group && resource.versions.iter().any(|v| v == version) {
            resource_paths(resource, version, &mut paths);
            let name = resource.definition(version);
            schemas.insert(format!("{name}List"), list_schema(resource, version));
            wanted.push(name);
        }
    }
    while let Some(name) = wanted.pop() {
        if !schemas.contains_key(&name)
            && let Some(schema) = kinds.definitions.get(&name)
        {
            references(schema, &mut wanted);
            schemas.insert(name, schema.clone());
        }
    }
    schemas.sort_keys();
    json!({
        "openapi": "3.0.0", "info": { "title": "Mizzen", "version": crate::VERSION },
        "paths": paths, "components": { "schemas": schemas },
    })
}

fn references(schema: &Value, out: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str().and_then(|target| target.strip_prefix(PREFIX)) {
                    Some(name) if key == "$ref" => out.push(name.to_owned()),
                    _ => references(value, out),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, out)),
        _ => {}
    }
}

fn list_schema(resource: &Resource, version: &str) -> Value {
    let text = json!({ "type": "string" });
    json!({
        "type": "object", "required": ["items"],
        "properties": {
            "apiVersion": text, "kind": text,
            "items": { "type": "array", "items": { "$ref": format!("{PREFIX}{}", resource.definition(version)) } },
            "metadata": { "$ref": format!("{PREFIX}io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta") },
        },
        "x-kubernetes-group-version-kind":
            [{ "group": resource.group, "version": version, "kind": resource.list_kind() }],
    })
}

fn parameter(name: &str, typ: &str) -> Value {
    json!({ "name": name, "in": "query", "schema": { "type": typ, "uniqueItems": true } })
}

fn operation(resource: &Resource, version: &str, action: &str, list: bool) -> Value {
    let definition = resource.definition(version);
    let answer = if list { format!("{definition}List") } else { definition.clone() };
    let content =
        |name: &str| json!({ "application/json": { "schema": { "$ref": format!("{PREFIX}{name}") } } });
    let mut parameters = Vec::new();
    if matches!(action, "post" | "put" | "patch") {
        parameters
            .extend(["dryRun", "fieldManager", "fieldValidation"].map(|name| parameter(name, "string")));
    }
    if action == "patch" {
        parameters.push(parameter("force", "boolean"));
    }
    let mut out = json!({
        "operationId": format!("{action}{}{version}{}", if list { "List" } else { "" }, resource.kind),
        "parameters": parameters,
        "responses": { "200": { "description": "OK", "content": content(&answer) } },
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind":
            { "group": resource.group, "version": version, "kind": resource.kind },
    });
    match action {
        "post" | "put" => out["requestBody"] = json!({ "content": content(&definition), "required": true }),
        "patch" => {
            let mut kinds = vec!["application/json-patch+json", "application/merge-patch+json"];
            if resource.core.is_some() {
                kinds.push("application/strategic-merge-patch+json");
            }
            kinds.push("application/apply-patch+yaml");
            let any = json!({ "schema": { "type": "object" } });
            let content: Map<String, Value> =
                kinds.into_iter().map(|k| (k.to_owned(), any.clone())).collect();
            out["requestBody"] = json!({ "content": content, "required": true });
        }
        _ => {}
    }
    out
}

fn resource_paths(resource: &Resource, version: &str, paths: &mut Map<String, Value>) {
    let base = match resource.group.as_str() {
        "" => format!("/api/{version}"),
        group => format!("/apis/{group}/{version}"),
    };
    let op = |action: &str| operation(resource, version, action, false);
    let list = operation(resource, version, "list", true);
    let collection = if resource.namespaced {
        paths.insert(format!("{base}/{}", resource.plural), json!({ "get": list }));
        format!("{base}/namespaces/{{namespace}}/{}", resource.plural)
    } else {
        format!("{base}/{}", resource.plural)
    };
    let one = json!({ "get": op("get"), "put": op("put"), "patch": op("patch"), "delete": op("delete") });
    paths.insert(
        collection.clone(),
        json!({ "get": list, "post": op("post"), "delete": op("deletecollection") }),
    );
    paths.insert(format!("{collection}/{{name}}"), one);
    if resource.status {
        let status = json!({ "get": op("get"), "put": op("put"), "patch": op("patch") });
        paths.insert(format!("{collection}/{{name}}/status"), status);
    }
}

/// Everything in one document, definitions in the older place.
fn v2(kinds: &Kinds) -> Value {
    let mut definitions = kinds.definitions.clone();
    definitions.values_mut().for_each(older);
    json!({
        "swagger": "2.0", "info": { "title": "Mizzen", "version": crate::VERSION },
        "paths": {}, "definitions": definitions,
    })
}

fn older(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get_mut("$ref") {
                *target = target.replace(PREFIX, "#/definitions/");
            }
            if let Some(Value::Array(all)) = map.get("allOf")
                && let [one] = all.as_slice()
                && let Some(target) = one.get("$ref").cloned()
            {
                map.shift_remove("allOf");
                map.insert("$ref".into(), target);
                return older(schema);
            }
            map.values_mut().for_each(older);
        }
        Value::Array(list) => list.iter_mut().for_each(older),
        _ => {}
    }
}
