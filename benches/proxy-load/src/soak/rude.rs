//! Clients to whom nothing is owed: they hang up, are slow, or say what is no HTTP.

use std::time::Duration;

use rand::Rng as _;
use rand::rngs::SmallRng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::client::{request, tcp};

/// One of them. What becomes of it nobody asks.
pub(crate) async fn turn(port: u16, rng: &mut SmallRng) {
    let Ok(stream) = tcp(port).await else { return };
    let _ = be_rude(stream, rng).await;
}

async fn be_rude(mut stream: TcpStream, rng: &mut SmallRng) -> std::io::Result<()> {
    let mut rest = Duration::from_millis(rng.random_range(0..300));
    match rng.random_range(0..9) {
        // Bytes that mean nothing; then what is said to them, until the end.
        0 => {
            let mut garbage = vec![0; rng.random_range(1..300)];
            rng.fill(garbage.as_mut_slice());
            stream.write_all(&garbage).await?;
            stream.shutdown().await?;
            stream.read_to_end(&mut Vec::new()).await?;
            rest = Duration::ZERO;
        }
        // A preface of HTTP/2, and nothing that belongs behind it.
        1 => {
            let mut text = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x04\x04\0\0\0\0\0".to_vec();
            text.extend((0..rng.random_range(0..60)).map(|_| rng.random::<u8>()));
            stream.write_all(&text).await?;
        }
        // Half a head.
        2 => stream.write_all(b"GET /rude/small HTTP/1.1\r\nhost: a\r\nx: ").await?,
        // Gone while the upstream thinks.
        3 => stream.write_all(&request("GET", "/rude/slow/400", "")).await?,
        // Gone in the middle of the answer.
        4 => {
            stream.write_all(&request("GET", "/rude/chunked/400000", "")).await?;
            stream.read_exact(&mut [0; 1000]).await?;
        }
        // Half a body.
        5 => {
            let head = request("POST", "/rude/sum", "content-length: 20000\r\n");
            stream.write_all(&[head, vec![b'x'; 9000]].concat()).await?;
        }
        // Slow to read.
        6 => {
            let ask = request("GET", "/rude/chunked/600000", "connection: close\r\n");
            stream.write_all(&ask).await?;
            let mut part = vec![0; 16 * 1024];
            while stream.read(&mut part).await? > 0 {
                sleep(Duration::from_millis(20)).await;
            }
        }
        // Slow to write.
        7 => {
            for part in request("GET", "/rude/small", "connection: close\r\n").chunks(4) {
                stream.write_all(part).await?;
                sleep(Duration::from_millis(10)).await;
            }
            stream.read_to_end(&mut Vec::new()).await?;
        }
        // An upgrade that is left open, then reset.
        _ => {
            let upgrade = "connection: Upgrade\r\nupgrade: websocket\r\n";
            stream.write_all(&request("GET", "/rude/ws", upgrade)).await?;
            stream.read_exact(&mut [0; 16]).await?;
            stream.set_zero_linger()?;
        }
    }
    sleep(rest).await;
    Ok(())
}
