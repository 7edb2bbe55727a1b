//! Making sockets: listeners that several threads share, original destinations, outgoing connections.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};

/// How an outgoing connection is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ConnectOptions {
    pub source: Option<IpAddr>,
    pub mark: Option<u32>,
    pub keepalive: Option<Keepalive>,
}

/// `SO_KEEPALIVE` with its times; an absent one is the system's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Keepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

/// A connection in the making.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// Connects where this network has no way to, by sockets that come from elsewhere; nothing where it has.
pub type Outside = Arc<dyn Fn(SocketAddr) -> Option<Connecting> + Send + Sync>;

/// What a listening socket is made with besides its address.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListenOptions {
    pub transparent: bool,
    pub freebind: bool,
    pub backlog: Option<u32>,
}

/// A listening socket of one worker; the kernel spreads connections over the workers that share the address.
pub fn bind_tcp(address: SocketAddr, options: &ListenOptions) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    match (address, options.transparent, options.freebind) {
        (SocketAddr::V4(_), true, _) => socket.set_ip_transparent_v4(true)?,
        (SocketAddr::V6(_), true, _) => socket.set_ip_transparent_v6(true)?,
        (SocketAddr::V4(_), false, true) => socket.set_freebind_v4(true)?,
        (SocketAddr::V6(_), false, true) => socket.set_freebind_v6(true)?,
        (_, false, false) => {}
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(options.backlog.map_or(4096, |b| i32::try_from(b).unwrap_or(i32::MAX)))?;
    Ok(socket.into())
}

/// Where a redirected connection was going before the firewall turned it here; `None` if it was not redirected.
pub fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    let socket = SockRef::from(stream);
    let found = if is_v4(local) { socket.original_dst_v4() } else { socket.original_dst_v6() };
    found.ok().and_then(|a| a.as_socket()).map(unmap)
}

/// The address that the connection arrived at, IPv4 written as such.
pub fn local_address(stream: &TcpStream) -> Option<SocketAddr> {
    stream.local_addr().ok().map(unmap)
}

fn is_v4(address: SocketAddr) -> bool {
    unmap(address).is_ipv4()
}

fn unmap(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Connects; the caller bounds the time.
pub async fn connect(address: SocketAddr, options: &ConnectOptions) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    prepare(&socket, address, options)?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn prepare(fd: &impl AsFd, to: SocketAddr, options: &ConnectOptions) -> io::Result<()> {
    let socket = SockRef::from(fd);
    if let Some(mark) = options.mark {
        // Without CAP_NET_ADMIN the mark cannot be set; capture then exempts by user instead.
        if let Err(error) = socket.set_mark(mark) {
            tracing::debug!(%error, mark, "SO_MARK refused");
        }
    }
    if let Some(source) = options.source.filter(|s| s.is_ipv4() == to.is_ipv4()) {
        // The port is chosen at connect, so that the same one serves several destinations.
        let _ = setsockopt(fd, sockopt::IpBindAddressNoPort, &true);
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    if let Some(keepalive) = options.keepalive {
        set_keepalive(&socket, keepalive)?;
    }
    Ok(())
}

/// Turns keep-alive probes on.
pub fn set_keepalive(socket: &SockRef<'_>, keepalive: Keepalive) -> io::Result<()> {
    let mut probe = TcpKeepalive::new();
    if let Some(time) = keepalive.time {
        probe = probe.with_time(time);
    }
    if let Some(interval) = keepalive.interval {
        probe = probe.with_interval(interval);
    }
    if let Some(probes) = keepalive.probes {
        probe = probe.with_retries(probes);
    }
    socket.set_tcp_keepalive(&probe)
}
