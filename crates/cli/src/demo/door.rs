//! The way in: a port of this machine that leads to the gateway, and the traffic that goes through it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use agent::host::Hub;
use anyhow::Context;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use crate::workload::get;

/// A listener on this machine's loopback.
pub(super) struct Door(TcpListener);

impl Door {
    pub(super) async fn open(port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        listener
            .map(Self)
            .with_context(|| format!("port {port} for the product page: choose another with --port"))
    }

    /// Passes every connection on to the address in the hub, until dropped.
    pub(super) fn lead_to(self, hub: Arc<Hub>, address: SocketAddr) -> Task {
        Task(tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = self.0.accept().await else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let hub = Arc::clone(&hub);
                tokio::spawn(async move {
                    // Either side's end is told to the other; there is nobody else to tell.
                    let _ = pass(stream, &hub, address).await;
                });
            }
        }))
    }
}

async fn pass(mut outside: TcpStream, hub: &Hub, address: SocketAddr) -> std::io::Result<()> {
    let socket = hub.stream_socket(address.is_ipv6())?;
    let mut inside = TcpSocket::from_std_stream(socket.into()).connect(address).await?;
    outside.set_nodelay(true)?;
    inside.set_nodelay(true)?;
    copy_bidirectional(&mut outside, &mut inside).await.map(drop)
}

/// Ends with its holder.
pub(super) struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Steady requests for the product page.
pub(super) struct Traffic(#[expect(dead_code, reason = "held so that the traffic lasts")] Task);

impl Traffic {
    pub(super) fn start(port: u16, rate: u16) -> Self {
        Self(Task(tokio::spawn(async move {
            if rate == 0 {
                return;
            }
            let mut ticks = interval(Duration::from_secs(1) / u32::from(rate));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                tokio::spawn(async move {
                    // Failures are what the console shows.
                    let _ = get((Ipv4Addr::LOCALHOST, port).into(), "/productpage").await;
                });
            }
        })))
    }
}
