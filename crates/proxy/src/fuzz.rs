//! What `fuzz/` calls of this crate: each function reads bytes as they may come from a peer, and panics where something does
//! not hold that must hold of all bytes. The proxy itself calls none of it.

use base::SeededRandom;
use bytes::{Bytes, BytesMut};
use decide::{Headers, TraceHeaders};

use crate::h1::{
    BodyDecoder, BodyEvent, Framing, HeadLimits, HeadScanner, ParseError, RawHead, ResponseLine,
};
use crate::listen::exchange_tcp::PeerExchange;
use crate::listen::proxy_protocol::{self, Parsed};
use crate::listen::sniff::{Inspect, Sniffed, sniff};
use crate::tcp::Peel;
use crate::trace::SpanContext;
use crate::wire::{BodyLength, RequestHead, h1_request_head, h2_request_head, put_request};

/// Small, so that few bytes reach them.
const LIMITS: HeadLimits = HeadLimits { bytes: 4096, headers: 40 };

/// A connection's bytes in pieces whose length the first byte says; whole they must be read the same.
fn in_pieces(data: &[u8], read: impl Fn(&[u8], usize) -> Vec<String>) {
    let Some((&step, stream)) = data.split_first() else { return };
    let (whole, pieces) = (read(stream, usize::MAX), read(stream, usize::from(step) + 1));
    assert_eq!(whole, pieces, "read in pieces of {} and whole", usize::from(step) + 1);
}

/// HTTP/1 requests behind each other: heads, bodies, trailers; and what each looks like to the next server.
pub fn http1_requests(data: &[u8]) {
    in_pieces(data, |stream, step| {
        let mut reader = Reader::default();
        for piece in stream.chunks(step) {
            reader.feed(piece, |buffer, length| {
                let raw = RawHead::request(buffer, length, &LIMITS)?;
                let framing = raw.framing()?;
                let head = h1_request_head(&raw, framing, false)?;
                let goes_on =
                    raw.keep_alive() && head.request.upgrade.is_none() && !head.request.is_connect();
                means_the_same_upstream(&head);
                Ok((format!("{} {head:?}", head.request.path), framing, goes_on))
            });
        }
        reader.said
    });
}

/// HTTP/1 answers to what the second byte says was asked.
pub fn http1_answers(data: &[u8]) {
    let Some((&asked, rest)) = data.split_first() else { return };
    in_pieces(rest, |stream, step| {
        let mut reader = Reader { answers: true, ..Reader::default() };
        for piece in stream.chunks(step) {
            reader.feed(piece, |buffer, length| {
                let raw = RawHead::<ResponseLine>::response(buffer, length, &LIMITS)?;
                let framing = raw.framing(asked & 1 != 0, asked & 2 != 0)?;
                let goes_on = raw.keep_alive() && framing != Framing::UntilClose && raw.line.status != 101;
                Ok((format!("{} {:?}", raw.line.status, raw.iter().collect::<Vec<_>>()), framing, goes_on))
            });
        }
        reader.said
    });
}

/// Reads messages as they come in, and says what each was.
#[derive(Default)]
struct Reader {
    answers: bool,
    buffer: BytesMut,
    scanner: HeadScanner,
    body: Option<(BodyDecoder, bool)>,
    data: Vec<u8>,
    ended: bool,
    said: Vec<String>,
}

type Head = Result<(String, Framing, bool), ParseError>;

impl Reader {
    fn feed(&mut self, piece: &[u8], head: impl Fn(&mut BytesMut, usize) -> Head) {
        if self.ended {
            return;
        }
        self.buffer.extend_from_slice(piece);
        // Which of two faults is found first may depend on the pieces; that there is one may not.
        if self.go_on(head).is_err() {
            self.ended = true;
            self.said.push("bad".into());
        }
        assert!(self.buffer.len() <= LIMITS.bytes + piece.len(), "more is kept than is allowed");
    }

    fn go_on(&mut self, head: impl Fn(&mut BytesMut, usize) -> Head) -> Result<(), ParseError> {
        loop {
            let Some((body, goes_on)) = &mut self.body else {
                let scanned = match self.answers {
                    true if self.buffer.is_empty() => None,
                    true => self.scanner.scan(&self.buffer, &LIMITS)?,
                    false => self.scanner.scan_request(&mut self.buffer, &LIMITS)?,
                };
                let Some(length) = scanned else { return Ok(()) };
                self.scanner = HeadScanner::default();
                let (said, framing, goes_on) = head(&mut self.buffer, length)?;
                self.said.push(said);
                self.body = Some((BodyDecoder::new(framing, LIMITS), goes_on));
                continue;
            };
            match body.decode(&mut self.buffer)? {
                BodyEvent::Pending => return Ok(()),
                BodyEvent::Data(data) => self.data.extend_from_slice(&data),
                BodyEvent::Trailers(trailers) => self.said.push(format!("{trailers:?}")),
                BodyEvent::End => {
                    let goes_on = *goes_on;
                    self.said.push(format!("{:?}", Bytes::from(std::mem::take(&mut self.data))));
                    self.body = None;
                    if !goes_on {
                        self.ended = true;
                        self.buffer.clear();
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// What goes on as HTTP/1 is one message to its reader, with the meaning that it has here.
fn means_the_same_upstream(head: &RequestHead) {
    let mut wire = BytesMut::new();
    let framing = put_request(head, &mut wire);
    let limits = HeadLimits { bytes: 1 << 20, headers: 256 };
    let written = wire.clone();
    let length = HeadScanner::default().scan(&wire, &limits).ok().flatten();
    assert_eq!(length, Some(written.len()), "not one head: {written:?}");
    let again =
        RawHead::request(&mut wire, written.len(), &limits).unwrap_or_else(|e| panic!("{e}: {written:?}"));
    let read = again.framing().unwrap_or_else(|e| panic!("{e}: {written:?}"));
    let empty = |f: Framing| matches!(f, Framing::None | Framing::Length(0));
    assert!(read == framing || (empty(read) && empty(framing)), "{read:?} {framing:?}: {written:?}");
    let again = h1_request_head(&again, read, false).unwrap_or_else(|e| panic!("{e}: {written:?}"));
    let target = |head: &RequestHead| {
        let r = &head.request;
        (r.method.clone(), r.authority.clone(), r.path.clone(), r.upgrade.clone(), r.headers.len())
    };
    let mut meant = target(head);
    // A length travels by the framing.
    meant.4 -= head
        .request
        .headers
        .iter()
        .filter(|(n, _)| n.as_str().eq_ignore_ascii_case("content-length"))
        .count();
    let mut got = target(&again);
    got.4 -= again
        .request
        .headers
        .iter()
        .filter(|(n, _)| n.as_str().eq_ignore_ascii_case("content-length"))
        .count();
    assert_eq!(meant, got, "{written:?}");
}

/// A request as HTTP/2 may carry it, made of lines: method, target, then headers; and what HTTP/1 makes of it.
pub fn http2_to_http1(data: &[u8]) {
    let mut lines = data.split(|b| *b == b'\n');
    let (Some(flags), Some(method), Some(target)) = (lines.next(), lines.next(), lines.next()) else {
        return;
    };
    let mut request = http::Request::builder().version(http::Version::HTTP_2).method(method).uri(target);
    for line in lines.take(30) {
        let at = line.iter().position(|b| *b == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(at);
        request = request.header(name, value.get(1..).unwrap_or_default());
    }
    let Ok(mut request) = request.body(()) else { return };
    let flag = |bit: u8| flags.first().is_some_and(|b| b & bit != 0);
    if flag(4) && request.method() == http::Method::CONNECT {
        request.extensions_mut().insert(h2::ext::Protocol::from("websocket"));
    }
    let parts = request.into_parts().0;
    // The codec takes no CONNECT with a path.
    if parts.method == http::Method::CONNECT && !flag(4) && parts.uri.path_and_query().is_some() {
        return;
    }
    let Ok(mut head) = h2_request_head(&parts, flag(1), flag(2)) else { return };
    // What deciding refuses of any request. Other letters than ASCII's go on as they are, and HTTP/1 here takes none.
    let plain = |text: &str| text.is_ascii() && text.bytes().all(|b| !b.is_ascii_control());
    if !plain(&head.request.path) || (!head.request.is_connect() && !head.request.path.starts_with('/')) {
        return;
    }
    head.request.version = decide::Version::Http11;
    if head.body == BodyLength::None && head.request.upgrade.is_some() {
        head.body = BodyLength::Unknown;
    }
    means_the_same_upstream(&head);
}

/// A request's head, as deciding is given it.
pub fn request_of(bytes: &[u8]) -> Option<decide::Request> {
    let mut buffer = BytesMut::from(bytes);
    let length = HeadScanner::default().scan_request(&mut buffer, &HeadLimits::default()).ok()??;
    let raw = RawHead::request(&mut buffer, length, &HeadLimits::default()).ok()?;
    Some(h1_request_head(&raw, raw.framing().ok()?, false).ok()?.request)
}

/// What deciding made of a request, sent on by HTTP/1: one message, and the one that was meant.
pub fn goes_on(request: &decide::Request) {
    let body = if request.is_connect() || request.upgrade.is_some() {
        BodyLength::Unknown
    } else {
        BodyLength::None
    };
    means_the_same_upstream(&RequestHead { request: request.clone(), body });
}

/// The PROXY protocol's header: as long as it says, and not judged before it is whole.
pub fn proxy_header(data: &[u8]) {
    if let Parsed::Header(_, length) = proxy_protocol::parse(data) {
        assert!(length <= data.len());
        for cut in 0..length {
            assert_eq!(proxy_protocol::parse(&data[..cut]), Parsed::NeedMore, "{cut} of {length}");
        }
    }
}

/// The inspectors of TLS and HTTP: what is found does not change with the bytes behind it.
pub fn first_bytes(data: &[u8]) {
    let Some((&cut, rest)) = data.split_first() else { return };
    for (tls, http) in [(true, true), (true, false), (false, true)] {
        let inspect = Inspect { tls, http };
        let whole = sniff(rest, inspect);
        let early = sniff(&rest[..rest.len().min(usize::from(cut))], inspect);
        assert!(early == Sniffed::NeedMore || early == whole, "{early:?} became {whole:?}");
    }
}

/// Peers' metadata over TCP.
pub fn peer_exchange(data: &[u8]) {
    in_pieces(data, |stream, step| {
        let (mut exchange, mut buffer, mut passed) =
            (PeerExchange::default(), BytesMut::new(), BytesMut::new());
        for piece in stream.chunks(step) {
            buffer.extend_from_slice(piece);
            if exchange.peel(&mut buffer) {
                passed.unsplit(buffer.split());
            }
        }
        vec![format!("{:?} {passed:?}", exchange.said.get())]
    });
}

/// Headers of traces, a line each: whatever is taken from them is what the next hop takes from ours.
pub fn trace_headers(data: &[u8]) {
    let headers: Headers = data
        .split(|b| *b == b'\n')
        .filter_map(|line| {
            let at = line.iter().position(|b| *b == b':')?;
            let name = std::str::from_utf8(&line[..at]).ok()?;
            Some((decide::HeaderName::from(name), Bytes::copy_from_slice(line[at + 1..].trim_ascii())))
        })
        .collect();
    SpanContext::extract_sampling(&headers);
    for kind in [TraceHeaders::B3, TraceHeaders::W3c, TraceHeaders::B3AndW3c] {
        let Some((ids, sampled)) = SpanContext::extract(&headers, kind) else { continue };
        let span = SpanContext { ids, sampled: sampled.unwrap_or_default() };
        let child = span.child(&mut SeededRandom::new(1));
        let mut sent = headers.clone();
        child.inject(&mut sent, kind);
        let (read, _) = SpanContext::extract(&sent, kind).expect("what we write can be read");
        assert_eq!((read.trace, read.span), (child.ids.trace, child.ids.span));
    }
}

/// A bootstrap, in its JSON form.
pub fn bootstrap(value: serde_json::Value) {
    let _ = crate::bootstrap::settings(value, &crate::bootstrap::Overrides::default());
}
