//! Resources as they travel: a name, a version and an encoded body.

use std::sync::Arc;

use bytes::Bytes;

use crate::ResourceType;

/// One resource, encoded once and shared by everybody who sends or holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub name: Arc<str>,
    /// Equal versions mean equal bodies: a hash of the content.
    pub version: u64,
    /// The encoded message, without its `Any` envelope.
    pub body: Bytes,
}

/// Resources of one type that are held together: ordered by name, each name once.
pub type Layer = Arc<[Resource]>;

/// All resources of a type for one client, in layers: what clients have in common is one layer that all of them hold.
/// No name is in two layers, and no layer is empty. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers(Arc<[Layer]>);

impl Default for Layers {
    fn default() -> Self {
        Self(Arc::from([]))
    }
}

impl FromIterator<Layer> for Layers {
    fn from_iter<I: IntoIterator<Item = Layer>>(layers: I) -> Self {
        Self(layers.into_iter().filter(|layer| !layer.is_empty()).collect())
    }
}

impl Layers {
    pub fn iter(&self) -> impl Iterator<Item = &Layer> {
        self.0.iter()
    }

    /// Ordered by name within each layer.
    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.0.iter().flat_map(|layer| layer.iter())
    }

    pub fn get(&self, name: &str) -> Option<&Resource> {
        self.0.iter().find_map(|layer| {
            let at = layer.binary_search_by(|resource| (*resource.name).cmp(name)).ok()?;
            layer.get(at)
        })
    }

    pub fn len(&self) -> usize {
        self.0.iter().map(|layer| layer.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is the same to the pointer: then nothing differs, at no cost.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The layers that the other does not hold: only in these can anything differ.
    pub fn beside<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a Layer> {
        let held = |layer: &Layer| other.0.iter().any(|known| Arc::ptr_eq(known, layer));
        self.0.iter().filter(move |layer| !held(layer))
    }
}

/// What changed among the resources of one type, as a client learned it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    pub resource_type: ResourceType,
    pub changed: Vec<Resource>,
    pub removed: Vec<Arc<str>>,
}

/// The route table that a virtual host is of, by its resource's name: `TABLE/HOST`.
pub fn table_of_host(name: &str) -> Option<&str> {
    name.rsplit_once('/').map(|(table, _)| table)
}

/// Why one resource was not taken; the others of its delta were.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{resource_type} {name}: {field}: {reason}")]
pub struct Rejection {
    pub resource_type: ResourceType,
    pub name: Arc<str>,
    /// The path of the field at fault, in protobuf's JSON names.
    pub field: String,
    pub reason: String,
}
