//! What a connection's first bytes say: TLS with which name and protocols, HTTP of which version, or something else.

use tls::{ClientHello, Peek, peek_client_hello};

/// What the inspectors of a listener look for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inspect {
    pub tls: bool,
    pub http: bool,
}

/// What they found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sniffed {
    NeedMore,
    Tls(ClientHello),
    /// The inspector's name of the version: `http/1.0`, `http/1.1`, `h2c`.
    Http(&'static str),
    /// Neither.
    Other,
    /// It began as TLS and went wrong.
    Bad,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A request line that is longer is taken for something else, as in Envoy.
const MAX_REQUEST_LINE: usize = 64 * 1024;

/// Methods that make a first line HTTP's; others need the version at its end.
const METHODS: [&[u8]; 9] =
    [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"];

pub fn sniff(bytes: &[u8], inspect: Inspect) -> Sniffed {
    if inspect.tls {
        match peek_client_hello(bytes) {
            Ok(Peek::NeedMore) => return Sniffed::NeedMore,
            Ok(Peek::Hello(hello)) => return Sniffed::Tls(hello),
            Ok(Peek::NotTls) => {}
            Err(_) => return Sniffed::Bad,
        }
    }
    if inspect.http { http(bytes) } else { Sniffed::Other }
}

fn http(bytes: &[u8]) -> Sniffed {
    if bytes.is_empty() {
        return Sniffed::NeedMore;
    }
    if bytes.starts_with(PREFACE) {
        return Sniffed::Http("h2c");
    }
    if PREFACE.starts_with(bytes) {
        return Sniffed::NeedMore;
    }
    let method = bytes.iter().position(|b| *b == b' ').unwrap_or(bytes.len());
    let known = METHODS
        .iter()
        .any(|m| if method == bytes.len() { m.starts_with(bytes) } else { *m == &bytes[..method] });
    let token = bytes[..method].iter().all(|b| b.is_ascii_uppercase() || *b == b'-' || *b == b'_');
    if !known && !(token && method < 32) {
        return Sniffed::Other;
    }
    let end = memchr::memchr(b'\n', bytes);
    let line = &bytes[..end.unwrap_or(bytes.len())];
    if line.len() > MAX_REQUEST_LINE || line.contains(&0) {
        return Sniffed::Other;
    }
    match end {
        Some(_) => version_of(line.strip_suffix(b"\r").unwrap_or(line)),
        None => Sniffed::NeedMore,
    }
}

fn version_of(line: &[u8]) -> Sniffed {
    if line.ends_with(b" HTTP/1.1") {
        Sniffed::Http("http/1.1")
    } else if line.ends_with(b" HTTP/1.0") {
        Sniffed::Http("http/1.0")
    } else {
        Sniffed::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_what_is_spoken() {
        let both = Inspect { tls: true, http: true };
        for (bytes, expected) in [
            (&b""[..], Sniffed::NeedMore),
            (b"GET / HTTP/1.1\r\n", Sniffed::Http("http/1.1")),
            (b"GET / HTTP/1.0\r\n", Sniffed::Http("http/1.0")),
            (b"PURGE / HTTP/1.1\r\n", Sniffed::Http("http/1.1")),
            (b"GET /", Sniffed::NeedMore),
            (b"GE", Sniffed::NeedMore),
            (b"GET /\r\n", Sniffed::Other),
            (b"PRI * HTTP", Sniffed::NeedMore),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Sniffed::Http("h2c")),
            (b"*1\r\n$4\r\nPING\r\n", Sniffed::Other),
            (b"\x03\x00", Sniffed::Other),
            (b"\x4a\x00\x00\x00\x0a8.0.11", Sniffed::Other),
            (b"hello world\r\n", Sniffed::Other),
            (b"I \0", Sniffed::Other),
            (b"I \0 HTTP/1.0\r\n", Sniffed::Other),
        ] {
            assert_eq!(sniff(bytes, both), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(sniff(b"\x16", both), Sniffed::NeedMore);
        assert_eq!(sniff(b"\x16", Inspect { tls: false, http: true }), Sniffed::Other);
        assert_eq!(sniff(b"GET / HTTP/1.1\r\n", Inspect { tls: true, http: false }), Sniffed::Other);
    }
}
