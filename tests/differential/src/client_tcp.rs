//! The client of plain TCP: says its pieces, and notes all that comes back until the end.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::case::Case;
use crate::message::{bytes, text};
use crate::observe::Observation;

/// Between two pieces.
const PAUSE: Duration = Duration::from_millis(15);

pub async fn play<S: AsyncRead + AsyncWrite>(case: &Case, stream: S) -> Observation {
    let (mut read, mut write) = tokio::io::split(stream);
    let saying = async {
        for message in case.messages() {
            for piece in message.split("<pause>") {
                let _ = write.write_all(&bytes(piece)).await;
                tokio::time::sleep(PAUSE).await;
            }
        }
        if case.half_close {
            let _ = write.shutdown().await;
        }
    };
    let mut received = Vec::new();
    let hearing = async {
        let mut buffer = vec![0; 64 * 1024];
        // Bytes that nobody read make a reset of any end.
        while let Ok(some @ 1..) = read.read(&mut buffer).await {
            received.extend_from_slice(&buffer[..some]);
        }
        "ended"
    };
    let both = async { tokio::join!(saying, hearing).1 };
    let end = timeout(Duration::from_millis(case.patience), both).await.unwrap_or("open");
    let mut seen = Observation::default();
    seen.note("received", &text(&received));
    seen.note("connection", end);
    seen
}
