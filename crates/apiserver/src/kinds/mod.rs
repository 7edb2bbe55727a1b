//! The table of resources that this server has: names, versions, scope, schema, columns.

mod core;
mod custom;

use crate::schema::{Id, Schemas};
use crate::status::About;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The core kinds, which have behaviour of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Core {
    Namespace,
    Service,
    Pod,
    Endpoints,
    EndpointSlice,
    ServiceAccount,
    Secret,
    ConfigMap,
    Node,
    Event,
    Deployment,
    ReplicaSet,
    Lease,
}

/// A column of a table, as a CRD declares it.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    /// `string`, `integer`, `date`, …
    pub typ: String,
    /// A simple JSON path: `.spec.hosts`.
    pub path: String,
    pub description: String,
    /// Above 0 only with `-o wide`.
    pub priority: i32,
}

/// One resource.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Empty for the core group.
    pub group: String,
    /// Served versions; the first one is stored and preferred.
    pub versions: Vec<String>,
    pub kind: String,
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    /// Whether `status` is a subresource.
    pub status: bool,
    /// `None` for custom resources.
    pub core: Option<Core>,
    pub schema: Id,
    pub columns: Vec<Column>,
}

impl Resource {
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// `v1` or `networking.istio.io/v1`.
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// What a status says of one object of this resource.
    pub fn about(&self, name: &str) -> About {
        let (group, kind) = (self.group.clone(), self.plural.clone());
        About { group, kind, name: name.to_owned(), uid: String::new() }
    }

    /// The same with the kind, as `Invalid` says it.
    pub fn about_kind(&self, name: &str) -> About {
        About { kind: self.kind.clone(), ..self.about(name) }
    }

    /// The prefix of the keys of all its objects, or of those in one namespace.
    pub fn prefix(&self, namespace: Option<&str>) -> String {
        let group = if self.group.is_empty() { "core" } else { &self.group };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("/registry/{group}/{}/{namespace}/", self.plural),
            None => format!("/registry/{group}/{}/", self.plural),
        }
    }

    /// The store's key of one object.
    pub fn key(&self, namespace: Option<&str>, name: &str) -> String {
        format!("{}{name}", self.prefix(namespace))
    }

    /// The name of its OpenAPI definition at that version.
    pub fn definition(&self, version: &str) -> String {
        if let Some(name) = core::definition(self) {
            return name.to_owned();
        }
        let reversed: Vec<&str> = self.group.rsplit('.').collect();
        format!("{}.{version}.{}", reversed.join("."), self.kind)
    }

    /// Whether `scale` is a subresource.
    pub fn scales(&self) -> bool {
        matches!(self.core, Some(Core::Deployment | Core::ReplicaSet))
    }

    /// Whether `metadata.generation` counts changes of the specification.
    pub fn counts_generations(&self) -> bool {
        match self.core {
            None => true,
            Some(core) => {
                matches!(core, Core::Deployment | Core::ReplicaSet | Core::EndpointSlice | Core::Pod)
            }
        }
    }
}

/// Whether the values at this key are sealed: Secrets, and what the server keeps for itself.
pub fn sealed(key: &str) -> bool {
    key.starts_with("/registry/core/secrets/") || key.starts_with("/internal/keys/")
}

/// All of them.
#[derive(Debug)]
pub struct Kinds {
    pub resources: Vec<Arc<Resource>>,
    pub schemas: Schemas,
    /// OpenAPI definitions by name.
    pub definitions: Map<String, Value>,
}

impl Kinds {
    /// Core kinds and Istio's.
    pub fn standard() -> Self {
        let mut kinds = Self { resources: Vec::new(), schemas: Schemas::default(), definitions: Map::new() };
        core::add(&mut kinds);
        custom::add(&mut kinds);
        kinds
    }

    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources
            .iter()
            .find(|r| r.plural == plural && r.group == group && r.versions.iter().any(|v| v == version))
    }

    pub fn by_kind(&self, group: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.resources.iter().find(|r| r.kind == kind && r.group == group)
    }

    pub fn core(&self, core: Core) -> &Arc<Resource> {
        let found = self.resources.iter().find(|r| r.core == Some(core));
        found.unwrap_or(&self.resources[0])
    }

    /// Groups with their versions, preferred first; the core group is not among them.
    pub fn groups(&self) -> BTreeMap<String, Vec<String>> {
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for resource in self.resources.iter().filter(|r| !r.group.is_empty()) {
            let versions = groups.entry(resource.group.clone()).or_default();
            for version in &resource.versions {
                if !versions.contains(version) {
                    versions.push(version.clone());
                }
            }
        }
        for (group, version) in [("authentication.k8s.io", "v1"), ("authorization.k8s.io", "v1")] {
            groups.entry(group.into()).or_insert_with(|| vec![version.into()]);
        }
        for versions in groups.values_mut() {
            versions.sort_by_key(|version| rank(version));
        }
        groups
    }
}

/// Stable versions before betas before alphas, newer before older.
fn rank(version: &str) -> (u8, std::cmp::Reverse<u32>, std::cmp::Reverse<u32>) {
    let body = version.trim_start_matches('v');
    let digits = |text: &str| text.parse().unwrap_or(0);
    let split = |mark: &str| body.split_once(mark).map(|(a, b)| (digits(a), digits(b)));
    let (class, (major, minor)) = match (split("beta"), split("alpha")) {
        (Some(parts), _) => (1, parts),
        (_, Some(parts)) => (2, parts),
        _ => (0, (digits(body), 0)),
    };
    (class, std::cmp::Reverse(major), std::cmp::Reverse(minor))
}
