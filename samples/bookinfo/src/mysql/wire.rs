//! Packets and their parts.

use anyhow::{Context, bail, ensure};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What both ends of ours can do.
pub(crate) const CAPABILITIES: u32 = CLIENT_LONG_PASSWORD
    | CLIENT_CONNECT_WITH_DB
    | CLIENT_PROTOCOL_41
    | CLIENT_TRANSACTIONS
    | CLIENT_SECURE_CONNECTION
    | CLIENT_PLUGIN_AUTH;
const CLIENT_LONG_PASSWORD: u32 = 1;
const CLIENT_CONNECT_WITH_DB: u32 = 8;
const CLIENT_PROTOCOL_41: u32 = 0x200;
const CLIENT_TRANSACTIONS: u32 = 0x2000;
const CLIENT_SECURE_CONNECTION: u32 = 0x8000;
const CLIENT_PLUGIN_AUTH: u32 = 0x8_0000;

pub(crate) const NATIVE_PASSWORD: &str = "mysql_native_password";
pub(crate) const UTF8: u8 = 33;

const LARGEST_PACKET: usize = 1 << 20;

/// A stream of packets, each with a length and a sequence number.
pub(crate) struct Packets<S> {
    stream: S,
    sequence: u8,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Packets<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, sequence: 0 }
    }

    /// A new command starts to count again.
    pub(crate) fn restart(&mut self) {
        self.sequence = 0;
    }

    pub(crate) async fn read(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).await.context("the connection was closed")?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
        ensure!(length <= LARGEST_PACKET, "a packet of {length} bytes is too large");
        self.sequence = head[3].wrapping_add(1);
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.context("the connection was closed in a packet")?;
        Ok(body)
    }

    pub(crate) async fn write(&mut self, body: &[u8]) -> anyhow::Result<()> {
        ensure!(body.len() <= LARGEST_PACKET, "a packet of {} bytes is too large", body.len());
        let length = (body.len() as u32).to_le_bytes();
        let mut packet = vec![length[0], length[1], length[2], self.sequence];
        packet.extend_from_slice(body);
        self.sequence = self.sequence.wrapping_add(1);
        self.stream.write_all(&packet).await?;
        self.stream.flush().await?;
        Ok(())
    }
}

/// Reads the parts of one packet.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, count: usize) -> anyhow::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).context("a packet ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> anyhow::Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn until_nul(&mut self) -> anyhow::Result<&'a [u8]> {
        let end = self.0.iter().position(|b| *b == 0).context("a string has no end")?;
        let text = self.take(end)?;
        self.take(1)?;
        Ok(text)
    }

    /// A length-encoded integer; `None` stands for NULL.
    pub(crate) fn length(&mut self) -> anyhow::Result<Option<usize>> {
        let wide = |bytes: &[u8]| bytes.iter().rev().fold(0_usize, |n, b| (n << 8) | usize::from(*b));
        Ok(match self.byte()? {
            0xfb => None,
            0xfc => Some(wide(self.take(2)?)),
            0xfd => Some(wide(self.take(3)?)),
            0xfe => Some(wide(self.take(8)?)),
            0xff => bail!("an error stands where a length should"),
            small => Some(usize::from(small)),
        })
    }

    pub(crate) fn text(&mut self) -> anyhow::Result<Option<String>> {
        let Some(length) = self.length()? else { return Ok(None) };
        Ok(Some(String::from_utf8_lossy(self.take(length)?).into_owned()))
    }
}

/// Appends a length-encoded string, of less than 251 bytes as all of ours are.
pub(crate) fn put_text(packet: &mut Vec<u8>, text: &str) {
    let text = &text.as_bytes()[..text.len().min(250)];
    packet.push(text.len() as u8);
    packet.extend_from_slice(text);
}

/// `mysql_native_password`: SHA1(password) XOR SHA1(challenge + SHA1(SHA1(password))).
pub(crate) fn scramble(password: &str, challenge: &[u8]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let once = Sha1::digest(password.as_bytes());
    let twice = Sha1::digest(once);
    let salted = Sha1::new().chain_update(challenge).chain_update(twice).finalize();
    once.iter().zip(salted.iter()).map(|(a, b)| a ^ b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_in_all_their_forms() {
        let read = |bytes: &[u8]| Reader(bytes).length().ok();
        assert_eq!(read(&[250]), Some(Some(250)));
        assert_eq!(read(&[0xfb]), Some(None));
        assert_eq!(read(&[0xfc, 1, 2]), Some(Some(0x201)));
        assert_eq!(read(&[0xfe, 1, 0, 0, 0, 0, 0, 0, 0]), Some(Some(1)));
        assert_eq!(read(&[0xfc, 1]), None);
        assert_eq!(read(&[0xff]), None);
    }
}
