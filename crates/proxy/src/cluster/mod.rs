//! Clusters at run time, as one worker sees them: which host, over which connection.
//!
//! [`Target`] is what the control thread compiled; [`Cluster`] is one worker's pools and balancer of it, and outlives it.

mod dial;
pub(crate) mod http2;
mod lease;
mod local;
mod pool;
mod target;

pub use dial::{DialError, TlsOverride, dial};
pub use lease::{H1Lease, H2Lease, Lease};
pub use local::{Cluster, Neighbours};
pub use pool::{AcquireError, UpstreamInfo, Want};
pub use target::{HttpProtocol, Target, Transport};
