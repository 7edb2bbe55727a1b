//! All resources of a type that a scope is to have, and what differs between two such sets.

use std::sync::{Arc, OnceLock};

use proto::{Layer, Layers, Resource};

/// All resources of a type for a scope.
#[derive(Debug, Default)]
pub struct ResourceSet {
    layers: Layers,
    /// All names in order; made when somebody asks.
    names: OnceLock<Arc<[Arc<str>]>>,
}

impl PartialEq for ResourceSet {
    fn eq(&self, other: &Self) -> bool {
        self.layers == other.layers
    }
}

impl Eq for ResourceSet {}

/// What must be sent to get from one set to another.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SetChanges {
    /// New, or different from before.
    pub changed: Vec<Resource>,
    pub removed: Vec<Arc<str>>,
    /// Of both.
    names: Vec<Arc<str>>,
}

/// A layer of these, each name once.
pub(crate) fn layer(mut resources: Vec<Resource>) -> Layer {
    resources.sort_by(|a, b| a.name.cmp(&b.name));
    resources.dedup_by(|a, b| a.name == b.name);
    resources.into()
}

impl ResourceSet {
    pub fn new(resources: Vec<Resource>) -> Self {
        Self::layered([layer(resources)])
    }

    /// Layers must not share a name.
    pub(crate) fn layered(layers: impl IntoIterator<Item = Layer>) -> Self {
        Self { layers: layers.into_iter().collect(), ..Self::default() }
    }

    /// Equal for equal sets.
    pub(crate) fn fingerprint(&self) -> u64 {
        use std::hash::{BuildHasher, Hash, Hasher};
        let mut hasher = ahash::RandomState::with_seeds(31, 32, 33, 34).build_hasher();
        for layer in self.layers.iter() {
            layer.len().hash(&mut hasher);
            for resource in layer.iter() {
                resource.version.hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    pub fn get(&self, name: &str) -> Option<&Resource> {
        self.layers.get(name)
    }

    /// Ordered by name within each layer.
    pub fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.layers.resources()
    }

    pub fn names(&self) -> &Arc<[Arc<str>]> {
        self.names.get_or_init(|| {
            let mut names: Vec<_> = self.iter().map(|resource| Arc::clone(&resource.name)).collect();
            names.sort_unstable();
            names.into()
        })
    }

    pub fn len(&self) -> usize {
        self.layers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// What a holder of this set lacks of the newer one. Layers that both hold cost nothing.
    pub fn changes_to(&self, newer: &Self) -> SetChanges {
        let (old, new) = (&self.layers, &newer.layers);
        let differs = |resource: &&Resource| {
            old.get(&resource.name).is_none_or(|before| before.version != resource.version)
        };
        let gone = |resource: &&Resource| new.get(&resource.name).is_none();
        let changed = new.beside(old).flat_map(|layer| layer.iter()).filter(differs).cloned();
        let removed = old.beside(new).flat_map(|layer| layer.iter()).filter(gone);
        SetChanges::new(changed.collect(), removed.map(|resource| Arc::clone(&resource.name)).collect())
    }
}

impl SetChanges {
    pub fn new(changed: Vec<Resource>, removed: Vec<Arc<str>>) -> Self {
        let names = changed.iter().map(|resource| &resource.name).chain(&removed).cloned().collect();
        Self { changed, removed, names }
    }

    /// The names of what changed or went, in no order.
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(of: &[(&str, u64)]) -> ResourceSet {
        let resource = |(name, version): &(&str, u64)| Resource {
            name: (*name).into(),
            version: *version,
            body: bytes::Bytes::new(),
        };
        ResourceSet::new(of.iter().map(resource).collect())
    }

    #[test]
    fn changes_name_what_came_changed_and_went() {
        let (a, b) = (set(&[("a", 1), ("b", 1), ("d", 1)]), set(&[("b", 2), ("c", 1), ("d", 1), ("e", 1)]));
        let changes = a.changes_to(&b);
        let changed: Vec<_> = changes.changed.iter().map(|resource| &*resource.name).collect();
        assert_eq!(changed, ["b", "c", "e"]);
        assert_eq!(changes.removed.iter().map(|name| &**name).collect::<Vec<_>>(), ["a"]);
        assert!(a.changes_to(&a).is_empty());
        assert_eq!(b.changes_to(&set(&[])).removed.len(), 4);
        assert_eq!(set(&[]).changes_to(&b).changed.len(), 4);
        assert_eq!(b.get("c").map(|resource| resource.version), Some(1));
    }
}
