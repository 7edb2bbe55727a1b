//! The hub: one network per user that its workloads hang on.
//!
//! A small process holds it. It hands out addresses, which are free again when whoever asked is gone, and sockets of
//! its network; it ends with the last of its clients. It is found by an abstract socket of the host's network
//! namespace: only one process can hold the name, and it leaves nothing behind.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt, listen,
        socket, sockopt,
    },
    unistd::Uid,
};
use serde::{Deserialize, Serialize};
use socket2::{SockAddr, Socket};

use super::{
    Error, Launcher, Privilege, spaces,
    wire::{self, Reply, SocketKind},
};
use crate::{
    capture::Cidr,
    netlink::{
        self,
        links::{Hardware, Index},
    },
};

/// The hub's own address, where the control plane listens.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 44, 0, 1);
pub const GATEWAY_6: Ipv6Addr = Ipv6Addr::new(0xfd44, 0, 0, 0, 0, 0, 0, 1);
/// The network of all workloads: the bits of [`GATEWAY`] that count.
pub const NETWORK: u8 = 16;
/// The same for [`GATEWAY_6`].
pub const NETWORK_6: u8 = 64;
pub(super) const BRIDGE: &str = "mizzen0";
/// Raised when the messages between processes change.
const PROTOCOL: u32 = 1;
const STARTS: usize = 5;

/// The networks that are reached without leaving the hub.
pub fn networks() -> Vec<Cidr> {
    vec![Cidr::new(GATEWAY.into(), NETWORK), Cidr::new(GATEWAY_6.into(), NETWORK_6)]
}

#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    Hello(u32),
    Socket(SocketKind),
    /// An address, kept until the connection ends. The namespaces come with the answer.
    Lease,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Welcome(Privilege),
    Socket,
    Lease(Lease),
}

/// An address on the hub's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    pub(super) v4: Ipv4Addr,
    /// Absent where the machine has no IPv6.
    pub(super) v6: Option<Ipv6Addr>,
    /// The name of the link at the hub's end; never used twice.
    pub(super) link: String,
}

/// A connection to the user's hub. While one is open the hub stays.
#[derive(Debug, Clone)]
pub struct Hub {
    connection: Arc<Mutex<OwnedFd>>,
    privilege: Privilege,
}

impl Hub {
    /// Connects to the user's hub, and starts it if there is none.
    pub fn join(launcher: &Launcher) -> Result<Self, Error> {
        let mut last = None;
        for attempt in 0..STARTS {
            match dial(&launcher.hub) {
                // The last client may just have left; then the name is free in a moment.
                Ok(connection) => match Self::greet(connection) {
                    Ok(hub) => return Ok(hub),
                    Err(e) => last = Some(e),
                },
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => start(launcher)?,
                Err(e) => return Err(Error::new("connect to the hub", e)),
            }
            if attempt > 0 {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Err(last.unwrap_or_else(|| Error::plain("the hub ends as soon as it starts")))
    }

    fn greet(connection: OwnedFd) -> Result<Self, Error> {
        match wire::call(&connection, &Ask::Hello(PROTOCOL), &[])? {
            (Answer::Welcome(privilege), _) => {
                Ok(Self { connection: Arc::new(Mutex::new(connection)), privilege })
            }
            _ => Err(unexpected()),
        }
    }

    pub fn privilege(&self) -> Privilege {
        self.privilege
    }

    /// A socket of the hub's network, neither bound nor connected. It does not block.
    pub fn stream_socket(&self, v6: bool) -> Result<Socket, Error> {
        let (_, fds) = self.call(&Ask::Socket(SocketKind { v6, datagram: false }))?;
        fds.into_iter().next().map(Socket::from).ok_or_else(unexpected)
    }

    /// A listener on the hub's network, for a process of the host to serve. It does not block.
    pub fn listen(&self, address: SocketAddr) -> Result<std::net::TcpListener, Error> {
        let socket = self.stream_socket(address.is_ipv6())?;
        let listen = || -> io::Result<()> {
            socket.set_reuse_address(true)?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.bind(&SockAddr::from(address))?;
            socket.listen(1024)
        };
        listen().map_err(|e| Error::new(format!("listen on {address} of the mesh's network"), e))?;
        Ok(socket.into())
    }

    pub(super) fn lease(&self) -> Result<(Lease, Vec<OwnedFd>), Error> {
        match self.call(&Ask::Lease)? {
            (Answer::Lease(lease), fds) => Ok((lease, fds)),
            _ => Err(unexpected()),
        }
    }

    fn call(&self, ask: &Ask) -> Result<(Answer, Vec<OwnedFd>), Error> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        wire::call(&*connection, ask, &[])
    }
}

fn unexpected() -> Error {
    Error::plain("the hub answered something else than was asked; stop the older mizzen that still runs")
}

fn address(hub: &str) -> io::Result<UnixAddr> {
    Ok(UnixAddr::new_abstract(format!("mizzen/hub/{hub}").as_bytes())?)
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Connects to the hub of that name, and makes sure that it is the same user's.
fn dial(hub: &str) -> io::Result<OwnedFd> {
    let connection = new_socket()?;
    connect(connection.as_raw_fd(), &address(hub)?)?;
    if same_user(connection.as_fd())? {
        Ok(connection)
    } else {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "another user's process holds its name"))
    }
}

fn same_user(peer: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(getsockopt(&peer, sockopt::PeerCredentials)?.uid() == Uid::effective().as_raw())
}

/// Starts the hub's process and waits until it is ready, or until another process was faster.
fn start(launcher: &Launcher) -> Result<(), Error> {
    let failed = |e: io::Error| Error::new("start the hub", e);
    let (here, there) = wire::pair().map_err(failed)?;
    let mut child = Command::new(&launcher.program)
        .args(&launcher.arguments)
        .args(["hub-process", &launcher.hub])
        .stdin(Stdio::from(there))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let report = wire::receive::<Result<(), (String, Option<String>)>>(&here).map_err(failed);
    // It leaves a process of its own behind and ends at once.
    child.wait().map_err(failed)?;
    match report? {
        Some((Ok(()), _)) => Ok(()),
        Some((Err((what, cure)), _)) => Err(Error { what, cause: None, cure }),
        None => Err(Error::plain(format!(
            "the hub's process ({}) ended without a word",
            launcher.program.display()
        ))),
    }
}

/// The hub's process, detached, with the starter's socket as its standard input.
pub(super) fn run(name: &str) -> Result<(), Error> {
    let starter = io::stdin();
    let report = |outcome: &Result<(), (String, Option<String>)>| {
        // A starter that is gone waits for nothing.
        let _ = wire::send(starter.as_fd(), outcome, &[]);
    };
    let made = take_name(name).and_then(|listener| match listener {
        Some(listener) => Ok(Some((listener, Network::create()?))),
        None => Ok(None),
    });
    match made {
        Ok(Some((listener, network))) => {
            report(&Ok(()));
            drop_stdin();
            serve(&listener, network)
        }
        Ok(None) => {
            report(&Ok(()));
            Ok(())
        }
        Err(error) => {
            let what = Error { cure: None, ..Error { what: error.what.clone(), cause: None, cure: None } };
            let what = match &error.cause {
                Some(cause) => format!("{what}: {cause}"),
                None => what.to_string(),
            };
            report(&Err((what, error.cure.clone())));
            Err(error)
        }
    }
}

/// So that the starter's end closes.
fn drop_stdin() {
    if let Ok(null) = std::fs::File::open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(null);
    }
}

/// The listener, or nothing if another process holds the name.
fn take_name(name: &str) -> Result<Option<OwnedFd>, Error> {
    let take = || -> io::Result<Option<OwnedFd>> {
        let listener = new_socket()?;
        match bind(listener.as_raw_fd(), &address(name)?) {
            Err(nix::errno::Errno::EADDRINUSE) => return Ok(None),
            result => result?,
        }
        listen(&listener, Backlog::MAXCONN)?;
        Ok(Some(listener))
    };
    take().map_err(|e| Error::new("take the hub's name", e))
}

struct Network {
    privilege: Privilege,
    namespaces: Vec<OwnedFd>,
    v6: bool,
    held: BTreeSet<u16>,
    last: u16,
    links: u64,
}

impl Network {
    fn create() -> Result<Self, Error> {
        let privilege = spaces::create()?;
        let mut route = netlink::Socket::route()?;
        let bridge = route.add_bridge(BRIDGE, Hardware::of(GATEWAY))?;
        route.add_address(bridge, GATEWAY.into(), NETWORK)?;
        let v6 = route.add_address(bridge, GATEWAY_6.into(), NETWORK_6).is_ok();
        route.up(bridge)?;
        // A virtual address needs a route before anything can be said about it.
        route.add_route(Index::LOOPBACK, Some((Ipv4Addr::UNSPECIFIED.into(), 0)), None)?;
        super::mounts::open_low_ports();
        let namespaces = spaces::own(privilege)?;
        Ok(Self { privilege, namespaces, v6, held: BTreeSet::new(), last: 1, links: 0 })
    }

    /// The next free address, those just given back last: connections to them may still be open somewhere.
    fn lease(&mut self) -> Option<(u16, Lease)> {
        let usable = |n: &u16| !matches!(n & 0xff, 0 | 0xff);
        let candidates = (self.last..u16::MAX).skip(1).chain(2..=self.last);
        let number = candidates.filter(usable).find(|n| !self.held.contains(n))?;
        self.held.insert(number);
        self.last = number;
        self.links += 1;
        let [high, low] = number.to_be_bytes();
        let v6 = self.v6.then(|| Ipv6Addr::new(0xfd44, 0, 0, 0, 0, 0, 0, number));
        Some((
            number,
            Lease { v4: Ipv4Addr::new(10, 44, high, low), v6, link: format!("mz{:x}", self.links) },
        ))
    }
}

struct Client {
    connection: OwnedFd,
    held: Vec<u16>,
}

/// Until the last client is gone.
fn serve(listener: &OwnedFd, mut network: Network) -> Result<(), Error> {
    let mut clients: Vec<Client> = Vec::new();
    let mut served = false;
    loop {
        let ready = wait(listener, &clients).map_err(|e| Error::new("wait for clients", e))?;
        for at in (0..clients.len()).rev().filter(|at| ready[at + 1]) {
            if answer(&mut clients[at], &mut network).is_err() {
                let gone = clients.swap_remove(at);
                network.held.retain(|number| !gone.held.contains(number));
            }
        }
        if ready[0] {
            if let Some(connection) = accept(listener) {
                clients.push(Client { connection, held: Vec::new() });
                served = true;
            }
        } else if served && clients.is_empty() {
            return Ok(());
        }
    }
}

/// Which descriptors have something to read: the listener's first, then the clients'.
fn wait(listener: &OwnedFd, clients: &[Client]) -> io::Result<Vec<bool>> {
    let sources = [listener.as_fd()].into_iter().chain(clients.iter().map(|c| c.connection.as_fd()));
    let mut polled: Vec<PollFd<'_>> = sources.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    // A starter that dies before it connects leaves a hub without clients; that one ends after a while.
    let patience = if clients.is_empty() { PollTimeout::from(10_000u16) } else { PollTimeout::NONE };
    loop {
        match poll(&mut polled, patience) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            result => {
                result?;
                break;
            }
        }
    }
    Ok(polled.iter().map(|p| p.any().unwrap_or(false)).collect())
}

fn accept(listener: &OwnedFd) -> Option<OwnedFd> {
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC).ok()?;
    let connection = super::process::adopt(fd);
    same_user_inside(connection.as_fd()).then_some(connection)
}

/// Ids are seen through this process's user namespace, where everybody but the own user is "nobody".
fn same_user_inside(peer: BorrowedFd<'_>) -> bool {
    same_user(peer).unwrap_or(false)
}

/// Answers one question; an error means that the client is gone.
fn answer(client: &mut Client, network: &mut Network) -> io::Result<()> {
    let gone = || io::Error::from(io::ErrorKind::ConnectionReset);
    let (ask, _) = wire::receive::<Ask>(&client.connection)?.ok_or_else(gone)?;
    let to = &client.connection;
    match ask {
        Ask::Hello(PROTOCOL) => wire::send(to, &Reply::Done(Answer::Welcome(network.privilege)), &[]),
        Ask::Hello(_) => refuse(to, libc::EPROTO, "another version of mizzen holds the hub: stop it first"),
        Ask::Socket(kind) => match kind.make() {
            Ok(socket) => wire::send(to, &Reply::Done(Answer::Socket), &[socket.as_fd()]),
            Err(e) => refuse(to, e.raw_os_error().unwrap_or(libc::EIO), "make a socket in the hub"),
        },
        Ask::Lease => match network.lease() {
            Some((number, lease)) => {
                client.held.push(number);
                let fds: Vec<BorrowedFd<'_>> = network.namespaces.iter().map(AsFd::as_fd).collect();
                wire::send(to, &Reply::Done(Answer::Lease(lease)), &fds)
            }
            None => refuse(to, libc::EADDRNOTAVAIL, "all addresses of the hub are taken"),
        },
    }
}

fn refuse(to: &OwnedFd, errno: i32, what: &str) -> io::Result<()> {
    wire::send(to, &Reply::<Answer>::Refused { errno, what: what.into() }, &[])
}

/// Whether the address is one of the hub's network.
#[cfg(test)]
fn inside(address: std::net::IpAddr) -> bool {
    networks().iter().any(|network| network.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Network {
        Network {
            privilege: Privilege::User,
            namespaces: Vec::new(),
            v6: true,
            held: BTreeSet::new(),
            last: 1,
            links: 0,
        }
    }

    #[test]
    fn addresses_differ_and_are_not_taken_again_at_once() {
        let mut network = network();
        let (number, first) = network.lease().unwrap();
        assert_eq!(
            (first.v4, first.v6.unwrap().to_string()),
            (Ipv4Addr::new(10, 44, 0, 2), "fd44::2".into())
        );
        network.held.remove(&number);
        let (_, second) = network.lease().unwrap();
        assert_ne!(first.v4, second.v4);
        assert_ne!(first.link, second.link);
        assert!(inside(second.v4.into()) && inside(second.v6.unwrap().into()));
    }

    #[test]
    fn every_address_is_given_once_and_then_none() {
        let mut network = network();
        let mut seen = BTreeSet::new();
        while let Some((_, lease)) = network.lease() {
            assert!(seen.insert(lease.v4), "{} twice", lease.v4);
        }
        assert!(!seen.contains(&GATEWAY) && seen.len() > 65_000, "{}", seen.len());
        network.held.remove(&77);
        assert_eq!(network.lease().unwrap().1.v4, Ipv4Addr::new(10, 44, 0, 77));
    }
}
