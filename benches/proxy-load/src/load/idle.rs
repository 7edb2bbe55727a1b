//! Connections that have had one request answered, and then stay as they are.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::http::Client;
use crate::keys::HOST;

/// What keeps a connection open.
pub(crate) enum Held {
    Http1 { _client: Client },
    Http2 { _stream: TcpStream },
}

pub(crate) fn http1(port: u16) -> Result<Held> {
    let mut client = Client::connect(port)?;
    client.ask()?;
    Ok(Held::Http1 { _client: client })
}

/// By prior knowledge: preface, settings, one request, and its answer.
pub(crate) fn http2(port: u16) -> Result<Held> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    start.extend(frame(SETTINGS, 0, 0, &[]));
    // GET, http, /, and the authority as a literal that goes into no table.
    let mut head = vec![0x82, 0x86, 0x84, 0x01, HOST.len() as u8];
    head.extend(HOST.as_bytes());
    start.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &head));
    stream.write_all(&start)?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let (length, kind, flags, id) = parts(head);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload)?;
        ensure!(kind != GO_AWAY && kind != RESET, "the connection or its request was refused");
        if kind == SETTINGS && flags & ACK == 0 {
            stream.write_all(&frame(SETTINGS, ACK, 0, &[]))?;
        }
        if id == 1 && flags & END_STREAM != 0 && (kind == DATA || kind == HEADERS) {
            return Ok(Held::Http2 { _stream: stream });
        }
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![high, middle, low, kind, flags];
    frame.extend(id.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Length, kind, flags, stream.
fn parts([high, middle, low, kind, flags, id @ ..]: [u8; 9]) -> (usize, u8, u8, u32) {
    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
    (length, kind, flags, u32::from_be_bytes(id) & (u32::MAX >> 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_are_written() {
        let bytes = frame(HEADERS, END_STREAM, 5, &[7; 300]);
        let head: [u8; 9] = bytes[..9].try_into().unwrap();
        assert_eq!(parts(head), (300, HEADERS, END_STREAM, 5));
    }
}
