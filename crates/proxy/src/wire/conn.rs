//! A connection with its buffers: what was read and not yet understood, what is written and not yet sent.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::net::Io;

/// Bytes waiting to be sent above which no more are taken from the other side.
pub const HIGH_WATER: usize = 64 * 1024;
/// Pieces of body up to this size are copied behind the head, so that one plain write sends both.
const COPY_BELOW: usize = 4 * 1024;
/// What most heads fit into: their buffer need not grow.
const HEAD_SIZE: usize = 1024;
const READ_SIZE: usize = 8 * 1024;
const LARGE_READ_SIZE: usize = 64 * 1024;
/// Pieces given to one vectored write.
const MAX_SLICES: usize = 16;

pub struct Conn {
    io: Io,
    read: BytesMut,
    /// Whole pieces, sent before `out`.
    queue: VecDeque<Bytes>,
    queued: usize,
    out: BytesMut,
    ended: bool,
    read_size: usize,
    received: u64,
    sent: u64,
    unflushed: bool,
}

impl Conn {
    pub fn new(io: Io) -> Self {
        Self {
            io,
            read: BytesMut::new(),
            queue: VecDeque::new(),
            queued: 0,
            out: BytesMut::new(),
            ended: false,
            read_size: READ_SIZE,
            received: 0,
            sent: 0,
            unflushed: false,
        }
    }

    pub fn io(&self) -> &Io {
        &self.io
    }

    /// What has been read and not yet consumed.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.read
    }

    /// Whether the peer has ended its side.
    pub fn ended(&self) -> bool {
        self.ended
    }

    pub fn bytes_received(&self) -> u64 {
        self.received
    }

    pub fn bytes_sent(&self) -> u64 {
        self.sent
    }

    /// Reads once into the buffer; zero means that the peer has ended its side.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        if self.read.capacity() - self.read.len() < self.read_size / 2 {
            self.read.reserve(self.read_size);
        }
        let room = self.read.capacity() - self.read.len();
        let result = std::task::ready!(pin!(self.io.read_buf(&mut self.read)).poll(cx));
        if let Ok(n) = result {
            self.ended = n == 0;
            self.received += n as u64;
            self.read_size = if n == room { LARGE_READ_SIZE } else { READ_SIZE.max(self.read_size / 2) };
        }
        Poll::Ready(result)
    }

    /// The same, but that no buffer is held while nothing comes.
    pub fn poll_fill_from_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if !self.ended {
            std::task::ready!(self.io.poll_readable(cx));
        }
        self.poll_fill(cx)
    }

    /// Where heads and chunk sizes are written.
    pub fn out(&mut self) -> &mut BytesMut {
        if self.out.capacity() == 0 {
            self.out.reserve(HEAD_SIZE);
        }
        &mut self.out
    }

    /// Bytes waiting to be sent.
    pub fn pending(&self) -> usize {
        self.queued + self.out.len()
    }

    /// Appends a piece of body: copied when small, queued as it is when large.
    pub fn write(&mut self, piece: Bytes) {
        if piece.len() < COPY_BELOW {
            self.out.extend_from_slice(&piece);
            return;
        }
        if !self.out.is_empty() {
            let head = self.out.split().freeze();
            self.queued += head.len();
            self.queue.push_back(head);
        }
        self.queued += piece.len();
        self.queue.push_back(piece);
    }

    /// Sends everything that is waiting.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.pending() > 0 {
            let n = std::task::ready!(self.poll_write_once(cx))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n as u64;
            self.unflushed = true;
            self.consume(n);
        }
        if self.unflushed {
            std::task::ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_once(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.queue.is_empty() {
            return Pin::new(&mut self.io).poll_write(cx, &self.out);
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut count = 0;
        for (slot, piece) in slices.iter_mut().zip(&self.queue) {
            *slot = IoSlice::new(piece);
            count += 1;
        }
        if count < MAX_SLICES && count == self.queue.len() && !self.out.is_empty() {
            slices[count] = IoSlice::new(&self.out);
            count += 1;
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..count])
    }

    fn consume(&mut self, mut n: usize) {
        while n > 0 {
            let Some(front) = self.queue.front_mut() else {
                if n == self.out.len() {
                    self.out.clear();
                } else {
                    self.out.advance(n);
                }
                return;
            };
            let step = front.len().min(n);
            front.advance(step);
            self.queued -= step;
            n -= step;
            if front.is_empty() {
                self.queue.pop_front();
            }
        }
    }

    /// Ends our side.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Gives idle memory back.
    pub fn shrink(&mut self) {
        if self.read.is_empty() {
            self.read = BytesMut::new();
        }
        if self.out.is_empty() {
            self.out = BytesMut::new();
        }
    }
}
