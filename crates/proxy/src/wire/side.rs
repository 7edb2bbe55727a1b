//! The two sides of an exchange, whichever version each speaks.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::message::{BodyLength, Frame, Gone, Headers, Reset, ResponseHead};
use super::{H1Client, H1Server, H2ClientStream, H2ServerStream};

/// Where a request came from.
pub enum Downstream<'a> {
    H1(&'a mut H1Server),
    H2(H2ServerStream),
}

/// Where a request went.
pub enum Upstream {
    H1(Box<H1Client>),
    H2(H2ClientStream),
}

fn lost<T>(result: std::io::Result<T>) -> Result<T, Reset> {
    result.map_err(|_| Reset::ConnectionTermination)
}

impl Downstream<'_> {
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Reset>> {
        match self {
            Self::H1(s) => s.poll_body(cx),
            Self::H2(s) => s.poll_body(cx),
        }
    }

    pub fn body_is_done(&self) -> bool {
        match self {
            Self::H1(s) => s.body_is_done(),
            Self::H2(s) => s.body_is_done(),
        }
    }

    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone> {
        match self {
            Self::H1(s) => s.poll_gone(cx).map(|()| Gone::Connection),
            Self::H2(s) => s.poll_gone(cx),
        }
    }

    pub fn send_informational(&mut self, head: &ResponseHead) {
        match self {
            Self::H1(s) => s.send_informational(head),
            Self::H2(s) => s.send_informational(head),
        }
    }

    /// The final head. `close` asks an HTTP/1 connection to end after this response.
    pub fn send_head(
        &mut self,
        head: &ResponseHead,
        upgrade: Option<&[u8]>,
        close: bool,
    ) -> Result<(), Reset> {
        match self {
            Self::H1(s) => {
                s.send_head(head, upgrade, close);
                Ok(())
            }
            Self::H2(s) => {
                let bodiless = head.body == BodyLength::None || matches!(head.response.status, 204 | 304);
                s.send_head(head, bodiless && upgrade.is_none())
            }
        }
    }

    pub fn send_data(&mut self, data: Bytes) {
        match self {
            Self::H1(s) => s.send_data(data),
            Self::H2(s) => s.send_data(data),
        }
    }

    pub fn send_end(&mut self, trailers: Option<&Headers>) {
        match self {
            Self::H1(s) => s.send_end(trailers),
            Self::H2(s) => s.send_end(trailers),
        }
    }

    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reset>> {
        match self {
            Self::H1(s) => s.poll_ready(cx).map(lost),
            Self::H2(s) => s.poll_ready(cx),
        }
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reset>> {
        match self {
            Self::H1(s) => s.poll_flush(cx).map(lost),
            Self::H2(s) => s.poll_flush(cx),
        }
    }

    /// Raw bytes both ways from here on; an HTTP/2 stream carries them as it is.
    pub fn become_tunnel(&mut self) {
        if let Self::H1(s) = self {
            s.become_tunnel();
        }
    }

    /// How often we told the client by 100 to go on, since this was asked last.
    pub fn take_continues(&mut self) -> u32 {
        match self {
            Self::H1(s) => s.take_continues(),
            Self::H2(_) => 0,
        }
    }

    /// Breaks the response off: nothing that follows can be mistaken for its end.
    pub fn abort(&mut self) {
        match self {
            Self::H1(s) => s.close_after(),
            Self::H2(s) => s.reset(h2::Reason::INTERNAL_ERROR),
        }
    }
}

impl Upstream {
    pub fn version(&self) -> decide::Version {
        match self {
            Self::H1(_) => decide::Version::Http11,
            Self::H2(_) => decide::Version::Http2,
        }
    }

    pub fn send_data(&mut self, data: Bytes) {
        match self {
            Self::H1(s) => s.send_data(data),
            Self::H2(s) => s.send_data(data),
        }
    }

    pub fn send_end(&mut self, trailers: Option<&Headers>) {
        match self {
            Self::H1(s) => s.send_end(trailers),
            Self::H2(s) => s.send_end(trailers),
        }
    }

    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reset>> {
        match self {
            Self::H1(s) => s.poll_ready(cx).map(lost),
            Self::H2(s) => s.poll_ready(cx),
        }
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reset>> {
        match self {
            Self::H1(s) => s.poll_flush(cx).map(lost),
            Self::H2(s) => s.poll_flush(cx),
        }
    }

    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Reset>> {
        match self {
            Self::H1(s) => s.poll_head(cx),
            Self::H2(s) => s.poll_head(cx),
        }
    }

    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Reset>> {
        match self {
            Self::H1(s) => s.poll_body(cx),
            Self::H2(s) => s.poll_body(cx),
        }
    }

    pub fn become_tunnel(&mut self) {
        if let Self::H1(s) = self {
            s.become_tunnel();
        }
    }

    /// Whether anything of the request left this process: what was never sent may be sent again.
    pub fn sent_anything(&self) -> bool {
        match self {
            Self::H1(s) => s.sent_anything(),
            Self::H2(_) => true,
        }
    }

    /// Whether the answer has come whole, as far as that matters to others on its connection.
    pub fn is_over(&self) -> bool {
        match self {
            Self::H1(_) => true,
            Self::H2(s) => s.is_over(),
        }
    }

    /// Bytes sent and received for this exchange, where a connection carries one at a time.
    pub fn wire_bytes(&self) -> (u64, u64) {
        match self {
            Self::H1(s) => s.wire_bytes(),
            Self::H2(_) => (0, 0),
        }
    }

    /// Whether the peer has begun to answer.
    pub fn response_began(&self) -> bool {
        match self {
            Self::H1(s) => s.response_began(),
            Self::H2(_) => false,
        }
    }
}
