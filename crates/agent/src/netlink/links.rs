//! Links, addresses and routes: what a namespace needs to be a host on a bridge.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

use super::{CREATE, EXCLUSIVE, Error, Message, Socket, u32_at};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x02;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

const IFF_UP: u32 = 1;

/// An interface's number within its namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Index(u32);

impl Index {
    /// The loopback interface is the first of every namespace.
    pub const LOOPBACK: Self = Self(1);
}

/// An interface's hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hardware([u8; 6]);

impl Hardware {
    /// The locally administered one that goes with an IPv4 address. Neighbours remember the two together for up to a
    /// minute: whoever has the address next must not have another, or it is not reached for so long.
    pub fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0, a, b, c, d])
    }
}

/// The operations on links. The socket decides which namespace they act in.
impl Socket {
    /// Without a hardware address of its own a bridge takes that of one port or another, as they come and go.
    pub fn add_bridge(&mut self, name: &str, hardware: Hardware) -> Result<Index, Error> {
        let message = Message::new(format!("add the bridge {name}"), RTM_NEWLINK, CREATE | EXCLUSIVE)
            .raw(&ifinfo(0, 0))
            .text(IFLA_IFNAME, name)
            .attribute(IFLA_ADDRESS, &hardware.0)
            .nested(IFLA_LINKINFO, |m| m.text(IFLA_INFO_KIND, "bridge"));
        self.request(message)?;
        self.index(name)
    }

    /// A pair of virtual Ethernet interfaces: `name` here, `peer` with that hardware address in the other namespace.
    pub fn add_veth(
        &mut self,
        name: &str,
        peer: &str,
        hardware: Hardware,
        namespace: BorrowedFd<'_>,
    ) -> Result<Index, Error> {
        let namespace = namespace.as_raw_fd().cast_unsigned();
        let message =
            Message::new(format!("add the veth pair {name}, {peer}"), RTM_NEWLINK, CREATE | EXCLUSIVE)
                .raw(&ifinfo(0, 0))
                .text(IFLA_IFNAME, name)
                .nested(IFLA_LINKINFO, |m| {
                    m.text(IFLA_INFO_KIND, "veth").nested(IFLA_INFO_DATA, |m| {
                        m.nested(VETH_INFO_PEER, |m| {
                            m.raw(&ifinfo(0, 0))
                                .text(IFLA_IFNAME, peer)
                                .attribute(IFLA_ADDRESS, &hardware.0)
                                .number(IFLA_NET_NS_FD, namespace)
                        })
                    })
                });
        self.request(message)?;
        self.index(name)
    }

    pub fn index(&mut self, name: &str) -> Result<Index, Error> {
        let message = Message::new(format!("find the interface {name}"), RTM_GETLINK, 0)
            .raw(&ifinfo(0, 0))
            .text(IFLA_IFNAME, name);
        self.get(message).map(|body| Index(u32_at(&body, 4)))
    }

    pub fn enslave(&mut self, port: Index, bridge: Index) -> Result<(), Error> {
        self.request(
            Message::new("put the interface on the bridge", RTM_NEWLINK, 0)
                .raw(&ifinfo(port.0, 0))
                .number(IFLA_MASTER, bridge.0),
        )
    }

    pub fn up(&mut self, link: Index) -> Result<(), Error> {
        self.request(Message::new("bring the interface up", RTM_NEWLINK, 0).raw(&ifinfo(link.0, IFF_UP)))
    }

    pub fn remove(&mut self, link: Index) -> Result<(), Error> {
        self.request(Message::new("remove the interface", RTM_DELLINK, 0).raw(&ifinfo(link.0, 0)))
    }

    /// An address that is usable at once: nobody else can hold it, so nothing is probed.
    pub fn add_address(&mut self, link: Index, address: IpAddr, prefix: u8) -> Result<(), Error> {
        let (family, bytes) = wire(address);
        let mut head = vec![family, prefix, 0, 0];
        head.extend_from_slice(&link.0.to_ne_bytes());
        self.request(
            Message::new(format!("give the interface {address}/{prefix}"), RTM_NEWADDR, CREATE | EXCLUSIVE)
                .raw(&head)
                .attribute(IFA_LOCAL, &bytes)
                .attribute(IFA_ADDRESS, &bytes)
                .number(IFA_FLAGS, IFA_F_NODAD),
        )
    }

    pub fn add_default_route(&mut self, link: Index, gateway: IpAddr) -> Result<(), Error> {
        self.add_route(link, None, Some(gateway))
    }

    /// A route to `destination` (an address and its prefix; everything if absent), directly or by a gateway.
    pub fn add_route(
        &mut self,
        link: Index,
        destination: Option<(IpAddr, u8)>,
        gateway: Option<IpAddr>,
    ) -> Result<(), Error> {
        const TABLE_MAIN: u8 = 254;
        const PROTOCOL_STATIC: u8 = 4;
        const SCOPE_LINK: u8 = 253;
        const UNICAST: u8 = 1;
        let any = destination.map(|(address, _)| address).or(gateway);
        let family = any.map_or(2, |address| wire(address).0);
        let scope = if gateway.is_some() || family == 10 { 0 } else { SCOPE_LINK };
        let prefix = destination.map_or(0, |(_, prefix)| prefix);
        let head = [family, prefix, 0, 0, TABLE_MAIN, PROTOCOL_STATIC, scope, UNICAST, 0, 0, 0, 0];
        let mut message = Message::new("add a route", RTM_NEWROUTE, CREATE).raw(&head);
        if let Some((address, _)) = destination {
            message = message.attribute(RTA_DST, &wire(address).1);
        }
        if let Some(gateway) = gateway {
            message = message.attribute(RTA_GATEWAY, &wire(gateway).1);
        }
        self.request(message.number(RTA_OIF, link.0))
    }
}

fn ifinfo(index: u32, up: u32) -> [u8; 16] {
    let mut head = [0; 16];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&up.to_ne_bytes());
    head[12..16].copy_from_slice(&up.to_ne_bytes());
    head
}

/// The kernel's number of the address family, and the address in network order.
fn wire(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (2, v4.octets().to_vec()),
        IpAddr::V6(v6) => (10, v6.octets().to_vec()),
    }
}
