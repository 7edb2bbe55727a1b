//! One byte stream over plain TCP, Unix sockets and TLS, with room for bytes that were read ahead.
//!
//! Inspectors read before anybody knows who will own the connection; what they read is put back as a prefix.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

/// A connection, whoever opened it.
pub struct Io {
    kind: Kind,
    prefix: Bytes,
    ahead: Ahead,
}

/// Whether more is read from a socket than was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ahead {
    Never,
    /// Once there was as much as was asked for.
    NotYet,
    /// There is more.
    Now,
}

/// How much, then. TLS asks for 4 kB at a time, of records of 16.
const AHEAD: usize = 32 * 1024;

/// What carries the bytes.
pub enum Kind {
    Tcp(TcpStream),
    Unix(UnixStream),
    Server(Box<server::TlsStream<Io>>),
    Client(Box<client::TlsStream<Io>>),
    /// Nothing: the connection was handed on.
    Taken,
}

impl Io {
    pub fn new(kind: Kind) -> Self {
        Self { kind, prefix: Bytes::new(), ahead: Ahead::Never }
    }

    /// A stream whose first bytes were read already.
    pub fn with_prefix(kind: Kind, prefix: Bytes) -> Self {
        Self { kind, prefix, ahead: Ahead::Never }
    }

    /// The same for who asks for little at a time, however much there is.
    pub fn reads_ahead(self) -> Self {
        Self { ahead: Ahead::NotYet, ..self }
    }

    /// The bare connection. What was put back and not read again is lost: only for connections without.
    pub fn into_kind(self) -> Kind {
        debug_assert!(self.prefix.is_empty());
        self.kind
    }

    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Puts bytes back in front of what is still to be read.
    pub fn put_back(&mut self, bytes: Bytes) {
        debug_assert!(self.prefix.is_empty());
        self.prefix = bytes;
    }

    /// The socket at the bottom, if it is TCP.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match &self.kind {
            Kind::Tcp(tcp) => Some(tcp),
            Kind::Unix(_) | Kind::Taken => None,
            Kind::Server(tls) => tls.get_ref().0.tcp(),
            Kind::Client(tls) => tls.get_ref().0.tcp(),
        }
    }

    /// The socket, if there is nothing else: no TLS, and nothing that was read ahead.
    pub fn bare_tcp(&self) -> Option<&TcpStream> {
        match &self.kind {
            Kind::Tcp(tcp) if self.prefix.is_empty() => Some(tcp),
            _ => None,
        }
    }

    /// Ready when there may be something to read, as far as that can be told without reading.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.kind {
            Kind::Tcp(tcp) if self.prefix.is_empty() => tcp.poll_read_ready(cx).map(drop),
            _ => Poll::Ready(()),
        }
    }

    fn give_prefix(&mut self, buf: &mut ReadBuf<'_>) {
        let n = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..n]);
        self.prefix.advance(n);
        if self.prefix.is_empty() {
            self.prefix = Bytes::new();
        }
    }

    pub fn is_tls(&self) -> bool {
        matches!(self.kind, Kind::Server(_) | Kind::Client(_))
    }

    /// The application protocol that the handshake settled on.
    pub fn alpn(&self) -> Option<&[u8]> {
        match &self.kind {
            Kind::Server(tls) => tls.get_ref().1.alpn_protocol(),
            Kind::Client(tls) => tls.get_ref().1.alpn_protocol(),
            Kind::Tcp(_) | Kind::Unix(_) | Kind::Taken => None,
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.prefix.is_empty() {
            this.give_prefix(buf);
            return Poll::Ready(Ok(()));
        }
        match &mut this.kind {
            Kind::Tcp(s) if this.ahead == Ahead::Now => {
                let mut much = BytesMut::with_capacity(AHEAD);
                let n = ready!(pin!(s.read_buf(&mut much)).poll(cx))?;
                if n < AHEAD {
                    this.ahead = Ahead::NotYet;
                }
                this.prefix = much.freeze();
                this.give_prefix(buf);
                Poll::Ready(Ok(()))
            }
            Kind::Tcp(s) => {
                let read = Pin::new(s).poll_read(cx, buf);
                if buf.remaining() == 0 && this.ahead == Ahead::NotYet {
                    this.ahead = Ahead::Now;
                }
                read
            }
            Kind::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Kind::Server(s) => Pin::new(s.as_mut()).poll_read(cx, buf),
            Kind::Client(s) => Pin::new(s.as_mut()).poll_read(cx, buf),
            Kind::Taken => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            Kind::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Kind::Unix(s) => Pin::new(s).poll_write(cx, buf),
            Kind::Server(s) => Pin::new(s.as_mut()).poll_write(cx, buf),
            Kind::Client(s) => Pin::new(s.as_mut()).poll_write(cx, buf),
            Kind::Taken => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            Kind::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Kind::Unix(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Kind::Server(s) => Pin::new(s.as_mut()).poll_write_vectored(cx, bufs),
            Kind::Client(s) => Pin::new(s.as_mut()).poll_write_vectored(cx, bufs),
            Kind::Taken => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Tcp(_) | Kind::Unix(_) => Poll::Ready(Ok(())),
            Kind::Server(s) => Pin::new(s.as_mut()).poll_flush(cx),
            Kind::Client(s) => Pin::new(s.as_mut()).poll_flush(cx),
            Kind::Taken => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Kind::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Kind::Server(s) => Pin::new(s.as_mut()).poll_shutdown(cx),
            Kind::Client(s) => Pin::new(s.as_mut()).poll_shutdown(cx),
            Kind::Taken => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// Asked for a little at a time, as TLS asks.
    #[tokio::test]
    async fn what_is_read_ahead_comes_in_its_order() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let sent: Vec<u8> = (0..300_000_u32).map(|i| (i ^ (i >> 8)) as u8).collect();
        let bytes = sent.clone();
        let writing = tokio::spawn(async move {
            TcpStream::connect(address).await.unwrap().write_all(&bytes).await.unwrap();
        });
        let (stream, _) = listener.accept().await.unwrap();
        let mut io = Io::with_prefix(Kind::Tcp(stream), Bytes::from_static(b"first")).reads_ahead();
        let (mut read, mut little) = (Vec::new(), [0; 4096]);
        loop {
            match io.read(&mut little).await.unwrap() {
                0 => break,
                n => read.extend_from_slice(&little[..n]),
            }
        }
        writing.await.unwrap();
        assert_eq!(&read[..5], b"first");
        assert!(read[5..] == sent, "the bytes came otherwise");
    }
}
