//! The way out for a stock Envoy, whose sockets are of a namespace without a route to other networks.
//!
//! Capture redirects what it sends there to a port of ours; each connection is carried on by a socket from the starter. A
//! destination that cannot be reached looks to Envoy like a connection that is reset at once.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use std::{io, mem};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::egress::Egress;

const MOST_CONNECTIONS: usize = 4096;

/// The relay's listeners: IPv4, and IPv6 where the machine has it.
pub async fn bind(port: u16) -> io::Result<Vec<TcpListener>> {
    let mut listeners = vec![TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?];
    listeners.extend(TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await.ok());
    Ok(listeners)
}

/// Carries connections on until it is dropped.
pub async fn serve(listeners: Vec<TcpListener>, egress: Egress) {
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut tasks = JoinSet::new();
    for listener in listeners {
        tasks.spawn(accept(listener, egress.clone(), Arc::clone(&permits)));
    }
    while tasks.join_next().await.is_some() {}
}

async fn accept(listener: TcpListener, egress: Egress, permits: Arc<Semaphore>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "relay");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            tracing::warn!(most = MOST_CONNECTIONS, "no more connections to other networks at once");
            continue;
        };
        let egress = egress.clone();
        tokio::spawn(async move {
            if let Err(error) = carry(stream, &egress).await {
                tracing::debug!(%error, "a connection to another network");
            }
            drop(permit);
        });
    }
}

async fn carry(mut stream: TcpStream, egress: &Egress) -> io::Result<()> {
    let to = destination(&stream)?;
    let mut onward = match egress.connect(to).await {
        Ok(onward) => onward,
        Err(error) => {
            // As a reset, so that it is not taken for an empty answer.
            stream.set_zero_linger()?;
            return Err(io::Error::new(error.kind(), format!("{to}: {error}")));
        }
    };
    stream.set_nodelay(true)?;
    onward.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut stream, &mut onward).await.map(drop)
}

/// Where the connection was going before it was redirected; one that was not has no business here.
fn destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let local = stream.local_addr()?;
    let socket = SockRef::from(stream);
    let found = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() }?;
    let found = found.as_socket().filter(|to| mem::discriminant(to) == mem::discriminant(&local));
    found
        .filter(|to| *to != local && !to.ip().is_loopback())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a connection that was not redirected"))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_was_not_redirected_is_ended() {
        let listeners = bind(0).await.unwrap();
        let address = listeners[0].local_addr().unwrap();
        tokio::spawn(serve(listeners, Egress::direct()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(!matches!(stream.read(&mut [0; 8]).await, Ok(1..)));
    }
}
