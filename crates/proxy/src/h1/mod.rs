//! HTTP/1: heads, bodies and framing, strict against smuggling. No sockets, no routing.
//!
//! A message whose length two readers could understand differently is refused, never repaired: see [`ParseError`].

mod body;
mod encode;
mod head;

pub use body::{BodyDecoder, BodyEvent};
pub use encode::{Encoder, put_request_line, put_status_line};
pub(crate) use encode::{decimal, put_framing, put_header};
pub use head::{Framing, HeadLimits, HeadScanner, ParseError, RawHead, RequestLine, ResponseLine, Version};

#[cfg(test)]
mod tests;
