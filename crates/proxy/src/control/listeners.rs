//! Sockets of listeners: bound here, one per worker, so that a refusal is known before a configuration counts as applied.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use decide::{DownstreamTransport, Listener};
use proto::{Rejection, ResourceType};
use upstream::Address;

use super::apply::rejection;
use super::{Bound, Control};
use crate::net::{ListenOptions, bind_tcp};
use crate::worker::Message;

impl Control {
    /// Makes the TLS of every chain.
    pub(super) fn compile_servers(&mut self, rejections: &mut Vec<Rejection>) {
        let mut servers = ahash::AHashMap::new();
        for listener in self.plan.listeners() {
            for chain in listener.all_chains() {
                let DownstreamTransport::Tls(context) = &chain.transport else { continue };
                match self.secrets.server(context) {
                    Ok(server) => _ = servers.insert(Arc::as_ptr(context) as usize, server),
                    Err(error) => rejections.push(rejection(
                        ResourceType::Listener,
                        &listener.name,
                        "filterChains.transportSocket",
                        error.to_string(),
                    )),
                }
            }
        }
        self.servers = Arc::new(servers);
    }

    /// Opens and closes sockets so that they are those of the plan.
    pub(super) async fn bind(&mut self, touched: &[Arc<str>], rejections: &mut Vec<Rejection>) {
        if self.draining {
            return;
        }
        for name in touched.iter().collect::<BTreeSet<_>>() {
            let listener = self.plan.listener(name).cloned();
            let wanted: Vec<Address> = match &listener {
                Some(listener) if listener.bind_to_port => listener.addresses.clone(),
                _ => Vec::new(),
            };
            let (kept, closed): (Vec<_>, Vec<_>) = self
                .bound
                .remove(name)
                .unwrap_or_default()
                .into_iter()
                .partition(|b| wanted.contains(&b.wanted));
            for bound in closed {
                self.tell_all(|| Message::Unlisten { key: bound.key }).await;
            }
            let mut bound = kept;
            if let Some(listener) = listener {
                for address in wanted {
                    if bound.iter().any(|b| b.wanted == address) {
                        continue;
                    }
                    match self.open(&listener, &address).await {
                        Ok(opened) => bound.push(opened),
                        Err(error) => rejections.push(rejection(
                            ResourceType::Listener,
                            name,
                            "address",
                            format!("cannot listen on {address}: {error}"),
                        )),
                    }
                }
            }
            if !bound.is_empty() {
                self.bound.insert(name.clone(), bound);
            }
        }
    }

    async fn open(&mut self, listener: &Listener, address: &Address) -> std::io::Result<Bound> {
        let key = self.next_key;
        self.next_key += 1;
        let name = &listener.name;
        match address {
            Address::Socket(socket) => {
                let options = ListenOptions {
                    transparent: listener.transparent,
                    freebind: listener.freebind,
                    backlog: listener.backlog,
                };
                let mut at = *socket;
                let mut sockets = Vec::with_capacity(self.workers.len());
                for _ in &self.workers {
                    let opened = bind_tcp(at, &options)?;
                    // With port 0 the first socket chooses, and the others share its choice.
                    at = opened.local_addr()?;
                    sockets.push(opened);
                }
                for (worker, socket) in self.workers.iter().zip(sockets) {
                    let message = Message::Listen { name: name.clone(), key, socket };
                    let _ = worker.messages.send(message).await;
                }
                Ok(Bound { key, address: at, wanted: address.clone() })
            }
            Address::Pipe(path) => {
                let _ = std::fs::remove_file(&**path);
                let socket = std::os::unix::net::UnixListener::bind(&**path)?;
                socket.set_nonblocking(true)?;
                for worker in &self.workers {
                    let message =
                        Message::ListenUnix { name: name.clone(), key, socket: socket.try_clone()? };
                    let _ = worker.messages.send(message).await;
                }
                Ok(Bound { key, address: SocketAddr::from(([0, 0, 0, 0], 0)), wanted: address.clone() })
            }
            Address::Name(host, _) => Err(std::io::Error::other(format!("{host} is no IP address"))),
        }
    }

    pub(super) fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        let mut all: Vec<_> = self
            .bound
            .iter()
            .flat_map(|(name, list)| list.iter().map(|b| (name.clone(), b.address)))
            .collect();
        all.sort();
        all
    }
}
