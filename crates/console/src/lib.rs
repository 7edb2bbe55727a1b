//! Serves the web UI and its API; writes go through the API server with the user's token.
//!
//! The graph is made of the proxies' own counters, collected every two seconds and kept for minutes. Nothing here has
//! rights of its own: what a user may see and change is the API server's to say.

mod collector;
mod exposition;
mod server;
mod traces;
pub mod traffic;

pub use collector::{Collector, Scrape};
pub use server::{ApiServer, MeshStatus, router};
pub use traces::Splitter;
