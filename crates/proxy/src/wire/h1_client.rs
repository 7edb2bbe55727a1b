//! The client's end of an HTTP/1 connection: one request at a time.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};

use super::conn::{Conn, HIGH_WATER};
use super::hop;
use super::message::{BodyLength, Frame, Headers, Known, Method, RequestHead, Reset, Response, ResponseHead};
use crate::h1::{
    BodyDecoder, BodyEvent, Encoder, Framing, HeadLimits, HeadScanner, RawHead, ResponseLine, put_framing,
    put_request_line,
};

pub struct H1Client {
    conn: Conn,
    limits: HeadLimits,
    scanner: HeadScanner,
    decoder: BodyDecoder,
    encoder: Encoder,
    to_head: bool,
    to_connect: bool,
    upgrading: bool,
    keep_alive: bool,
    request_ended: bool,
    response_began: bool,
    requests: u64,
    sent_before: u64,
    received_before: u64,
    tunnel: bool,
    shutdown: bool,
}

impl H1Client {
    pub fn new(conn: Conn, limits: HeadLimits) -> Self {
        Self {
            conn,
            limits,
            scanner: HeadScanner::default(),
            decoder: BodyDecoder::new(Framing::None, limits),
            encoder: Encoder::new(Framing::None),
            to_head: false,
            to_connect: false,
            upgrading: false,
            keep_alive: true,
            request_ended: true,
            response_began: false,
            requests: 0,
            sent_before: 0,
            received_before: 0,
            tunnel: false,
            shutdown: false,
        }
    }

    /// From here on the connection carries raw bytes; the end of either direction is passed on.
    pub fn become_tunnel(&mut self) {
        self.tunnel = true;
        self.keep_alive = false;
        self.decoder = BodyDecoder::new(Framing::UntilClose, self.limits);
        self.encoder = Encoder::new(Framing::UntilClose);
    }

    pub fn conn(&mut self) -> &mut Conn {
        &mut self.conn
    }

    pub fn conn_ref(&self) -> &Conn {
        &self.conn
    }

    /// Requests sent on this connection, the current one included.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Whether the peer has sent anything of an answer to the current request.
    pub fn response_began(&self) -> bool {
        self.response_began
    }

    /// Whether anything of the current request has left this process.
    pub fn sent_anything(&self) -> bool {
        self.conn.bytes_sent() > self.sent_before
    }

    /// Bytes of the current request and of its answer, all that framing adds included.
    pub fn wire_bytes(&self) -> (u64, u64) {
        (self.conn.bytes_sent() - self.sent_before, self.conn.bytes_received() - self.received_before)
    }

    pub fn send_head(&mut self, head: &RequestHead) {
        let request = &head.request;
        self.sent_before = self.conn.bytes_sent();
        self.received_before = self.conn.bytes_received();
        self.scanner = HeadScanner::default();
        self.decoder = BodyDecoder::new(Framing::None, self.limits);
        self.to_head = request.method == Method::Head;
        self.to_connect = request.is_connect();
        self.upgrading = request.upgrade.is_some();
        self.request_ended = false;
        self.response_began = false;
        self.requests += 1;
        self.encoder = Encoder::new(put_request(head, self.conn.out()));
    }

    pub fn send_data(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        let encoder = self.encoder;
        encoder.before(data.len(), self.conn.out());
        self.conn.write(data);
        encoder.after(self.conn.out());
    }

    pub fn send_end(&mut self, trailers: Option<&Headers>) {
        let pairs = trailers.into_iter().flat_map(Headers::iter).map(|(n, v)| (n.as_bytes(), &v[..]));
        let encoder = self.encoder;
        encoder.end(pairs, self.conn.out());
        self.request_ended = true;
        self.shutdown = self.tunnel;
    }

    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.conn.pending() < HIGH_WATER {
            return Poll::Ready(Ok(()));
        }
        self.conn.poll_flush(cx)
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shutdown {
            ready!(self.conn.poll_shutdown(cx))?;
            self.shutdown = false;
        }
        self.conn.poll_flush(cx)
    }

    /// The next head: interim ones come as they are, the final one prepares the body.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Reset>> {
        loop {
            if !self.conn.buffer().is_empty() {
                self.response_began = true;
                match self.scanner.scan(self.conn.buffer(), &self.limits) {
                    Err(_) => return Poll::Ready(Err(Reset::Protocol("response head"))),
                    Ok(Some(length)) => return Poll::Ready(self.start(length)),
                    Ok(None) => {}
                }
            }
            match ready!(self.conn.poll_fill(cx)) {
                Ok(n) if n > 0 => {}
                // What ends within a message is none, as Envoy says too.
                _ if self.response_began => return Poll::Ready(Err(Reset::Protocol("response head"))),
                _ => return Poll::Ready(Err(Reset::ConnectionTermination)),
            }
        }
    }

    fn start(&mut self, length: usize) -> Result<ResponseHead, Reset> {
        let bad = |_| Reset::Protocol("response head");
        self.scanner = HeadScanner::default();
        let raw = RawHead::<ResponseLine>::response(self.conn.buffer(), length, &self.limits).map_err(bad)?;
        let status = raw.line.status;
        if status == 101 && !self.upgrading {
            return Err(Reset::Protocol("upgrade that nobody asked for"));
        }
        let framing = raw.framing(self.to_head, self.to_connect).map_err(bad)?;
        let interim = status < 200 && status != 101;
        if !interim {
            self.keep_alive = raw.keep_alive() && framing != Framing::UntilClose;
            self.decoder = BodyDecoder::new(framing, self.limits);
        }
        let declared = raw.content_length().map_err(bad)?;
        let body = match framing {
            Framing::None if status == 304 => declared.map_or(BodyLength::None, BodyLength::Known),
            // What GET would be answered: a length, or chunks.
            Framing::None if self.to_head && status >= 200 && status != 204 => {
                declared.map_or(BodyLength::Unknown, BodyLength::Known)
            }
            Framing::None => declared.map_or(BodyLength::None, |_| BodyLength::Known(0)),
            Framing::Length(n) => BodyLength::Known(n),
            Framing::Chunked | Framing::UntilClose => BodyLength::Unknown,
        };
        let mut headers = hop::end_to_end(&raw, false);
        // RFC 9110, 8.6: neither an interim answer nor 204 has one.
        if framing != Framing::None || status < 200 || status == 204 {
            headers.remove_known(Known::ContentLength);
        }
        let body = if status == 204 { BodyLength::None } else { body };
        if let BodyLength::Known(n) = body {
            headers.set(Known::ContentLength, crate::h1::decimal(n));
        }
        let upgrade = raw.iter().find(|(n, _)| status == 101 && n == "upgrade").map(|(_, v)| v);
        Ok(ResponseHead { response: Response { status, headers }, body, upgrade })
    }

    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Reset>> {
        loop {
            match self.decoder.decode(self.conn.buffer()) {
                Err(_) => return Poll::Ready(Err(Reset::Protocol("response body"))),
                Ok(BodyEvent::Data(data)) => return Poll::Ready(Ok(Frame::Data(data))),
                Ok(BodyEvent::Trailers(t)) => {
                    return Poll::Ready(Ok(Frame::Trailers(hop::trailers(t))));
                }
                Ok(BodyEvent::End) => return Poll::Ready(Ok(Frame::End)),
                Ok(BodyEvent::Pending) => match ready!(self.conn.poll_fill(cx)) {
                    Ok(n) if n > 0 => {}
                    Ok(_) if self.decoder.ends_with_connection() => return Poll::Ready(Ok(Frame::End)),
                    _ if !self.tunnel => return Poll::Ready(Err(Reset::Protocol("response body"))),
                    _ => return Poll::Ready(Err(Reset::ConnectionTermination)),
                },
            }
        }
    }

    /// Whether the response is over and the connection may carry another request.
    pub fn reusable(&mut self) -> bool {
        self.keep_alive
            && self.request_ended
            && self.decoder.is_done()
            && self.conn.buffer().is_empty()
            && self.conn.pending() == 0
            && !self.conn.ended()
            && !self.upgrading
            && !self.to_connect
    }

    /// While idle: whether the peer has closed, or sent what nobody asked for. Costs no system call when neither.
    pub fn poll_stale(&mut self, cx: &mut Context<'_>) -> bool {
        !self.conn.buffer().is_empty() || self.conn.poll_fill(cx).is_ready()
    }
}

/// Writes a request's head, and says how the body behind it is framed.
pub fn put_request(head: &RequestHead, out: &mut BytesMut) -> Framing {
    let request = &head.request;
    let connect = request.is_connect();
    let framing = match head.body {
        _ if connect || request.upgrade.is_some() => Framing::None,
        BodyLength::None if needs_length(&request.method) => Framing::Length(0),
        BodyLength::None => Framing::None,
        BodyLength::Known(n) => Framing::Length(n),
        BodyLength::Unknown => Framing::Chunked,
    };
    let target = if connect { &request.authority } else { &request.path };
    put_request_line(out, request.method.as_str().as_bytes(), target.as_bytes());
    crate::h1::put_header(out, b"host", request.authority.as_bytes());
    hop::put_headers(out, &request.headers);
    if let Some(protocol) = &request.upgrade {
        hop::put_upgrade(out, protocol.as_bytes());
    }
    put_framing(out, framing);
    out.extend_from_slice(b"\r\n");
    framing
}

/// Methods whose empty body is stated, as servers expect.
fn needs_length(method: &Method) -> bool {
    !matches!(method.as_str(), "GET" | "HEAD" | "DELETE" | "TRACE" | "CONNECT")
}
