//! Messages as the proxy handles them between codecs: heads, pieces of body, and why a stream broke.
//!
//! No codec's type appears here, so that a codec can be replaced without touching routing, filters or logs.

use bytes::Bytes;
pub use decide::{HeaderName, Headers, Known, Method, Request, Response, Version};

/// What is known of a body before it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    None,
    Known(u64),
    Unknown,
}

/// A request's head and what it says of the body.
#[derive(Debug, Clone)]
pub struct RequestHead {
    pub request: Request,
    pub body: BodyLength,
}

/// A response's head and what it says of the body.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    pub response: Response,
    pub body: BodyLength,
    /// The protocol that 101 switches to, as the peer wrote it.
    pub upgrade: Option<Bytes>,
}

/// A piece of a body.
#[derive(Debug)]
pub enum Frame {
    Data(Bytes),
    Trailers(Headers),
    End,
}

/// Why a stream ended before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reset {
    /// The connection was lost.
    ConnectionTermination,
    /// The peer reset the stream.
    Remote,
    /// The peer never looked at the stream: it is safe to send again.
    Refused,
    /// The peer broke the protocol.
    Protocol(&'static str),
}

/// How a client left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    Connection,
    /// It reset its stream alone.
    Reset,
}

impl ResponseHead {
    pub fn new(status: u16) -> Self {
        Self { response: Response::new(status), body: BodyLength::None, upgrade: None }
    }
}
