//! The few words of HTTP that readiness and the demo's traffic need: one request, and its answer as text.

use std::{io, net::SocketAddr, str::FromStr, time::Duration};

use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(2);
const PAGE_PATIENCE: Duration = Duration::from_secs(20);
const LONGEST_PAGE: usize = 8 << 20;

/// Where `--ready` asks: `http://:9080/health`; without a host, in the workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadyUrl {
    pub(crate) port: u16,
    pub(crate) path: String,
}

impl FromStr for ReadyUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not of the form http://:PORT/path");
        let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = authority.split_once(':').unwrap_or((authority, "80"));
        if !matches!(host, "" | "localhost" | "127.0.0.1") {
            return Err(format!(
                "{text:?}: readiness is asked in the workload itself; leave out the host {host:?}"
            ));
        }
        let port = port.parse().map_err(|_| wrong())?;
        Ok(Self { port, path: format!("/{path}") })
    }
}

/// The status of one request, on a connection that ends with it.
pub(crate) async fn status(stream: TcpStream, method: &str, path: &str) -> io::Result<u16> {
    let ask = ask(stream, method, path);
    timeout(PATIENCE, ask).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn ask(mut stream: TcpStream, method: &str, path: &str) -> io::Result<u16> {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // A server may keep the connection for all that; the first line is enough.
    let mut buffer = [0; 256];
    while !answer.contains(&b'\n') && answer.len() < 4096 {
        match stream.read(&mut buffer).await? {
            0 => break,
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
    parse_status(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer"))
}

/// Status and body of a page, on a connection of its own.
pub(crate) async fn get(from: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    get_on(TcpStream::connect(from), from, path, None).await
}

/// The same on a connection that somebody else makes, perhaps with a token.
pub(crate) async fn get_on(
    connect: impl Future<Output = io::Result<TcpStream>>,
    from: SocketAddr,
    path: &str,
    token: Option<&str>,
) -> io::Result<(u16, String)> {
    let get = async {
        let stream = TokioIo::new(connect.await?);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(io::Error::other)?;
        let mut request = Request::get(path).header(header::HOST, from.to_string());
        request = request.header(header::CONNECTION, "close");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(io::Error::other)?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), LONGEST_PAGE).collect().await;
            let body = body.map_err(io::Error::other)?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        // The connection moves while the answer is waited for, and goes with it.
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            _ = connection => answer.await,
        }
    };
    timeout(PAGE_PATIENCE, get).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn parse_status(answer: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(answer.split(|b| *b == b'\n').next()?).ok()?;
    let mut words = line.split_whitespace();
    words.next().filter(|word| word.starts_with("HTTP/"))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_urls_stay_in_the_workload() {
        let url: ReadyUrl = "http://:9080/health?deep=1".parse().unwrap();
        assert_eq!(url, ReadyUrl { port: 9080, path: "/health?deep=1".into() });
        assert_eq!("http://localhost".parse(), Ok(ReadyUrl { port: 80, path: "/".into() }));
        for wrong in ["9080", "https://:1/", "http://:x/", "http://example.com:80/"] {
            assert!(wrong.parse::<ReadyUrl>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_status_is_read_and_garbage_is_none() {
        assert_eq!(parse_status(b"HTTP/1.1 503 Service Unavailable\r\n"), Some(503));
        assert_eq!(parse_status(b"SSH-2.0-x\r\n"), None);
        assert_eq!(parse_status(b""), None);
    }
}
