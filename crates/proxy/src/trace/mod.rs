//! Traces: which one a request belongs to, by B3 or W3C headers, and spans in Zipkin's JSON.
//!
//! Whether to sample is decided once per trace: by who began it, or here for a trace that begins here.

mod context;
mod span;

pub use context::{Propagation, SpanContext};
pub use span::{Span, SpanKind, encode_spans};
