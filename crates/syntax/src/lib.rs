//! The small languages that people write inside of fields: Envoy's format strings, the CEL of log filters, regular
//! expressions with their substitutions, path templates, key sets.
//!
//! One parser for each, so that what is accepted when a resource is applied is what a proxy takes: `api` judges with
//! them, `translate` drops what they refuse, `decide` compiles what they read. Values are `decide`'s: nothing here
//! knows a request. No I/O.

pub mod cel;
pub mod format;
pub mod jwks;
pub mod regular;
mod time;

pub use time::TimeFormat;
