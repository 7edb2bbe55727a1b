//! Connections by TLS 1.3 that do nothing but the full handshake: no ticket is ever used.

use std::io::{ErrorKind, Read as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::Done;
use crate::keys::HOST;

const THREADS: usize = 4;

/// The same for every contestant: one key exchange that all of them have, so that all do the same work.
pub(crate) fn client(root: &Path) -> Result<Arc<ClientConfig>> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(root).map_err(|error| anyhow!("{}: {error}", root.display()))?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

pub(crate) fn run(port: u16, seconds: u64, config: &Arc<ClientConfig>) -> Result<Done> {
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let config = config.clone();
            thread::spawn(move || -> Result<u64> {
                let mut count = 0;
                while Instant::now() < end {
                    once(port, &config)?;
                    count += 1;
                }
                Ok(count)
            })
        })
        .collect();
    let mut units = 0;
    for thread in threads {
        units += thread.join().map_err(|_| anyhow!("a thread of the load ended"))??;
    }
    Ok(Done { units: units as f64, seconds: start.elapsed().as_secs_f64() })
}

/// Ends when the server has closed: by then it has seen all of the handshake.
fn once(port: u16, config: &Arc<ClientConfig>) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut connection = ClientConnection::new(config.clone(), ServerName::try_from(HOST)?)?;
    while connection.is_handshaking() || connection.wants_write() {
        connection.complete_io(&mut stream)?;
    }
    connection.send_close_notify();
    while connection.wants_write() {
        connection.write_tls(&mut stream)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut rest = [0; 4096];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
