//! HTTP/2 towards hosts: how a connection is made, and kept alive.

use std::pin::pin;

use bytes::Bytes;
use decide::{Http2Keepalive, HttpSettings};
use h2::client::{Builder, Connection};
use h2::{Ping, PingPong};

use crate::net::Io;

/// Windows where the configuration does not say.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

pub fn builder(settings: &HttpSettings) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(settings.initial_stream_window.unwrap_or(STREAM_WINDOW).min(16 << 20))
        .initial_connection_window_size(
            settings.initial_connection_window.unwrap_or(CONNECTION_WINDOW).min(64 << 20),
        )
        .enable_push(false)
        .max_send_buffer_size(256 * 1024);
    builder
}

/// Runs the connection to its end, which is also when a ping gets no answer in time.
pub async fn drive(mut connection: Connection<Io, Bytes>, keepalive: Option<Http2Keepalive>) {
    let pings = keepalive.and_then(|keepalive| Some((keepalive, connection.ping_pong()?)));
    let unanswered = pin!(async {
        match pings {
            Some((keepalive, pings)) => stay_alive(keepalive, pings).await,
            None => std::future::pending().await,
        }
    });
    tokio::select! {
        _ = connection => {}
        () = unanswered => tracing::debug!("an HTTP/2 connection did not answer a ping in time"),
    }
}

async fn stay_alive(keepalive: Http2Keepalive, mut pings: PingPong) {
    let Some(interval) = keepalive.interval.filter(|interval| !interval.is_zero()) else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(interval).await;
        match tokio::time::timeout(keepalive.timeout, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection's own end tells.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}
