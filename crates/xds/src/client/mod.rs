//! The client's end of ADS: the state machine without I/O, and a driver over HTTP/2.

mod dial;
mod driver;
mod poll;
mod references;
mod state;

pub use dial::{Connect, Dial, Tls};
pub use driver::{Config, Failure, Token, Update, run};
pub use poll::poll;
pub use state::{Client, ClientRequest, Names, Ready, Response, Ticket, name_of_any as name_of};
