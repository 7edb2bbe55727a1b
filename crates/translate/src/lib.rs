//! `Snapshot` and `Node` in, xDS out. Pure.

mod node;
mod scope;
mod set;

pub use node::{ISTIO_EXTENSIONS, Interception, Node, NodeError, NodeKind};
pub use scope::{Facets, IpMode, Scope};
pub use set::{ResourceSet, SetChanges};
