//! Access-log files: workers render lines, one thread writes them in batches.
//!
//! Writing to a file or pipe can block; no worker ever does it. What does not fit in the queue is dropped and counted.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Batches on the way to the writing thread.
const QUEUE: usize = 256;
/// A worker hands its lines over when it has this many bytes, or when it is asked to.
const BATCH: usize = 32 * 1024;

enum Message {
    Lines(Arc<str>, Vec<u8>),
    Sync(SyncSender<()>),
}

/// The writing end that workers share.
#[derive(Clone)]
pub struct LogSink {
    queue: SyncSender<Message>,
}

impl LogSink {
    /// Starts the thread. `stdout` is the file that `/dev/stdout` and `/dev/stderr` stand for, where the application
    /// beside us owns the real ones.
    pub fn start(stdout: Option<PathBuf>) -> std::io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_all(&lines, stdout.as_deref()))?;
        Ok(Self { queue })
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
            ) => Err(lines.iter().filter(|b| **b == b'\n').count()),
            Err(_) => Ok(()),
        }
    }
}

fn write_all(messages: &Receiver<Message>, stdout: Option<&Path>) {
    let mut files: HashMap<Arc<str>, Option<File>> = HashMap::new();
    while let Ok(message) = messages.recv() {
        match message {
            Message::Lines(path, lines) => {
                let file = files.entry(path).or_insert_with_key(|path| open(path, stdout));
                if let Some(file) = file
                    && let Err(error) = file.write_all(&lines)
                {
                    tracing::warn!(%error, "access log cannot be written");
                }
            }
            Message::Sync(done) => _ = done.send(()),
        }
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
            tracing::warn!(%error, path = %real.display(), "access log cannot be opened");
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

    pub fn dropped(&self) -> u64 {
        *self.dropped.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
