//! Two connections joined: bytes both ways, each side's end passed on, idle ones closed.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use crate::net::Io;

mod splice;

use splice::{Filled, Splice};

/// Room for bytes on the way, per direction: what one side sends is not read before the other has taken this.
const ROOM: usize = 32 * 1024;
/// The same for what goes on by TLS, in records of 16 kB, of which a write takes several.
const ROOM_FOR_RECORDS: usize = 64 * 1024;

/// How much went each way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// From the first to the second.
    pub forth: u64,
    pub back: u64,
}

/// How a joined pair came to its end.
#[derive(Debug)]
pub enum End {
    /// Both sides ended.
    Closed,
    IdleTimeout,
    MaxDuration,
    /// The first side broke.
    FirstBroke,
    SecondBroke,
}

/// Takes what is no payload off the front of a direction, such as peers' metadata.
pub trait Peel {
    /// Shortens the buffer by what it takes; false while more is needed to tell, and nothing may pass.
    fn peel(&mut self, buffer: &mut BytesMut) -> bool;
}

/// One direction: read from one, written to the other, its end passed on.
struct Flow<'a> {
    peel: Option<&'a mut dyn Peel>,
    buffer: BytesMut,
    ended: bool,
    done: bool,
    carried: u64,
    unflushed: bool,
    /// The last read filled all the room: a stream of much, which the kernel may carry by itself.
    streams: bool,
    splice: Splice,
    /// What may be on the way then.
    held: usize,
}

enum Fault {
    Read,
    Write,
}

impl<'a> Flow<'a> {
    fn new(first: BytesMut, peel: Option<&'a mut dyn Peel>, held: usize) -> Self {
        Self {
            peel,
            buffer: first,
            ended: false,
            done: false,
            carried: 0,
            unflushed: false,
            streams: false,
            splice: Splice::default(),
            held,
        }
    }

    /// Carries a stream of much from socket to socket, until it ends or little comes at a time.
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
    ) -> Poll<Result<(), Fault>> {
        loop {
            while !self.splice.is_empty() {
                self.carried += match ready!(self.splice.poll_drain(cx, to)) {
                    Ok(n) if n > 0 => n as u64,
                    _ => return Poll::Ready(Err(Fault::Write)),
                };
            }
            if self.ended || !self.streams {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.splice.poll_fill(cx, from, self.held)) {
                Ok(Filled::Some(n)) => self.streams = n >= ROOM,
                Ok(Filled::End) => self.ended = true,
                Err(_) => return Poll::Ready(Err(Fault::Read)),
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Io, to: &mut Io) -> Poll<Result<(), Fault>> {
        loop {
            let mut held = false;
            if let Some(peel) = &mut self.peel
                && !self.buffer.is_empty()
            {
                held = !peel.peel(&mut self.buffer);
                if !held {
                    self.peel = None;
                }
            }
            while !self.buffer.is_empty() && (!held || self.ended) {
                let n = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer)).map_err(|_| Fault::Write)?;
                if n == 0 {
                    return Poll::Ready(Err(Fault::Write));
                }
                self.carried += n as u64;
                self.buffer.advance(n);
                self.unflushed = true;
            }
            if (self.streams || !self.splice.is_empty())
                && let (Some(from), Some(to)) = (from.bare_tcp(), to.bare_tcp())
            {
                self.buffer = BytesMut::new();
                ready!(self.poll_splice(cx, from, to))?;
            }
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(|_| Fault::Write)?;
                self.done = true;
                return Poll::Ready(Ok(()));
            }
            if !held {
                self.buffer.clear();
            }
            self.buffer.reserve(if to.is_tls() { ROOM_FOR_RECORDS } else { ROOM });
            match pin!(from.read_buf(&mut self.buffer)).poll(cx) {
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(n)) => self.streams = n >= ROOM && !held && self.held >= splice::LEAST,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::Read)),
                Poll::Pending => {
                    // A quiet connection gives its memory back.
                    if !held {
                        self.buffer = BytesMut::new();
                    }
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|_| Fault::Write)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

/// How long a joined pair may last, and how much it may hold.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Without a byte either way.
    pub idle: Option<Duration>,
    /// In all.
    pub duration: Option<Duration>,
    /// Bytes on the way from the first to the second, and back.
    pub held: (usize, usize),
}

/// Joins two connections, each with what was read of it ahead, until both ended, one broke, or a limit is reached.
/// `progress` is told what was carried so far whenever it grew, and when all was peeled off.
pub async fn join(
    (first, read_ahead, peel_first): (&mut Io, BytesMut, Option<&mut dyn Peel>),
    (second, ahead, peel_second): (&mut Io, BytesMut, Option<&mut dyn Peel>),
    limits: Limits,
    progress: &mut dyn FnMut(Carried),
) -> (Carried, End) {
    let mut forth = Flow::new(read_ahead, peel_first, limits.held.0);
    let mut back = Flow::new(ahead, peel_second, limits.held.1);
    let timer = |limit: Option<Duration>| limit.map(|d| Box::pin(tokio::time::sleep(d)));
    let (mut idle_timer, mut end_timer) = (timer(limits.idle), timer(limits.duration));
    let mut last = (Carried::default(), true);
    let end = poll_fn(|cx| {
        if !forth.done
            && let Poll::Ready(Err(fault)) = forth.poll(cx, first, second)
        {
            return Poll::Ready(match fault {
                Fault::Read => End::FirstBroke,
                Fault::Write => End::SecondBroke,
            });
        }
        if !back.done
            && let Poll::Ready(Err(fault)) = back.poll(cx, second, first)
        {
            return Poll::Ready(match fault {
                Fault::Read => End::SecondBroke,
                Fault::Write => End::FirstBroke,
            });
        }
        if forth.done && back.done {
            return Poll::Ready(End::Closed);
        }
        let so_far = Carried { forth: forth.carried, back: back.carried };
        let now = (so_far, forth.peel.is_some() || back.peel.is_some());
        if now != last {
            last = now;
            progress(so_far);
            if let (Some(timer), Some(idle)) = (&mut idle_timer, limits.idle) {
                timer.as_mut().reset(tokio::time::Instant::now() + idle);
            }
        }
        if end_timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(End::MaxDuration);
        }
        match &mut idle_timer {
            Some(timer) => timer.as_mut().poll(cx).map(|()| End::IdleTimeout),
            None => Poll::Pending,
        }
    })
    .await;
    let carried = Carried { forth: forth.carried, back: back.carried };
    progress(carried);
    (carried, end)
}
