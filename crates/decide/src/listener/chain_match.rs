//! Filter-chain matching as Envoy defines it: one criterion after the other, the most specific value of each.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use proto::pb::envoy::config::listener::v3 as pb;

use crate::connection::{Connection, TransportProtocol};
use crate::refusal::{Refusal, Taken, each};
use crate::wire::{Cidr, number};

/// What a filter chain is for. Empty criteria match anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChainMatch {
    pub destination_port: Option<u16>,
    pub destination_ranges: Vec<Cidr>,
    /// Lower case; `*.suffix` for wildcards.
    pub server_names: Vec<Arc<str>>,
    pub transport_protocol: Option<TransportProtocol>,
    pub application_protocols: Vec<Arc<str>>,
    pub direct_source_ranges: Vec<Cidr>,
    pub source_type: SourceType,
    pub source_ranges: Vec<Cidr>,
    pub source_ports: Vec<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceType {
    #[default]
    Any,
    SameIpOrLoopback,
    External,
}

impl ChainMatch {
    pub(super) fn compile(m: &pb::FilterChainMatch) -> Taken<Self> {
        let port = |n: u32, field: &str| {
            u16::try_from(n).map_err(|_| Refusal::new("must be at most 65535").under(field))
        };
        let destination_port = number(&m.destination_port).map(|n| port(n, "destinationPort")).transpose()?;
        let transport_protocol = match m.transport_protocol.as_str() {
            "" => None,
            "raw_buffer" => Some(TransportProtocol::RawBuffer),
            "tls" => Some(TransportProtocol::Tls),
            other => {
                return Err(Refusal::new(format_args!("{other:?} must be raw_buffer or tls"))
                    .under("transportProtocol"));
            }
        };
        let source_type = match pb::filter_chain_match::ConnectionSourceType::try_from(m.source_type) {
            Ok(pb::filter_chain_match::ConnectionSourceType::Any) => SourceType::Any,
            Ok(pb::filter_chain_match::ConnectionSourceType::SameIpOrLoopback) => {
                SourceType::SameIpOrLoopback
            }
            Ok(pb::filter_chain_match::ConnectionSourceType::External) => SourceType::External,
            Err(_) => return Err(Refusal::new("unknown").under("sourceType")),
        };
        Ok(Self {
            destination_port,
            destination_ranges: each(&m.prefix_ranges, "prefixRanges", Cidr::compile)?,
            server_names: each(&m.server_names, "serverNames", |n| server_name(n))?,
            transport_protocol,
            application_protocols: m.application_protocols.iter().map(|p| p.as_str().into()).collect(),
            direct_source_ranges: each(
                &m.direct_source_prefix_ranges,
                "directSourcePrefixRanges",
                Cidr::compile,
            )?,
            source_type,
            source_ranges: each(&m.source_prefix_ranges, "sourcePrefixRanges", Cidr::compile)?,
            source_ports: m.source_ports.iter().map(|p| port(*p, "sourcePorts")).collect::<Taken<_>>()?,
        })
    }
}

fn server_name(name: &str) -> Taken<Arc<str>> {
    let lower = name.to_ascii_lowercase();
    let rest = lower.strip_prefix("*.").unwrap_or(&lower);
    if rest.contains('*') && lower != "*" {
        return Err(Refusal::new(format_args!("{name:?}: only whole first labels can be wildcards")));
    }
    Ok(lower.into())
}

impl fmt::Display for ChainMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = false;
        let mut say = |f: &mut fmt::Formatter<'_>, text: String| {
            let and = if std::mem::replace(&mut said, true) { ", " } else { "" };
            write!(f, "{and}{text}")
        };
        if let Some(port) = self.destination_port {
            say(f, format!("port {port}"))?;
        }
        if !self.destination_ranges.is_empty() {
            say(f, format!("to {}", join(&self.destination_ranges)))?;
        }
        if !self.server_names.is_empty() {
            say(f, format!("SNI {}", join(&self.server_names)))?;
        }
        if let Some(transport) = self.transport_protocol {
            say(f, transport.as_str().to_owned())?;
        }
        if !self.application_protocols.is_empty() {
            say(f, format!("protocol {}", join(&self.application_protocols)))?;
        }
        if !self.source_ranges.is_empty() {
            say(f, format!("from {}", join(&self.source_ranges)))?;
        }
        if !said {
            f.write_str("any connection")?;
        }
        Ok(())
    }
}

fn join(items: &[impl fmt::Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("|")
}

/// The chains by their first criterion; the others are narrowed down one after the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChainIndex {
    matches: Vec<ChainMatch>,
    by_port: HashMap<u16, Vec<u16>>,
    any_port: Vec<u16>,
}

impl ChainIndex {
    pub(super) fn new(matches: Vec<ChainMatch>) -> Taken<Self> {
        let mut index = Self { matches, ..Self::default() };
        for (m, i) in index.matches.iter().zip(0u16..) {
            if let Some(twin) = index.matches[..usize::from(i)].iter().position(|other| other == m) {
                return Err(Refusal::new(format_args!("has the same match as filterChains[{twin}]"))
                    .under(format_args!("filterChains[{i}]")));
            }
            match m.destination_port {
                Some(port) => index.by_port.entry(port).or_default().push(i),
                None => index.any_port.push(i),
            }
        }
        Ok(index)
    }

    /// The one chain that remains.
    pub(super) fn find(&self, connection: &Connection) -> Option<usize> {
        let start = self.by_port.get(&connection.local.port()).unwrap_or(&self.any_port);
        let mut left: smallvec::SmallVec<[u16; 32]> = start.iter().copied().collect();
        let (to, from) = (connection.local.ip(), connection.remote.ip());
        self.narrow(&mut left, |m| longest(&m.destination_ranges, to));
        self.narrow(&mut left, |m| name_score(&m.server_names, &connection.server_name));
        self.narrow(&mut left, |m| match m.transport_protocol {
            None => Some(0),
            Some(wanted) => (wanted == connection.transport).then_some(1),
        });
        self.narrow(&mut left, |m| {
            protocol_score(&m.application_protocols, &connection.application_protocols)
        });
        self.narrow(&mut left, |m| longest(&m.direct_source_ranges, from));
        self.narrow(&mut left, |m| match m.source_type {
            SourceType::Any => Some(0),
            SourceType::SameIpOrLoopback => connection.is_local().then_some(1),
            SourceType::External => (!connection.is_local()).then_some(1),
        });
        self.narrow(&mut left, |m| longest(&m.source_ranges, from));
        self.narrow(&mut left, |m| match m.source_ports.as_slice() {
            [] => Some(0),
            ports => ports.contains(&connection.remote.port()).then_some(1),
        });
        left.first().map(|i| usize::from(*i))
    }

    /// Keeps the chains of the best score; `None` is no match.
    fn narrow(&self, left: &mut smallvec::SmallVec<[u16; 32]>, score: impl Fn(&ChainMatch) -> Option<u32>) {
        let of = |i: u16| score(&self.matches[usize::from(i)]);
        let Some(best) = left.iter().filter_map(|i| of(*i)).max() else {
            left.clear();
            return;
        };
        left.retain(|i| of(*i) == Some(best));
    }
}

/// The longest range that holds the address; no ranges match with the least score.
fn longest(ranges: &[Cidr], ip: IpAddr) -> Option<u32> {
    if ranges.is_empty() {
        return Some(0);
    }
    ranges.iter().filter(|r| r.contains(ip)).map(|r| u32::from(r.length) + 1).max()
}

/// Exact names before wildcards, longer wildcards before shorter, any of them before none.
fn name_score(names: &[Arc<str>], name: &str) -> Option<u32> {
    if names.is_empty() {
        return Some(0);
    }
    names
        .iter()
        .filter_map(|pattern| match pattern.strip_prefix('*') {
            None => (**pattern == *name).then_some(u32::MAX),
            Some("") => Some(1),
            Some(suffix) => {
                (name.len() > suffix.len() && name.ends_with(suffix)).then_some(suffix.len() as u32 + 1)
            }
        })
        .max()
}

/// The client's order of preference decides among chains.
fn protocol_score(wanted: &[Arc<str>], offered: &[Arc<str>]) -> Option<u32> {
    if wanted.is_empty() {
        return Some(0);
    }
    offered.iter().position(|p| wanted.contains(p)).map(|at| u32::MAX - at as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(matches: &[pb::FilterChainMatch]) -> ChainIndex {
        ChainIndex::new(matches.iter().map(|m| ChainMatch::compile(m).unwrap()).collect()).unwrap()
    }

    fn connection(port: u16) -> Connection {
        Connection::new("10.0.0.9:5000".parse().unwrap(), format!("10.1.2.3:{port}").parse().unwrap())
    }

    fn range(prefix: &str, length: u32) -> proto::pb::envoy::config::core::v3::CidrRange {
        proto::pb::envoy::config::core::v3::CidrRange {
            address_prefix: prefix.into(),
            prefix_len: Some(proto::pb::google::protobuf::UInt32Value { value: length }),
        }
    }

    fn port(n: u32) -> Option<proto::pb::google::protobuf::UInt32Value> {
        Some(proto::pb::google::protobuf::UInt32Value { value: n })
    }

    #[test]
    fn the_port_comes_first_and_there_is_no_way_back() {
        let index = index(&[
            pb::FilterChainMatch {
                destination_port: port(80),
                transport_protocol: "tls".into(),
                ..Default::default()
            },
            pb::FilterChainMatch::default(),
        ]);
        assert_eq!(index.find(&connection(81)), Some(1));
        assert_eq!(index.find(&connection(80)), None, "port 80 matched; tls did not; nothing goes back");
    }

    #[test]
    fn the_longest_range_wins() {
        let index = index(&[
            pb::FilterChainMatch { prefix_ranges: vec![range("10.0.0.0", 8)], ..Default::default() },
            pb::FilterChainMatch { prefix_ranges: vec![range("10.1.2.0", 24)], ..Default::default() },
            pb::FilterChainMatch::default(),
        ]);
        assert_eq!(index.find(&connection(1)), Some(1));
        let mut other = connection(1);
        other.local = "10.9.9.9:1".parse().unwrap();
        assert_eq!(index.find(&other), Some(0));
        other.local = "8.8.8.8:1".parse().unwrap();
        assert_eq!(index.find(&other), Some(2));
    }

    #[test]
    fn names_match_exactly_then_by_the_longest_suffix() {
        let names = |names: &[&str]| pb::FilterChainMatch {
            server_names: names.iter().map(|n| (*n).to_owned()).collect(),
            ..Default::default()
        };
        let index =
            index(&[names(&["a.b.c"]), names(&["*.b.c"]), names(&["*.c"]), pb::FilterChainMatch::default()]);
        for (name, expected) in [("a.b.c", 0), ("x.b.c", 1), ("y.x.b.c", 1), ("b.c", 2), ("c", 3), ("", 3)] {
            let mut connection = connection(443);
            connection.server_name = name.into();
            assert_eq!(index.find(&connection), Some(expected), "{name}");
        }
    }

    #[test]
    fn mesh_tls_plaintext_http_and_tcp_are_told_apart_as_istio_does() {
        let chain = |transport: &str, protocols: &[&str]| pb::FilterChainMatch {
            destination_port: port(9080),
            transport_protocol: transport.into(),
            application_protocols: protocols.iter().map(|p| (*p).to_owned()).collect(),
            ..Default::default()
        };
        let index = index(&[
            chain("tls", &["istio-http/1.0", "istio-http/1.1", "istio-h2"]),
            chain("raw_buffer", &["http/1.1", "h2c"]),
            chain("tls", &["istio-peer-exchange", "istio"]),
            chain("raw_buffer", &[]),
        ]);
        for (transport, protocols, expected) in [
            (TransportProtocol::Tls, &["istio-http/1.1", "istio", "http/1.1"][..], Some(0)),
            (TransportProtocol::Tls, &["istio-peer-exchange", "istio"], Some(2)),
            (TransportProtocol::Tls, &["h2"], None),
            (TransportProtocol::RawBuffer, &["http/1.1"], Some(1)),
            (TransportProtocol::RawBuffer, &[], Some(3)),
        ] {
            let mut connection = connection(9080);
            connection.transport = transport;
            connection.application_protocols = protocols.iter().map(|p| Arc::from(*p)).collect();
            assert_eq!(index.find(&connection), expected, "{transport:?} {protocols:?}");
        }
    }

    #[test]
    fn twins_are_refused() {
        let twins = vec![ChainMatch::default(), ChainMatch::default()];
        assert_eq!(ChainIndex::new(twins).unwrap_err().field(), "filterChains[1]");
    }
}
