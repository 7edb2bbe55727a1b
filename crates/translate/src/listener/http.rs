//! The HTTP connection manager and its filters.

use api::mesh::NormalizationType;
use proto::istio::{AlpnFilterConfig, AlpnOverride, AlpnProtocol};
use proto::pb::envoy::config::listener::v3 as pb;
use proto::pb::envoy::config::route::v3::RouteConfiguration;
use proto::pb::envoy::extensions::filters::http as filters;
use proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use proto::pb::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use proto::pb::google::protobuf::Any;

use super::tcp::network_filter;
use crate::build::Context;
use crate::encode::{ads, any, boolv, fields, list, object, seconds, typed_struct};
use crate::scope::Facet;
use crate::telemetry::{Side, Telemetry};
use crate::{jwt, rbac};

pub(crate) enum Routes {
    /// Asked for by name.
    Named(String),
    Inline(Box<RouteConfiguration>),
}

pub(crate) fn http_filter(name: &str, config: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.into(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

pub(crate) fn manager(
    context: &Context<'_>,
    telemetry: &Telemetry,
    stat_prefix: String,
    routes: Routes,
) -> pb::Filter {
    let mut manager = hcm::HttpConnectionManager {
        stat_prefix,
        route_specifier: Some(match routes {
            Routes::Named(name) => hcm::http_connection_manager::RouteSpecifier::Rds(hcm::Rds {
                config_source: Some(ads()),
                route_config_name: name,
            }),
            Routes::Inline(config) => hcm::http_connection_manager::RouteSpecifier::RouteConfig(*config),
        }),
        http_filters: http_filters(context, telemetry),
        tracing: telemetry.tracing(),
        stream_idle_timeout: Some(seconds(0)),
        access_log: telemetry.http_logs(),
        proxy_100_continue: true,
        upgrade_configs: vec![hcm::http_connection_manager::UpgradeConfig {
            upgrade_type: "websocket".into(),
            ..Default::default()
        }],
        request_id_extension: Some(hcm::RequestIdExtension {
            typed_config: Some(any(&UuidRequestIdConfig {
                use_request_id_for_trace_sampling: Some(boolv(true)),
                ..Default::default()
            })),
        }),
        ..Default::default()
    };
    normalize(context, &mut manager);
    certificates(context, telemetry.side, &mut manager);
    if context.reader.facets(Facet::Http10).http10 {
        let options = manager.http_protocol_options.get_or_insert_default();
        options.accept_http_10 = true;
    }
    network_filter("envoy.filters.network.http_connection_manager", any(&manager))
}

/// One form of a path, decided before anything matches it.
fn normalize(context: &Context<'_>, manager: &mut hcm::HttpConnectionManager) {
    use hcm::http_connection_manager::PathWithEscapedSlashesAction as Escaped;
    let setting = context.mesh().value.path_normalization.as_ref().map(|path| path.normalization);
    let setting = setting.unwrap_or_default();
    manager.normalize_path = Some(boolv(setting != NormalizationType::None));
    manager.merge_slashes =
        matches!(setting, NormalizationType::MergeSlashes | NormalizationType::DecodeAndMergeSlashes);
    manager.path_with_escaped_slashes_action = match setting {
        NormalizationType::DecodeAndMergeSlashes => Escaped::UnescapeAndForward,
        _ => Escaped::KeepUnchanged,
    } as i32;
}

/// Who is trusted about addresses and certificates, and how the proxy calls itself.
fn certificates(context: &Context<'_>, side: Side, manager: &mut hcm::HttpConnectionManager) {
    use hcm::http_connection_manager::{ForwardClientCertDetails as Details, SetCurrentClientCertDetails};
    let set = |cert| SetCurrentClientCertDetails {
        subject: Some(boolv(true)),
        cert,
        dns: true,
        uri: true,
        ..Default::default()
    };
    manager.use_remote_address = Some(boolv(side == Side::Gateway));
    match side {
        Side::Client => {}
        Side::Server => {
            manager.server_name = "istio-envoy".into();
            manager.forward_client_cert_details = Details::AppendForward as i32;
            manager.set_current_client_cert_details = Some(set(false));
        }
        Side::Gateway => {
            use api::mesh::ForwardClientCertDetails as Wanted;
            let mesh = &context.mesh().value;
            let topology = mesh.default_config.as_ref().and_then(|config| config.gateway_topology.as_ref());
            let wanted = topology.map(|topology| topology.forward_client_cert_details).unwrap_or_default();
            manager.server_name = "istio-envoy".into();
            manager.http_protocol_options = Some(Default::default());
            manager.xff_num_trusted_hops = topology.map_or(0, |topology| topology.num_trusted_proxies);
            manager.forward_client_cert_details = match wanted {
                Wanted::Undefined | Wanted::SanitizeSet => Details::SanitizeSet,
                Wanted::Sanitize => Details::Sanitize,
                Wanted::ForwardOnly => Details::ForwardOnly,
                Wanted::AppendForward => Details::AppendForward,
                Wanted::AlwaysForwardOnly => Details::AlwaysForwardOnly,
            } as i32;
            manager.set_current_client_cert_details = Some(set(true));
        }
    }
}

fn http_filters(context: &Context<'_>, telemetry: &Telemetry) -> Vec<hcm::HttpFilter> {
    let extensions = context.extensions();
    let outbound = telemetry.side != Side::Server;
    let mut all = Vec::new();
    if extensions {
        all.push(http_filter("istio.metadata_exchange", peer_metadata(outbound)));
    }
    if telemetry.side != Side::Client {
        all.extend(rbac::custom(context));
        all.extend(jwt::http(context));
        all.extend(rbac::http(context));
    }
    let grpc = filters::grpc_stats::v3::FilterConfig {
        emit_filter_state: true,
        per_method_stat_specifier: Some(
            filters::grpc_stats::v3::filter_config::PerMethodStatSpecifier::StatsForAllMethods(boolv(false)),
        ),
        ..Default::default()
    };
    all.push(http_filter("envoy.filters.http.grpc_stats", any(&grpc)));
    if extensions && outbound {
        all.push(http_filter("istio.alpn", alpn()));
    }
    all.push(http_filter("envoy.filters.http.fault", any(&filters::fault::v3::HttpFault::default())));
    all.push(http_filter("envoy.filters.http.cors", any(&filters::cors::v3::Cors::default())));
    if let Some(stats) = telemetry.stats() {
        all.push(http_filter("istio.stats", stats));
    }
    all.push(http_filter("envoy.filters.http.router", any(&filters::router::v3::Router::default())));
    all
}

/// Learning who is at the other end, and saying who is at this one, by headers.
fn peer_metadata(outbound: bool) -> Any {
    let one = |name| object(fields([(name, object(fields([])))]));
    let discovery = || list(vec![one("istio_headers"), one("workload_discovery")]);
    let propagation = || list(vec![one("istio_headers")]);
    let value = if outbound {
        fields([("upstream_discovery", discovery()), ("upstream_propagation", propagation())])
    } else {
        fields([("downstream_discovery", discovery()), ("downstream_propagation", propagation())])
    };
    typed_struct("io.istio.http.peer_metadata.Config", value)
}

fn alpn() -> Any {
    let offer = |protocol: AlpnProtocol, names: [&str; 3]| AlpnOverride {
        upstream_protocol: protocol as i32,
        alpn_override: names.map(str::to_owned).into(),
    };
    any(&AlpnFilterConfig {
        alpn_override: vec![
            offer(AlpnProtocol::Http10, ["istio-http/1.0", "istio", "http/1.0"]),
            offer(AlpnProtocol::Http11, ["istio-http/1.1", "istio", "http/1.1"]),
            offer(AlpnProtocol::Http2, ["istio-h2", "istio", "h2"]),
        ],
    })
}
