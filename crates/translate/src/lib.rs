//! `Snapshot` and `Node` in, xDS out. Pure: no clock, no I/O, no globals.
//!
//! [`Node::from_proto`] reads who asks, [`Scope::of`] reduces it to what configuration may depend on, and a
//! [`Translator`] yields the [`ResourceSet`] of each type for a snapshot and a scope. Every result is remembered with
//! exactly what was read to make it (`memo`), so that scopes that read the same share every byte, and what does not
//! change keeps its bytes.
//!
//! What comes out is what a real istiod would say, so that any proxy made for it understands; Istio's own extensions
//! go only to proxies that say they know them.

mod base64;
mod build;
mod claims;
mod cluster;
mod delegate;
mod destination_rule;
mod encode;
mod endpoint;
mod gateway;
mod instance;
mod jwt;
mod listener;
mod locality;
mod memo;
mod mtls;
mod nds;
mod node;
mod peer;
mod policies;
mod rbac;
mod readable;
mod roots;
mod route;
mod scope;
mod secret;
mod servers;
mod set;
mod telemetry;
mod translator;
mod view;

pub use node::{ISTIO_EXTENSIONS, Interception, Node, NodeError, NodeKind};
pub use scope::{Facets, IpMode, Scope};
pub use set::{ResourceSet, SetChanges};
pub use translator::Translator;
