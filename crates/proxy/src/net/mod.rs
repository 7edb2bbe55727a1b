//! Sockets: what listens, what connects, and one stream type over plain TCP, Unix sockets and TLS.
//!
//! Nothing here knows HTTP or configuration resources; callers say what they want in plain values.

mod cache;
mod io;
mod names;
mod socket;
mod tls_info;

pub use cache::{DnsCache, NameError};
pub use io::{Io, Kind};
pub use names::{Found, LookUp, Looking, Question, look_up_here};
pub use socket::{
    ConnectOptions, Connecting, Keepalive, ListenOptions, Outside, bind_tcp, connect, local_address,
    original_destination,
};
