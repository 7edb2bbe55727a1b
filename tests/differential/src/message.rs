//! Bytes of messages: how cases write them, and what both ends read.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Each character is one byte, so that `\xff` can be written.
pub fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect()
}

/// The other way round, for what is shown and compared.
pub fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|b| char::from(*b)).collect()
}

/// The first words of TLS: a hello that asks for a name and offers protocols, as far as inspectors read it.
fn client_hello(name: &str, protocols: &[&str]) -> Vec<u8> {
    fn counted<const N: usize>(bytes: &[u8]) -> Vec<u8> {
        let length = (bytes.len() as u64).to_be_bytes();
        [&length[8 - N..], bytes].concat()
    }
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &counted::<2>(body)].concat();
    let mut extensions = Vec::new();
    if !name.is_empty() {
        let name = [&[0][..], &counted::<2>(name.as_bytes())].concat();
        extensions.extend(extension(0, &counted::<2>(&name)));
    }
    if !protocols.is_empty() {
        let list: Vec<u8> = protocols.iter().flat_map(|p| counted::<1>(p.as_bytes())).collect();
        extensions.extend(extension(16, &counted::<2>(&list)));
    }
    // Versions, groups and signatures, without which there would be no handshake.
    extensions.extend(extension(43, &[4, 3, 4, 3, 3]));
    extensions.extend(extension(10, &[0, 2, 0, 29]));
    extensions.extend(extension(13, &[0, 4, 4, 3, 8, 4]));
    extensions.extend(extension(51, &counted::<2>(&[&[0, 29][..], &counted::<2>(&[9; 32])].concat())));
    let suites = [0x13, 0x01, 0xc0, 0x2f];
    let parts = [
        &[3, 3][..],
        &[7; 32],
        &counted::<1>(&[]),
        &counted::<2>(&suites),
        &counted::<1>(&[0]),
        &counted::<2>(&extensions),
    ];
    let body = parts.concat();
    let handshake = [&[1][..], &counted::<3>(&body)].concat();
    [&[22, 3, 1][..], &counted::<2>(&handshake)].concat()
}

/// A message of gRPC, with what comes before it.
fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).and_then(|()| encoder.finish()).unwrap_or_default()
}

fn brotli(data: &[u8]) -> Vec<u8> {
    let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 3, 18);
    let _ = encoder.write_all(data);
    encoder.into_inner()
}

fn base64(data: &[u8]) -> Vec<u8> {
    STANDARD.encode(data).into_bytes()
}

/// What can be written in front of what else stands between angle brackets.
type Transform = fn(&[u8]) -> Vec<u8>;
const TRANSFORMS: &[(&str, Transform)] =
    &[("grpc ", framed), ("gzip ", gzip), ("br ", brotli), ("base64 ", base64)];

/// What stands between angle brackets, if it is one of: `x*1000`, `hello NAME PROTOCOL…` (`-` for no name), and in front of
/// these or of plain text `grpc`, `gzip`, `br` and `base64`.
fn bracketed(inner: &str) -> Option<String> {
    if let Some((rest, transform)) =
        TRANSFORMS.iter().find_map(|(name, of)| Some((inner.strip_prefix(name)?, of)))
    {
        let plain = bracketed(rest).unwrap_or_else(|| rest.to_owned());
        return Some(text(&transform(&bytes(&plain))));
    }
    if let Some(rest) = inner.strip_prefix("hello ") {
        let mut words = rest.split(' ');
        let name = words.next().filter(|name| *name != "-").unwrap_or_default();
        return Some(text(&client_hello(name, &words.collect::<Vec<_>>())));
    }
    let (what, times) = inner.split_once('*')?;
    Some(what.repeat(times.parse().ok()?))
}

/// `<x*1000>` and the like written out.
pub fn expanded(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let written = rest.find('>').and_then(|end| Some((bracketed(&rest[1..end])?, end + 1)));
        let (text, length) = written.unwrap_or_else(|| ("<".into(), 1));
        out.push_str(&text);
        rest = &rest[length..];
    }
    out + rest
}

/// A request with what is usual filled in: HTTP/1.1, a host, the body's length.
pub fn request(short: &str) -> String {
    let (head, body) = short.split_once("\n\n").unwrap_or_else(|| (short.trim_end_matches('\n'), ""));
    let head = expanded(head);
    let mut lines: Vec<String> = head.lines().map(str::to_owned).collect();
    if !lines[0].contains(" HTTP/") {
        lines[0].push_str(" HTTP/1.1");
    }
    let has = |lines: &[String], name: &str| {
        lines.iter().any(|l| l.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name)))
    };
    if !has(&lines, "host") {
        lines.insert(1, "host: a.example".into());
    }
    let chunked = has(&lines, "transfer-encoding");
    let body = expanded(&if chunked { body.replace('\n', "\r\n") } else { body.to_owned() });
    if !body.is_empty() && !has(&lines, "content-length") && !chunked {
        lines.push(format!("content-length: {}", bytes(&body).len()));
    }
    format!("{}\r\n\r\n{body}", lines.join("\r\n"))
}

/// A response: `200 body`, or a message in which lines may end with a line feed alone, and `content-length: auto` stands
/// for the length.
pub fn response(short: &str) -> String {
    if short.starts_with("HTTP/") {
        if short.contains('\r') {
            return expanded(short);
        }
        let (head, body) = short.split_once("\n\n").unwrap_or((short, ""));
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding");
        let body = expanded(&if chunked { body.replace('\n', "\r\n") } else { body.to_owned() });
        let length = format!("content-length: {}", bytes(&body).len());
        let head = expanded(head.trim_end()).replace("content-length: auto", &length);
        return format!("{}\r\n\r\n{body}", head.replace('\n', "\r\n"));
    }
    let short = &*expanded(short);
    let (status, body) = short.split_once(' ').unwrap_or((short, ""));
    let length = match status {
        "204" | "304" => String::new(),
        _ => format!("content-length: {}\r\n", body.len()),
    };
    format!("HTTP/1.1 {status} Status\r\n{length}\r\n{body}")
}

/// How reading a message ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Between messages.
    Closed,
    /// In the middle of one.
    Truncated,
    Reset,
    Malformed,
}

pub type Headers = Vec<(String, String)>;

/// What was read of one message.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// The first line, without its end.
    pub line: String,
    pub headers: Headers,
    pub body: Vec<u8>,
    pub trailers: Headers,
    /// Whether the body came whole.
    pub complete: bool,
}

impl Message {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn status(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_default()
    }

    pub fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().contains("chunked"))
    }

    fn length(&self) -> Option<usize> {
        self.header("content-length")?.trim().parse().ok()
    }
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    None,
    OfRequest,
    OfResponse,
}

/// Reads messages from one direction of a connection.
pub struct Reader<R> {
    from: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(from: R) -> Self {
        Self { from, buffer: Vec::new() }
    }

    async fn fill(&mut self) -> Result<(), Ended> {
        self.buffer.reserve(8192);
        match self.from.read_buf(&mut self.buffer).await {
            Ok(0) => Err(Ended::Closed),
            Ok(_) => Ok(()),
            Err(_) => Err(Ended::Reset),
        }
    }

    /// The next head; its message has no body yet.
    pub async fn head(&mut self) -> Result<Message, Ended> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at;
            }
            self.fill().await.map_err(|ended| match ended {
                // Between messages an end is an end: a reset tells of bytes that were not read.
                Ended::Closed | Ended::Reset if self.buffer.is_empty() => Ended::Closed,
                Ended::Closed => Ended::Truncated,
                other => other,
            })?;
        };
        let head = text(&self.buffer[..end]);
        self.buffer.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let headers = lines.map(header).collect::<Option<_>>().ok_or(Ended::Malformed)?;
        Ok(Message { line, headers, ..Message::default() })
    }

    /// What follows the head, as far as it comes.
    pub async fn body(&mut self, message: &mut Message, body: Body) -> Result<(), Ended> {
        let read = match (body, message.is_chunked(), message.length()) {
            (Body::None, ..) => Ok(()),
            (_, true, _) => self.chunks(message).await,
            (_, false, Some(length)) => self.counted(&mut message.body, length).await,
            (Body::OfRequest, false, None) => Ok(()),
            (Body::OfResponse, false, None) => self.rest(&mut message.body).await,
        };
        message.complete = read.is_ok();
        read
    }

    async fn counted(&mut self, into: &mut Vec<u8>, length: usize) -> Result<(), Ended> {
        let want = into.len() + length;
        loop {
            let take = (want - into.len()).min(self.buffer.len());
            into.extend(self.buffer.drain(..take));
            if into.len() == want {
                return Ok(());
            }
            self.fill().await.map_err(truncated)?;
        }
    }

    async fn rest(&mut self, into: &mut Vec<u8>) -> Result<(), Ended> {
        loop {
            into.append(&mut self.buffer);
            match self.fill().await {
                Ok(()) => {}
                Err(Ended::Closed) => return Ok(()),
                Err(other) => return Err(other),
            }
        }
    }

    async fn line(&mut self) -> Result<String, Ended> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = text(&self.buffer[..at]);
                self.buffer.drain(..at + 2);
                return Ok(line);
            }
            self.fill().await.map_err(truncated)?;
        }
    }

    async fn chunks(&mut self, message: &mut Message) -> Result<(), Ended> {
        loop {
            let line = self.line().await?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16).map_err(|_| Ended::Malformed)?;
            if size == 0 {
                break;
            }
            self.counted(&mut message.body, size).await?;
            self.line().await?;
        }
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(());
            }
            message.trailers.push(header(&line).ok_or(Ended::Malformed)?);
        }
    }

    /// Whatever has come and comes, up to that many bytes.
    pub async fn some(&mut self, most: usize) -> Result<Vec<u8>, Ended> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        let take = most.min(self.buffer.len());
        Ok(self.buffer.drain(..take).collect())
    }
}

fn truncated(ended: Ended) -> Ended {
    if ended == Ended::Closed { Ended::Truncated } else { ended }
}

fn header(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.to_owned(), value.trim().to_owned()))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_usual_is_filled_in() {
        assert_eq!(request("GET /a"), "GET /a HTTP/1.1\r\nhost: a.example\r\n\r\n");
        assert_eq!(
            request("POST /a HTTP/1.0\nHost: b\nx: 1\n\nhello"),
            "POST /a HTTP/1.0\r\nHost: b\r\nx: 1\r\ncontent-length: 5\r\n\r\nhello"
        );
        assert_eq!(expanded("a<bc*2>d<e*0>f"), "abcbcdf");
        assert_eq!(response("200 ok"), "HTTP/1.1 200 Status\r\ncontent-length: 2\r\n\r\nok");
        assert_eq!(
            response("HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n2\nab\n0\n\n"),
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
        );
    }
}
