//! Garbage for ports: what no well-meaning client sends, from a seed, and what comes of it.

use std::collections::BTreeMap;
use std::time::Duration;

use base::{Random, SeededRandom};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;

const CONNECT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(3);
const LONGEST_ANSWER: u64 = 1 << 16;
/// Connections to each port that say nothing while the others talk.
const IDLE: usize = 50;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Where to throw it.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[arg(long, num_args = 0.., value_name = "HOST:PORT")]
    tcp: Vec<String>,
    #[arg(long, num_args = 0.., value_name = "HOST:PORT")]
    udp: Vec<String>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What came of each kind of garbage, by port.
pub type Report = BTreeMap<String, BTreeMap<String, String>>;

/// All kinds to all ports at once.
pub async fn run(options: Options) -> Report {
    let mut idle = Vec::new();
    for address in &options.tcp {
        for _ in 0..IDLE {
            idle.push(tokio::time::timeout(CONNECT, TcpStream::connect(address.clone())).await);
        }
    }
    let mut throws = JoinSet::new();
    let mut random = SeededRandom::new(options.seed);
    for address in options.tcp {
        for (kind, bytes) in kinds(&mut random) {
            let address = address.clone();
            throws.spawn(async move {
                let outcome = throw(&address, &bytes).await;
                (address, kind.to_owned(), outcome)
            });
        }
        for (kind, path, body) in messages() {
            let address = address.clone();
            throws.spawn(async move {
                let outcome = tokio::time::timeout(PATIENCE, call(&address, path, body)).await;
                let outcome = outcome.unwrap_or_else(|_| Ok("silent".into()));
                (address, kind.to_owned(), outcome.unwrap_or_else(|error| format!("closed: {error}")))
            });
        }
    }
    let mut report = Report::new();
    for address in options.udp {
        let outcome = datagrams(&address, &mut random).await.unwrap_or_else(|error| error.to_string());
        report.entry(address).or_default().insert("datagrams".into(), outcome);
    }
    while let Some(thrown) = throws.join_next().await {
        let Ok((address, kind, outcome)) = thrown else { continue };
        report.entry(address).or_default().insert(kind, outcome);
    }
    drop(idle);
    report
}

fn noise(random: &mut SeededRandom, length: usize) -> Vec<u8> {
    (0..length).map(|_| random.below(256) as u8).collect()
}

/// Raw bytes.
fn kinds(random: &mut SeededRandom) -> Vec<(&'static str, Vec<u8>)> {
    let head = |rest: &str| format!("GET / HTTP/1.1\r\nhost: x\r\n{rest}").into_bytes();
    let frame = |kind: u8, length: u8, stream: u8| vec![0, 0, length, kind, 0, 0, 0, 0, stream];
    let settings = [PREFACE, &frame(4, 0, 0)].concat();
    vec![
        ("noise", noise(random, 4096)),
        ("zeros", vec![0; 1 << 16]),
        ("empty lines", b"\r\n".repeat(1 << 15)),
        ("a method of control characters", b"\x01\x02 / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("NUL in a header", head("x: a\0b\r\n\r\n")),
        ("a header without a colon", head("nonsense\r\n\r\n")),
        ("an endless header", [head("x: "), vec![b'a'; 1 << 20]].concat()),
        ("endless headers", head(&"x: y\r\n".repeat(100_000))),
        ("two lengths", head("content-length: 1\r\ncontent-length: 2\r\n\r\nab")),
        ("a length beyond all numbers", head("content-length: 99999999999999999999999\r\n\r\n")),
        ("a negative length", head("content-length: -1\r\n\r\n")),
        ("a chunk beyond all numbers", head("transfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFFF\r\n")),
        ("HTTP/2 and noise", [settings.clone(), noise(random, 4096)].concat()),
        ("a flood of pings", {
            let ping = [frame(6, 8, 0), vec![0; 8]].concat();
            [settings.clone(), ping.repeat(20_000)].concat()
        }),
        ("a flood of resets", {
            let streams = (0..5_000_u32).flat_map(|n| {
                let id = (2 * n + 1).to_be_bytes();
                let mut open = vec![0, 0, 3, 1, 5];
                open.extend(id);
                // :method GET, :scheme http, :path /
                open.extend([0x82, 0x86, 0x84]);
                open.extend([0, 0, 4, 3, 0]);
                open.extend(id);
                open.extend([0, 0, 0, 8]);
                open
            });
            settings.iter().copied().chain(streams).collect()
        }),
        ("a TLS record of noise", [vec![0x16, 3, 1, 0x40, 0], noise(random, 0x4000)].concat()),
        ("half a TLS hello", [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &noise(random, 32)].concat()),
        ("a metadata exchange of 4 GB", [0x3D23_0467_u32.to_be_bytes(), [0xff; 4]].concat()),
        ("a PROXY header of nonsense", b"PROXY TCP4 999.1.1.1 x -1 70000\r\n".to_vec()),
    ]
}

/// gRPC messages that are none.
fn messages() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    const ADS: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    const CA: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
    vec![
        ("gRPC: noise for a discovery request", ADS, vec![0, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]),
        ("gRPC: a discovery request of 4 GB", ADS, vec![0, 0xff, 0xff, 0xff, 0xff, 1]),
        ("gRPC: a discovery request without a node", ADS, vec![0, 0, 0, 0, 0]),
        ("gRPC: noise for a certificate request", CA, vec![0, 0, 0, 0, 2, 0x0a, 0x7f]),
        ("gRPC: no such service", "/no.such.Service/Call", vec![0, 0, 0, 0, 0]),
    ]
}

async fn throw(address: &str, bytes: &[u8]) -> String {
    let stream = match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return format!("not connected: {error}"),
        Err(_) => return "not connected: no answer".into(),
    };
    let (mut read, mut write) = stream.into_split();
    // It may be closed, or not be read any further, before all is said.
    let said = tokio::spawn(tokio::time::timeout(PATIENCE, {
        let bytes = bytes.to_vec();
        async move {
            let _ = write.write_all(&bytes).await;
            let _ = write.shutdown().await;
            write
        }
    }));
    let mut answer = Vec::new();
    let ended =
        tokio::time::timeout(PATIENCE, (&mut read).take(LONGEST_ANSWER).read_to_end(&mut answer)).await;
    drop(said.await);
    let ended = match ended {
        Ok(Ok(_)) => "closed",
        Ok(Err(_)) => "reset",
        Err(_) => "silent",
    };
    describe(&answer).map_or_else(|| ended.to_owned(), |answer| format!("{answer}, {ended}"))
}

fn describe(answer: &[u8]) -> Option<String> {
    match answer {
        [] => None,
        [0x15, 3, ..] => Some("TLS alert".into()),
        [b'H', b'T', b'T', b'P', ..] => {
            let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
            Some(String::from_utf8_lossy(line).into_owned())
        }
        [_, _, _, 4, ..] => Some("HTTP/2".into()),
        other => Some(format!("{} bytes", other.len())),
    }
}

/// A call over HTTP/2 without TLS: status, and gRPC's status with its message.
async fn call(address: &str, path: &str, body: Vec<u8>) -> anyhow::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let (head, body) = response.into_parts();
    let trailers = body.collect().await?.trailers().cloned().unwrap_or_default();
    connection.abort();
    let field = |name: &str| {
        let value = head.headers.get(name).or_else(|| trailers.get(name));
        value.map_or("-", |value| value.to_str().unwrap_or("?")).to_owned()
    };
    Ok(format!("{}, gRPC {} {}", head.status.as_u16(), field("grpc-status"), field("grpc-message")))
}

/// Noise, and questions whose names point at themselves.
async fn datagrams(address: &str, random: &mut SeededRandom) -> std::io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    let loops = [&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[0xc0, 12, 0, 1, 0, 1]].concat();
    for _ in 0..200 {
        let length = random.below(600) as usize;
        for datagram in [noise(random, length), loops.clone(), Vec::new()] {
            // A port that is closed says so at the next call.
            let _ = socket.send_to(&datagram, address).await;
        }
    }
    let mut buffer = [0; 2048];
    let mut answers = 0;
    while let Ok(Ok(_)) =
        tokio::time::timeout(Duration::from_millis(300), socket.recv_from(&mut buffer)).await
    {
        answers += 1;
    }
    Ok(format!("{answers} answers"))
}
