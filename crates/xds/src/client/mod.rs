//! The client's end of ADS: the state machine without I/O, and a driver over HTTP/2.

mod driver;
mod references;
mod state;

pub use driver::{Config, Connect, Token, Update, run};
pub use state::{Client, ClientRequest, Ready, Response, Ticket};
