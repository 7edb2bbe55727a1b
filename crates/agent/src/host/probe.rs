//! What this machine allows, found by doing it in a process that is thrown away.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsFd,
    process::{Command, Stdio},
};

use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};
use socket2::{SockAddr, SockRef};

use super::{
    Error, GATEWAY, GATEWAY_6, Launcher, NETWORK, NETWORK_6, Privilege,
    hub::BRIDGE,
    mounts, spaces,
    wire::{self, SocketKind},
};
use crate::{
    capture::{MARK, OUTBOUND_PORT, Program, Settings, nft},
    netlink::{self, links::Hardware},
};

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub what: String,
    /// Whether a mesh on this machine needs it.
    pub needed: bool,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Works(String),
    Fails { cause: String, cure: Option<String> },
}

impl Finding {
    pub fn works(&self) -> bool {
        matches!(self.outcome, Outcome::Works(_))
    }

    fn new(what: &str, needed: bool, result: Result<String, Error>) -> Self {
        let outcome = match result {
            Ok(how) => Outcome::Works(how),
            Err(Error { what, cause, cure }) => {
                Outcome::Fails { cause: cause.map_or(what.clone(), |cause| format!("{what}: {cause}")), cure }
            }
        };
        Self { what: what.into(), needed, outcome }
    }
}

/// Tries everything that hosts of namespaces need.
pub fn probe(launcher: &Launcher) -> Result<Vec<Finding>, Error> {
    let failed = |e: io::Error| Error::new("start the process that tries things out", e);
    let (here, there) = wire::pair().map_err(failed)?;
    let mut child = Command::new(&launcher.program)
        .args(&launcher.arguments)
        .arg("probe-process")
        .stdin(Stdio::from(there))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let findings = wire::receive(&here).map_err(failed);
    child.wait().map_err(failed)?;
    let ended = || Error::plain("the process that tries things out ended without a word");
    findings?.map(|(findings, _)| findings).ok_or_else(ended)
}

/// The thrown-away process: answers on its standard input.
pub(super) fn run() -> Result<(), Error> {
    let findings = try_all();
    wire::send(io::stdin().as_fd(), &findings, &[]).map_err(|e| Error::new("report the findings", e))
}

type Step = fn() -> Result<String, Error>;

fn try_all() -> Vec<Finding> {
    let created = spaces::create();
    let made = created.is_ok();
    let by = created.map(|privilege| match privilege {
        Privilege::Root => "by root's capabilities".to_owned(),
        Privilege::User => "by a user namespace".to_owned(),
    });
    let mut findings = vec![Finding::new("network namespaces", true, by)];
    if !made {
        return findings;
    }
    let steps: [(&str, bool, Step); 7] = [
        ("virtual links and a bridge", true, links),
        ("capture rules in nftables", true, rules),
        ("original destination, IPv4", true, original_v4),
        ("original destination, IPv6", false, original_v6),
        ("packet marks", true, marks),
        ("transparent sockets", false, transparent),
        ("own files for name look-ups, own process ids", true, files),
    ];
    findings.extend(steps.into_iter().map(|(what, needed, step)| Finding::new(what, needed, step())));
    findings
}

fn links() -> Result<String, Error> {
    let missing = "load the kernel's modules: sudo modprobe -a bridge veth";
    let add = || -> Result<(), netlink::Error> {
        let mut route = netlink::Socket::route()?;
        let bridge = route.add_bridge(BRIDGE, Hardware::of(GATEWAY))?;
        let here = spaces::open("net")
            .map_err(|e| netlink::Error { what: "open the namespace".into(), cause: e.into() })?;
        let port = route.add_veth("mz1", "mz2", Hardware::of(Ipv4Addr::LOCALHOST), here.as_fd())?;
        let other = route.index("mz2")?;
        route.enslave(port, bridge)?;
        for link in [bridge, port, other] {
            route.up(link)?;
        }
        // Any address needs a route before a connection to it can be captured; by loopback it would not be.
        route.add_address(bridge, GATEWAY.into(), NETWORK)?;
        route.add_route(bridge, Some((Ipv4Addr::UNSPECIFIED.into(), 0)), None)
    };
    add().map_err(|e| Error::from(e).cure(missing))?;
    Ok("bridge, veth".into())
}

fn rules() -> Result<String, Error> {
    let missing =
        "load the kernel's modules: sudo modprobe -a nf_tables nft_chain_nat nft_redir nf_conntrack";
    nft::install(&Program::sidecar(&Settings::default())).map_err(|e| Error::from(e).cure(missing))?;
    Ok("nf_tables, table inet".into())
}

fn original_v4() -> Result<String, Error> {
    redirected(Ipv4Addr::LOCALHOST.into(), SocketAddr::from(([10, 96, 0, 1], 80)))
}

fn original_v6() -> Result<String, Error> {
    let route = || -> Result<(), netlink::Error> {
        let mut route = netlink::Socket::route()?;
        let bridge = route.index(BRIDGE)?;
        route.add_address(bridge, GATEWAY_6.into(), NETWORK_6)?;
        route.add_route(bridge, Some((Ipv6Addr::UNSPECIFIED.into(), 0)), None)
    };
    route().map_err(Error::from)?;
    let outside = SocketAddr::from(([0xfd99, 0, 0, 0, 0, 0, 0, 1], 80));
    redirected(Ipv6Addr::LOCALHOST.into(), outside)
}

/// Connects to an address that nobody has, and asks where the captured connection wanted to go.
fn redirected(local: IpAddr, outside: SocketAddr) -> Result<String, Error> {
    let ask = || -> io::Result<Option<SocketAddr>> {
        let listener = TcpListener::bind((local, OUTBOUND_PORT))?;
        let client = SocketKind::stream(outside).make()?;
        client.set_nonblocking(false)?;
        client.connect_timeout(&SockAddr::from(outside), std::time::Duration::from_secs(2))?;
        let (server, _) = listener.accept()?;
        original_destination(&server)
    };
    let found = ask().map_err(|e| Error::new("connect through a capture rule", e))?;
    if found == Some(outside) {
        Ok("SO_ORIGINAL_DST".into())
    } else {
        Err(Error::plain(format!("the connection went to {outside}, the kernel says {found:?}")))
    }
}

/// Where a captured connection wanted to go.
pub fn original_destination(socket: impl AsFd) -> io::Result<Option<SocketAddr>> {
    let socket = SockRef::from(&socket);
    let v6 = socket.local_addr()?.is_ipv6();
    let original = if v6 { socket.original_dst_v6() } else { socket.original_dst_v4() };
    original.map(|address| address.as_socket())
}

fn marks() -> Result<String, Error> {
    let mark = || SocketKind { v6: false, datagram: false }.make()?.set_mark(MARK);
    mark().map_err(|e| Error::new("set a packet mark", e))?;
    Ok("SO_MARK".into())
}

fn transparent() -> Result<String, Error> {
    let set = || SocketKind { v6: false, datagram: false }.make()?.set_ip_transparent_v4(true);
    set().map_err(|e| Error::new("make a socket transparent", e))?;
    Ok("IP_TRANSPARENT".into())
}

fn files() -> Result<String, Error> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)
        .map_err(|e| Error::new("make mount and process-id namespaces", e))?;
    mounts::cover(&mounts::Names { address: Ipv4Addr::LOCALHOST.into(), hostname: "probe", search: &[] })?;
    Ok("bind mounts in a mount namespace".into())
}
