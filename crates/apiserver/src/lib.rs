//! The embedded Kubernetes-style API and its store.
//!
//! `Server::start` gives a real HTTPS endpoint that `kubectl` and `kube-rs` work against. Inside, from the
//! bottom: `store` (revisions, transactions, watches in one file), `kinds` and `schema` (what resources
//! there are and how they look), `fields` and `patch` (server-side apply and the patches), `engine` (the
//! verbs, without HTTP), `controllers` (what Kubernetes does by itself), `http` (the wire).
//!
//! Not here: running anything (Deployments are stored, no Pod is made), RBAC (the administrator may do
//! everything, service accounts may only ask who they are), admission webhooks (an `Advisor` in the same process warns).

mod advice;
mod config;
mod controllers;
pub mod engine;
mod fields;
#[doc(hidden)]
pub mod fuzz;
mod http;
mod keys;
pub mod kinds;
pub mod patch;
pub mod schema;
pub mod selector;
pub mod status;
pub mod store;

/// The version of this crate, as `/version` and OpenAPI say it.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

pub use advice::Advisor;
pub use config::{Config, Handle, Server, StartError};
