//! As much of RFC 6455 as it takes to send short texts to and fro.

use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// Of the specification, where it says how a server proves that it understood.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const TEXT: u8 = 0x81;
const MASK: [u8; 4] = [0x5a, 0xc3, 0x17, 0x99];

/// What a server answers to a client's key.
pub fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::digest(format!("{key}{GUID}")))
}

/// The client's side of the opening.
pub async fn ask(io: &mut (impl AsyncRead + AsyncWrite + Unpin), host: &str) -> anyhow::Result<()> {
    let request = format!(
        "GET /socket HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n\r\n"
    );
    io.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < 8192, "an endless head");
        head.push(io.read_u8().await.context("read the answer")?);
    }
    let head = String::from_utf8_lossy(&head);
    ensure!(head.starts_with("HTTP/1.1 101") && head.contains(&accept(KEY)), "no WebSocket: {head}");
    Ok(())
}

/// One text as one frame. Clients mask what they send, servers do not.
pub async fn write(io: &mut (impl AsyncWrite + Unpin), text: &str, masked: bool) -> anyhow::Result<()> {
    let length = u8::try_from(text.len()).ok().filter(|n| *n < 126).context("a text of 125 bytes at most")?;
    let mut frame = vec![TEXT, length | if masked { 0x80 } else { 0 }];
    if masked {
        frame.extend(MASK);
        frame.extend(text.bytes().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        frame.extend(text.bytes());
    }
    Ok(io.write_all(&frame).await?)
}

/// The next text.
pub async fn read(io: &mut (impl AsyncRead + Unpin)) -> anyhow::Result<String> {
    let mut head = [0; 2];
    io.read_exact(&mut head).await.context("the connection ended")?;
    if head[0] != TEXT || head[1] & 0x7f > 125 {
        bail!("{head:?} is no short text");
    }
    let mut mask = [0; 4];
    if head[1] & 0x80 != 0 {
        io.read_exact(&mut mask).await?;
    }
    let mut text = vec![0; usize::from(head[1] & 0x7f)];
    io.read_exact(&mut text).await?;
    let text = text.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    Ok(String::from_utf8(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specifications_own_example() {
        assert_eq!(accept(KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        for masked in [true, false] {
            let mut frame = Vec::new();
            write(&mut frame, "hello", masked).await.unwrap();
            assert_eq!(read(&mut frame.as_slice()).await.unwrap(), "hello");
        }
    }
}
