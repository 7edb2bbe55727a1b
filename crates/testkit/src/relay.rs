//! A TCP relay that delivers late: the delay that the kernels tests run on cannot make.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Passes bytes on between whoever connects and one target, each after a delay in each direction. Ends when dropped.
pub struct Relay {
    listener: TcpListener,
    /// In milliseconds.
    delay: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

/// Bytes that are due at a time; no bytes are the end.
type Due = (Instant, Vec<u8>);

impl Relay {
    /// The sockets are the caller's, so that they may belong to any network namespace.
    pub fn start(
        listener: TcpListener,
        connect: impl Fn() -> io::Result<TcpStream> + Send + 'static,
    ) -> io::Result<Self> {
        listener.set_nonblocking(false)?;
        let relay = Self { listener, delay: Arc::default(), ended: Arc::default() };
        let (accepting, delay) = (relay.listener.try_clone()?, Arc::clone(&relay.delay));
        let ended = Arc::clone(&relay.ended);
        thread::spawn(move || {
            while let Ok((client, _)) = accepting.accept() {
                if ended.load(Relaxed) {
                    return;
                }
                // A target that cannot be reached looks like one that closes at once.
                if let Ok(server) = connect() {
                    let _ = join(&client, &server, &delay);
                }
            }
        });
        Ok(relay)
    }

    /// How late everything is delivered from now on, each way.
    pub fn delay(&self, by: Duration) {
        self.delay.store(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ended.store(true, Relaxed);
        // Wakes the thread that accepts.
        let _ = nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

fn join(client: &TcpStream, server: &TcpStream, delay: &Arc<AtomicU64>) -> io::Result<()> {
    for (from, to) in [(client, server), (server, client)] {
        let (from, to, delay) = (from.try_clone()?, to.try_clone()?, Arc::clone(delay));
        to.set_nodelay(true)?;
        let (bytes, due) = channel();
        thread::spawn(move || receive(from, &bytes, &delay));
        thread::spawn(move || deliver(to, &due));
    }
    Ok(())
}

fn receive(mut from: TcpStream, bytes: &Sender<Due>, delay: &AtomicU64) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let length = from.read(&mut buffer).unwrap_or(0);
        let due = Instant::now() + Duration::from_millis(delay.load(Relaxed));
        if bytes.send((due, buffer[..length].to_vec())).is_err() || length == 0 {
            return;
        }
    }
}

fn deliver(mut to: TcpStream, bytes: &Receiver<Due>) {
    while let Ok((due, bytes)) = bytes.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if bytes.is_empty() || to.write_all(&bytes).is_err() {
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_late_and_whole() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = server.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in server.incoming().flatten() {
                let mut asked = [0; 4];
                let _ = stream.read_exact(&mut asked).and_then(|()| stream.write_all(b"pong"));
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let relay = Relay::start(listener, move || TcpStream::connect(target)).unwrap();
        for late in [0, 50] {
            relay.delay(Duration::from_millis(late));
            let start = Instant::now();
            let mut stream = TcpStream::connect(at).unwrap();
            stream.write_all(b"ping").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            assert_eq!(text, "pong");
            assert!(start.elapsed() >= Duration::from_millis(2 * late));
        }
        drop(relay);
        assert!(TcpStream::connect(at).is_err());
    }
}
