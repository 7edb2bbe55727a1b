//! Where a server's resources come from.

use std::sync::Arc;

use proto::{Layers, Resource, ResourceType};

/// The resources of one client at one moment. Asking again must give the same until the source is replaced.
pub trait Source {
    /// Which moment it is: grows with each.
    fn generation(&self) -> u64;

    /// Everything of a type, for those who ask for all. The same layers as before, to the pointer, say cheaply that
    /// nothing changed in them.
    fn all(&self, resource_type: ResourceType) -> Layers;

    /// One resource, for those who ask by name.
    fn get(&self, resource_type: ResourceType, name: &str) -> Option<Resource>;

    /// One that went a moment ago, for those who ask for it only now: what they were sent before may lead to it.
    fn gone(&self, _resource_type: ResourceType, _name: &str) -> Option<Resource> {
        None
    }
}

/// What may differ between the source before and the source now. Saying too much costs time, too little loses updates.
pub trait Touched {
    fn touched(&self, resource_type: ResourceType) -> Touch<'_>;
}

/// What of one type may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch<'a> {
    Nothing,
    Names(&'a [Arc<str>]),
    Everything,
}

/// Everything may differ.
#[derive(Debug, Clone, Copy, Default)]
pub struct Everything;

impl Touched for Everything {
    fn touched(&self, _: ResourceType) -> Touch<'_> {
        Touch::Everything
    }
}
