//! Listeners: what to bind, what to look at before deciding, and which filter chain a connection gets.

mod chain_match;
mod compile;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use upstream::Address;

use crate::access_log::AccessLog;
use crate::cluster::TcpKeepalive;
use crate::connection::Connection;
use crate::explain::Recorder;
use crate::hcm::Hcm;
use crate::network::{NetworkFilter, TcpProxy};
use crate::tls::DownstreamTransport;

pub use chain_match::ChainMatch;
pub(crate) use compile::compile_listener;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Direction {
    #[default]
    Unspecified,
    Inbound,
    Outbound,
}

/// A compiled listener.
#[derive(Debug, Clone)]
pub struct Listener {
    pub name: Arc<str>,
    /// For statistics: the name unless `statPrefix` is set.
    pub stat_prefix: Arc<str>,
    /// The first is the listener's own; others are additional.
    pub addresses: Vec<Address>,
    /// False: nothing is bound; connections are handed over by a listener with `use_original_dst`.
    pub bind_to_port: bool,
    /// Hand connections to the listener of their original destination, where there is one: [`crate::Plan::hand_over`].
    pub use_original_dst: bool,
    pub direction: Direction,
    pub filters: Vec<ListenerFilter>,
    /// How long the listener filters may look; nothing is for ever.
    pub filters_timeout: Option<Duration>,
    /// At the timeout go on with what was seen, instead of closing.
    pub continue_on_timeout: bool,
    pub chains: Vec<Arc<FilterChain>>,
    pub default_chain: Option<Arc<FilterChain>>,
    /// Of connections that no filter chain took.
    pub access_log: Vec<AccessLog>,
    pub per_connection_buffer_limit: u32,
    pub transparent: bool,
    pub freebind: bool,
    pub backlog: Option<u32>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    pub(crate) matcher: chain_match::ChainIndex,
}

#[derive(Debug, Clone)]
pub struct ListenerFilter {
    pub kind: ListenerFilterKind,
    disabled: Option<PortPredicate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerFilterKind {
    /// Restore the original destination (SO_ORIGINAL_DST).
    OriginalDestination,
    /// Peek for a ClientHello: transport protocol, SNI, ALPN.
    TlsInspector,
    /// Peek for an HTTP request line or preface.
    HttpInspector,
    ProxyProtocol {
        /// Take connections without the header as well.
        optional: bool,
    },
}

#[derive(Debug, Clone)]
pub(crate) enum PortPredicate {
    Any,
    /// Start included, end not.
    Range(u16, u32),
    Not(Box<PortPredicate>),
    And(Vec<PortPredicate>),
    Or(Vec<PortPredicate>),
}

impl PortPredicate {
    fn matches(&self, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Range(start, end) => *start <= port && u32::from(port) < *end,
            Self::Not(inner) => !inner.matches(port),
            Self::And(all) => all.iter().all(|p| p.matches(port)),
            Self::Or(any) => any.iter().any(|p| p.matches(port)),
        }
    }
}

impl ListenerFilter {
    /// Whether the filter looks at connections to this destination.
    pub fn is_enabled(&self, destination: SocketAddr) -> bool {
        !self.disabled.as_ref().is_some_and(|p| p.matches(destination.port()))
    }
}

/// What is done with a connection.
#[derive(Debug, Clone)]
pub struct FilterChain {
    pub name: Arc<str>,
    pub matches: ChainMatch,
    pub transport: DownstreamTransport,
    /// For the handshake.
    pub transport_timeout: Option<Duration>,
    /// In order, before the terminal one.
    pub filters: Vec<NetworkFilter>,
    pub terminal: Terminal,
}

#[derive(Debug, Clone)]
pub enum Terminal {
    Http(Arc<Hcm>),
    Tcp(Arc<TcpProxy>),
    /// Write these bytes and close.
    DirectResponse(bytes::Bytes),
    /// Give back what comes.
    Echo,
    /// No filters: close at once.
    Close,
}

impl Listener {
    /// The filter chain for a connection, by Envoy's precedence: destination port, destination address, server name,
    /// transport protocol, application protocol, direct source address, source type, source address, source port.
    /// Of each, only the most specific candidates go on to the next, without going back.
    pub fn choose<R: Recorder>(
        &self,
        connection: &Connection,
        recorder: &mut R,
    ) -> Option<&Arc<FilterChain>> {
        let found = self.matcher.find(connection).map(|index| &self.chains[index]);
        let chosen = found.or(self.default_chain.as_ref());
        recorder.note(|| {
            let what = match (found, chosen) {
                (Some(chain), _) => format!("filter chain {:?}: {}", chain.name, chain.matches),
                (None, Some(chain)) => format!("default filter chain {:?}: no other matches", chain.name),
                (None, None) => "no filter chain matches: the connection is closed".to_owned(),
            };
            crate::explain::Note::new("listener", &*self.name, what)
        });
        chosen
    }

    /// The listener's own IP address and port.
    pub fn socket(&self) -> Option<SocketAddr> {
        self.addresses.first().and_then(Address::socket)
    }

    /// All filter chains, the default one last.
    pub fn all_chains(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.chains.iter().chain(&self.default_chain)
    }
}
