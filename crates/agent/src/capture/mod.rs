//! Traffic capture as a pure rule program: which connections of a workload go through its proxy.
//!
//! A [`Program`] is data. [`nft`] turns it into netlink messages for the kernel, [`text`] into what `nft -f` and
//! `iptables-restore` read. The program is made before the application runs and from outside its privileges.
//! UDP other than DNS is not carried by the mesh: it is refused at once rather than lost.

mod cidr;
pub mod nft;
pub mod text;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use cidr::Cidr;

/// What the proxy's own packets carry, so that they are not captured again.
pub const MARK: u32 = 0x539;
/// The proxy's user and group, where user ids can be chosen.
pub const PROXY_ID: u32 = 1337;
pub const OUTBOUND_PORT: u16 = 15001;
pub const INBOUND_PORT: u16 = 15006;
pub const TUNNEL_PORT: u16 = 15008;
pub const DNS_PORT: u16 = 15053;
/// Where the agent carries on what a stock Envoy sends to other networks.
pub const RELAY_PORT: u16 = 15003;
/// Readiness and metrics: reached directly, never captured.
pub const OPEN_PORTS: [u16; 3] = [15020, 15021, 15090];

/// Where inbound connections come from when the proxy opens them to the application.
pub const INBOUND_SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// The same for IPv6.
pub const INBOUND_SOURCE_6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// What people may choose about a workload's capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The port that the proxy takes outbound connections on.
    pub outbound: u16,
    /// The port that the proxy takes inbound connections on; nothing inbound is captured without one.
    pub inbound: Option<u16>,
    /// The port that name look-ups go to; they are not captured without one.
    pub dns: Option<u16>,
    /// User and group of the proxy, where it has its own.
    pub proxy_id: Option<u32>,
    pub exclude_inbound: Vec<u16>,
    pub exclude_outbound: Vec<u16>,
    pub exclude_networks: Vec<Cidr>,
    /// Where the proxy cannot make sockets of the host's, its connections to other networks go to this port.
    pub relay: Option<Relay>,
    /// UDP other than DNS is refused but to these networks and to loopback; absent: it is left alone.
    pub udp_only_to: Option<Vec<Cidr>>,
}

/// A port of this namespace, and the networks that the proxy reaches without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    pub port: u16,
    pub inside: Vec<Cidr>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            outbound: OUTBOUND_PORT,
            inbound: Some(INBOUND_PORT),
            dns: Some(DNS_PORT),
            proxy_id: Some(PROXY_ID),
            exclude_inbound: Vec::new(),
            exclude_outbound: Vec::new(),
            exclude_networks: Vec::new(),
            relay: None,
            udp_only_to: None,
        }
    }
}

/// The rules of one network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub table: String,
    pub chains: Vec<Chain>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub name: &'static str,
    pub hook: Hook,
    pub kind: Kind,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Packets that arrive from outside.
    Prerouting,
    /// Packets that processes of this namespace send.
    Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Nat,
    Filter,
}

/// All of `matches` must hold for `verdict` to be given; the first rule that does ends the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub matches: Vec<Match>,
    pub verdict: Verdict,
    pub why: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    Protocol(Protocol),
    /// The packet leaves by the loopback interface.
    Loopback,
    Source(Cidr),
    Destination(Cidr),
    NotDestination(Cidr),
    Port(Protocol, u16),
    NotPort(Protocol, u16),
    User(u32),
    Group(u32),
    Mark(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Leave the connection alone.
    Return,
    /// Hand the connection to this port of the namespace.
    Redirect(u16),
    /// Refuse, and say so to the sender.
    Reject,
}

impl Program {
    /// The capture of a workload that has a sidecar.
    pub fn sidecar(settings: &Settings) -> Self {
        let mut chains = vec![
            Chain {
                name: "prerouting",
                hook: Hook::Prerouting,
                kind: Kind::Nat,
                rules: prerouting(settings),
            },
            Chain { name: "output", hook: Hook::Output, kind: Kind::Nat, rules: output(settings) },
        ];
        if let Some(allowed) = &settings.udp_only_to {
            let rules = udp(settings, allowed);
            chains.push(Chain { name: "refuse_udp", hook: Hook::Output, kind: Kind::Filter, rules });
        }
        Self { table: "mizzen".into(), chains }
    }
}

fn prerouting(settings: &Settings) -> Vec<Rule> {
    let Some(inbound) = settings.inbound else { return Vec::new() };
    let open = OPEN_PORTS.iter().chain(&settings.exclude_inbound);
    open.map(|&port| rule([Match::Port(Protocol::Tcp, port)], Verdict::Return, "reached directly"))
        .chain([rule([Match::Protocol(Protocol::Tcp)], Verdict::Redirect(inbound), "inbound")])
        .collect()
}

fn output(settings: &Settings) -> Vec<Rule> {
    let mut rules: Vec<Rule> = [Cidr::host(INBOUND_SOURCE.into()), Cidr::host(INBOUND_SOURCE_6.into())]
        .map(|source| {
            rule(
                [Match::Source(source), Match::Loopback],
                Verdict::Return,
                "the proxy hands over to the application",
            )
        })
        .into();
    let proxy = proxy_marks(settings);
    if let Some(inbound) = settings.inbound {
        let localhost = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        for (mark, local) in proxy.iter().flat_map(|mark| localhost.map(|local| (mark, Cidr::host(local)))) {
            let matches = [
                Match::Loopback,
                Match::NotDestination(local),
                Match::NotPort(Protocol::Tcp, TUNNEL_PORT),
                mark.clone(),
            ];
            rules.push(rule(
                matches,
                Verdict::Redirect(inbound),
                "the workload calls itself through its service",
            ));
        }
    }
    if let Some(relay) = &settings.relay {
        rules.extend(proxy.iter().flat_map(|mark| to_relay(mark, relay)));
    }
    rules.extend(proxy.into_iter().map(|mark| rule([mark], Verdict::Return, "the proxy's own")));
    if let Some(dns) = settings.dns {
        rules.extend(
            [Protocol::Udp, Protocol::Tcp]
                .map(|protocol| rule([Match::Port(protocol, 53)], Verdict::Redirect(dns), "name look-ups")),
        );
    }
    rules.push(rule([Match::Loopback], Verdict::Return, "the application calls itself"));
    rules.extend(
        settings
            .exclude_outbound
            .iter()
            .map(|&port| rule([Match::Port(Protocol::Tcp, port)], Verdict::Return, "excluded port")),
    );
    rules.extend(
        settings
            .exclude_networks
            .iter()
            .map(|&network| rule([Match::Destination(network)], Verdict::Return, "excluded network")),
    );
    rules.push(rule([Match::Protocol(Protocol::Tcp)], Verdict::Redirect(settings.outbound), "outbound"));
    rules
}

/// What the proxy sends stays as it is within the mesh's networks and goes to the relay beyond them.
fn to_relay<'a>(mark: &'a Match, relay: &'a Relay) -> impl Iterator<Item = Rule> + 'a {
    let why = "the proxy reaches it";
    [rule([mark.clone(), Match::Loopback], Verdict::Return, why)]
        .into_iter()
        .chain(
            relay
                .inside
                .iter()
                .map(move |&to| rule([mark.clone(), Match::Destination(to)], Verdict::Return, why)),
        )
        .chain([rule(
            [mark.clone(), Match::Protocol(Protocol::Tcp)],
            Verdict::Redirect(relay.port),
            "the proxy calls another network",
        )])
}

/// A packet that address translation has redirected keeps its first outgoing interface, so destinations are matched.
fn udp(settings: &Settings, allowed: &[Cidr]) -> Vec<Rule> {
    let always = [
        Cidr::new(Ipv4Addr::new(127, 0, 0, 0).into(), 8),
        Cidr::host(Ipv6Addr::LOCALHOST.into()),
        // Neighbour discovery and multicast stay on the link.
        Cidr::new(Ipv4Addr::new(224, 0, 0, 0).into(), 4),
        Cidr::new(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
    ];
    let allowed = always.iter().chain(allowed);
    proxy_marks(settings)
        .into_iter()
        .map(|mark| rule([mark], Verdict::Return, "the proxy's own"))
        .chain(allowed.map(|&network| rule([Match::Destination(network)], Verdict::Return, "inside")))
        .chain([rule([Match::Protocol(Protocol::Udp)], Verdict::Reject, "the mesh carries no UDP but DNS")])
        .collect()
}

fn proxy_marks(settings: &Settings) -> Vec<Match> {
    let ids = settings.proxy_id.map(|id| [Match::User(id), Match::Group(id)]);
    ids.into_iter().flatten().chain([Match::Mark(MARK)]).collect()
}

fn rule<const N: usize>(matches: [Match; N], verdict: Verdict, why: &'static str) -> Rule {
    Rule { matches: matches.into(), verdict, why }
}

impl Rule {
    /// Whether the rule speaks of one address family only.
    pub fn family(&self) -> Option<Family> {
        self.matches.iter().find_map(|m| match m {
            Match::Source(cidr) | Match::Destination(cidr) | Match::NotDestination(cidr) => {
                Some(cidr.family())
            }
            _ => None,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}
