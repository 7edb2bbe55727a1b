//! The core kinds: their names, and their schemas from `k8s-openapi` with the facts about merging that
//! its schemas leave out (`lists.txt`).

use super::{Core, Kinds, Resource};
use k8s_openapi::api::authentication::v1 as authn;
use k8s_openapi::api::authorization::v1 as authz;
use k8s_openapi::api::{apps::v1 as apps, coordination::v1 as coordination, core::v1 as core};
use k8s_openapi::api::{core::v1::Event, discovery::v1 as discovery};
use k8s_openapi::schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use std::sync::Arc;

struct Row {
    core: Core,
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    status: bool,
    definition: &'static str,
}

const fn row(core: Core, group: &'static str, kind: &'static str, plural: &'static str) -> Row {
    let definition = "";
    Row {
        core,
        group,
        kind,
        plural,
        short: &[],
        categories: &[],
        namespaced: true,
        status: false,
        definition,
    }
}

const ALL: &[&str] = &["all"];

const ROWS: &[Row] = &[
    Row {
        short: &["ns"],
        namespaced: false,
        status: true,
        definition: "io.k8s.api.core.v1.Namespace",
        ..row(Core::Namespace, "", "Namespace", "namespaces")
    },
    Row {
        short: &["svc"],
        categories: ALL,
        status: true,
        definition: "io.k8s.api.core.v1.Service",
        ..row(Core::Service, "", "Service", "services")
    },
    Row {
        short: &["po"],
        categories: ALL,
        status: true,
        definition: "io.k8s.api.core.v1.Pod",
        ..row(Core::Pod, "", "Pod", "pods")
    },
    Row {
        short: &["ep"],
        definition: "io.k8s.api.core.v1.Endpoints",
        ..row(Core::Endpoints, "", "Endpoints", "endpoints")
    },
    Row {
        definition: "io.k8s.api.discovery.v1.EndpointSlice",
        ..row(Core::EndpointSlice, "discovery.k8s.io", "EndpointSlice", "endpointslices")
    },
    Row {
        short: &["sa"],
        definition: "io.k8s.api.core.v1.ServiceAccount",
        ..row(Core::ServiceAccount, "", "ServiceAccount", "serviceaccounts")
    },
    Row { definition: "io.k8s.api.core.v1.Secret", ..row(Core::Secret, "", "Secret", "secrets") },
    Row {
        short: &["cm"],
        definition: "io.k8s.api.core.v1.ConfigMap",
        ..row(Core::ConfigMap, "", "ConfigMap", "configmaps")
    },
    Row {
        short: &["no"],
        namespaced: false,
        status: true,
        definition: "io.k8s.api.core.v1.Node",
        ..row(Core::Node, "", "Node", "nodes")
    },
    Row { short: &["ev"], definition: "io.k8s.api.core.v1.Event", ..row(Core::Event, "", "Event", "events") },
    Row {
        short: &["deploy"],
        categories: ALL,
        status: true,
        definition: "io.k8s.api.apps.v1.Deployment",
        ..row(Core::Deployment, "apps", "Deployment", "deployments")
    },
    Row {
        short: &["rs"],
        categories: ALL,
        status: true,
        definition: "io.k8s.api.apps.v1.ReplicaSet",
        ..row(Core::ReplicaSet, "apps", "ReplicaSet", "replicasets")
    },
    Row {
        definition: "io.k8s.api.coordination.v1.Lease",
        ..row(Core::Lease, "coordination.k8s.io", "Lease", "leases")
    },
];

pub(super) fn definition(resource: &Resource) -> Option<&'static str> {
    ROWS.iter().find(|row| Some(row.core) == resource.core).map(|row| row.definition)
}

pub(super) fn add(kinds: &mut Kinds) {
    let definitions = definitions();
    kinds.schemas.define(&definitions);
    kinds.definitions.extend(definitions);
    for row in ROWS {
        let schema = kinds.schemas.named(row.definition).unwrap_or_default();
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        kinds.resources.push(Arc::new(Resource {
            group: row.group.into(),
            versions: vec!["v1".into()],
            kind: row.kind.into(),
            plural: row.plural.into(),
            singular: row.kind.to_lowercase(),
            short_names: owned(row.short),
            categories: owned(row.categories),
            namespaced: row.namespaced,
            status: row.status,
            core: Some(row.core),
            schema,
            columns: Vec::new(),
        }));
    }
}

fn definitions() -> Map<String, Value> {
    let mut generator = SchemaSettings::openapi3().into_generator();
    macro_rules! types {
        ($($t:ty),* $(,)?) => { $( let _ = generator.subschema_for::<$t>(); )* };
    }
    types!(
        core::Namespace,
        core::Service,
        core::Pod,
        core::Endpoints,
        discovery::EndpointSlice,
        core::ServiceAccount,
        core::Secret,
        core::ConfigMap,
        core::Node,
        Event,
        apps::Deployment,
        apps::ReplicaSet,
        coordination::Lease,
        authn::TokenReview,
        authn::TokenRequest,
        authn::SelfSubjectReview,
        authz::SelfSubjectAccessReview,
        authz::SubjectAccessReview,
        k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions,
        k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta,
        k8s_openapi::apimachinery::pkg::apis::meta::v1::Status,
    );
    let mut definitions: Map<String, Value> = generator.take_definitions(true).into_iter().collect();
    for schema in definitions.values_mut() {
        tidy(schema);
    }
    annotate(&mut definitions);
    for row in ROWS {
        name_kind(&mut definitions, row.definition, row.group, row.kind);
    }
    definitions
}

/// The extension by which kubectl finds a kind's definition.
fn name_kind(definitions: &mut Map<String, Value>, name: &str, group: &str, kind: &str) {
    if let Some(schema) = definitions.get_mut(name) {
        schema["x-kubernetes-group-version-kind"] =
            json!([{ "group": group, "version": "v1", "kind": kind }]);
        // In the published definitions no field of the top level is required.
        if let Some(schema) = schema.as_object_mut() {
            schema.remove("required");
        }
    }
}

/// Makes what the generator writes into what the real server publishes.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            // A reference with a description beside it goes into `allOf`.
            if map.len() > 1
                && let Some(target) = map.remove("$ref")
            {
                map.insert("allOf".into(), json!([{ "$ref": target }]));
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Adds the facts of `lists.txt`.
fn annotate(definitions: &mut Map<String, Value>) {
    let lines = include_str!("lists.txt").lines().filter(|line| !line.starts_with('#'));
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [short, field, fact, rest @ ..] = words.as_slice() else { continue };
        let ending = format!(".{short}");
        let found = definitions.iter_mut().find(|(name, _)| name.ends_with(&ending));
        let Some((_, schema)) = found else { continue };
        if *field == "-" {
            schema["x-kubernetes-map-type"] = json!("atomic");
            continue;
        }
        let Some(property) = schema.pointer_mut(&format!("/properties/{field}")) else { continue };
        if *fact == "atomic-map" {
            property["x-kubernetes-map-type"] = json!("atomic");
            continue;
        }
        if *fact != "-" {
            property["x-kubernetes-list-type"] = json!(fact);
        }
        if *fact == "map" {
            let keys: Vec<&str> = rest.first().map_or(Vec::new(), |keys| keys.split(',').collect());
            property["x-kubernetes-list-map-keys"] = json!(keys);
        }
        if let [_, strategy, key, ..] = rest {
            property["x-kubernetes-patch-strategy"] = json!(strategy);
            if *key != "-" {
                property["x-kubernetes-patch-merge-key"] = json!(key);
            }
        }
    }
}
