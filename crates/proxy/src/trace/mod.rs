//! Traces: which one a request belongs to, by B3 or W3C headers, and spans in Zipkin's and OTLP's form.
//!
//! Whether to sample is decided once per trace: by who began it, or here for a trace that begins here.

mod context;
mod otlp;
mod serving;
mod span;

pub use context::SpanContext;
pub use otlp::{encode_otlp, grpc_frame, refused_by};
pub use serving::{InService, Serving};
pub use span::{Span, SpanKind, encode_zipkin};
