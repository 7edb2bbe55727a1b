//! HTTP/2 frame by frame, of either side, to whoever listens: no codec is asked whether it may be said.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const COMPRESSION_ERROR: u32 = 9;
pub const CALM: u32 = 11;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const PATIENCE: Duration = Duration::from_secs(10);

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// HPACK's literal that is not indexed, of up to 126 bytes each.
pub fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0, name.len() as u8][..], name, &[value.len() as u8], value].concat()
}

/// One of SETTINGS.
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// `:method GET`, `:scheme http`.
pub const GET: &[u8] = &[0x82, 0x86];
/// `:method POST`, `:scheme http`.
pub const POST: &[u8] = &[0x83, 0x86];
/// `:status 200`.
pub const OK: &[u8] = &[0x88];

pub fn block(method: &[u8], path: &[u8], more: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = [method, &literal(b":path", path), &literal(b":authority", b"a")].concat();
    for (name, value) in more {
        block.extend(literal(name, value));
    }
    block
}

/// One end of a connection that says what it likes.
pub struct Frames {
    pub stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error of a GOAWAY or RST_STREAM.
    pub fn error(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        self.payload.get(at..at + 4).map_or(u32::MAX, |code| u32::from_be_bytes(code.try_into().unwrap()))
    }
}

impl Frames {
    /// The client's end, its preface sent.
    pub async fn connect_bare(address: SocketAddr) -> Self {
        let mut client = Self { stream: TcpStream::connect(address).await.unwrap(), read: Vec::new() };
        client.send(PREFACE).await;
        client
    }

    /// The client's end, its preface and settings sent.
    pub async fn connect(address: SocketAddr, settings: &[u8]) -> Self {
        let mut client = Self::connect_bare(address).await;
        client.send(&frame(SETTINGS, 0, 0, settings)).await;
        client
    }

    /// The server's end, the client's preface read.
    pub async fn accept(stream: TcpStream) -> Option<Self> {
        let mut server = Self { stream, read: Vec::new() };
        while server.read.len() < PREFACE.len() {
            server.more().await?;
        }
        (server.read.drain(..PREFACE.len()).collect::<Vec<u8>>() == PREFACE).then_some(server)
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Sends as much as is taken from it; says whether that was all.
    pub async fn flood(&mut self, bytes: &[u8]) -> bool {
        let sent = tokio::time::timeout(Duration::from_millis(1500), self.stream.write_all(bytes)).await;
        matches!(sent, Ok(Ok(())))
    }

    async fn more(&mut self) -> Option<()> {
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await;
        matches!(read.expect("a frame or the end"), Ok(n) if n > 0).then_some(())
    }

    /// The next frame; nothing at the end of the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(head) = self.read.get(..9) {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if self.read.len() >= 9 + length {
                    let (kind, flags) = (head[3], head[4]);
                    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                    let payload = self.read[9..9 + length].to_vec();
                    self.read.drain(..9 + length);
                    return Some(Frame { kind, flags, stream, payload });
                }
            }
            self.more().await?;
        }
    }

    /// The next frame that is not about the connection's own affairs.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// The error of the GOAWAY that ends the connection; nothing where it ended without one.
    pub async fn ended_with(&mut self) -> Option<u32> {
        Some(self.next_of(GOAWAY).await?.error())
    }

    /// What becomes of a stream: `Ok` with its headers' block, `Err` with the error it is reset with.
    pub async fn fate(&mut self, stream: u32) -> Result<Vec<u8>, u32> {
        while let Some(frame) = self.next().await {
            match frame.kind {
                HEADERS if frame.stream == stream => return Ok(frame.payload),
                RST_STREAM if frame.stream == stream => return Err(frame.error()),
                GOAWAY => panic!("the connection ended: {frame:?}"),
                _ => {}
            }
        }
        panic!("the connection ended");
    }
}
