//! HTTP requests from their first byte to the last of their answer: decide, try, retry, answer, count, log.

mod answer;
mod attempt;
mod call;
mod coding;
mod deciding;
mod export;
mod failure;
mod flow;
mod forward;
mod grpc_web;
mod hedge;
mod mirror;
mod pass;
mod passing;
mod process;
mod pump;
mod record;
mod serve;
#[cfg(test)]
mod sizes;
mod spans;
mod timers;
mod tries;

pub use call::perform;
pub use export::{send_records, send_spans};
pub use serve::serve_http;
