//! Data-plane I/O: listeners, HTTP and TCP, pools, mTLS, access log.
//!
//! ```text
//! control thread ── Plan, Target, EndpointSet by message ──► worker (one per core)
//!   admin, ADS, DNS, sockets                                   listen ─► exchange ─► cluster ─► wire ─► net
//! ```
//!
//! - [`control`]: takes configuration, has it compiled by `decide`, tells the workers; [`Handle`] is the grip on it.
//! - [`worker`]: a pinned thread that owns its connections, pools and statistics. No lock, no shared cache line written on
//!   the request path but what is promised for the whole proxy (breakers, outliers), which are atomics in `upstream`.
//! - [`listen`]: accepts, restores destinations, looks at first bytes, finds the filter chain.
//! - [`exchange`]: one HTTP request: decide, try, retry, answer, count, log.
//! - [`check`]: active health checks, once for all workers.
//! - [`cluster`]: pools; [`wire`]: HTTP/1 and HTTP/2 behind one set of heads and frames; [`h1`]: the HTTP/1 codec.
//!
//! Which route, which policy, which endpoint is not decided here: that is `decide` and `upstream`.

mod admin;
pub mod bootstrap;
mod check;
mod clock;
mod cluster;
mod control;
mod exchange;
#[doc(hidden)]
pub mod fuzz;
mod h1;
mod listen;
mod log;
mod net;
mod overload;
mod reach;
pub mod restart;
mod stats;
mod tcp;
mod telemetry;
mod trace;
mod wire;
mod worker;

pub use control::{Handle, SecretError, Secrets, Settings, StartError, start};
pub use net::{Connecting, Found, LookUp, Looking, Outside, Question};
pub use stats::{Snapshot, Wanted as WantedStats, prometheus, text as stats_text};
pub use worker::Node;
