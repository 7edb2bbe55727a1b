//! Writing messages: start lines, headers, chunks.

use bytes::{BufMut, Bytes, BytesMut};

use super::head::{Framing, Version};

/// Frames one body for its connection.
#[derive(Debug, Clone, Copy)]
pub struct Encoder {
    framing: Framing,
}

impl Encoder {
    pub fn new(framing: Framing) -> Self {
        Self { framing }
    }

    /// What goes before a piece of body of this length.
    pub fn before(&self, length: usize, out: &mut BytesMut) {
        if matches!(self.framing, Framing::Chunked) {
            put_hex(out, length);
            out.put_slice(b"\r\n");
        }
    }

    /// What goes after it.
    pub fn after(&self, out: &mut BytesMut) {
        if matches!(self.framing, Framing::Chunked) {
            out.put_slice(b"\r\n");
        }
    }

    /// The end of the body, with trailers where the framing can carry them.
    pub fn end<'a>(&self, trailers: impl Iterator<Item = (&'a [u8], &'a [u8])>, out: &mut BytesMut) {
        if matches!(self.framing, Framing::Chunked) {
            out.put_slice(b"0\r\n");
            for (name, value) in trailers {
                put_header(out, name, value);
            }
            out.put_slice(b"\r\n");
        }
    }

    pub fn framing(&self) -> Framing {
        self.framing
    }
}

pub(crate) fn put_header(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// Ends the head with the header that states the framing.
pub(crate) fn put_framing(out: &mut BytesMut, framing: Framing) {
    match framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Length(n) => {
            out.put_slice(b"content-length: ");
            put_decimal(out, n);
            out.put_slice(b"\r\n");
        }
    }
}

pub fn put_request_line(out: &mut BytesMut, method: &[u8], target: &[u8]) {
    out.reserve(method.len() + target.len() + 12);
    out.put_slice(method);
    out.put_u8(b' ');
    out.put_slice(target);
    out.put_slice(b" HTTP/1.1\r\n");
}

pub fn put_status_line(out: &mut BytesMut, version: Version, status: u16) {
    out.put_slice(match version {
        Version::Http10 => b"HTTP/1.0 ",
        Version::Http11 => b"HTTP/1.1 ",
    });
    put_decimal(out, u64::from(status));
    out.put_u8(b' ');
    out.put_slice(reason_phrase(status).as_bytes());
    out.put_slice(b"\r\n");
}

fn put_hex(out: &mut BytesMut, n: usize) {
    let mut digits = [0u8; 16];
    let mut at = 16;
    let mut n = n;
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[n & 15];
        n >>= 4;
        if n == 0 {
            break;
        }
    }
    out.put_slice(&digits[at..]);
}

pub(crate) fn put_decimal(out: &mut BytesMut, n: u64) {
    let mut digits = [0u8; 20];
    let at = decimal_into(&mut digits, n);
    out.put_slice(&digits[at..]);
}

/// A number as header text.
pub(crate) fn decimal(n: u64) -> Bytes {
    let mut digits = [0u8; 20];
    let at = decimal_into(&mut digits, n);
    Bytes::copy_from_slice(&digits[at..])
}

fn decimal_into(digits: &mut [u8; 20], mut n: u64) -> usize {
    let mut at = 20;
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return at;
        }
    }
}

/// RFC 9110's names of the codes; other codes get the name of their class.
pub fn reason_phrase(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Unknown")
}
