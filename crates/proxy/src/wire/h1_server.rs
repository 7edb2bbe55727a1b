//! The server's end of an HTTP/1 connection: one request after the other, answers in order.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::conn::{Conn, HIGH_WATER};
use super::hop;
use super::message::Version as HttpVersion;
use super::message::{BodyLength, Frame, Headers, Known, Method, Request, RequestHead, Reset, ResponseHead};
use crate::h1::{
    BodyDecoder, BodyEvent, Encoder, Framing, HeadLimits, HeadScanner, ParseError, RawHead, RequestLine,
    Version, put_status_line,
};

/// What comes of waiting for a request.
pub enum NextRequest {
    Request(RequestHead),
    /// The client ended the connection between requests.
    Closed,
    /// The connection broke in the middle of a head.
    Broken,
    Bad(ParseError),
}

pub struct H1Server {
    conn: Conn,
    limits: HeadLimits,
    secure: bool,
    accept_http10: bool,
    decoder: BodyDecoder,
    encoder: Encoder,
    version: Version,
    keep_alive: bool,
    to_head: bool,
    to_connect: bool,
    /// The client waits for `100 Continue` before it sends its body.
    expects_continue: bool,
    /// Whether we answer the expectation ourselves at the first read of the body.
    continue_here: bool,
    response_ended: bool,
    /// Interim answers of our own.
    continues: u32,
    /// Raw bytes both ways after an upgrade or CONNECT.
    tunnel: bool,
    shutdown: bool,
}

impl H1Server {
    pub fn new(conn: Conn, limits: HeadLimits, secure: bool, accept_http10: bool) -> Self {
        Self {
            conn,
            limits,
            secure,
            accept_http10,
            decoder: BodyDecoder::new(Framing::None, limits),
            encoder: Encoder::new(Framing::None),
            version: Version::Http11,
            keep_alive: true,
            to_head: false,
            to_connect: false,
            expects_continue: false,
            continue_here: true,
            response_ended: false,
            continues: 0,
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

    /// Waits for the first byte of the next request; false when the client has gone.
    pub async fn wait(&mut self) -> bool {
        if self.conn.buffer().is_empty() {
            self.conn.shrink();
            return matches!(poll_fn(|cx| self.conn.poll_fill_from_idle(cx)).await, Ok(n) if n > 0);
        }
        true
    }

    /// Reads the next head.
    pub async fn next(&mut self) -> NextRequest {
        let mut scanner = HeadScanner::default();
        loop {
            match scanner.scan_request(self.conn.buffer(), &self.limits) {
                Err(error) => return NextRequest::Bad(error),
                Ok(Some(length)) => {
                    return self.start(length).map_or_else(NextRequest::Bad, NextRequest::Request);
                }
                Ok(None) => {}
            }
            match poll_fn(|cx| self.conn.poll_fill(cx)).await {
                Ok(0) if self.conn.buffer().is_empty() => return NextRequest::Closed,
                Ok(0) | Err(_) => return NextRequest::Broken,
                Ok(_) => {}
            }
        }
    }

    fn start(&mut self, length: usize) -> Result<RequestHead, ParseError> {
        let raw = RawHead::<RequestLine>::request(self.conn.buffer(), length, &self.limits)?;
        self.version = raw.line.version;
        if self.version == Version::Http10 && !self.accept_http10 {
            return Err(ParseError::Version);
        }
        let framing = raw.framing()?;
        self.keep_alive = raw.keep_alive();
        let head = request_head(&raw, framing, self.secure)?;
        self.decoder = BodyDecoder::new(framing, self.limits);
        self.to_head = head.request.method == Method::Head;
        self.to_connect = head.request.is_connect();
        self.expects_continue = self.version == Version::Http11
            && head
                .request
                .headers
                .known(Known::Expect)
                .is_some_and(|v| v.eq_ignore_ascii_case(b"100-continue"));
        self.continue_here = true;
        self.response_ended = false;
        Ok(head)
    }

    /// Leaves the answer to `Expect: 100-continue` to the upstream.
    pub fn forward_continue(&mut self) {
        self.continue_here = false;
    }

    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Reset>> {
        if self.expects_continue && self.continue_here && !self.decoder.is_done() {
            self.expects_continue = false;
            if self.conn.buffer().is_empty() {
                self.continues += 1;
                self.conn.out().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                let _ = self.conn.poll_flush(cx);
            }
        }
        loop {
            match self.decoder.decode(self.conn.buffer()) {
                Err(_) => return Poll::Ready(Err(Reset::Protocol("request body"))),
                Ok(BodyEvent::Data(data)) => return Poll::Ready(Ok(Frame::Data(data))),
                Ok(BodyEvent::Trailers(t)) => {
                    return Poll::Ready(Ok(Frame::Trailers(hop::trailers(t))));
                }
                Ok(BodyEvent::End) => return Poll::Ready(Ok(Frame::End)),
                Ok(BodyEvent::Pending) => match ready!(self.conn.poll_fill(cx)) {
                    Ok(n) if n > 0 => {}
                    Ok(_) if self.tunnel => return Poll::Ready(Ok(Frame::End)),
                    _ => return Poll::Ready(Err(Reset::ConnectionTermination)),
                },
            }
        }
    }

    pub fn take_continues(&mut self) -> u32 {
        std::mem::take(&mut self.continues)
    }

    pub fn body_is_done(&self) -> bool {
        self.decoder.is_done()
    }

    /// Ready when the client is gone; reads ahead a little so as to notice.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.decoder.is_done() {
            return Poll::Pending;
        }
        loop {
            if self.conn.buffer().len() >= HIGH_WATER {
                return Poll::Pending;
            }
            match ready!(self.conn.poll_fill(cx)) {
                Ok(n) if n > 0 => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    /// An interim response, such as 100 or 103.
    pub fn send_informational(&mut self, head: &ResponseHead) {
        if self.version == Version::Http10 {
            return;
        }
        if head.response.status == 100 {
            self.expects_continue = false;
        }
        let out = self.conn.out();
        put_status_line(out, Version::Http11, head.response.status);
        hop::put_headers(out, &head.response.headers);
        out.extend_from_slice(b"\r\n");
    }

    /// Writes the head of the final response. `close` ends the connection after it.
    pub fn send_head(&mut self, head: &ResponseHead, upgrade: Option<&[u8]>, close: bool) {
        let unread = !self.decoder.is_done();
        let accepts_tunnel = self.to_connect && head.response.status / 100 == 2;
        let bodiless = self.to_head
            || accepts_tunnel
            || head.response.status < 200
            || head.response.status == 204
            || head.response.status == 304;
        let framing = match head.body {
            // RFC 9110, 8.6: what follows is the tunnel's.
            _ if accepts_tunnel => Framing::None,
            BodyLength::Known(n) => Framing::Length(n),
            BodyLength::Unknown if self.to_head && self.version == Version::Http11 => Framing::Chunked,
            BodyLength::Unknown if bodiless => Framing::None,
            BodyLength::None
                if head.response.status < 200
                    || head.response.status == 204
                    || head.response.status == 304 =>
            {
                Framing::None
            }
            BodyLength::None if self.to_head => Framing::None,
            BodyLength::None => Framing::Length(0),
            BodyLength::Unknown if self.version == Version::Http10 => Framing::UntilClose,
            BodyLength::Unknown => Framing::Chunked,
        };
        self.keep_alive &= !close && !(unread && self.expects_continue) && framing != Framing::UntilClose;
        self.encoder = Encoder::new(if bodiless { Framing::None } else { framing });
        let (version, keep_alive) = (self.version, self.keep_alive);
        let out = self.conn.out();
        put_status_line(out, Version::Http11, head.response.status);
        hop::put_headers(out, &head.response.headers);
        match upgrade {
            Some(protocol) => hop::put_upgrade(out, protocol),
            None if !keep_alive => out.extend_from_slice(b"connection: close\r\n"),
            None if version == Version::Http10 => out.extend_from_slice(b"connection: keep-alive\r\n"),
            None => {}
        }
        // A HEAD's or 304's length is that of the body it does not carry.
        crate::h1::put_framing(out, framing);
        out.extend_from_slice(b"\r\n");
    }

    pub fn send_data(&mut self, data: Bytes) {
        if matches!(self.encoder.framing(), Framing::None) || data.is_empty() {
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
        self.response_ended = true;
        self.shutdown = self.tunnel;
    }

    /// Whether more may be written without buffering too much.
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

    /// Whether another request may follow on this connection.
    pub fn reusable(&self) -> bool {
        self.keep_alive && self.response_ended && self.decoder.is_done()
    }

    pub fn close_after(&mut self) {
        self.keep_alive = false;
    }
}

/// Our own head from a parsed one; hop-by-hop fields stay behind.
pub fn request_head(
    raw: &RawHead<RequestLine>,
    framing: Framing,
    secure: bool,
) -> Result<RequestHead, ParseError> {
    let line = &raw.line;
    let method = raw.block.slice(line.method.clone());
    let target = raw.block.slice(line.target.clone());
    let host = raw.host()?;
    let connect = method == "CONNECT";
    // RFC 9112, 3.2.4: the asterisk is for OPTIONS alone.
    if target == "*" && method != "OPTIONS" {
        return Err(ParseError::Target);
    }
    let (authority, path) = match split_target(&target, connect)? {
        (Some(authority), path) => (authority, path),
        (None, path) => (host.unwrap_or_default(), path),
    };
    // One that is missing is judged with the rest of the request.
    if !is_authority(&authority) {
        return Err(ParseError::Host);
    }
    let upgrade = raw
        .has_token(b"connection", b"upgrade")
        .then(|| raw.iter().find(|(n, _)| n == "upgrade").map(|(_, v)| v))
        .flatten()
        // A wish that a server may pass over (RFC 7540, 3.2; RFC 9113 drops it), as Envoy does; Java's client always
        // has it.
        .filter(|protocol| !protocol.eq_ignore_ascii_case(b"h2c"));
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let mut request = Request::new(
        Method::new(std::str::from_utf8(&method).unwrap_or_default()),
        text(&authority),
        text(&path),
    );
    // The absolute form says it; elsewhere the connection does.
    request.scheme_is_told = !connect && !target.starts_with(b"/") && target != "*";
    let https = if request.scheme_is_told { target[..5].eq_ignore_ascii_case(b"https") } else { secure };
    request.scheme = if https { "https".into() } else { "http".into() };
    request.version = if line.version == Version::Http10 { HttpVersion::Http10 } else { HttpVersion::Http11 };
    request.headers = hop::end_to_end(raw, true);
    request.upgrade = upgrade.map(|u| text(&u).into());
    // What follows becomes the tunnel's: a body before it would reach the upstream without its framing.
    if (request.upgrade.is_some() || connect) && framing != Framing::None {
        return Err(ParseError::Length);
    }
    let body = match framing {
        Framing::None => BodyLength::None,
        Framing::Length(n) => BodyLength::Known(n),
        Framing::Chunked | Framing::UntilClose => BodyLength::Unknown,
    };
    Ok(RequestHead { request, body })
}

/// Authority and path of a request target, in each of its four forms.
fn split_target(target: &Bytes, connect: bool) -> Result<(Option<Bytes>, Bytes), ParseError> {
    if connect {
        return if has_port(target) {
            Ok((Some(target.clone()), Bytes::new()))
        } else {
            Err(ParseError::Target)
        };
    }
    if target.starts_with(b"/") || target == "*" {
        return Ok((None, target.clone()));
    }
    let Some(at) = target.windows(3).position(|w| w == b"://") else { return Err(ParseError::Malformed) };
    if !target[..at].eq_ignore_ascii_case(b"http") && !target[..at].eq_ignore_ascii_case(b"https") {
        return Err(ParseError::Scheme);
    }
    let rest = target.slice(at + 3..);
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let authority = rest.slice(..end);
    if authority.is_empty() {
        return Err(ParseError::Target);
    }
    let path = match rest.get(end) {
        None => Bytes::from_static(b"/"),
        Some(b'/') => rest.slice(end..),
        Some(_) => {
            let mut path = Vec::with_capacity(rest.len() - end + 1);
            path.push(b'/');
            path.extend_from_slice(&rest[end..]);
            path.into()
        }
    };
    Ok((Some(authority), path))
}

/// What CONNECT names: a host and a port, and nothing else (RFC 9110, 9.3.6; RFC 9113, 8.5).
pub(super) fn has_port(authority: &[u8]) -> bool {
    let at = authority.iter().rposition(|b| *b == b':');
    let port = at.map(|at| &authority[at + 1..]).unwrap_or_default();
    !port.is_empty() && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

/// What may stand in an authority: no user information, no blanks, nothing that ends it early.
pub(super) fn is_authority(text: &[u8]) -> bool {
    text.iter().all(|b| {
        b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'.' | b'-'
                    | b'_'
                    | b':'
                    | b'['
                    | b']'
                    | b'%'
                    | b'~'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b','
                    | b';'
                    | b'='
            )
    })
}
