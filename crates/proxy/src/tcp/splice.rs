//! Bytes from one TCP socket to another that never come up to this process: the kernel moves its own pages through a pipe.
//!
//! A pipe is held only while there is something in it, and it is always emptied before it is filled again: so whoever has
//! to wait waits for a socket, never for a pipe.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a pipe holds if it is not asked for more.
pub const LEAST: usize = 64 * 1024;
/// What it is asked to hold: what anybody may ask for. With so much, four fifths of the cost of copying are saved.
const MOST: usize = 1 << 20;
/// Pipes that a worker keeps for the next who needs one.
const SPARE: usize = 16;

thread_local! {
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe, empty unless it is in use.
struct Pipe {
    from: OwnedFd,
    into: OwnedFd,
}

impl Pipe {
    fn open() -> io::Result<Self> {
        if let Some(spare) = PIPES.with_borrow_mut(Vec::pop) {
            return Ok(spare);
        }
        let (from, into) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Where that is not allowed it stays as it is.
        let _ = fcntl(&into, FcntlArg::F_SETPIPE_SZ(MOST as i32));
        Ok(Self { from, into })
    }

    fn spare(self) {
        PIPES.with_borrow_mut(|pipes| {
            if pipes.len() < SPARE {
                pipes.push(self);
            }
        });
    }
}

/// One direction of a joined pair, on its way through the kernel.
#[derive(Default)]
pub struct Splice {
    pipe: Option<Pipe>,
    /// What is in it.
    held: usize,
}

/// What became of one attempt to fill the pipe.
pub enum Filled {
    Some(usize),
    End,
}

impl Splice {
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes up to `room` bytes that have arrived; the pipe must be empty. While there is nothing it is given back.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        room: usize,
    ) -> Poll<io::Result<Filled>> {
        debug_assert!(self.is_empty());
        let pipe = match self.pipe.take() {
            Some(pipe) => pipe,
            None => Pipe::open()?,
        };
        let taken = poll_move(cx, from, Interest::READABLE, || {
            splice(from.as_fd(), None, &pipe.into, None, room.min(MOST), flags())
        });
        match taken {
            Poll::Ready(Ok(n)) if n > 0 => {
                self.held = n;
                self.pipe = Some(pipe);
                Poll::Ready(Ok(Filled::Some(n)))
            }
            other => {
                pipe.spare();
                other.map_ok(|_| Filled::End)
            }
        }
    }

    /// Gives on what is in the pipe, or some of it: how much that was.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        let Some(pipe) = &self.pipe else { return Poll::Ready(Ok(0)) };
        let given = poll_move(cx, to, Interest::WRITABLE, || {
            splice(&pipe.from, None, to.as_fd(), None, self.held, flags())
        });
        let given = ready!(given)?;
        self.held -= given.min(self.held);
        Poll::Ready(Ok(given))
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

/// Tries when the socket is ready for it, until it is done or has to wait.
fn poll_move(
    cx: &mut Context<'_>,
    socket: &TcpStream,
    interest: Interest,
    mut attempt: impl FnMut() -> nix::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(match interest {
            Interest::READABLE => socket.poll_read_ready(cx),
            _ => socket.poll_write_ready(cx),
        })?;
        match socket.try_io(interest, || attempt().map_err(io::Error::from)) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            done => return Poll::Ready(done),
        }
    }
}
