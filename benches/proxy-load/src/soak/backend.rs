//! An upstream of the soak: a process of its own, so that it can be killed. What it is asked for stands in the path.

use std::io::Result;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::wire::{Head, Reader, chunked, pattern, sum};
use crate::answer::{accept, http2};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// HTTP/1.1; the next ports are HTTP/2, HTTP/1.1 over mutual TLS, and an echo over TCP
    #[arg(long)]
    port: u16,
    #[arg(long)]
    root: PathBuf,
    #[arg(long)]
    chain: PathBuf,
    #[arg(long)]
    key: PathBuf,
}

/// Serves until standard input ends, and says so once it does.
pub(crate) async fn serve(options: &Options) -> anyhow::Result<()> {
    let tls = TlsAcceptor::from(Arc::new(server(options)?));
    let bind = async |offset: u16| {
        let port = options.port + offset;
        TcpListener::bind(("127.0.0.1", port)).await.with_context(|| format!("port {port}"))
    };
    let (plain, two, secure, echo) = (bind(0).await?, bind(1).await?, bind(2).await?, bind(3).await?);
    tokio::spawn(accept(plain, |stream| async move { http1(stream).await.unwrap_or_default() }));
    tokio::spawn(accept(two, http2));
    tokio::spawn(accept(secure, move |stream| {
        let tls = tls.clone();
        async move {
            if let Ok(stream) = tls.accept(stream).await {
                http1(stream).await.unwrap_or_default();
            }
        }
    }));
    tokio::spawn(accept(echo, |stream| async move { self::echo(stream).await.unwrap_or_default() }));
    println!("ready");
    let mut nothing = [0];
    while tokio::io::stdin().read(&mut nothing).await? > 0 {}
    Ok(())
}

fn server(options: &Options) -> anyhow::Result<ServerConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&options.root).map_err(|error| anyhow!("--root: {error}"))?)?;
    let chain = CertificateDer::pem_file_iter(&options.chain)
        .and_then(Iterator::collect)
        .map_err(|error| anyhow!("--chain: {error}"))?;
    let key = PrivateKeyDer::from_pem_file(&options.key).map_err(|error| anyhow!("--key: {error}"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A stream that can be reset.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// What comes after an answer.
enum Then {
    Next,
    /// The connection ends after a while, by a reset or in peace; its peer is not told before.
    Close {
        after: Duration,
        by_reset: bool,
    },
    Echo,
}

async fn http1(stream: impl Wire) -> Result<()> {
    let mut reader = Reader::new(stream);
    loop {
        let head = reader.head().await?;
        let body = reader.body(head.framing()).await?;
        let then = answer(&mut reader.stream, &head, &body).await?;
        reader.stream.flush().await?;
        match then {
            Then::Next => {}
            Then::Close { after, by_reset } => {
                tokio::time::sleep(after).await;
                if by_reset {
                    reader.stream.tcp().set_zero_linger()?;
                }
                return Ok(());
            }
            Then::Echo => {
                let mut bytes = std::mem::take(&mut reader.buffer);
                loop {
                    reader.stream.write_all(&bytes).await?;
                    reader.stream.flush().await?;
                    bytes.clear();
                    if reader.stream.read_buf(&mut bytes).await? == 0 {
                        return Ok(());
                    }
                }
            }
        }
    }
}

fn whole(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// `/CLUSTER/OPERATION/NUMBER`.
async fn answer(stream: &mut impl Wire, head: &Head, body: &[u8]) -> Result<Then> {
    let path = head.first.split(' ').nth(1).unwrap_or_default();
    let mut parts = path.split('/').skip(2);
    let operation = parts.next().unwrap_or_default();
    let number: usize = parts.next().and_then(|it| it.parse().ok()).unwrap_or_default();
    let millis = Duration::from_millis(number as u64);
    match operation {
        "sum" => stream.write_all(&whole(&sum(body))).await?,
        "chunked" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            let text = chunked(&pattern(number), (0..8).map(|turn| (number * (turn + 3)) % 5000));
            for part in text.chunks(9000) {
                stream.write_all(part).await?;
                tokio::task::yield_now().await;
            }
        }
        "slow" => {
            tokio::time::sleep(millis).await;
            stream.write_all(&whole("slow")).await?;
        }
        "close" => {
            stream.write_all(&whole("well")).await?;
            return Ok(Then::Close { after: millis / 4, by_reset: number % 2 == 1 });
        }
        "cut-head" => return Ok(Then::Close { after: Duration::ZERO, by_reset: true }),
        "cut-body" => {
            let text = format!("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{}", "x".repeat(100));
            stream.write_all(text.as_bytes()).await?;
            return Ok(Then::Close { after: Duration::from_millis(20), by_reset: number % 2 == 1 });
        }
        "ws" => {
            stream
                .write_all(
                    b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n",
                )
                .await?;
            return Ok(Then::Echo);
        }
        _ => stream.write_all(&whole("well")).await?,
    }
    Ok(Then::Next)
}

async fn echo(mut stream: TcpStream) -> Result<()> {
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_asked_for_stands_in_the_path() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(accept(listener, |stream| async move { http1(stream).await.unwrap_or_default() }));
        let ask = async |request: &str| {
            let mut client = Reader::new(TcpStream::connect(at).await.unwrap());
            client.stream.write_all(request.as_bytes()).await.unwrap();
            let head = client.head().await?;
            let body = client.body(head.framing()).await?;
            Ok::<_, std::io::Error>((head.status(), body))
        };
        let get = async |path: &str| ask(&format!("GET /x/{path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        assert_eq!(get("small").await.unwrap(), (200, b"well".to_vec()));
        assert_eq!(get("close/1").await.unwrap(), (200, b"well".to_vec()));
        assert_eq!(get("chunked/70001").await.unwrap(), (200, pattern(70_001)));
        assert!(get("cut-head").await.is_err());
        assert!(get("cut-body/1").await.is_err());
        let post =
            "POST /x/sum HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        assert_eq!(ask(post).await.unwrap(), (200, sum(b"abc").into_bytes()));
    }
}
