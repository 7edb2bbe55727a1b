//! What users write: Istio's resources and mesh configuration as types, with defaults, validation and CRD schemas.
//!
//! The types are hand-written after Istio's public API definitions; their JSON is protobuf's JSON as Istio's CRDs
//! accept it. Core Kubernetes kinds come from `k8s-openapi` and have no types here.
//!
//! A resource is judged in three steps, each of which says all that it finds, with the field's path:
//!
//! 1. [`parse`]: its shape. Unknown fields, wrong types, unknown enum values, bad durations.
//! 2. [`support`]: whether every field it uses is honoured. What is not built is refused by name.
//! 3. [`validate`]: its sense, as Istio's own validation judges it; includes the two before.
//!
//! Nothing here looks at a second resource: whether a host or subset exists is the analyzers' business. There is no
//! I/O and no clock.

mod check;
mod common;
pub mod docs;
mod duration;
mod error;
mod kind;
pub mod labels;
pub mod mesh;
mod mesh_load;
mod message;
pub mod names;
pub mod networking;
mod object;
pub mod schema;
pub mod security;
pub mod support;
pub mod telemetry;
mod validate;
pub mod yaml;

pub use common::*;
pub use duration::{Duration, ParseDurationError};
pub use error::{FieldError, Path, Reason, Validation, nearest};
pub use kind::{Column, Condition, Kind, KindInfo, Scope, Status, ValidationMessage, ValidationMessageType};
pub use mesh::MeshConfig;
pub use object::{Object, Spec, Typed, kind_of};
pub use schema::{crd, crds};
pub use validate::{judge, judge_mesh_config, validate};

use serde_json::Value;

/// Reads the spec of an object of that kind. Checks its shape, not its sense; every error is reported.
pub fn parse(kind: Kind, object: &Value) -> Result<Typed, Vec<FieldError>> {
    let (spec, errors) = check::spec(kind, object);
    if errors.is_empty() { object::decode(kind, spec).map_err(|error| vec![error]) } else { Err(errors) }
}

/// Reads and judges the MeshConfig of the ConfigMap `istio`, key `mesh`: the configuration, and warnings about what
/// has no effect here.
pub fn parse_mesh_config(yaml: &str) -> Result<(MeshConfig, Vec<String>), Vec<FieldError>> {
    mesh_load::load(yaml)
}

/// Judges the ConfigMap `istio` of the root namespace, which holds MeshConfig; `None` for any other object.
pub fn validate_mesh_config_map(object: &Value) -> Option<Validation> {
    mesh_load::validate_config_map(object)
}

/// Whether an object is the ConfigMap that holds MeshConfig.
pub fn is_mesh_config_map(object: &Value) -> bool {
    mesh_load::is_config_map(object)
}
