//! The ADS state machines, both ends, without I/O; thin gRPC and REST adapters.
//!
//! - [`server::Session`]: one stream of one client, state of the world or delta. It is told requests and that its
//!   [`Source`] may show something new, and says what to send next.
//! - [`client::Client`]: the other end. It is told responses and verdicts, and says what to send and what to apply.
//! - [`grpc`] and [`rest`] carry them over HTTP/2 and by polling.
//!
//! Knows resources as names, versions and bytes. Only the client looks inside them, to learn which names a cluster or
//! listener refers to.

pub mod client;
pub mod grpc;
mod payload;
pub mod rest;
pub mod server;
mod source;

pub use payload::{Payload, Payloads};
pub use source::{Everything, Source, Touch, Touched};

/// Whether each response carries all there is or only what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// State of the world: a response about clusters or listeners names all of them.
    Sotw,
    /// Incremental.
    Delta,
}
