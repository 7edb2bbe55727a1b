//! HTTP/1.1 as both ends of the load need it: heads and bodies, read as they come.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// No head and no line of the load is longer.
const LONGEST: usize = 64 * 1024;

/// A stream, and what has been read of it but not used.
pub(crate) struct Reader<S> {
    pub(crate) stream: S,
    pub(crate) buffer: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The request line, or the status line.
    pub(crate) first: String,
    headers: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(usize),
    Chunked,
}

impl Head {
    fn parse(text: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(text).map_err(|_| bad("a head that is no text"))?;
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let header = |line: &str| {
            line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        Ok(Self { first, headers: lines.filter_map(header).collect() })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn status(&self) -> u16 {
        self.first.split(' ').nth(1).and_then(|it| it.parse().ok()).unwrap_or_default()
    }

    /// Of a head without either, the body is empty.
    pub(crate) fn framing(&self) -> Framing {
        if self.get("transfer-encoding").is_some_and(|it| it.eq_ignore_ascii_case("chunked")) {
            return Framing::Chunked;
        }
        Framing::Length(self.get("content-length").and_then(|it| it.parse().ok()).unwrap_or_default())
    }
}

fn bad(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

impl<S: AsyncRead + Unpin> Reader<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    async fn more(&mut self) -> Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// What stands before the mark, which goes with it.
    async fn until(&mut self, mark: &[u8]) -> Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|it| it == mark) {
                let mut part: Vec<u8> = self.buffer.drain(..at + mark.len()).collect();
                part.truncate(at);
                return Ok(part);
            }
            if self.buffer.len() > LONGEST {
                return Err(bad("no end of a head or line"));
            }
            self.more().await?;
        }
    }

    /// So many bytes.
    pub(crate) async fn take(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.more().await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    pub(crate) async fn head(&mut self) -> Result<Head> {
        Head::parse(&self.until(b"\r\n\r\n").await?)
    }

    pub(crate) async fn body(&mut self, framing: Framing) -> Result<Vec<u8>> {
        if let Framing::Length(length) = framing {
            return self.take(length).await;
        }
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n").await?;
            let line = String::from_utf8_lossy(&line);
            let length = usize::from_str_radix(line.trim(), 16).map_err(|_| bad("no length of a chunk"))?;
            body.extend(self.take(length).await?);
            self.until(b"\r\n").await?;
            if length == 0 {
                return Ok(body);
            }
        }
    }
}

/// A body cut into chunks of these lengths, the last of which takes what is left.
pub(crate) fn chunked(body: &[u8], lengths: impl IntoIterator<Item = usize>) -> Vec<u8> {
    let mut text = Vec::new();
    let mut left = body;
    let mut chunk = |part: &[u8]| {
        if !part.is_empty() {
            text.extend(format!("{:x}\r\n", part.len()).bytes());
            text.extend([part, b"\r\n"].concat());
        }
    };
    for length in lengths {
        let (part, rest) = left.split_at(length.min(left.len()));
        chunk(part);
        left = rest;
    }
    chunk(left);
    text.extend(b"0\r\n\r\n");
    text
}

/// Length and sum of a body: what the upstream says of one that it was sent.
pub(crate) fn sum(body: &[u8]) -> String {
    let sum = body.iter().fold(0_u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    format!("{} {sum}", body.len())
}

/// The body of an answer of this length.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| b'a' + (at % 23) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_in_chunks_is_read_again() {
        let body = pattern(1000);
        let mut text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nx: y\r\n\r\n".to_vec();
        text.extend(chunked(&body, [1, 0, 600]));
        text.extend(b"HTTP/1.1 204 No Content\r\n\r\n");
        let mut reader = Reader::new(text.as_slice());
        let head = reader.head().await.unwrap();
        assert_eq!((head.status(), head.get("x"), head.framing()), (200, Some("y"), Framing::Chunked));
        assert_eq!(reader.body(head.framing()).await.unwrap(), body);
        let head = reader.head().await.unwrap();
        assert_eq!((head.status(), head.framing()), (204, Framing::Length(0)));
        assert_eq!(reader.head().await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn sums_tell_bodies_apart() {
        assert_eq!(sum(b""), "0 0");
        assert_ne!(sum(b"ab"), sum(b"ba"));
    }
}
