//! The soak's clients: HTTP/1.1 over TCP or mutual TLS, and HTTP/2. What goes wrong is told as a failure of its kind.

use std::sync::Arc;

use anyhow::anyhow;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::book::Failure;
use super::wire::{Head, Reader};
use crate::keys::{HOST, Keys};

/// Where a client goes.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) port: u16,
    pub(crate) tls: Option<TlsConnector>,
}

/// With the caller's certificate.
pub(crate) fn connector(keys: &Keys) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&keys.root).map_err(|error| anyhow!("the root: {error}"))?)?;
    let chain = CertificateDer::pem_file_iter(&keys.caller.chain)
        .and_then(Iterator::collect)
        .map_err(|error| anyhow!("the caller's chain: {error}"))?;
    let key = PrivateKeyDer::from_pem_file(&keys.caller.key)
        .map_err(|error| anyhow!("the caller's key: {error}"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(crate) async fn tcp(port: u16) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|_| Failure::Refused)?;
    stream.set_nodelay(true).map_err(|_| Failure::Refused)?;
    Ok(stream)
}

/// A connection of HTTP/1.1.
pub(crate) struct Http1(Reader<Box<dyn Stream>>);

/// An answer that came whole.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// Whether the connection can be used again.
    pub(crate) is_kept: bool,
}

impl Http1 {
    pub(crate) async fn open(way: &Way) -> Result<Self, Failure> {
        let stream = tcp(way.port).await?;
        let stream: Box<dyn Stream> = match &way.tls {
            None => Box::new(stream),
            Some(tls) => {
                let name = ServerName::try_from(HOST).map_err(|_| Failure::Wrong("name"))?;
                Box::new(tls.connect(name, stream).await.map_err(|_| Failure::Refused)?)
            }
        };
        Ok(Self(Reader::new(stream)))
    }

    /// An answer may be there before all is sent: that sending fails is not yet a failure.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let stream = &mut self.0.stream;
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
    }

    pub(crate) async fn head(&mut self) -> Result<Head, Failure> {
        self.0.head().await.map_err(|_| Failure::Closed)
    }

    pub(crate) async fn finish(&mut self, head: &Head) -> Result<Answer, Failure> {
        let status = head.status();
        let body = self.0.body(head.framing()).await.map_err(|_| Failure::Cut(status))?;
        let is_kept = head.get("connection").is_none_or(|it| !it.eq_ignore_ascii_case("close"));
        Ok(Answer { status, body, is_kept })
    }

    /// So many bytes, whatever they are.
    pub(crate) async fn take(&mut self, length: usize) -> Result<Vec<u8>, Failure> {
        self.0.take(length).await.map_err(|_| Failure::Cut(101))
    }
}

/// The head of a request, with what else stands in it.
pub(crate) fn request(method: &str, path: &str, more: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nhost: {HOST}\r\n{more}\r\n").into_bytes()
}

/// A connection of HTTP/2, by prior knowledge.
pub(crate) struct Http2(SendRequest<Full<Bytes>>);

impl Http2 {
    pub(crate) async fn open(port: u16) -> Result<Self, Failure> {
        let stream = TokioIo::new(tcp(port).await?);
        let (sender, connection) =
            handshake(TokioExecutor::new(), stream).await.map_err(|_| Failure::Refused)?;
        // Ends when the sender is dropped.
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Status, body and trailers; tells the status as soon as it is known.
    pub(crate) async fn ask(
        &mut self,
        path: &str,
        grpc: Option<Bytes>,
        answered: impl FnOnce(u16),
    ) -> Result<(u16, Bytes, Option<HeaderMap>), Failure> {
        let builder = Request::builder().uri(format!("http://{HOST}{path}"));
        let request = match grpc {
            None => builder.body(Full::default()),
            Some(message) => builder
                .method("POST")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(message)),
        };
        let request = request.map_err(|_| Failure::Wrong("request"))?;
        let response = self.0.send_request(request).await.map_err(|_| Failure::Closed)?;
        let status = response.status().as_u16();
        answered(status);
        let body = response.into_body().collect().await.map_err(|_| Failure::Cut(status))?;
        let trailers = body.trailers().cloned();
        Ok((status, body.to_bytes(), trailers))
    }
}
