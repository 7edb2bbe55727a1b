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

/// What changed among the resources of one type, as a client learned it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    pub resource_type: ResourceType,
    pub changed: Vec<Resource>,
    pub removed: Vec<Arc<str>>,
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
