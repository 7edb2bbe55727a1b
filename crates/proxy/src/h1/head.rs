//! Reading a message's head: where it ends, what it says, and how its body is framed.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

/// The version of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Http10,
    Http11,
}

/// How much head a peer may send.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    pub bytes: usize,
    pub headers: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { bytes: 60 * 1024, headers: 100 }
    }
}

/// What is wrong with a message. The names are those of Envoy's response code details where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("http1.headers_too_large")]
    HeadTooLarge,
    #[error("http1.too_many_headers")]
    TooManyHeaders,
    #[error("http1.codec_error")]
    BareLineFeed,
    #[error("http1.codec_error")]
    Malformed,
    #[error("http1.invalid_characters")]
    Characters,
    #[error("low_version")]
    Version,
    #[error("http1.invalid_url")]
    Target,
    #[error("http1.invalid_scheme")]
    Scheme,
    #[error("http1.content_length_and_chunked_not_allowed")]
    LengthAndEncoding,
    #[error("http1.codec_error")]
    Length,
    #[error("http1.invalid_transfer_encoding")]
    Encoding,
    #[error("http1.transfer_encoding_not_allowed")]
    EncodingNotAllowed,
    #[error("http.invalid_authority")]
    Host,
    #[error("http1.codec_error")]
    ChunkSize,
    #[error("http1.codec_error")]
    ChunkFraming,
    #[error("http1.codec_error")]
    Trailers,
}

impl ParseError {
    /// The status that answers a request with this error.
    pub fn status(self) -> u16 {
        match self {
            Self::HeadTooLarge | Self::TooManyHeaders => 431,
            Self::Version => 426,
            Self::Encoding => 501,
            _ => 400,
        }
    }

    /// The body of that answer.
    pub fn body(self) -> &'static str {
        match self.status() {
            431 => "Request Header Fields Too Large",
            426 => "Upgrade Required",
            501 => "Not Implemented",
            _ => "Bad Request",
        }
    }
}

/// How long the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    /// A response that ends with its connection.
    UntilClose,
}

/// Finds the end of a head as bytes arrive, looking at each byte once.
#[derive(Debug, Default)]
pub struct HeadScanner {
    scanned: usize,
    line_start: usize,
}

impl HeadScanner {
    /// The length of the head with its empty line once it is complete.
    pub fn scan(&mut self, buffer: &[u8], limits: &HeadLimits) -> Result<Option<usize>, ParseError> {
        while let Some(at) = memchr::memchr(b'\n', &buffer[self.scanned..]).map(|i| i + self.scanned) {
            if at == 0 || buffer[at - 1] != b'\r' {
                return Err(ParseError::BareLineFeed);
            }
            let line = self.line_start..at - 1;
            self.scanned = at + 1;
            self.line_start = at + 1;
            if line.is_empty() {
                let end = at + 1;
                return if end > limits.bytes { Err(ParseError::HeadTooLarge) } else { Ok(Some(end)) };
            }
        }
        self.scanned = buffer.len();
        if buffer.len() > limits.bytes { Err(ParseError::HeadTooLarge) } else { Ok(None) }
    }

    /// The same for a request: an empty line before its first is passed over (RFC 9112, section 2.2).
    pub fn scan_request(
        &mut self,
        buffer: &mut BytesMut,
        limits: &HeadLimits,
    ) -> Result<Option<usize>, ParseError> {
        while buffer.starts_with(b"\r\n") {
            let _ = buffer.split_to(2);
            *self = Self::default();
        }
        if buffer.is_empty() { Ok(None) } else { self.scan(buffer, limits) }
    }
}

/// A request's first line, as ranges of the head.
#[derive(Debug, Clone)]
pub struct RequestLine {
    pub method: Range<usize>,
    pub target: Range<usize>,
    pub version: Version,
}

#[derive(Debug, Clone, Copy)]
pub struct ResponseLine {
    pub status: u16,
    pub version: Version,
}

/// A head: one block of bytes with lower-case names, and where each name and value lies in it.
#[derive(Debug)]
pub struct RawHead<L> {
    pub line: L,
    pub block: Bytes,
    pub headers: SmallVec<[(Range<u32>, Range<u32>); 24]>,
}

impl<L> RawHead<L> {
    /// Name (lower case) and value of each header, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Bytes, Bytes)> + '_ {
        self.headers.iter().map(|(n, v)| (self.slice(n), self.slice(v)))
    }

    pub fn slice(&self, range: &Range<u32>) -> Bytes {
        self.block.slice(range.start as usize..range.end as usize)
    }

    fn values<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let text = |r: &Range<u32>| &self.block[r.start as usize..r.end as usize];
        self.headers.iter().filter(move |(n, _)| text(n) == name).map(move |(_, v)| text(v))
    }

    /// Whether a comma-separated header names the token, in any case.
    pub fn has_token(&self, name: &[u8], token: &[u8]) -> bool {
        self.values(name)
            .flat_map(|v| v.split(|b| *b == b','))
            .any(|t| t.trim_ascii().eq_ignore_ascii_case(token))
    }
}

const MAX_HEADERS: usize = 256;

/// The offset of `part` in `whole`; both come from one parse.
fn range_in(whole: &[u8], part: &[u8]) -> Range<u32> {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    start as u32..(start + part.len()) as u32
}

impl RawHead<RequestLine> {
    /// Takes a complete head of `length` bytes off the front of the buffer.
    pub fn request(buffer: &mut BytesMut, length: usize, limits: &HeadLimits) -> Result<Self, ParseError> {
        let mut storage = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut storage);
        let bytes = &buffer[..length];
        let status = request.parse(bytes).map_err(|error| fault(error, bytes))?;
        if status.is_partial() {
            return Err(ParseError::Malformed);
        }
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
        else {
            return Err(ParseError::Malformed);
        };
        if !target.bytes().all(|b| (0x21..=0x7e).contains(&b)) {
            return Err(ParseError::Target);
        }
        let widen = |r: Range<u32>| r.start as usize..r.end as usize;
        let line = RequestLine {
            method: widen(range_in(bytes, method.as_bytes())),
            target: widen(range_in(bytes, target.as_bytes())),
            version: version_of(minor),
        };
        let headers = ranges(bytes, request.headers, limits)?;
        Ok(Self { line, block: take(buffer, length, &headers), headers })
    }

    /// How the request's body is framed; everything ambiguous is an error (RFC 9112, section 6.3).
    pub fn framing(&self) -> Result<Framing, ParseError> {
        let length = self.content_length()?;
        if length.is_some() && self.values(b"transfer-encoding").next().is_some() {
            return Err(ParseError::LengthAndEncoding);
        }
        let chunked = self.transfer_encoding()?;
        if chunked && self.line.version == Version::Http10 {
            return Err(ParseError::EncodingNotAllowed);
        }
        match (chunked, length) {
            (true, _) => Ok(Framing::Chunked),
            (false, Some(0) | None) => Ok(Framing::None),
            (false, Some(n)) => Ok(Framing::Length(n)),
        }
    }

    /// The one `Host` of an HTTP/1.1 request.
    pub fn host(&self) -> Result<Option<Bytes>, ParseError> {
        let text = |r: &Range<u32>| &self.block[r.start as usize..r.end as usize];
        let mut hosts = self.headers.iter().filter(|(n, _)| text(n) == b"host");
        let host = hosts.next();
        match (host, hosts.next()) {
            (_, Some(_)) => Err(ParseError::Host),
            (Some((_, value)), None) => Ok(Some(self.slice(value))),
            (None, None) => Ok(None),
        }
    }

    /// Whether the connection outlives this request, as far as the client says.
    pub fn keep_alive(&self) -> bool {
        keep_alive(self, self.line.version)
    }
}

impl RawHead<ResponseLine> {
    pub fn response(buffer: &mut BytesMut, length: usize, limits: &HeadLimits) -> Result<Self, ParseError> {
        let mut storage = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut storage);
        let bytes = &buffer[..length];
        let status = response.parse(bytes).map_err(error_of)?;
        if status.is_partial() {
            return Err(ParseError::Malformed);
        }
        let (Some(code), Some(minor)) = (response.code, response.version) else {
            return Err(ParseError::Malformed);
        };
        if !(100..=999).contains(&code) {
            return Err(ParseError::Malformed);
        }
        let line = ResponseLine { status: code, version: version_of(minor) };
        let headers = ranges(bytes, response.headers, limits)?;
        Ok(Self { line, block: take(buffer, length, &headers), headers })
    }

    /// How the response's body is framed, given what was asked.
    pub fn framing(&self, to_head: bool, to_connect: bool) -> Result<Framing, ParseError> {
        let status = self.line.status;
        let length = self.content_length()?;
        let chunked = self.transfer_encoding()?;
        if chunked && length.is_some() {
            return Err(ParseError::LengthAndEncoding);
        }
        if chunked && (status < 200 || status == 204) {
            return Err(ParseError::EncodingNotAllowed);
        }
        if to_head || status < 200 || status == 204 || status == 304 || (to_connect && status / 100 == 2) {
            return Ok(Framing::None);
        }
        if chunked && self.line.version == Version::Http10 {
            return Err(ParseError::EncodingNotAllowed);
        }
        Ok(match (chunked, length) {
            (true, _) => Framing::Chunked,
            (false, Some(0)) => Framing::None,
            (false, Some(n)) => Framing::Length(n),
            (false, None) => Framing::UntilClose,
        })
    }

    pub fn keep_alive(&self) -> bool {
        keep_alive(self, self.line.version)
    }
}

impl<L> RawHead<L> {
    /// The length; repeated ones must agree to the digit, lists and signs are errors.
    pub fn content_length(&self) -> Result<Option<u64>, ParseError> {
        let mut found: Option<&[u8]> = None;
        for value in self.values(b"content-length") {
            if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return Err(ParseError::Length);
            }
            if found.is_some() {
                return Err(ParseError::Length);
            }
            found = Some(value);
        }
        found.map(decimal).transpose()
    }

    /// Whether the body is chunked; any other coding, or chunked twice, is an error.
    fn transfer_encoding(&self) -> Result<bool, ParseError> {
        let mut values = self.values(b"transfer-encoding");
        match (values.next(), values.next()) {
            (None, _) => Ok(false),
            (Some(v), None) if v.eq_ignore_ascii_case(b"chunked") => Ok(true),
            _ => Err(ParseError::Encoding),
        }
    }
}

fn decimal(digits: &[u8]) -> Result<u64, ParseError> {
    digits
        .iter()
        .try_fold(0u64, |n, d| n.checked_mul(10)?.checked_add(u64::from(d - b'0')))
        .ok_or(ParseError::Length)
}

fn keep_alive<L>(head: &RawHead<L>, version: Version) -> bool {
    match version {
        Version::Http11 => {
            !head.has_token(b"connection", b"close") && !head.has_token(b"proxy-connection", b"close")
        }
        Version::Http10 => head.has_token(b"connection", b"keep-alive"),
    }
}

fn version_of(minor: u8) -> Version {
    if minor == 0 { Version::Http10 } else { Version::Http11 }
}

/// What is wrong with a request that cannot be parsed.
fn fault(error: httparse::Error, head: &[u8]) -> ParseError {
    let end = head.windows(2).position(|w| w == b"\r\n").unwrap_or(head.len());
    let line = &head[..end];
    let has_version = matches!(line.rsplit(|b| *b == b' ').next(), Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
        if major.is_ascii_digit() && minor.is_ascii_digit());
    let words = line.split(|b| *b == b' ').count();
    match error_of(error) {
        // HTTP/0.9 said no version.
        ParseError::Version | ParseError::Malformed if words == 2 && line.starts_with(b"GET /") => {
            ParseError::Version
        }
        ParseError::Version if !has_version || words > 3 => ParseError::Malformed,
        ParseError::Malformed
            if has_version && head.iter().any(|b| matches!(b, 0..=8 | 11 | 12 | 14..=31 | 127)) =>
        {
            ParseError::Characters
        }
        other => other,
    }
}

fn error_of(error: httparse::Error) -> ParseError {
    match error {
        httparse::Error::TooManyHeaders => ParseError::TooManyHeaders,
        httparse::Error::Version => ParseError::Version,
        _ => ParseError::Malformed,
    }
}

type Ranges = SmallVec<[(Range<u32>, Range<u32>); 24]>;

fn ranges(bytes: &[u8], headers: &[httparse::Header<'_>], limits: &HeadLimits) -> Result<Ranges, ParseError> {
    if headers.len() > limits.headers {
        return Err(ParseError::TooManyHeaders);
    }
    Ok(headers.iter().map(|h| (range_in(bytes, h.name.as_bytes()), range_in(bytes, h.value))).collect())
}

/// Splits the head off, its names in lower case.
fn take(buffer: &mut BytesMut, length: usize, headers: &Ranges) -> Bytes {
    for (name, _) in headers {
        buffer[name.start as usize..name.end as usize].make_ascii_lowercase();
    }
    buffer.split_to(length).freeze()
}
