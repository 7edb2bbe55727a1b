//! Tracing: where spans go, how many, and what is written on them.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::mesh::{ExtensionProvider, MeshConfig, ProviderHeader, TraceContextOption, TracingServiceName};
use api::telemetry as tm;
use model::Config;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::config::trace::v3 as trace;
use proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing;
use proto::pb::envoy::r#type::metadata::v3 as metadata;
use proto::pb::envoy::r#type::tracing::v3 as tag_pb;
use proto::pb::envoy::r#type::v3::Percent;

use super::{Side, canonical, meant};
use crate::build::Context;
use crate::cluster;
use crate::encode::{self, any, boolv, duration, seconds, u32v};
use crate::readable;
use crate::scope::Facet;

/// `None` where nothing is traced.
pub(super) fn of(
    context: &Context<'_>,
    levels: &[Arc<Config<tm::Telemetry>>],
    side: Side,
) -> Option<Tracing> {
    let mesh = &context.mesh().value;
    let rules: Vec<&tm::Tracing> = levels
        .iter()
        .flat_map(|level| &level.spec.tracing)
        .filter(|rule| meant(rule.r#match.as_ref(), side))
        .collect();
    // What a nearer rule leaves out, it takes from the one before.
    let last = |pick: fn(&tm::Tracing) -> Option<bool>| rules.iter().rev().find_map(|rule| pick(rule));
    if last(|rule| rule.disable_span_reporting).unwrap_or_default() {
        return None;
    }
    let named =
        rules.iter().rev().find_map(|rule| rule.providers.first()).map(|provider| provider.name.clone());
    let named = named
        .or_else(|| mesh.default_providers.as_ref().and_then(|providers| providers.tracing.first().cloned()));
    let declared = match named {
        Some(name) => Some(mesh.provider(&name)?),
        None => None,
    };
    let provider = match declared {
        Some(declared) => from_provider(context, declared)?,
        None => from_default_config(context, mesh)?,
    };
    let sampling = rules
        .iter()
        .rev()
        .find_map(|rule| rule.random_sampling_percentage)
        .unwrap_or_else(|| mesh.sampling());
    let proxy = mesh.default_config.as_ref().and_then(|config| config.tracing.as_ref());
    let mut tags: BTreeMap<String, tag_pb::CustomTag> = BTreeMap::new();
    let istio =
        last(|rule| rule.enable_istio_tags).or_else(|| proxy.and_then(|proxy| proxy.enable_istio_tags));
    if istio.unwrap_or(true) {
        tags.extend(istio_tags(context));
    }
    let own = rules.iter().rev().find(|rule| !rule.custom_tags.is_empty()).map(|rule| &rule.custom_tags);
    for (name, tag) in own.or_else(|| proxy.map(|proxy| &proxy.custom_tags)).into_iter().flatten() {
        tags.extend(custom_tag(name, tag).map(|tag| (name.clone(), tag)));
    }
    let length = declared.map_or(0, max_tag_length);
    let length = if length > 0 { length } else { proxy.map_or(0, |proxy| proxy.max_path_tag_length) };
    Some(Tracing {
        client_sampling: Some(Percent { value: 100.0 }),
        random_sampling: Some(Percent { value: sampling }),
        overall_sampling: Some(Percent { value: 100.0 }),
        max_path_tag_length: (length > 0).then(|| u32v(length)),
        custom_tags: tags.into_values().collect(),
        provider: Some(provider),
        spawn_upstream_span: (side == Side::Gateway).then(|| boolv(true)),
        no_context_propagation: last(|rule| rule.disable_context_propagation).unwrap_or_default(),
        ..Default::default()
    })
}

/// The cluster of a provider's service; `None` where the scope has none, since Envoy refuses a tracer without.
pub(crate) fn service_cluster(context: &Context<'_>, service: &str, port: u32) -> Option<(String, String)> {
    let host = service.split_once('/').map_or(service, |(_, host)| host);
    let services = context.services();
    let known = services.get(host)?;
    known.port(port)?;
    Some((host.to_owned(), cluster::name(port, "", host)))
}

/// A provider's service as one of gRPC.
pub(super) fn grpc_service(context: &Context<'_>, service: &str, port: u32) -> Option<core::GrpcService> {
    let (host, cluster) = service_cluster(context, service, port)?;
    Some(encode::grpc_service(cluster, host))
}

fn max_tag_length(provider: &ExtensionProvider) -> u32 {
    let zipkin = provider.zipkin.as_ref().map(|zipkin| zipkin.max_tag_length);
    zipkin.or(provider.opentelemetry.as_ref().map(|otlp| otlp.max_tag_length)).unwrap_or_default()
}

/// A header's value as Envoy's formatters read it.
fn header(header: &ProviderHeader) -> core::HeaderValue {
    let value = header.value.as_deref().unwrap_or_default().replace('%', "%%");
    core::HeaderValue { key: header.name.clone(), value, ..Default::default() }
}

fn headers(headers: &[ProviderHeader]) -> Vec<core::HeaderValueOption> {
    let option = |own| core::HeaderValueOption { header: Some(header(own)), ..Default::default() };
    headers.iter().map(option).collect()
}

fn from_provider(context: &Context<'_>, provider: &ExtensionProvider) -> Option<trace::tracing::Http> {
    if let Some(zipkin) = &provider.zipkin {
        let (host, cluster) = service_cluster(context, &zipkin.service, zipkin.port)?;
        let path = if zipkin.path.is_empty() { "/api/v2/spans" } else { &zipkin.path };
        let timeout = zipkin.timeout.map_or(seconds(5), |timeout| duration(timeout.as_std()));
        let mut config = zipkin_config(&host, cluster, path, timeout);
        config.trace_id_128bit = !zipkin.enable_64bit_trace_id;
        if let Some(service) = &mut config.collector_service {
            service.request_headers_to_add = headers(&zipkin.headers);
        }
        if zipkin.trace_context_option == TraceContextOption::UseB3WithW3cPropagation {
            config.trace_context_option = 1;
        }
        return Some(tracer("envoy.tracers.zipkin", any(&config)));
    }
    let otlp = provider.opentelemetry.as_ref()?;
    let mut config = trace::OpenTelemetryConfig { service_name: service_name(context), ..Default::default() };
    match &otlp.http {
        Some(http) => {
            let (host, cluster) = service_cluster(context, &otlp.service, otlp.port)?;
            config.http_service = Some(core::HttpService {
                http_uri: Some(uri(
                    format!("http://{host}{}", http.path),
                    cluster,
                    http.timeout.map_or(seconds(5), |timeout| duration(timeout.as_std())),
                )),
                request_headers_to_add: headers(&http.headers),
                ..Default::default()
            });
        }
        None => {
            let mut service = grpc_service(context, &otlp.service, otlp.port)?;
            let grpc = otlp.grpc.as_ref();
            service.timeout = grpc.and_then(|grpc| grpc.timeout).map(|t| duration(t.as_std()));
            service.initial_metadata =
                grpc.iter().flat_map(|grpc| &grpc.initial_metadata).map(header).collect();
            config.grpc_service = Some(service);
        }
    }
    Some(tracer("envoy.tracers.opentelemetry", any(&config)))
}

/// `defaultConfig.tracing.zipkin.address`, unless tracing is turned off.
fn from_default_config(context: &Context<'_>, mesh: &MeshConfig) -> Option<trace::tracing::Http> {
    let zipkin = mesh.default_config.as_ref()?.tracing.as_ref()?.zipkin.as_ref()?;
    if !mesh.enable_tracing.unwrap_or(true) {
        return None;
    }
    let (host, port) = zipkin.host_and_port(context.reader.domain())?;
    let (host, cluster) = service_cluster(context, &host, port)?;
    let config = zipkin_config(&host, cluster, "/api/v2/spans", seconds(5));
    Some(tracer("envoy.tracers.zipkin", any(&config)))
}

fn tracer(name: &str, config: proto::pb::google::protobuf::Any) -> trace::tracing::Http {
    trace::tracing::Http {
        name: name.into(),
        config_type: Some(trace::tracing::http::ConfigType::TypedConfig(config)),
    }
}

fn uri(uri: String, cluster: String, timeout: proto::pb::google::protobuf::Duration) -> core::HttpUri {
    core::HttpUri {
        uri,
        timeout: Some(timeout),
        http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(cluster)),
    }
}

fn zipkin_config(
    host: &str,
    cluster: String,
    path: &str,
    timeout: proto::pb::google::protobuf::Duration,
) -> trace::ZipkinConfig {
    trace::ZipkinConfig {
        trace_id_128bit: true,
        shared_span_context: Some(boolv(false)),
        collector_endpoint_version: trace::zipkin_config::CollectorEndpointVersion::HttpJson as i32,
        collector_service: Some(core::HttpService {
            http_uri: Some(uri(format!("http://{host}{path}"), cluster, timeout)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn canonical_name(context: &Context<'_>) -> String {
    let labels = &context.reader.facets(Facet::Labels).labels;
    canonical(labels, ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"], "unknown")
}

fn service_name(context: &Context<'_>) -> String {
    let config = context.mesh().value.default_config.as_ref();
    let namespace = &context.reader.facets(Facet::Namespace).namespace;
    match config.map(|config| config.tracing_service_name).unwrap_or_default() {
        TracingServiceName::CanonicalNameOnly => canonical_name(context),
        TracingServiceName::AppLabelAndNamespace | TracingServiceName::CanonicalNameAndNamespace => {
            format!("{}.{namespace}", canonical_name(context))
        }
    }
}

fn literal(value: &str) -> tag_pb::custom_tag::Type {
    tag_pb::custom_tag::Type::Literal(tag_pb::custom_tag::Literal { value: value.into() })
}

fn istio_tags(context: &Context<'_>) -> BTreeMap<String, tag_pb::CustomTag> {
    let facets = context.reader.facets(Facet::Labels);
    let revision = canonical(
        &facets.labels,
        ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"],
        "latest",
    );
    let mesh_id = &context.reader.facets(Facet::MeshId).mesh_id;
    let mesh_id = if mesh_id.is_empty() { context.mesh().value.mesh_id() } else { mesh_id };
    let mut tags: BTreeMap<String, tag_pb::custom_tag::Type> = [
        ("istio.canonical_revision", literal(&revision)),
        ("istio.canonical_service", literal(&canonical_name(context))),
        ("istio.cluster_id", literal(&context.reader.facets(Facet::Cluster).cluster)),
        ("istio.mesh_id", literal(mesh_id)),
        ("istio.namespace", literal(&context.reader.facets(Facet::Namespace).namespace)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    for action in ["allow", "deny"] {
        for (name, key) in [("name", "effective_policy_id"), ("result", "engine_result")] {
            tags.insert(
                format!("istio.authorization.dry_run.{action}_policy.{name}"),
                dry_run(&format!("istio_dry_run_{action}_shadow_{key}")),
            );
        }
    }
    tags.into_iter()
        .map(|(tag, value)| (tag.clone(), tag_pb::CustomTag { tag, r#type: Some(value) }))
        .collect()
}

/// What a policy that is tried out would have said.
fn dry_run(key: &str) -> tag_pb::custom_tag::Type {
    use metadata::{MetadataKey, MetadataKind, metadata_key, metadata_kind};
    let segment = metadata_key::path_segment::Segment::Key(key.into());
    tag_pb::custom_tag::Type::Metadata(tag_pb::custom_tag::Metadata {
        kind: Some(MetadataKind { kind: Some(metadata_kind::Kind::Request(Default::default())) }),
        metadata_key: Some(MetadataKey {
            key: "envoy.filters.http.rbac".into(),
            path: vec![metadata_key::PathSegment { segment: Some(segment) }],
        }),
        ..Default::default()
    })
}

/// `None` for one that no proxy would take, so that it spoils no listener.
fn custom_tag(name: &str, tag: &tm::CustomTag) -> Option<tag_pb::CustomTag> {
    let value = if let Some(text) = &tag.literal {
        literal(&text.value)
    } else if let Some(variable) = &tag.environment {
        tag_pb::custom_tag::Type::Environment(tag_pb::custom_tag::Environment {
            name: variable.name.clone(),
            default_value: variable.default_value.clone(),
        })
    } else if let Some(header) = tag.header.as_ref() {
        if !readable::header_name(&header.name) {
            return None;
        }
        tag_pb::custom_tag::Type::RequestHeader(tag_pb::custom_tag::Header {
            name: header.name.clone(),
            default_value: header.default_value.clone(),
        })
    } else {
        let format = &tag.formatter.as_ref()?.value;
        tag_pb::custom_tag::Type::Value(Some(format).filter(|format| readable::format(format))?.clone())
    };
    Some(tag_pb::CustomTag { tag: name.into(), r#type: Some(value) })
}
