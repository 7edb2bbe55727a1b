//! In-memory mesh, fixtures, network namespaces as hosts. A dev-dependency only.

pub mod cost;
pub mod hosts;
pub mod istiod;
pub mod peers;
pub mod relay;
