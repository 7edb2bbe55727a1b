//! Schemas and CRD manifests, made from the types.
//!
//! There are two forms. The neutral one, which [`crate::parse`] checks against, keeps our own keywords: `x-oneof` for
//! groups of which one may be set, the format `go-duration`. The one in CRDs is structural as Kubernetes wants it.

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use crate::duration;
use crate::kind::{Column, Kind, KindInfo, Scope, Status};
use crate::object::raw_schema;

/// Groups of properties of which at most one may be set.
pub(crate) const ONE_OF: &str = "x-oneof";
/// The shortest duration allowed, which can only be 0; 1 ms when absent.
pub(crate) const MINIMUM_DURATION: &str = "x-minimum-duration";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

/// The neutral schema of a kind's spec.
pub(crate) fn spec(kind: Kind) -> &'static Value {
    static SCHEMAS: OnceLock<Vec<Value>> = OnceLock::new();
    let schemas = SCHEMAS
        .get_or_init(|| Kind::all().map(|kind| generate(|generator| raw_schema(kind, generator))).collect());
    &schemas[kind as usize]
}

/// The neutral schema of MeshConfig.
pub(crate) fn mesh_config() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| generate(<crate::MeshConfig as schemars::JsonSchema>::json_schema))
}

/// The CRD manifests of all kinds.
pub fn crds() -> Vec<Value> {
    Kind::all().map(crd).collect()
}

/// The CRD manifest of a kind.
pub fn crd(kind: Kind) -> Value {
    let info = kind.info();
    let schema = object_schema(kind);
    let versions: Vec<_> = info.versions.iter().map(|version| crd_version(info, version, &schema)).collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": info.crd_name(), "labels": { "app.kubernetes.io/part-of": "mizzen" } },
        "spec": {
            "group": info.group,
            "names": {
                "kind": info.name,
                "listKind": format!("{}List", info.name),
                "plural": info.plural,
                "singular": info.singular,
                "shortNames": info.short_names,
                "categories": info.categories,
            },
            "scope": match info.scope { Scope::Namespaced => "Namespaced", Scope::Cluster => "Cluster" },
            "versions": versions,
        },
    })
}

/// The structural schema of a kind's objects, as its CRD carries it.
pub fn object_schema(kind: Kind) -> Value {
    let mut spec = structural(spec(kind).clone());
    spec[DESCRIPTION] = json!(kind_description(kind));
    let mut status = structural(generate(<Status as schemars::JsonSchema>::json_schema));
    status[PRESERVE] = json!(true);
    let mut schema = json!({ "type": "object", "properties": { "spec": spec, "status": status } });
    if kind.info().spec_required {
        schema["required"] = json!(["spec"]);
    }
    schema
}

const DESCRIPTION: &str = "description";

fn kind_description(kind: Kind) -> String {
    spec(kind)[DESCRIPTION].as_str().unwrap_or_default().to_string()
}

fn crd_version(info: &KindInfo, version: &str, schema: &Value) -> Value {
    let columns: Vec<_> = info.columns.iter().map(printer_column).collect();
    json!({
        "name": version,
        "served": true,
        "storage": version == info.storage,
        "subresources": { "status": {} },
        "additionalPrinterColumns": columns,
        "schema": { "openAPIV3Schema": schema },
    })
}

fn printer_column(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.kind,
        "jsonPath": column.json_path,
        "description": column.description,
    })
}

fn generate(make: impl FnOnce(&mut schemars::SchemaGenerator) -> schemars::Schema) -> Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    neutral(make(&mut generator).to_value())
}

/// Brings what schemars says into the few forms that Kubernetes knows.
fn neutral(schema: Value) -> Value {
    let Value::Object(mut schema) = schema else {
        return json!({ PRESERVE: true });
    };
    for key in ["$schema", "title", "default"] {
        schema.remove(key);
    }
    unwrap_nullable(&mut schema);
    merge_constants(&mut schema);
    bound_integers(&mut schema);
    name_values(&mut schema);
    for key in ["properties"] {
        if let Some(Value::Object(properties)) = schema.get_mut(key) {
            properties.values_mut().for_each(|child| *child = neutral(child.take()));
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(child) = schema.get_mut(key) {
            *child = neutral(child.take());
        }
    }
    if schema.is_empty() { json!({ PRESERVE: true }) } else { Value::Object(schema) }
}

/// `Option<T>` has the schema of `T`: null is the same as absent.
fn unwrap_nullable(schema: &mut Map<String, Value>) {
    let is_null = |one: &Value| one.get("type") == Some(&json!("null"));
    if let Some(Value::Array(choices)) = schema.remove("anyOf") {
        let inner = choices.into_iter().find(|choice| !is_null(choice)).unwrap_or_default();
        if let Value::Object(inner) = inner {
            let own = std::mem::take(schema);
            schema.extend(inner);
            schema.extend(own);
        }
    }
    if let Some(Value::Array(types)) = schema.get("type") {
        let first = types.iter().find(|one| **one != json!("null")).cloned();
        schema.insert("type".into(), first.unwrap_or_default());
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
}

/// Documented variants of an enum come as `oneOf` constants.
fn merge_constants(schema: &mut Map<String, Value>) {
    if let Some(Value::Array(choices)) = schema.remove("oneOf") {
        let values = choices.iter().flat_map(|choice| match (choice.get("const"), choice.get("enum")) {
            (Some(value), _) => vec![value.clone()],
            (_, Some(Value::Array(values))) => values.clone(),
            _ => Vec::new(),
        });
        schema.insert("enum".into(), values.collect());
        schema.insert("type".into(), json!("string"));
    }
}

/// Kubernetes knows no unsigned formats.
fn bound_integers(schema: &mut Map<String, Value>) {
    match schema.get("format").and_then(Value::as_str) {
        Some("uint32") => {
            schema.remove("format");
            schema.entry("minimum").or_insert(json!(0));
            schema.entry("maximum").or_insert(json!(u32::MAX));
        }
        Some("uint64") => {
            schema.insert("format".into(), json!("int64"));
            schema.entry("minimum").or_insert(json!(0));
        }
        _ => {}
    }
}

/// Closed objects need no saying so; maps with other keys than strings are maps.
fn name_values(schema: &mut Map<String, Value>) {
    if let Some(Value::Object(patterns)) = schema.remove("patternProperties") {
        let values = patterns.into_iter().next().map(|(_, values)| values).unwrap_or_default();
        schema.insert("additionalProperties".into(), values);
    } else if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
        schema.remove("additionalProperties");
    }
}

/// Turns our keywords into what a Kubernetes API server understands.
fn structural(schema: Value) -> Value {
    let Value::Object(mut schema) = schema else { return schema };
    if let Some(Value::Array(groups)) = schema.remove(ONE_OF) {
        one_of(&mut schema, &groups);
    }
    let minimum = schema.remove(MINIMUM_DURATION);
    if schema.get("format") == Some(&json!(duration::FORMAT)) {
        schema.remove("format");
        // The API server bounds what all rules of a CRD may cost, so where any length will do a pattern must.
        match minimum {
            Some(_) => schema.insert("pattern".into(), json!(duration::PATTERN)),
            None => schema.insert("x-kubernetes-validations".into(), json!([duration_rule()])),
        };
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(|child| *child = structural(child.take()));
    }
    for key in ["items", "additionalProperties"] {
        if let Some(child) = schema.get_mut(key) {
            *child = structural(child.take());
        }
    }
    Value::Object(schema)
}

fn duration_rule() -> Value {
    json!({
        "rule": "duration(self) >= duration('1ms')",
        "message": duration::expectation("1ms"),
    })
}

fn one_of(schema: &mut Map<String, Value>, groups: &[Value]) {
    let group = |names: &Value| {
        let required: Vec<_> =
            names.as_array().into_iter().flatten().map(|name| json!({ "required": [name] })).collect();
        let mut choices = vec![json!({ "not": { "anyOf": required } })];
        choices.extend(required);
        json!(choices)
    };
    match groups {
        [only] => schema.insert("oneOf".into(), group(only)),
        several => {
            let all: Vec<_> = several.iter().map(|names| json!({ "oneOf": group(names) })).collect();
            schema.insert("allOf".into(), json!(all))
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every node of a schema, with its path.
    fn nodes(schema: &Value, path: &str, found: &mut Vec<(String, Value)>) {
        found.push((path.to_string(), schema.clone()));
        for (name, child) in schema["properties"].as_object().into_iter().flatten() {
            nodes(child, &format!("{path}.{name}"), found);
        }
        for key in ["items", "additionalProperties"] {
            if let Some(child) = schema.get(key) {
                nodes(child, &format!("{path}[]"), found);
            }
        }
    }

    #[test]
    fn schemas_are_structural() {
        for kind in Kind::all() {
            let mut found = Vec::new();
            nodes(&object_schema(kind), kind.name(), &mut found);
            for (path, node) in found {
                let typed = node["type"].is_string() || node[PRESERVE] == json!(true);
                assert!(typed, "{path} has no type: {node}");
                for key in
                    ["$ref", "$defs", "default", "patternProperties", "anyOf", ONE_OF, MINIMUM_DURATION]
                {
                    assert!(node.get(key).is_none(), "{path} has {key}");
                }
                for name in node["required"].as_array().into_iter().flatten() {
                    let name = name.as_str().unwrap();
                    assert!(node["properties"].get(name).is_some(), "{path} requires {name}, which it lacks");
                }
                let closed = node.get("properties").is_none() || node.get("additionalProperties").is_none();
                assert!(closed, "{path} has both properties and additionalProperties");
            }
        }
    }

    #[test]
    fn groups_name_properties_that_exist() {
        for kind in Kind::all() {
            let mut found = Vec::new();
            nodes(spec(kind), kind.name(), &mut found);
            for (path, node) in found {
                for name in node[ONE_OF].as_array().into_iter().flatten().flat_map(|g| g.as_array().unwrap())
                {
                    assert!(node["properties"].get(name.as_str().unwrap()).is_some(), "{path}: {name}");
                }
            }
        }
    }

    #[test]
    fn one_version_is_stored() {
        for crd in crds() {
            let stored = crd["spec"]["versions"].as_array().unwrap().iter().filter(|v| v["storage"] == true);
            assert_eq!(stored.count(), 1, "{}", crd["metadata"]["name"]);
        }
    }
}
