//! Sockets to the outside, for a proxy whose namespace has no route there.
//!
//! The process that started the workload stands on the host's network. It makes sockets there and passes them in; the
//! proxy connects them itself. Addresses of the mesh's own network, and loopback, are reached by sockets made here,
//! which carry the mark that exempts them from capture.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, mpsc},
    thread,
};

use socket2::{SockAddr, Socket};
use tokio::{
    net::{TcpSocket, TcpStream, UdpSocket},
    sync::oneshot,
};

use crate::{
    capture::{Cidr, MARK},
    host::wire::{self, Reply, SocketKind},
};

/// Makes sockets that reach an address, wherever it is. Cheap to clone; usable from any runtime.
#[derive(Debug, Clone)]
pub struct Egress {
    broker: Option<Broker>,
    mark: bool,
}

type Request = (SocketKind, oneshot::Sender<io::Result<Socket>>);

#[derive(Debug, Clone)]
struct Broker {
    requests: mpsc::Sender<Request>,
    /// What is reached by sockets of this namespace; absent: nothing.
    inside: Option<Arc<[Cidr]>>,
}

impl Egress {
    /// Every address is reached from this namespace, as in a pod or on a host.
    pub fn direct() -> Self {
        Self { broker: None, mark: may_mark() }
    }

    /// What lies outside `inside` is reached by sockets from `broker`, the descriptor that the starter passed.
    pub fn brokered(broker: OwnedFd, inside: Vec<Cidr>) -> io::Result<Self> {
        let (requests, queue) = mpsc::channel();
        thread::Builder::new().name("egress".into()).spawn(move || ask(&broker, &queue))?;
        Ok(Self { broker: Some(Broker { requests, inside: Some(inside.into()) }), mark: may_mark() })
    }

    /// The same, with every address meant as the host sees it: for the host's name servers, which may be on its
    /// loopback.
    pub fn of_host(&self) -> Self {
        let broker = self.broker.as_ref().map(|b| Broker { requests: b.requests.clone(), inside: None });
        Self { broker, mark: self.mark }
    }

    /// Whether sockets to the address are made in this namespace.
    pub fn is_inside(&self, address: IpAddr) -> bool {
        match self.broker.as_ref().map(|broker| &broker.inside) {
            None => true,
            Some(None) => false,
            Some(Some(inside)) => {
                address.is_loopback()
                    || address.is_unspecified()
                    || inside.iter().any(|n| n.contains(address))
            }
        }
    }

    /// A non-blocking stream socket in the right namespace, neither bound nor connected.
    pub async fn stream_socket(&self, to: SocketAddr) -> io::Result<Socket> {
        self.socket(SocketKind::stream(to), to).await
    }

    /// Connects to the address, from wherever it can be reached.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.stream_socket(to).await?;
        TcpSocket::from_std_stream(socket.into()).connect(to).await
    }

    /// A datagram socket that is connected to the address.
    pub async fn datagram(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.socket(SocketKind::datagram(to), to).await?;
        socket.connect(&SockAddr::from(to))?;
        UdpSocket::from_std(socket.into())
    }

    async fn socket(&self, kind: SocketKind, to: SocketAddr) -> io::Result<Socket> {
        match &self.broker {
            Some(broker) if !self.is_inside(to.ip()) => {
                let (answer, answered) = oneshot::channel();
                let gone = || {
                    io::Error::new(io::ErrorKind::NotConnected, "the process that started this proxy is gone")
                };
                broker.requests.send((kind, answer)).map_err(|_| gone())?;
                answered.await.map_err(|_| gone())?
            }
            _ => {
                let socket = kind.make()?;
                if self.mark {
                    socket.set_mark(MARK)?;
                }
                Ok(socket)
            }
        }
    }
}

/// Marks need a capability that a proxy in a pod may lack; there the user id exempts it.
fn may_mark() -> bool {
    let kind = SocketKind { v6: false, datagram: true };
    kind.make().and_then(|socket| socket.set_mark(MARK)).is_ok()
}

fn ask(broker: &OwnedFd, queue: &mpsc::Receiver<Request>) {
    while let Ok((kind, answer)) = queue.recv() {
        let socket = wire::call::<_, ()>(broker, &kind, &[])
            .map_err(io::Error::from)
            .and_then(|(_, fds)| fds.into_iter().next().ok_or_else(|| io::ErrorKind::UnexpectedEof.into()))
            .map(Socket::from);
        // Whoever asked may have given up.
        let _ = answer.send(socket);
    }
}

/// Answers a proxy's requests from this network namespace until the proxy is gone. The descriptor returned is for the
/// proxy.
pub fn serve() -> io::Result<OwnedFd> {
    let (here, there) = wire::pair()?;
    thread::Builder::new().name("egress".into()).spawn(move || {
        while let Ok(Some((kind, _))) = wire::receive::<SocketKind>(&here) {
            let made = kind.make();
            let sent = match &made {
                Ok(socket) => wire::send(&here, &Reply::Done(()), &[socket.as_fd()]),
                Err(e) => {
                    let error = e
                        .raw_os_error()
                        .map_or_else(|| io::ErrorKind::Other.into(), io::Error::from_raw_os_error);
                    wire::send(&here, &Reply::<()>::from_io(Err(error), "make a socket on the host"), &[])
                }
            };
            if sent.is_err() {
                break;
            }
        }
    })?;
    Ok(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_outside_is_reached_by_a_passed_socket() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inside = vec!["10.44.0.0/16".parse().unwrap()];
        let egress = Egress::brokered(serve().unwrap(), inside).unwrap();
        assert!(egress.is_inside("10.44.3.4".parse().unwrap()) && egress.is_inside("::1".parse().unwrap()));
        assert!(!egress.is_inside("192.0.2.1".parse().unwrap()));
        assert!(!egress.of_host().is_inside("127.0.0.53".parse().unwrap()));
        let kind = SocketKind { v6: false, datagram: false };
        let socket = egress.socket(kind, "192.0.2.1:80".parse().unwrap()).await.unwrap();
        let stream = TcpSocket::from_std_stream(socket.into()).connect(listener.local_addr().unwrap());
        let (stream, accepted) = tokio::join!(stream, listener.accept());
        assert_eq!(stream.unwrap().local_addr().unwrap(), accepted.unwrap().1);
    }

    #[tokio::test]
    async fn a_lost_broker_is_an_error_and_no_hang() {
        let (here, there) = wire::pair().unwrap();
        drop(here);
        let egress = Egress::brokered(there, Vec::new()).unwrap();
        let error = egress.connect("192.0.2.1:80".parse().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("does not answer"), "{error}");
    }
}
