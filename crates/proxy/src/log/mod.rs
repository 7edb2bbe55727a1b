//! Access-log files: workers render lines, one thread writes them in batches.
//!
//! Writing to a file or pipe can block; no worker ever does it. What does not fit in the queue, and what cannot be
//! written, is dropped and counted. A file that cannot be opened or written is tried again.

mod batches;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

pub use batches::{Batch, Batches};

/// Batches on the way to the writing thread.
const QUEUE: usize = 256;
/// A worker hands its lines over when it has this many bytes, or when it is asked to.
const BATCH: usize = 32 * 1024;
/// How long a file that could not be opened or written is left alone.
const PAUSE: Duration = Duration::from_secs(1);

enum Message {
    Lines(Arc<str>, Vec<u8>),
    Sync(SyncSender<()>),
}

/// The writing end that workers share.
#[derive(Clone)]
pub struct LogSink {
    queue: SyncSender<Message>,
    /// Lines that could not be written.
    lost: Arc<AtomicU64>,
}

impl LogSink {
    /// Starts the thread. `stdout` is the file that `/dev/stdout` and `/dev/stderr` stand for, where the application
    /// beside us owns the real ones.
    pub fn start(stdout: Option<PathBuf>) -> std::io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let mut files = Files { open: HashMap::new(), stdout, lost: Arc::clone(&lost) };
        std::thread::Builder::new().name("access-log".into()).spawn(move || files.write_all(&lines))?;
        Ok(Self { queue, lost })
    }

    /// Lines that were handed over and could not be written since this was last asked.
    fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    /// Waits until what was handed over is written.
    pub fn sync(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.send(Message::Sync(done)).is_ok() {
            let _ = wait.recv();
        }
    }

    fn hand_over(&self, path: &Arc<str>, lines: Vec<u8>) -> Result<(), usize> {
        match self.queue.try_send(Message::Lines(path.clone(), lines)) {
            Ok(()) => Ok(()),
            Err(
                TrySendError::Full(Message::Lines(_, lines))
                | TrySendError::Disconnected(Message::Lines(_, lines)),
            ) => Err(count(&lines)),
            Err(_) => Ok(()),
        }
    }
}

fn count(lines: &[u8]) -> usize {
    lines.iter().filter(|b| **b == b'\n').count()
}

/// What the writing thread has.
struct Files {
    open: HashMap<Arc<str>, State>,
    stdout: Option<PathBuf>,
    lost: Arc<AtomicU64>,
}

enum State {
    Open(File),
    /// Not to be tried before then.
    Failed(Instant),
}

impl Files {
    fn write_all(&mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            match message {
                Message::Lines(path, lines) => self.write(&path, &lines, Instant::now()),
                Message::Sync(done) => _ = done.send(()),
            }
        }
    }

    fn write(&mut self, path: &Arc<str>, lines: &[u8], now: Instant) {
        let due = !matches!(self.open.get(path), Some(State::Open(_)))
            && !matches!(self.open.get(path), Some(State::Failed(until)) if now < *until);
        if due {
            let state = open(path, self.stdout.as_deref()).map_or(State::Failed(now + PAUSE), State::Open);
            self.open.insert(path.clone(), state);
        }
        let written = match self.open.get_mut(path) {
            Some(State::Open(file)) => file.write_all(lines),
            _ => {
                self.lose(lines);
                return;
            }
        };
        if let Err(error) = written {
            tracing::warn!(%error, path = &**path, "access log cannot be written");
            self.lose(lines);
            self.open.insert(path.clone(), State::Failed(now + PAUSE));
        }
    }

    fn lose(&self, lines: &[u8]) {
        self.lost.fetch_add(count(lines) as u64, Ordering::Relaxed);
    }
}

fn open(path: &str, stdout: Option<&Path>) -> Option<File> {
    let standard = matches!(path, "/dev/stdout" | "/dev/stderr");
    let real = match stdout {
        Some(redirected) if standard => redirected,
        _ => Path::new(path),
    };
    match OpenOptions::new().create(true).append(true).open(real) {
        Ok(file) => Some(file),
        Err(error) => {
            tracing::warn!(%error, path = %real.display(), "access log cannot be opened; it is tried again");
            None
        }
    }
}

/// One worker's lines that are not handed over yet.
pub struct WorkerLog {
    sink: LogSink,
    pending: RefCell<Vec<(Arc<str>, Vec<u8>)>>,
    dropped: RefCell<u64>,
}

impl WorkerLog {
    pub fn new(sink: LogSink) -> Self {
        Self { sink, pending: RefCell::default(), dropped: RefCell::default() }
    }

    pub fn line(&self, path: &Arc<str>, line: &str) {
        let mut pending = self.pending.borrow_mut();
        let at = match pending.iter().position(|(p, _)| p == path) {
            Some(at) => at,
            None => {
                pending.push((path.clone(), Vec::with_capacity(BATCH)));
                pending.len() - 1
            }
        };
        let buffer = &mut pending[at].1;
        buffer.extend_from_slice(line.as_bytes());
        if buffer.len() >= BATCH {
            let lines = std::mem::take(buffer);
            self.hand_over(path, lines);
        }
    }

    /// Hands over what there is. Called when the worker has nothing better to do, and several times a second.
    pub fn flush(&self) {
        for (path, buffer) in self.pending.borrow_mut().iter_mut().filter(|(_, b)| !b.is_empty()) {
            let lines = std::mem::take(buffer);
            self.hand_over(path, lines);
        }
    }

    fn hand_over(&self, path: &Arc<str>, lines: Vec<u8>) {
        if let Err(lost) = self.sink.hand_over(path, lines) {
            *self.dropped.borrow_mut() += lost as u64;
        }
    }

    /// Lines that were lost. Of those that all workers share, whoever asks first counts them.
    pub fn dropped(&self) -> u64 {
        let mut dropped = self.dropped.borrow_mut();
        *dropped += self.sink.take_lost();
        *dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_opened_is_tried_again_and_its_lines_count_as_lost() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("later");
        let path: Arc<str> = folder.join("access.log").to_str().unwrap().into();
        let lost = Arc::new(AtomicU64::new(0));
        let mut files = Files { open: HashMap::new(), stdout: None, lost: Arc::clone(&lost) };
        let start = Instant::now();
        files.write(&path, b"one\ntwo\n", start);
        std::fs::create_dir(&folder).unwrap();
        files.write(&path, b"three\n", start + PAUSE / 2);
        assert_eq!(lost.load(Ordering::Relaxed), 3, "it was left alone for a moment");
        files.write(&path, b"four\n", start + PAUSE);
        assert_eq!(std::fs::read_to_string(&*path).unwrap(), "four\n");
        assert_eq!(lost.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn lines_reach_their_file_and_stdout_is_redirected() {
        let dir = std::env::temp_dir().join(format!("mizzen-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (own, redirected) = (dir.join("own.log"), dir.join("stdout.log"));
        let sink = LogSink::start(Some(redirected.clone())).unwrap();
        let log = WorkerLog::new(sink.clone());
        let path: Arc<str> = own.to_str().unwrap().into();
        log.line(&path, "one\n");
        log.line(&"/dev/stdout".into(), "two\n");
        log.line(&path, "three\n");
        log.flush();
        sink.sync();
        assert_eq!(std::fs::read_to_string(&own).unwrap(), "one\nthree\n");
        assert_eq!(std::fs::read_to_string(&redirected).unwrap(), "two\n");
        assert_eq!(log.dropped(), 0);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
