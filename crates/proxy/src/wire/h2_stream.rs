//! One HTTP/2 stream, at the server's and at the client's end, over the `h2` crate. Windows open only as bytes leave us.

use std::future::Future;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};

use super::conn::HIGH_WATER;
use super::h2_convert::{header_map, headers_of, response_head, response_of};
use super::message::{BodyLength, Frame, Gone, Headers, Reset, Response, ResponseHead};

/// The sending half: what was accepted and waits for the peer's window.
struct Outgoing {
    stream: SendStream<Bytes>,
    waiting: std::collections::VecDeque<Bytes>,
    queued: usize,
    end: Option<Option<Headers>>,
    ended: bool,
}

impl Outgoing {
    fn new(stream: SendStream<Bytes>, ended: bool) -> Self {
        Self { stream, waiting: std::collections::VecDeque::new(), queued: 0, end: None, ended }
    }

    fn push(&mut self, data: Bytes) {
        // Nobody opens a window for nothing: an empty piece would wait for ever, and the end behind it.
        if data.is_empty() {
            return;
        }
        self.queued += data.len();
        self.waiting.push_back(data);
    }

    /// Hands over as much as the window allows.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reset>> {
        while let Some(front) = self.waiting.front_mut() {
            self.stream.reserve_capacity(front.len());
            let capacity = match self.stream.capacity() {
                0 => match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(n)) => n,
                    Some(Err(error)) => return Poll::Ready(Err(reset_of(&error))),
                    None => return Poll::Ready(Err(Reset::Remote)),
                },
                n => n,
            };
            if capacity == 0 {
                continue;
            }
            let piece = front.split_to(capacity.min(front.len()));
            self.queued -= piece.len();
            if front.is_empty() {
                self.waiting.pop_front();
            }
            let last = self.waiting.is_empty() && matches!(self.end, Some(None));
            self.stream.send_data(piece, last).map_err(|e| reset_of(&e))?;
            if last {
                self.end = None;
                self.ended = true;
            }
        }
        match self.end.take() {
            Some(None) => {
                self.ended = true;
                self.stream.send_data(Bytes::new(), true).map_err(|e| reset_of(&e))?;
            }
            Some(Some(trailers)) => {
                self.ended = true;
                self.stream.send_trailers(header_map(&trailers)).map_err(|e| reset_of(&e))?;
            }
            None => {}
        }
        Poll::Ready(Ok(()))
    }
}

/// The receiving half.
struct Incoming {
    stream: RecvStream,
    data_ended: bool,
    ended: bool,
}

impl Incoming {
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Reset>> {
        if self.ended {
            return Poll::Ready(Ok(Frame::End));
        }
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Ok(Frame::Data(data)));
                }
                Some(Err(error)) => return Poll::Ready(Err(reset_of(&error))),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx)).map_err(|e| reset_of(&e))?;
        self.ended = true;
        Poll::Ready(match trailers {
            Some(map) => headers_of(&map).map(Frame::Trailers),
            None => Ok(Frame::End),
        })
    }
}

/// A request that came by HTTP/2.
pub struct H2ServerStream {
    incoming: Incoming,
    respond: SendResponse<Bytes>,
    outgoing: Option<Outgoing>,
}

impl H2ServerStream {
    pub fn new(body: RecvStream, respond: SendResponse<Bytes>) -> Self {
        let ended = body.is_end_stream();
        Self { incoming: Incoming { stream: body, data_ended: ended, ended }, respond, outgoing: None }
    }

    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Reset>> {
        self.incoming.poll_body(cx)
    }

    pub fn body_is_done(&self) -> bool {
        self.incoming.ended
    }

    /// Ready when the client has reset the stream or gone.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone> {
        let reset = match &mut self.outgoing {
            Some(out) => ready!(out.stream.poll_reset(cx)),
            None => ready!(self.respond.poll_reset(cx)),
        };
        Poll::Ready(if reset.is_ok() { Gone::Reset } else { Gone::Connection })
    }

    pub fn send_informational(&mut self, head: &ResponseHead) {
        let _ = self.respond.send_informational(response_of(head));
    }

    pub fn send_head(&mut self, head: &ResponseHead, end: bool) -> Result<(), Reset> {
        let stream = self.respond.send_response(response_of(head), end).map_err(|e| reset_of(&e))?;
        self.outgoing = Some(Outgoing::new(stream, end));
        Ok(())
    }

    pub fn send_data(&mut self, data: Bytes) {
        if let Some(out) = &mut self.outgoing {
            out.push(data);
        }
    }

    pub fn send_end(&mut self, trailers: Option<&Headers>) {
        if let Some(out) = &mut self.outgoing
            && !out.ended
        {
            out.end = Some(trailers.cloned());
        }
    }

    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reset>> {
        match &mut self.outgoing {
            Some(out) if out.queued >= HIGH_WATER => out.poll_send(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reset>> {
        match &mut self.outgoing {
            Some(out) => out.poll_send(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    pub fn reset(&mut self, reason: Reason) {
        match &mut self.outgoing {
            Some(out) => out.stream.send_reset(reason),
            None => self.respond.send_reset(reason),
        }
    }
}

/// A request that we sent by HTTP/2.
pub struct H2ClientStream {
    response: Option<h2::client::ResponseFuture>,
    incoming: Option<Incoming>,
    outgoing: Outgoing,
}

impl H2ClientStream {
    pub fn new(response: h2::client::ResponseFuture, stream: SendStream<Bytes>, ended: bool) -> Self {
        Self { response: Some(response), incoming: None, outgoing: Outgoing::new(stream, ended) }
    }

    /// Whether the answer has come whole.
    pub fn is_over(&self) -> bool {
        self.incoming.as_ref().is_some_and(|incoming| incoming.ended)
    }

    pub fn send_data(&mut self, data: Bytes) {
        self.outgoing.push(data);
    }

    pub fn send_end(&mut self, trailers: Option<&Headers>) {
        if !self.outgoing.ended {
            self.outgoing.end = Some(trailers.cloned());
        }
    }

    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reset>> {
        if self.outgoing.queued < HIGH_WATER { Poll::Ready(Ok(())) } else { self.outgoing.poll_send(cx) }
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reset>> {
        self.outgoing.poll_send(cx)
    }

    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Reset>> {
        let Some(future) = &mut self.response else { return Poll::Ready(Err(Reset::Remote)) };
        if let Poll::Ready(Some(Ok(interim))) = future.poll_informational(cx) {
            let headers = headers_of(interim.headers())?;
            let response = Response { status: interim.status().as_u16(), headers };
            return Poll::Ready(Ok(ResponseHead { response, body: BodyLength::None, upgrade: None }));
        }
        let response = ready!(std::pin::Pin::new(future).poll(cx)).map_err(|e| reset_of(&e))?;
        self.response = None;
        let head = response_head(&response)?;
        let stream = response.into_body();
        let ended = stream.is_end_stream();
        self.incoming = Some(Incoming { stream, data_ended: ended, ended });
        Poll::Ready(Ok(head))
    }

    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Reset>> {
        match &mut self.incoming {
            Some(incoming) => incoming.poll_body(cx),
            None => Poll::Ready(Err(Reset::Remote)),
        }
    }
}

impl Drop for H2ClientStream {
    /// A stream that is dropped before it ended is cancelled at the peer.
    fn drop(&mut self) {
        let received = self.incoming.as_ref().is_some_and(|i| i.ended);
        if !(received && self.outgoing.ended) {
            self.outgoing.stream.send_reset(if received { Reason::NO_ERROR } else { Reason::CANCEL });
        }
    }
}

pub fn reset_of(error: &h2::Error) -> Reset {
    match error.reason() {
        Some(Reason::REFUSED_STREAM) => Reset::Refused,
        // A GOAWAY without an error that excludes the stream says that it was never looked at.
        Some(Reason::NO_ERROR) if error.is_go_away() => Reset::Refused,
        Some(Reason::PROTOCOL_ERROR) if error.is_reset() => Reset::Protocol("stream"),
        Some(_) if error.is_reset() => Reset::Remote,
        _ => Reset::ConnectionTermination,
    }
}
