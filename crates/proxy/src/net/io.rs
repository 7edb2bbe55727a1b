//! One byte stream over plain TCP, Unix sockets and TLS, with room for bytes that were read ahead.
//!
//! Inspectors read before anybody knows who will own the connection; what they read is put back as a prefix.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

/// A connection, whoever opened it.
pub struct Io {
    kind: Kind,
    prefix: Bytes,
}

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
        Self { kind, prefix: Bytes::new() }
    }

    /// A stream whose first bytes were read already.
    pub fn with_prefix(kind: Kind, prefix: Bytes) -> Self {
        Self { kind, prefix }
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
            let n = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix[..n]);
            this.prefix.advance(n);
            if this.prefix.is_empty() {
                this.prefix = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        match &mut this.kind {
            Kind::Tcp(s) => Pin::new(s).poll_read(cx, buf),
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
