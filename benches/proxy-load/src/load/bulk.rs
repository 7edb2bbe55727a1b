//! Many bytes from the upstream, over four connections, in plain or by TLS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::Done;
use crate::keys::HOST;

const CONNECTIONS: u64 = 4;

/// So many bytes in all.
pub(crate) fn run(port: u16, bytes: u64, tls: Option<&Arc<ClientConfig>>) -> Result<Done> {
    let start = Instant::now();
    let threads: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let tls = tls.cloned();
            thread::spawn(move || fetch(port, bytes / CONNECTIONS, tls))
        })
        .collect();
    let mut units = 0;
    for thread in threads {
        units += thread.join().map_err(|_| anyhow!("a thread of the load ended"))??;
    }
    Ok(Done { units: units as f64, seconds: start.elapsed().as_secs_f64() })
}

fn fetch(port: u16, bytes: u64, tls: Option<Arc<ClientConfig>>) -> Result<u64> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    match tls {
        None => drain(stream, bytes),
        Some(config) => {
            let connection = ClientConnection::new(config, ServerName::try_from(HOST)?)?;
            drain(StreamOwned::new(connection, stream), bytes)
        }
    }
}

fn drain(mut stream: impl Read + Write, bytes: u64) -> Result<u64> {
    stream.write_all(&bytes.to_be_bytes())?;
    stream.flush()?;
    let mut buffer = vec![0; 256 * 1024];
    let mut had = 0;
    while had < bytes {
        let length = stream.read(&mut buffer)?;
        ensure!(length > 0, "the connection ended after {had} of {bytes} bytes");
        had += length as u64;
    }
    Ok(had)
}
