//! The protobuf types (from a published crate), type URLs and the JSON mapping. No logic.
//!
//! Messages are `envoy-types`'. What crosses between the ADS machines and whoever produces or compiles resources is
//! [`Resource`] and [`Delta`]: names and encoded bodies, so that bytes can be shared down to the socket.

pub mod istio;
pub mod json;
pub mod opentelemetry;
mod resource;
mod type_url;

pub use envoy_types::pb;
pub use resource::{Delta, Layer, Layers, Rejection, Resource, table_of_host};
pub use type_url::ResourceType;
