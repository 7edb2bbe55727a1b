//! Sockets of listeners: bound here, one per worker, so that a refusal is known before a configuration counts as applied.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use decide::{DownstreamTransport, Listener};
use proto::{Rejection, ResourceType};
use upstream::Address;

use super::apply::rejection;
use super::{Bound, Control, Handle};
use crate::admin;
use crate::net::{ListenOptions, bind_tcp};
use crate::restart::Given;
use crate::worker::Message;

/// What a listener's sockets are given on as. A port that the system chose is the listener's own.
fn given_as(name: &str, address: &Address) -> String {
    match address {
        Address::Socket(socket) if socket.port() == 0 => format!("{name} {address}"),
        _ => address.to_string(),
    }
}

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

    /// Closes the sockets of listeners that have gone: whoever has not been accepted yet finds nobody, as with Envoy.
    pub(super) async fn unbind(&mut self, touched: &[Arc<str>]) {
        if self.draining {
            return;
        }
        for name in touched.iter().filter(|name| self.plan.listener(name).is_none()) {
            for bound in self.bound.remove(name).unwrap_or_default() {
                self.tell_all(|| Message::Unlisten { key: bound.key }).await;
            }
        }
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
                // Those of the process before: connections may wait in each.
                let given = self.inherited.take(&given_as(name, address));
                let mut sockets: Vec<std::net::TcpListener> = given.into_iter().map(Into::into).collect();
                if let Some(first) = sockets.first() {
                    at = first.local_addr()?;
                }
                while sockets.len() < self.workers.len() {
                    let opened = bind_tcp(at, &options)?;
                    // With port 0 the first socket chooses, and the others share its choice.
                    at = opened.local_addr()?;
                    sockets.push(opened);
                }
                let kept = self.kept(sockets.iter().map(AsFd::as_fd))?;
                for (worker, socket) in self.workers.iter().cycle().zip(sockets) {
                    let message = Message::Listen { name: name.clone(), key, socket };
                    let _ = worker.messages.send(message).await;
                }
                Ok(Bound { key, address: at, wanted: address.clone(), sockets: kept })
            }
            Address::Pipe(path) => {
                let given = self.inherited.take(&given_as(name, address)).pop();
                let socket = match given {
                    Some(given) => std::os::unix::net::UnixListener::from(given),
                    None => {
                        let _ = std::fs::remove_file(&**path);
                        std::os::unix::net::UnixListener::bind(&**path)?
                    }
                };
                socket.set_nonblocking(true)?;
                let kept = self.kept([socket.as_fd()])?;
                for worker in &self.workers {
                    let message =
                        Message::ListenUnix { name: name.clone(), key, socket: socket.try_clone()? };
                    let _ = worker.messages.send(message).await;
                }
                let at = SocketAddr::from(([0, 0, 0, 0], 0));
                Ok(Bound { key, address: at, wanted: address.clone(), sockets: kept })
            }
            Address::Name(host, _) => Err(std::io::Error::other(format!("{host} is no IP address"))),
        }
    }

    /// The same sockets once more, for a process that takes over.
    fn kept<'a>(&self, sockets: impl IntoIterator<Item = BorrowedFd<'a>>) -> std::io::Result<Vec<OwnedFd>> {
        if !self.keeps_sockets {
            return Ok(Vec::new());
        }
        sockets.into_iter().map(|fd| fd.try_clone_to_owned()).collect()
    }

    /// Every listening socket, for the process that comes.
    pub(super) fn given(&self) -> Given {
        let again = |fds: &[OwnedFd]| fds.iter().filter_map(|fd| fd.try_clone().ok()).collect();
        let listeners = self.bound.iter().flat_map(|(name, all)| all.iter().map(move |bound| (name, bound)));
        let listeners = listeners.map(|(name, bound)| (given_as(name, &bound.wanted), again(&bound.sockets)));
        listeners.chain(self.admin_sockets.iter().map(|(key, fds)| (key.clone(), again(fds)))).collect()
    }

    pub(super) fn open_admin(
        &mut self,
        address: SocketAddr,
        scope: admin::Scope,
        handle: &Handle,
    ) -> std::io::Result<SocketAddr> {
        let key = format!("admin {address}");
        let given = self.inherited.take(&key).pop();
        let after_ready = given.is_some();
        let socket = match given {
            Some(given) => std::net::TcpListener::from(given),
            None => bind_tcp(address, &ListenOptions::default())?,
        };
        let bound = socket.local_addr()?;
        let kept = self.kept([socket.as_fd()])?;
        self.admin_sockets.push((key, kept));
        self.admin_tasks.push(admin::listen(socket, scope, handle.clone(), after_ready)?);
        Ok(bound)
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
