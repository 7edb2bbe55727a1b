//! Logging set-up, the signals that end a program, and pauses between tries.
//!
//! What both programs need around their work, and nothing of the work itself.

pub mod backoff;
pub mod logging;
pub mod shutdown;
