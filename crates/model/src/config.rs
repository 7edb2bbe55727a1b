//! What users wrote, typed, with what translation needs to order and to recognize it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use ahash::AHashMap;
use api::{FieldError, Spec};
use base::NamespacedName;

/// One resource that a user wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Config<T> {
    /// Given by the world when the resource comes in or changes; never reused within a process.
    pub revision: u64,
    pub name: NamespacedName,
    /// Seconds since 1970: the older of two that conflict wins.
    pub created: i64,
    /// The API server's count of the spec's changes, for whoever reports about this one; 0 outside of one.
    pub generation: i64,
    pub spec: T,
    /// What no proxy would take: found when first asked for.
    faults: OnceLock<Vec<FieldError>>,
}

impl<T> Config<T> {
    /// As a registry makes it; the world gives the revision.
    pub fn new(name: NamespacedName, created: i64, spec: T) -> Self {
        Self { revision: 0, name, created, generation: 0, spec, faults: OnceLock::new() }
    }

    pub fn at_generation(self, generation: Option<i64>) -> Self {
        Self { generation: generation.unwrap_or_default(), ..self }
    }
}

impl<T: Spec> Config<T> {
    /// What makes no sense in it. Registries let nothing of the kind in; whatever comes in otherwise must not spoil
    /// what proxies are told beside it.
    pub fn faults(&self) -> &[FieldError] {
        self.faults.get_or_init(|| api::judge(&self.spec, &self.name))
    }
}

/// All resources of a kind. Lists are ordered by age, then namespace and name.
#[derive(Debug)]
pub struct Configs<T> {
    pub revision: u64,
    all: Vec<Arc<Config<T>>>,
    by_name: AHashMap<NamespacedName, Arc<Config<T>>>,
    by_namespace: AHashMap<Arc<str>, Namespaced<T>>,
}

#[derive(Debug)]
struct Namespaced<T> {
    revision: u64,
    list: Vec<Arc<Config<T>>>,
}

impl<T> Default for Configs<T> {
    fn default() -> Self {
        Self { revision: 0, all: Vec::new(), by_name: AHashMap::new(), by_namespace: AHashMap::new() }
    }
}

impl<T> Configs<T> {
    /// From the resources in force; a namespace's revision is the newest of it and of `gone` from it.
    pub(crate) fn new<'a>(
        revision: u64,
        resources: impl Iterator<Item = &'a Arc<Config<T>>>,
        gone: &BTreeMap<Arc<str>, u64>,
    ) -> Self
    where
        T: 'a,
    {
        let mut all: Vec<_> = resources.cloned().collect();
        all.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        let mut by_namespace: AHashMap<Arc<str>, Namespaced<T>> = gone
            .iter()
            .map(|(namespace, revision)| {
                (Arc::clone(namespace), Namespaced { revision: *revision, list: vec![] })
            })
            .collect();
        for config in &all {
            let entry = by_namespace
                .entry(Arc::clone(&config.name.namespace))
                .or_insert_with(|| Namespaced { revision: 0, list: Vec::new() });
            entry.revision = entry.revision.max(config.revision);
            entry.list.push(Arc::clone(config));
        }
        let by_name = all.iter().map(|config| (config.name.clone(), Arc::clone(config))).collect();
        Self { revision, all, by_name, by_namespace }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Config<T>>> {
        self.all.iter()
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn get(&self, name: &NamespacedName) -> Option<&Arc<Config<T>>> {
        self.by_name.get(name)
    }

    pub fn in_namespace(&self, namespace: &str) -> &[Arc<Config<T>>] {
        self.by_namespace.get(namespace).map_or(&[], |entry| entry.list.as_slice())
    }

    /// Changes when any resource of the namespace comes, changes or goes.
    pub fn revision_in(&self, namespace: &str) -> u64 {
        self.by_namespace.get(namespace).map_or(0, |entry| entry.revision)
    }
}
