//! One TCP connection: what the server says by itself, and how it ends.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// HOST:PORT
    #[arg(long)]
    pub to: String,
    /// Said first
    #[arg(long, default_value = "")]
    pub say: String,
    /// How long to listen, in milliseconds
    #[arg(long, default_value_t = 5_000)]
    pub patience: u64,
}

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Bytes that came before the end.
    pub bytes: usize,
    /// What of them is text.
    pub text: String,
    /// `open` if the server only waits; else why the connection ended.
    pub end: String,
}

impl Heard {
    /// The server spoke: the connection reached it.
    pub fn reached(&self) -> bool {
        self.bytes > 0
    }
}

/// Connects, says what is to be said, and reads once; that the server spoke is all that is asked.
pub fn run(options: &Options) -> anyhow::Result<Heard> {
    let address = options.to.to_socket_addrs()?.next().context("no address")?;
    let patience = Duration::from_millis(options.patience);
    let mut stream = match TcpStream::connect_timeout(&address, patience) {
        Ok(stream) => stream,
        Err(error) => return Ok(Heard { bytes: 0, text: String::new(), end: error.to_string() }),
    };
    stream.set_read_timeout(Some(patience))?;
    let mut buffer = [0; 4096];
    let heard = stream.write_all(options.say.as_bytes()).and_then(|()| stream.read(&mut buffer));
    let (bytes, end) = match heard {
        Ok(0) => (0, "closed".to_owned()),
        Ok(bytes) => (bytes, "open".to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => (0, "open".to_owned()),
        Err(error) => (0, error.to_string()),
    };
    Ok(Heard { bytes, text: String::from_utf8_lossy(&buffer[..bytes]).into_owned(), end })
}
