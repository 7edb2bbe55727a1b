//! The inbound listener: mutual TLS or not, HTTP or not, port by port.

use model::Handling;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::config::listener::v3 as pb;
use proto::pb::envoy::config::route::v3 as route_pb;

use super::http::{self, Routes};
use super::{INBOUND_PORT, base, chain, tcp, wildcard};
use crate::build::Context;
use crate::cluster::{INBOUND_PASSTHROUGH, inbound_name, metadata_exchange};
use crate::encode::{seconds, u32v};
use crate::instance::{self, Instance};
use crate::peer::{self, Mode};
use crate::telemetry::{Side, Telemetry};
use crate::{mtls, rbac};

const MTLS_HTTP: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
const MTLS_TCP: [&str; 2] = ["istio-peer-exchange", "istio"];
const MTLS_ANY: [&str; 5] = ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];
const PLAINTEXT_HTTP: [&str; 2] = ["http/1.1", "h2c"];

/// What one filter chain takes: TLS or plaintext, by which ALPN; and what it makes of it.
#[derive(Debug, Clone, Copy)]
struct Shape {
    transport: &'static str,
    alpn: &'static [&'static str],
    http: bool,
    mutual_tls: bool,
}

const fn shape(
    transport: &'static str,
    alpn: &'static [&'static str],
    http: bool,
    mutual_tls: bool,
) -> Shape {
    Shape { transport, alpn, http, mutual_tls }
}

/// The chains of a port, in order, by how it is handled and what PeerAuthentication asks for.
fn shapes(handling: Handling, mode: Mode) -> Vec<Shape> {
    match (handling, mode) {
        (Handling::Http, Mode::Strict) => vec![shape("tls", &[], true, true)],
        (Handling::Http, Mode::Permissive) => {
            vec![shape("tls", &MTLS_ANY, true, true), shape("raw_buffer", &[], true, false)]
        }
        (Handling::Http, Mode::Disable) => vec![shape("", &[], true, false)],
        (Handling::Tcp, Mode::Strict) => vec![shape("tls", &[], false, true)],
        (Handling::Tcp, Mode::Permissive) => vec![
            shape("tls", &MTLS_ANY, false, true),
            // TLS of the application's own passes through.
            shape("tls", &[], false, false),
            shape("raw_buffer", &[], false, false),
        ],
        (Handling::Tcp, Mode::Disable) => vec![shape("", &[], false, false)],
        (Handling::Detect, Mode::Strict) => {
            vec![shape("tls", &MTLS_HTTP, true, true), shape("tls", &[], false, true)]
        }
        (Handling::Detect, Mode::Permissive) => vec![
            shape("tls", &MTLS_HTTP, true, true),
            shape("raw_buffer", &PLAINTEXT_HTTP, true, false),
            shape("tls", &MTLS_TCP, false, true),
            shape("raw_buffer", &[], false, false),
            shape("tls", &[], false, false),
        ],
        (Handling::Detect, Mode::Disable) => {
            vec![shape("", &PLAINTEXT_HTTP, true, false), shape("", &[], false, false)]
        }
    }
}

#[allow(deprecated)]
pub(crate) fn listener(context: &Context<'_>) -> pb::Listener {
    let telemetry = Telemetry::of(context, Side::Server);
    let modes = peer::own(context);
    let instances: Vec<_> =
        instance::all(context).into_iter().filter(|instance| instance.port != INBOUND_PORT).collect();
    let mut listener = base(context, "virtualInbound".into(), wildcard(context), INBOUND_PORT);
    listener.traffic_direction = core::TrafficDirection::Inbound as i32;
    listener.filter_chains.push(chain::black_hole("virtualInbound-blackhole", INBOUND_PORT, first(context)));
    listener.filter_chains.extend(chains(context, &telemetry, None, modes.default));
    for instance in &instances {
        let mode = modes.of_port(instance.port);
        listener.filter_chains.extend(chains(context, &telemetry, Some(instance), mode));
    }
    listener.listener_filters = inspectors(&listener, &instances, &modes);
    listener.listener_filters_timeout = Some(
        context
            .mesh()
            .value
            .protocol_detection_timeout
            .map_or(seconds(0), |timeout| crate::encode::duration(timeout.as_std())),
    );
    listener.continue_on_listener_filters_timeout = true;
    listener.access_log = telemetry.listener_logs();
    listener.max_connections_to_accept_per_socket_event = Some(u32v(1));
    listener
}

/// What is looked at before a chain is chosen; ports that need no looking are spared it.
fn inspectors(
    listener: &pb::Listener,
    instances: &[Instance],
    modes: &peer::Modes,
) -> Vec<pb::ListenerFilter> {
    let plaintext_http = chain::names(&PLAINTEXT_HTTP);
    let sniffs = listener.filter_chains.iter().any(|chain| {
        chain
            .filter_chain_match
            .as_ref()
            .is_some_and(|condition| condition.application_protocols == plaintext_http)
    });
    let mut plain: Vec<u32> = instances
        .iter()
        .filter(|instance| modes.of_port(instance.port) == Mode::Disable)
        .map(|instance| instance.port)
        .collect();
    plain.push(INBOUND_PORT);
    let mut filters = vec![chain::original_dst(), chain::tls_inspector(&plain)];
    if sniffs {
        let declared = instances.iter().filter(|instance| {
            let mode = modes.of_port(instance.port);
            let sniffed = |shape: &Shape| shape.alpn == PLAINTEXT_HTTP;
            !shapes(instance.protocol.handling(), mode).iter().any(sniffed)
        });
        let mut off: Vec<u32> = declared.map(|instance| instance.port).collect();
        off.push(INBOUND_PORT);
        filters.push(chain::http_inspector(&off));
    }
    filters
}

/// The chains of an instance's port, or those of every port that no service declares.
fn chains(
    context: &Context<'_>,
    telemetry: &Telemetry,
    instance: Option<&Instance>,
    mode: Mode,
) -> Vec<pb::FilterChain> {
    let handling = instance.map_or(Handling::Detect, |instance| instance.protocol.handling());
    let address = wildcard(context);
    shapes(handling, mode)
        .iter()
        .map(|shape| pb::FilterChain {
            name: match instance {
                Some(instance) => format!("{address}_{}", instance.port),
                None if shape.http => "virtualInbound-catchall-http".into(),
                None => "virtualInbound".into(),
            },
            filter_chain_match: Some(pb::FilterChainMatch {
                destination_port: instance.map(|instance| u32v(instance.port)),
                transport_protocol: shape.transport.into(),
                application_protocols: chain::names(shape.alpn),
                ..Default::default()
            }),
            filters: if shape.http {
                http_filters(context, telemetry, instance)
            } else {
                tcp_filters(context, telemetry, instance)
            },
            transport_socket: shape.mutual_tls.then(|| mtls::downstream(context, alpn(context, shape.http))),
            ..Default::default()
        })
        .collect()
}

/// What this side selects of what callers offer. `istio-peer-exchange` promises a preamble of Istio's extensions.
fn alpn(context: &Context<'_>, http: bool) -> &'static [&'static str] {
    if http || !context.extensions() {
        &["h2", "http/1.1"]
    } else {
        &["istio-peer-exchange", "h2", "http/1.1"]
    }
}

/// The filter that comes before all others on proxies with Istio's extensions.
fn first(context: &Context<'_>) -> Vec<pb::Filter> {
    if context.extensions() {
        vec![tcp::network_filter("istio.metadata_exchange", metadata_exchange())]
    } else {
        Vec::new()
    }
}

fn cluster(instance: Option<&Instance>) -> String {
    instance.map_or_else(|| INBOUND_PASSTHROUGH.into(), |instance| inbound_name(instance.port))
}

fn tcp_filters(context: &Context<'_>, telemetry: &Telemetry, instance: Option<&Instance>) -> Vec<pb::Filter> {
    let mut filters = first(context);
    filters.extend(rbac::tcp(context));
    filters.extend(telemetry.network_filters());
    let cluster = cluster(instance);
    filters.push(tcp::proxy(&cluster, tcp::to(&cluster), telemetry.tcp_logs()));
    filters
}

fn http_filters(
    context: &Context<'_>,
    telemetry: &Telemetry,
    instance: Option<&Instance>,
) -> Vec<pb::Filter> {
    let stat_prefix = match instance {
        Some(instance) => format!("inbound_{}_{};", wildcard(context), instance.port),
        None => format!("{INBOUND_PASSTHROUGH};"),
    };
    let mut filters = first(context);
    let routes = Routes::Inline(Box::new(routes(instance)));
    filters.push(http::manager(context, telemetry, stat_prefix, routes));
    filters
}

/// Everything goes to the application; what it did not begin to answer is tried again.
fn routes(instance: Option<&Instance>) -> route_pb::RouteConfiguration {
    let cluster = cluster(instance);
    let port = instance.map_or(0, |instance| instance.port);
    let operation = match instance.and_then(|instance| Some((instance.service.as_ref()?, instance))) {
        Some((service, instance)) => format!("{}:{}/*", service.key.host, instance.service_port),
        None => format!(":{port}/*"),
    };
    let grpc = instance.is_some_and(|instance| {
        matches!(instance.protocol, model::Protocol::Grpc | model::Protocol::GrpcWeb)
    });
    let action = route_pb::RouteAction {
        cluster_specifier: Some(route_pb::route_action::ClusterSpecifier::Cluster(cluster.clone())),
        timeout: Some(seconds(0)),
        retry_policy: (!grpc).then(|| route_pb::RetryPolicy {
            retry_on: "reset-before-request".into(),
            num_retries: Some(u32v(2)),
            ..Default::default()
        }),
        max_stream_duration: Some(route_pb::route_action::MaxStreamDuration {
            max_stream_duration: Some(seconds(0)),
            grpc_timeout_header_max: Some(seconds(0)),
            ..Default::default()
        }),
        ..Default::default()
    };
    let route = route_pb::Route {
        name: "default".into(),
        r#match: Some(route_pb::RouteMatch {
            path_specifier: Some(route_pb::route_match::PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        decorator: Some(route_pb::Decorator { operation, ..Default::default() }),
        action: Some(route_pb::route::Action::Route(action)),
        ..Default::default()
    };
    route_pb::RouteConfiguration {
        name: cluster,
        virtual_hosts: vec![route_pb::VirtualHost {
            name: format!("inbound|http|{}", instance.map_or(0, |instance| instance.service_port)),
            domains: vec!["*".into()],
            routes: vec![route],
            ..Default::default()
        }],
        validate_clusters: Some(crate::encode::boolv(false)),
        ..Default::default()
    }
}
