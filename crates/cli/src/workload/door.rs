//! The way in: a port of this machine that leads to a workload.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use agent::host::Hub;
use anyhow::Context;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};

/// A listener of this machine.
pub(crate) struct Door(TcpListener);

impl Door {
    pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await;
        listener.map(Self).with_context(|| format!("cannot listen on {address}"))
    }

    /// Passes every connection on, until dropped.
    pub(crate) fn lead_to(self, to: Inside) -> Task {
        Task(tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = self.0.accept().await else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let to = to.clone();
                tokio::spawn(async move {
                    // Either side's end is told to the other; there is nobody else to tell.
                    let _ = pass(stream, &to).await;
                });
            }
        }))
    }
}

/// An address in the hub's network.
#[derive(Clone)]
pub(crate) struct Inside {
    pub(crate) hub: Arc<Hub>,
    pub(crate) address: SocketAddr,
}

impl Inside {
    pub(crate) async fn connect(&self) -> std::io::Result<TcpStream> {
        let socket = self.hub.stream_socket(self.address.is_ipv6())?;
        TcpSocket::from_std_stream(socket.into()).connect(self.address).await
    }
}

async fn pass(mut outside: TcpStream, to: &Inside) -> std::io::Result<()> {
    let mut inside = to.connect().await?;
    outside.set_nodelay(true)?;
    inside.set_nodelay(true)?;
    copy_bidirectional(&mut outside, &mut inside).await.map(drop)
}

/// Ends with its holder.
pub(crate) struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
