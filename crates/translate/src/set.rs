//! All resources of a type that a scope is to have, and what differs between two such sets.

use std::sync::{Arc, OnceLock};

use proto::Resource;

/// Resources ordered by name; each name once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Layer(Arc<[Resource]>);

/// All resources of a type for a scope, in layers: what scopes have in common is one layer that all of them hold.
#[derive(Debug, Default)]
pub struct ResourceSet {
    layers: Vec<Arc<Layer>>,
    /// All layers as one list, and its names; made when somebody asks.
    all: OnceLock<Arc<[Resource]>>,
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
}

impl Layer {
    pub(crate) fn new(mut resources: Vec<Resource>) -> Self {
        resources.sort_by(|a, b| a.name.cmp(&b.name));
        resources.dedup_by(|a, b| a.name == b.name);
        Self(resources.into())
    }

    fn get(&self, name: &str) -> Option<&Resource> {
        let at = self.0.binary_search_by(|resource| (*resource.name).cmp(name)).ok()?;
        self.0.get(at)
    }
}

impl ResourceSet {
    pub fn new(resources: Vec<Resource>) -> Self {
        Self::layered(vec![Arc::new(Layer::new(resources))])
    }

    /// Layers must not share a name.
    pub(crate) fn layered(layers: Vec<Arc<Layer>>) -> Self {
        let layers = layers.into_iter().filter(|layer| !layer.0.is_empty()).collect();
        Self { layers, ..Self::default() }
    }

    /// Equal for equal sets.
    pub(crate) fn fingerprint(&self) -> u64 {
        use std::hash::{BuildHasher, Hash, Hasher};
        let mut hasher = ahash::RandomState::with_seeds(31, 32, 33, 34).build_hasher();
        for layer in &self.layers {
            layer.0.len().hash(&mut hasher);
            for resource in layer.0.iter() {
                resource.version.hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// All of them, ordered by name.
    pub fn resources(&self) -> &Arc<[Resource]> {
        match self.layers.as_slice() {
            [only] => &only.0,
            _ => self.all.get_or_init(|| {
                let mut all: Vec<_> = self.iter().cloned().collect();
                all.sort_by(|a, b| a.name.cmp(&b.name));
                all.into()
            }),
        }
    }

    pub fn get(&self, name: &str) -> Option<&Resource> {
        self.layers.iter().find_map(|layer| layer.get(name))
    }

    /// Ordered by name within each layer.
    pub fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.layers.iter().flat_map(|layer| layer.0.iter())
    }

    pub fn names(&self) -> &Arc<[Arc<str>]> {
        self.names
            .get_or_init(|| self.resources().iter().map(|resource| Arc::clone(&resource.name)).collect())
    }

    pub fn len(&self) -> usize {
        self.layers.iter().map(|layer| layer.0.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a holder of this set lacks of the newer one. Layers that both hold cost nothing.
    pub fn changes_to(&self, newer: &Self) -> SetChanges {
        let held = |layer: &&Arc<Layer>, by: &Self| by.layers.iter().any(|other| Arc::ptr_eq(other, layer));
        let mut changes = SetChanges::default();
        for resource in
            newer.layers.iter().filter(|layer| !held(layer, self)).flat_map(|layer| layer.0.iter())
        {
            if self.get(&resource.name).is_none_or(|before| before.version != resource.version) {
                changes.changed.push(resource.clone());
            }
        }
        for resource in
            self.layers.iter().filter(|layer| !held(layer, newer)).flat_map(|layer| layer.0.iter())
        {
            if newer.get(&resource.name).is_none() {
                changes.removed.push(Arc::clone(&resource.name));
            }
        }
        changes
    }
}

impl SetChanges {
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
