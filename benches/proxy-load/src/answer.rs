//! The upstream: a process of its own that answers everybody alike, as cheaply as it can.

use std::convert::Infallible;
use std::io::BufRead as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const BODY: &[u8; 64] = b"sixty-four bytes, as an answer of a small service would have it\n";

/// The same to every request of HTTP/1.1.
fn answer() -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\nserver: answer\r\ndate: Tue, 24 Nov 2026 03:00:00 GMT\r\n\
        content-type: text/plain\r\ncontent-length: 64\r\n\r\n";
    [head.as_bytes(), BODY].concat()
}

/// The running upstream.
pub(crate) struct Upstream {
    child: Child,
    /// HTTP/1.1: 64 bytes to every request. Also what spans are sent to.
    pub(crate) http1: u16,
    /// HTTP/2 by prior knowledge: 64 bytes, or what a gRPC call said.
    pub(crate) http2: u16,
    /// Plain TCP: as many bytes as the first eight, a number, ask for.
    pub(crate) bulk: u16,
}

impl Upstream {
    pub(crate) fn start() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.arg("answer").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("the upstream has no output")?;
        std::io::BufReader::new(stdout).read_line(&mut line)?;
        let mut ports = line.split_whitespace().map_while(|port| port.parse().ok());
        let mut port = || ports.next().context("the upstream did not start");
        Ok(Self { http1: port()?, http2: port()?, bulk: port()?, child })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until standard input ends: the upstream goes with who started it.
pub(crate) async fn serve() -> Result<()> {
    let mut ports = Vec::new();
    let mut listeners = Vec::new();
    for _ in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        ports.push(listener.local_addr()?.port().to_string());
        listeners.push(listener);
    }
    println!("{}", ports.join(" "));
    let mut listeners = listeners.into_iter();
    let mut next = || listeners.next().context("three were bound");
    tokio::spawn(accept(next()?, |stream| async move { http1(stream).await.unwrap_or_default() }));
    tokio::spawn(accept(next()?, http2));
    tokio::spawn(accept(next()?, |stream| async move { bulk(stream).await.unwrap_or_default() }));
    let mut nothing = [0];
    while tokio::io::stdin().read(&mut nothing).await? > 0 {}
    Ok(())
}

pub(crate) async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                tokio::spawn(serve(stream));
            }
            // No descriptor is left: others have to close theirs first.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn http1(mut stream: TcpStream) -> Result<()> {
    let answer = answer();
    let mut heads = Heads::default();
    let mut read = vec![0; 16 * 1024];
    loop {
        let length = stream.read(&mut read).await?;
        if length == 0 {
            return Ok(());
        }
        match heads.feed(&read[..length]) {
            0 => {}
            1 => stream.write_all(&answer).await?,
            many => stream.write_all(&answer.repeat(many)).await?,
        }
    }
}

/// Counts the ends of requests' heads in a stream of bytes. Bodies pass as long as they contain no such end.
#[derive(Debug, Default)]
struct Heads {
    /// How much of the end has been seen.
    seen: usize,
}

impl Heads {
    fn feed(&mut self, bytes: &[u8]) -> usize {
        const END: &[u8; 4] = b"\r\n\r\n";
        let mut ends = 0;
        for &byte in bytes {
            self.seen = match byte {
                _ if byte == END[self.seen] => self.seen + 1,
                b'\r' => 1,
                _ => 0,
            };
            if self.seen == END.len() {
                ends += 1;
                self.seen = 0;
            }
        }
        ends
    }
}

pub(crate) async fn http2(stream: TcpStream) {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.max_concurrent_streams(4096);
    let service =
        hyper::service::service_fn(|request| async move { Ok::<_, Infallible>(respond(request).await) });
    // How a connection ends is the caller's affair.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
    if request.headers().get(CONTENT_TYPE).is_none_or(|it| it != "application/grpc") {
        return Response::new(Full::new(Bytes::from_static(BODY)).boxed());
    }
    let said = request.into_body().collect().await.map(|it| it.to_bytes()).unwrap_or_default();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(said).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

async fn bulk(mut stream: TcpStream) -> Result<()> {
    let mut left = stream.read_u64().await?;
    let block = vec![b'x'; 256 * 1024];
    while left > 0 {
        let part = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        stream.write_all(&block[..part]).await?;
        left -= part as u64;
    }
    stream.shutdown().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_head_is_counted_once_however_it_is_cut() {
        let two = b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        for cut in 0..two.len() {
            let mut heads = Heads::default();
            assert_eq!(heads.feed(&two[..cut]) + heads.feed(&two[cut..]), 2, "cut at {cut}");
        }
    }
}
