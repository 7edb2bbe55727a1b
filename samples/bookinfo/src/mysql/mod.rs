//! As much of MySQL's protocol as ratings and its stand-in database need: log in, ask one thing, read rows.
//!
//! The protocol: MySQL's client/server protocol, version 10 handshake, `mysql_native_password`, text result sets.

pub(crate) mod client;
pub(crate) mod server;
mod wire;
