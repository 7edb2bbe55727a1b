//! How the load generator connects: to the host that the URL names or to another address, in plaintext or by TLS.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use anyhow::Context as _;
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Makes connections, and counts which certificate each was served with.
#[derive(Clone)]
pub struct Dial {
    /// Instead of the URL's own host and port.
    to: Option<Arc<str>>,
    tls: Option<TlsConnector>,
    certificates: Arc<Mutex<BTreeMap<String, u64>>>,
    opened: Arc<AtomicU64>,
}

impl Dial {
    pub fn new(to: Option<&str>, roots: Option<&Path>, http2: bool) -> anyhow::Result<Self> {
        let tls = roots.map(|roots| connector(roots, http2)).transpose()?;
        Ok(Self { to: to.map(Arc::from), tls, certificates: Arc::default(), opened: Arc::default() })
    }

    pub fn certificates(&self) -> BTreeMap<String, u64> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connections that were opened, or tried.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    async fn connect(self, uri: Uri) -> io::Result<TokioIo<Wire>> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{what} in {uri}"));
        let host = uri.host().ok_or_else(|| wrong("no host"))?.to_owned();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tcp = match &self.to {
            Some(to) => TcpStream::connect(&**to).await?,
            None => TcpStream::connect((host.as_str(), port)).await?,
        };
        tcp.set_nodelay(true)?;
        if !secure {
            return Ok(TokioIo::new(Wire::Plain(tcp)));
        }
        let tls = self.tls.as_ref().ok_or_else(|| wrong("https without --roots"))?;
        let name = ServerName::try_from(host).map_err(|_| wrong("no server name"))?;
        let stream = tls.connect(name, tcp).await?;
        if let Some([leaf, ..]) = stream.get_ref().1.peer_certificates() {
            let mut all = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
            *all.entry(fingerprint(leaf)).or_default() += 1;
        }
        Ok(TokioIo::new(Wire::Tls(Box::new(stream))))
    }
}

/// The end of a certificate is the end of its signature: no two have the same.
pub fn fingerprint(certificate: &[u8]) -> String {
    certificate[certificate.len().saturating_sub(8)..].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn connector(roots: &Path, http2: bool) -> anyhow::Result<TlsConnector> {
    let mut trusted = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(roots).with_context(|| roots.display().to_string())? {
        trusted.add(root?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    // A resumed session shows no certificate but the one that it began with.
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Ok(TlsConnector::from(Arc::new(config)))
}

impl tower::Service<Uri> for Dial {
    type Response = TokioIo<Wire>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Wire>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        self.opened.fetch_add(1, Ordering::Relaxed);
        Box::pin(self.clone().connect(uri))
    }
}

/// A connection of either kind.
pub enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
