//! DNS for a workload: names of the mesh from the control plane's table, everything else from the resolvers that the
//! machine had before.
//!
//! [`message`] reads questions and writes answers, [`names`] looks names up, [`forward`] asks others, [`server`] listens. There is no
//! cache: the application's own resolver library or the upstream has one.

pub mod forward;
pub mod message;
pub mod names;
pub mod server;

pub use forward::{Found, ResolvConf, Resolvers};
pub use names::{Names, NamesConfig};
pub use server::{Dns, DnsConfig};
