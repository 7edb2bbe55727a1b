//! From an accepted socket to the filter chain that takes the connection.

mod accept;
mod chain;
mod detect;
pub(crate) mod exchange_tcp;
pub(crate) mod proxy_protocol;
pub(crate) mod sniff;
mod tcp_proxy;

pub use accept::{Arrived, accept_tcp, accept_unix};
pub use chain::admits;
