//! HTTP over connections: one set of heads, frames and resets above HTTP/1 and HTTP/2, client and server.
//!
//! What a request means (routes, policies, retries) is not known here.

mod conn;
mod h1_client;
mod h1_server;
mod h2_convert;
mod h2_stream;
mod hop;
mod message;
mod side;

pub use conn::Conn;
pub use h1_client::{H1Client, put_request};
pub use h1_server::{H1Server, NextRequest, request_head as h1_request_head};
pub use h2_convert::{request_head as h2_request_head, request_of as h2_request_of};
pub use h2_stream::{H2ClientStream, H2ServerStream, reset_of};
pub use message::{BodyLength, Frame, Gone, RequestHead, Reset, ResponseHead};
pub use side::{Downstream, Upstream};
