//! From an accepted socket to the filter chain that takes the connection.

mod accept;
mod chain;
mod detect;
mod exchange_tcp;
mod proxy_protocol;
mod sniff;
mod tcp_proxy;

pub use accept::{Arrived, accept_tcp, accept_unix};
pub use chain::admits;
