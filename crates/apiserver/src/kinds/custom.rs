//! The custom resources: what the `api` crate defines, with its schemas as the CRDs carry them.

use super::{Column, Kinds, Resource};
use api::{Kind, KindInfo, Scope};
use serde_json::{Value, json};
use std::sync::Arc;

const META: &str = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

pub(super) fn add(kinds: &mut Kinds) {
    for info in Kind::all().map(Kind::info) {
        let schema = object_schema(info);
        let id = kinds.schemas.add(&schema);
        let resource = Arc::new(resource(info, id));
        for version in &resource.versions {
            let mut schema = schema.clone();
            schema["x-kubernetes-group-version-kind"] =
                json!([{ "group": info.group, "version": version, "kind": info.name }]);
            kinds.definitions.insert(resource.definition(version), schema);
        }
        kinds.resources.push(resource);
    }
}

/// The schema of the CRD with what every object has.
fn object_schema(info: &KindInfo) -> Value {
    let mut schema = api::schema::object_schema(info.kind);
    let properties = &mut schema["properties"];
    properties["apiVersion"] = json!({ "type": "string", "description":
        "APIVersion defines the versioned schema of this representation of an object." });
    properties["kind"] = json!({ "type": "string", "description":
        "Kind is a string value representing the REST resource this object represents." });
    properties["metadata"] =
        json!({ "allOf": [{ "$ref": META }], "description": "Standard object's metadata." });
    schema
}

fn resource(info: &KindInfo, schema: crate::schema::Id) -> Resource {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
    let columns = info.columns.iter().map(|column| Column {
        name: column.name.to_owned(),
        typ: column.kind.to_owned(),
        path: column.json_path.to_owned(),
        description: column.description.to_owned(),
        priority: 0,
    });
    Resource {
        group: info.group.to_owned(),
        versions: owned(info.versions),
        kind: info.name.to_owned(),
        plural: info.plural.to_owned(),
        singular: info.singular.to_owned(),
        short_names: owned(info.short_names),
        categories: owned(info.categories),
        namespaced: info.scope == Scope::Namespaced,
        status: info.status,
        core: None,
        schema,
        columns: columns.collect(),
    }
}
