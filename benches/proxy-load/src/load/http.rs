//! A client of HTTP/1.1 that waits: one request at a time on a connection that stays.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::keys::HOST;

pub(crate) struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let request =
            format!("GET /api/v1/products/17?lang=en HTTP/1.1\r\nhost: {HOST}\r\n\r\n").into_bytes();
        Ok(Self { stream, request, buffer: Vec::new() })
    }

    /// Asks and waits for the whole answer, which must be 200.
    pub(crate) fn ask(&mut self) -> Result<()> {
        self.stream.write_all(&self.request)?;
        self.buffer.clear();
        let mut read = [0; 2048];
        loop {
            let length = self.stream.read(&mut read)?;
            ensure!(length > 0, "the connection was closed");
            self.buffer.extend_from_slice(&read[..length]);
            if let Some(whole) = whole(&self.buffer)?
                && self.buffer.len() >= whole
            {
                return Ok(());
            }
        }
    }
}

/// One request on a connection of its own.
pub(crate) fn get(port: u16) -> Result<()> {
    Client::connect(port)?.ask()
}

/// How long an answer is, once its head is there.
fn whole(answer: &[u8]) -> Result<Option<usize>> {
    let Some(end) = answer.windows(4).position(|it| it == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&answer[..end])?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("answered {status}");
    }
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok());
    Ok(Some(end + 4 + length.context("an answer without a length")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_an_answer_is_in_its_head() {
        assert_eq!(whole(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab").unwrap(), Some(43));
        assert_eq!(whole(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap(), None);
        assert!(whole(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").is_err());
    }
}
