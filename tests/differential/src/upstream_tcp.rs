//! The recording upstream of plain TCP: notes what a connection carried, whole.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::case::Then;
use crate::message::{Message, bytes, expanded};
use crate::upstream::Upstream;

/// Says what the script says as soon as it is connected, and notes what came when the connection has ended.
pub async fn serve(upstream: &Upstream, mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let answer = upstream.next_answer();
    let mut message = Message { line: "connection".into(), ..Message::default() };
    tokio::time::sleep(Duration::from_millis(answer.delay)).await;
    if let Some(text) = &answer.send {
        let _ = stream.write_all(&bytes(&expanded(text))).await;
    }
    match answer.then {
        Then::Reset => {
            let _ = stream.set_zero_linger();
            return upstream.note(message);
        }
        Then::Close => _ = stream.shutdown().await,
        Then::Keep | Then::Echo => {}
    }
    let mut buffer = vec![0; 64 * 1024];
    message.complete = loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break true,
            Ok(read) => {
                message.body.extend_from_slice(&buffer[..read]);
                if answer.then == Then::Echo && stream.write_all(&buffer[..read]).await.is_err() {
                    break false;
                }
            }
            Err(_) => break false,
        }
    };
    upstream.note(message);
}
