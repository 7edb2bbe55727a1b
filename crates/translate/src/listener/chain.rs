//! Filter chains and listener filters that several listeners have.

use proto::pb::envoy::config::listener::v3 as pb;
use proto::pb::envoy::extensions::filters::listener as filters;
use proto::pb::envoy::r#type::v3::Int32Range;

use super::tcp;
use crate::cluster::BLACK_HOLE;
use crate::encode::{any, u32v};

/// Connections to the capture port itself: they would go round for ever.
pub(crate) fn black_hole(name: &str, port: u32, before: Vec<pb::Filter>) -> pb::FilterChain {
    let mut filters = before;
    filters.push(tcp::proxy(BLACK_HOLE, tcp::to(BLACK_HOLE), Vec::new()));
    pb::FilterChain {
        name: name.into(),
        filter_chain_match: Some(pb::FilterChainMatch {
            destination_port: Some(u32v(port)),
            ..Default::default()
        }),
        filters,
        ..Default::default()
    }
}

fn listener_filter(name: &str, config: proto::pb::google::protobuf::Any, off: &[u32]) -> pb::ListenerFilter {
    use pb::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let predicate = |rule| pb::ListenerFilterChainMatchPredicate { rule: Some(rule) };
    let port = |port: &u32| {
        let start = port.cast_signed();
        predicate(Rule::DestinationPortRange(Int32Range { start, end: start + 1 }))
    };
    pb::ListenerFilter {
        name: name.into(),
        filter_disabled: match off {
            [] => None,
            [only] => Some(port(only)),
            several => Some(predicate(Rule::OrMatch(MatchSet { rules: several.iter().map(port).collect() }))),
        },
        config_type: Some(pb::listener_filter::ConfigType::TypedConfig(config)),
    }
}

pub(crate) fn original_dst() -> pb::ListenerFilter {
    let config = any(&filters::original_dst::v3::OriginalDst::default());
    listener_filter("envoy.filters.listener.original_dst", config, &[])
}

/// Looks for TLS, but not on the ports given.
pub(crate) fn tls_inspector(off: &[u32]) -> pb::ListenerFilter {
    let config = filters::tls_inspector::v3::TlsInspector {
        initial_read_buffer_size: Some(u32v(512)),
        ..Default::default()
    };
    listener_filter("envoy.filters.listener.tls_inspector", any(&config), off)
}

/// Looks for HTTP, but not on the ports given.
pub(crate) fn http_inspector(off: &[u32]) -> pb::ListenerFilter {
    let config = any(&filters::http_inspector::v3::HttpInspector::default());
    listener_filter("envoy.filters.listener.http_inspector", config, off)
}

pub(crate) fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}
