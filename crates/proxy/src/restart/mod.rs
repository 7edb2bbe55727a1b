//! Replacing the program without losing a connection: the process that comes is given the listening sockets of the one that
//! is there, says when it serves, and the one that was there lets its connections end.
//!
//! ```text
//! new (epoch n+1)                        old (epoch n), listening on SOCKET_BASE_n
//!   Sockets ──────────────────────────►   every listener's sockets, one message each, with descriptors
//!   … configures itself, both accept from the same queues; when it is ready:
//!   Drain {drain, shutdown} ──────────►   stops accepting; GOAWAY, `Connection: close`; ends when nothing is left
//!   Stats ────────────────────────────►   what it counted; once more by itself before it ends
//! ```
//!
//! A new process that fails before it says `Drain` leaves the old one as it was. Sockets are given to processes of the same
//! user (or root) alone. Everything here blocks, and so has threads of its own.

mod stats;
mod wire;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::control::Handle;
use crate::stats::Snapshot;
pub(crate) use stats::Counters;

/// How long one answer may take, and how long whoever reads statistics waits for one.
const LIMIT: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    Sockets,
    Drain(Times),
    Stats,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// Sockets that share one address; more follow.
    Sockets(String),
    NoMore,
    Draining,
    Stats(Box<Counters>),
}

/// How the old process goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Connections without a request are kept so long, in case one is on its way.
    pub drain: Duration,
    /// And everything else so long.
    pub shutdown: Duration,
}

/// Listening sockets, by what they listen on.
#[derive(Debug, Default)]
pub struct Inherited(HashMap<String, Vec<OwnedFd>>);

impl Inherited {
    pub(crate) fn take(&mut self, key: &str) -> Vec<OwnedFd> {
        self.0.remove(key).unwrap_or_default()
    }
}

/// Sockets as they are given on.
pub(crate) type Given = Vec<(String, Vec<OwnedFd>)>;

/// The process that was there before.
#[derive(Clone)]
pub struct Parent {
    line: Arc<Mutex<Line>>,
    /// What it said last that it counted.
    counters: Arc<Mutex<Counters>>,
}

struct Line {
    stream: Option<UnixStream>,
    counters: Arc<Mutex<Counters>>,
}

impl Line {
    fn say(&mut self, ask: &Ask) -> io::Result<()> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        wire::send(stream, ask, &[])
    }

    fn hear(&mut self) -> io::Result<(Answer, Vec<OwnedFd>)> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        wire::receive(stream)
    }

    fn take(&self, counters: Counters) {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner) = counters;
    }

    /// What it counted so far, or did until it ended.
    fn ask_stats(&mut self) {
        let _ = self.say(&Ask::Stats);
        loop {
            match self.hear() {
                Ok((Answer::Stats(counters), _)) => {
                    self.take(*counters);
                    return;
                }
                Ok(_) => {}
                Err(_) => {
                    self.stream = None;
                    return;
                }
            }
        }
    }
}

impl Parent {
    /// Connects to the process that listens at this path, `@NAME` for one in no file system, and takes its sockets.
    pub fn connect(path: &str) -> io::Result<(Self, Inherited)> {
        let stream = UnixStream::connect_addr(&wire::address(path)?)?;
        if !wire::is_ours(&stream) {
            return Err(io::Error::other("it belongs to another user"));
        }
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let counters = Arc::<Mutex<Counters>>::default();
        let mut line = Line { stream: Some(stream), counters: counters.clone() };
        line.say(&Ask::Sockets)?;
        let mut inherited = Inherited::default();
        loop {
            match line.hear()? {
                (Answer::Sockets(key), fds) => inherited.0.entry(key).or_default().extend(fds),
                (Answer::NoMore, _) => break,
                (other, _) => return Err(io::Error::other(format!("an answer out of turn: {other:?}"))),
            }
        }
        Ok((Self { line: Arc::new(Mutex::new(line)), counters }, inherited))
    }

    /// Tells it that we serve now.
    pub async fn drain(&self, times: Times) -> io::Result<()> {
        self.blocking(move |line| {
            line.say(&Ask::Drain(times))?;
            loop {
                match line.hear()? {
                    (Answer::Draining, _) => return Ok(()),
                    (Answer::Stats(counters), _) => line.take(*counters),
                    (other, _) => return Err(io::Error::other(format!("an answer out of turn: {other:?}"))),
                }
            }
        })
        .await
    }

    /// What it has counted, and those before it.
    pub(crate) async fn stats(&self) -> Snapshot {
        let asked = self.blocking(|line| {
            line.ask_stats();
            Ok(())
        });
        // One that does not answer has counted no less than it said last.
        let _ = tokio::time::timeout(PATIENCE, asked).await;
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).snapshot()
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Line) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let line = self.line.clone();
        let work = move || work(&mut line.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }
}

/// Waits for a process that replaces this one.
pub struct Successor {
    takes_over: oneshot::Receiver<Times>,
    over: std::sync::mpsc::Sender<oneshot::Sender<()>>,
}

impl Successor {
    /// Listens at this path for the process that comes.
    pub fn listen(path: &str, handle: Handle) -> io::Result<Self> {
        let listener = wire::listen(path)?;
        let (tell, takes_over) = oneshot::channel();
        let (over, end) = std::sync::mpsc::channel();
        std::thread::Builder::new().name("restart".into()).spawn(move || {
            let mut tell = Some(tell);
            // One after the other: one that fails before it takes over may be followed by another.
            while tell.is_some() {
                let Ok((mut stream, _)) = listener.accept() else { return };
                if wire::is_ours(&stream)
                    && let Err(error) = serve(&mut stream, &handle, &mut tell, &end)
                    && error.kind() != io::ErrorKind::UnexpectedEof
                {
                    tracing::warn!(%error, "the process that was to replace this one failed");
                }
            }
        })?;
        Ok(Self { takes_over, over })
    }

    /// How this process is to go, once another one serves.
    pub async fn takes_over(&mut self) -> Times {
        match (&mut self.takes_over).await {
            Ok(times) => times,
            Err(_) => std::future::pending().await,
        }
    }

    /// This process ends: what it counted is given on.
    pub async fn end(self) {
        let (done, wait) = oneshot::channel();
        if self.over.send(done).is_ok() {
            let _ = tokio::time::timeout(LIMIT, wait).await;
        }
    }
}

/// How often a line without questions is left to see whether this process ends.
const TURN: Duration = Duration::from_millis(50);

fn serve(
    stream: &mut UnixStream,
    handle: &Handle,
    tell: &mut Option<oneshot::Sender<Times>>,
    end: &std::sync::mpsc::Receiver<oneshot::Sender<()>>,
) -> io::Result<()> {
    let counted = || Answer::Stats(Box::new(Counters::of(&handle.stats_blocking())));
    loop {
        if let Ok(done) = end.try_recv() {
            let sent = wire::send(stream, &counted(), &[]);
            let _ = done.send(());
            return sent;
        }
        if !readable(stream)? {
            continue;
        }
        stream.set_read_timeout(Some(LIMIT))?;
        match wire::receive::<Ask>(stream)?.0 {
            Ask::Sockets => {
                for (key, fds) in handle.sockets_blocking() {
                    for some in fds.chunks(wire::MOST_DESCRIPTORS) {
                        let borrowed: Vec<_> = some.iter().map(OwnedFd::as_fd).collect();
                        wire::send(stream, &Answer::Sockets(key.clone()), &borrowed)?;
                    }
                }
                wire::send(stream, &Answer::NoMore, &[])?;
            }
            Ask::Drain(times) => {
                if let Some(tell) = tell.take() {
                    let _ = tell.send(times);
                }
                wire::send(stream, &Answer::Draining, &[])?;
            }
            Ask::Stats => wire::send(stream, &counted(), &[])?,
        }
    }
}

/// Whether something can be read, or never more will, within a turn.
fn readable(stream: &UnixStream) -> io::Result<bool> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    let turn = PollTimeout::try_from(TURN).unwrap_or(PollTimeout::ZERO);
    Ok(poll(&mut fds, turn)? > 0)
}
