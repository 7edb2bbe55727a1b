//! Where a server's resources come from.

use std::sync::Arc;

use proto::{Resource, ResourceType};

/// The resources of one client at one moment. Asking again must give the same until the source is replaced.
pub trait Source {
    /// Which moment it is: grows with each.
    fn generation(&self) -> u64;

    /// Everything of a type, for those who ask for all: ordered by name, each name once. The same `Arc` as before says
    /// cheaply that nothing changed.
    fn all(&self, resource_type: ResourceType) -> Arc<[Resource]>;

    /// One resource, for those who ask by name.
    fn get(&self, resource_type: ResourceType, name: &str) -> Option<Resource>;
}

/// What may differ between the source before and the source now. Saying too much costs time, too little loses updates.
pub trait Touched {
    fn touches(&self, resource_type: ResourceType) -> bool;
    fn touches_name(&self, resource_type: ResourceType, name: &str) -> bool;
}

/// Everything may differ.
#[derive(Debug, Clone, Copy, Default)]
pub struct Everything;

impl Touched for Everything {
    fn touches(&self, _: ResourceType) -> bool {
        true
    }

    fn touches_name(&self, _: ResourceType, _: &str) -> bool {
        true
    }
}
