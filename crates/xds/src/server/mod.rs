//! The server's end of ADS, without I/O.

mod request;
mod session;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod watch;

pub use request::{Names, Request};
pub use session::{Outgoing, Received, Session};
pub use watch::{State, TypeStatus};
