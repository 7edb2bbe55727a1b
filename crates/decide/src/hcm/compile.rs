//! The connection manager from its protobuf form.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::config::trace::v3 as trace;
use proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use proto::pb::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use proto::pb::envoy::r#type::tracing::v3 as tag;

use super::address::AddressPolicy;
use super::filter::compile_filters;
use super::path::{EscapedSlashes, PathPolicy};
use super::reply::ReplyMap;
use super::request_id::RequestIdPolicy;
use super::xfcc::{XfccMode, XfccPolicy};
use super::{
    Codec, CustomTag, Hcm, Http1Options, Http2Options, HttpLimits, HttpTimeouts, RouteSource, Sampling,
    ScopedRoutes, ServerHeader, StripPort, TagValue, Tracing,
};
use crate::access_log::compile_logs;
use crate::format::Format;
use crate::origin::Origin;
use crate::plan::Ids;
use crate::refusal::{Refusal, Taken, Within, each};
use crate::route::inline_table;
use crate::wire::{Chance, Cidr, duration, flag, number, timeout, unpack};

type Message = pb::HttpConnectionManager;

pub(crate) fn compile_hcm(m: &Message, ids: &mut Ids) -> Taken<Hcm> {
    let (filters, router) = compile_filters(&m.http_filters)?;
    let codec = match pb::http_connection_manager::CodecType::try_from(m.codec_type) {
        Ok(pb::http_connection_manager::CodecType::Auto) => Codec::Auto,
        Ok(pb::http_connection_manager::CodecType::Http1) => Codec::Http1,
        Ok(pb::http_connection_manager::CodecType::Http2) => Codec::Http2,
        _ => return Err(Refusal::new("must be AUTO, HTTP1 or HTTP2").under("codecType")),
    };
    let server_name = if m.server_name.is_empty() { "envoy" } else { &m.server_name };
    Ok(Hcm {
        stat_prefix: m.stat_prefix.trim_end_matches(';').into(),
        codec,
        routes: routes(m, ids)?,
        timeouts: timeouts(m)?,
        limits: limits(m),
        http1: http1(&m.http_protocol_options),
        http2: http2(&m.http2_protocol_options).within("http2ProtocolOptions")?,
        access_log: compile_logs(&m.access_log, "accessLog")?,
        tracing: m.tracing.as_ref().map(|t| tracing(t).within("tracing").map(Arc::new)).transpose()?,
        proxy_100_continue: m.proxy_100_continue,
        server_name: Bytes::copy_from_slice(server_name.as_bytes()),
        server_header: server_header(m)?,
        filters,
        addresses: addresses(m)?,
        request_id: request_id(m)?,
        xfcc: xfcc(m)?,
        path: path(m)?,
        strip_port: match &m.strip_port_mode {
            Some(pb::http_connection_manager::StripPortMode::StripAnyHostPort(true)) => StripPort::Any,
            _ if m.strip_matching_host_port => StripPort::Matching,
            _ => StripPort::No,
        },
        strip_trailing_dot: m.strip_trailing_host_dot,
        via: m.via.clone().into(),
        upgrades: each(&m.upgrade_configs, "upgradeConfigs", |u| {
            Ok((u.upgrade_type.to_ascii_lowercase().into(), flag(&u.enabled, true)))
        })?,
        replies: ReplyMap::compile(&m.local_reply_config).within("localReplyConfig")?,
        scheme: scheme(m)?,
        router,
    })
}

fn routes(m: &Message, ids: &mut Ids) -> Taken<RouteSource> {
    use pb::http_connection_manager::RouteSpecifier;
    match m.route_specifier.as_ref().ok_or_else(|| Refusal::new("names no routes").under("rds"))? {
        RouteSpecifier::Rds(rds) => {
            let origin = Origin::of(&rds.config_source).within("configSource").within("rds")?;
            let name = origin.key(&rds.route_config_name.as_str().into());
            Ok(RouteSource::Rds { id: ids.table(&name), name, origin })
        }
        RouteSpecifier::RouteConfig(table) => {
            Ok(RouteSource::Inline(inline_table(table, ids).within("routeConfig")?))
        }
        RouteSpecifier::ScopedRoutes(scoped) => {
            Ok(RouteSource::Scoped(Arc::new(ScopedRoutes::compile(scoped, ids).within("scopedRoutes")?)))
        }
    }
}

fn timeouts(m: &Message) -> Taken<HttpTimeouts> {
    let default = core::HttpProtocolOptions::default();
    let common = m.common_http_protocol_options.as_ref().unwrap_or(&default);
    let within = |r: Taken<Option<Duration>>| r.within("commonHttpProtocolOptions");
    let or =
        |value: Option<Duration>, default: Duration| Some(value.unwrap_or(default)).filter(|d| !d.is_zero());
    Ok(HttpTimeouts {
        idle: or(within(duration(&common.idle_timeout, "idleTimeout"))?, Duration::from_secs(3600)),
        stream_idle: or(duration(&m.stream_idle_timeout, "streamIdleTimeout")?, Duration::from_secs(300)),
        request_headers: timeout(&m.request_headers_timeout, "requestHeadersTimeout")?,
        max_connection: within(timeout(&common.max_connection_duration, "maxConnectionDuration"))?,
        max_stream: within(timeout(&common.max_stream_duration, "maxStreamDuration"))?,
        delayed_close: or(duration(&m.delayed_close_timeout, "delayedCloseTimeout")?, Duration::from_secs(1)),
    })
}

fn limits(m: &Message) -> HttpLimits {
    let common = m.common_http_protocol_options.as_ref();
    HttpLimits {
        max_header_bytes: number(&m.max_request_headers_kb).unwrap_or(60) as usize * 1024,
        max_headers: common.and_then(|c| number(&c.max_headers_count)).unwrap_or(100) as usize,
        max_requests_per_connection: common
            .and_then(|c| number(&c.max_requests_per_connection))
            .filter(|n| *n > 0),
    }
}

fn http1(options: &Option<core::Http1ProtocolOptions>) -> Http1Options {
    options.as_ref().map_or_else(Http1Options::default, |o| Http1Options {
        accept_http10: o.accept_http_10,
        default_host: o.default_host_for_http_10.as_str().into(),
    })
}

fn http2(options: &Option<core::Http2ProtocolOptions>) -> Taken<Http2Options> {
    let Some(o) = options else { return Ok(Http2Options::default()) };
    if o.connection_keepalive.is_some() {
        return Err(Refusal::unsupported("connectionKeepalive"));
    }
    Ok(Http2Options {
        max_concurrent_streams: number(&o.max_concurrent_streams),
        initial_stream_window: number(&o.initial_stream_window_size),
        initial_connection_window: number(&o.initial_connection_window_size),
        allow_connect: o.allow_connect,
    })
}

fn server_header(m: &Message) -> Taken<ServerHeader> {
    use pb::http_connection_manager::ServerHeaderTransformation;
    match ServerHeaderTransformation::try_from(m.server_header_transformation) {
        Ok(ServerHeaderTransformation::Overwrite) => Ok(ServerHeader::Overwrite),
        Ok(ServerHeaderTransformation::AppendIfAbsent) => Ok(ServerHeader::AppendIfAbsent),
        Ok(ServerHeaderTransformation::PassThrough) => Ok(ServerHeader::PassThrough),
        Err(_) => Err(Refusal::new("unknown").under("serverHeaderTransformation")),
    }
}

fn addresses(m: &Message) -> Taken<AddressPolicy> {
    let internal = match &m.internal_address_config {
        None => Vec::new(),
        Some(config) => {
            each(&config.cidr_ranges, "cidrRanges", Cidr::compile).within("internalAddressConfig")?
        }
    };
    Ok(AddressPolicy {
        use_remote: flag(&m.use_remote_address, false),
        trusted_hops: m.xff_num_trusted_hops as usize,
        skip_append: m.skip_xff_append,
        append_port: m.append_x_forwarded_port,
        internal,
    })
}

fn request_id(m: &Message) -> Taken<RequestIdPolicy> {
    let mut policy = RequestIdPolicy {
        generate: flag(&m.generate_request_id, true),
        preserve_external: m.preserve_external_request_id,
        always_in_response: m.always_set_request_id_in_response,
        ..RequestIdPolicy::default()
    };
    if let Some(any) = m.request_id_extension.as_ref().and_then(|e| e.typed_config.as_ref()) {
        let config: UuidRequestIdConfig = unpack(any).within("typedConfig").within("requestIdExtension")?;
        policy.pack_reason = flag(&config.pack_trace_reason, true);
        policy.sample_by_id = flag(&config.use_request_id_for_trace_sampling, true);
    }
    Ok(policy)
}

fn xfcc(m: &Message) -> Taken<XfccPolicy> {
    use pb::http_connection_manager::ForwardClientCertDetails;
    let mode = match ForwardClientCertDetails::try_from(m.forward_client_cert_details) {
        Ok(ForwardClientCertDetails::Sanitize) => XfccMode::Sanitize,
        Ok(ForwardClientCertDetails::ForwardOnly) => XfccMode::ForwardOnly,
        Ok(ForwardClientCertDetails::AppendForward) => XfccMode::AppendForward,
        Ok(ForwardClientCertDetails::SanitizeSet) => XfccMode::SanitizeSet,
        Ok(ForwardClientCertDetails::AlwaysForwardOnly) => XfccMode::AlwaysForwardOnly,
        Err(_) => return Err(Refusal::new("unknown").under("forwardClientCertDetails")),
    };
    let Some(d) = &m.set_current_client_cert_details else {
        return Ok(XfccPolicy { mode, ..XfccPolicy::default() });
    };
    Ok(XfccPolicy {
        mode,
        cert: d.cert,
        chain: d.chain,
        subject: flag(&d.subject, false),
        uri: d.uri,
        dns: d.dns,
    })
}

fn path(m: &Message) -> Taken<PathPolicy> {
    use pb::http_connection_manager::PathWithEscapedSlashesAction as Action;
    let escaped_slashes = match Action::try_from(m.path_with_escaped_slashes_action) {
        Ok(Action::ImplementationSpecificDefault | Action::KeepUnchanged) => EscapedSlashes::Keep,
        Ok(Action::RejectRequest) => EscapedSlashes::Reject,
        Ok(Action::UnescapeAndRedirect) => EscapedSlashes::UnescapeAndRedirect,
        Ok(Action::UnescapeAndForward) => EscapedSlashes::UnescapeAndForward,
        Err(_) => return Err(Refusal::new("unknown").under("pathWithEscapedSlashesAction")),
    };
    Ok(PathPolicy {
        normalize: flag(&m.normalize_path, false),
        merge_slashes: m.merge_slashes,
        escaped_slashes,
    })
}

fn scheme(m: &Message) -> Taken<Option<Box<str>>> {
    use core::scheme_header_transformation::Transformation;
    let Some(t) = &m.scheme_header_transformation else { return Ok(None) };
    match &t.transformation {
        Some(Transformation::SchemeToOverwrite(scheme)) => Ok(Some(scheme.as_str().into())),
        None => Ok(None),
    }
}

fn tracing(t: &pb::http_connection_manager::Tracing) -> Taken<Tracing> {
    let tracer = match &t.provider {
        None => None,
        Some(p) => {
            let Some(trace::tracing::http::ConfigType::TypedConfig(any)) = &p.config_type else {
                return Err(Refusal::new("is missing").under("typedConfig").under("provider"));
            };
            Some(super::tracer::compile(any).within("typedConfig").within("provider")?)
        }
    };
    Ok(Tracing {
        sampling: Sampling {
            client: Chance::of_percent(&t.client_sampling, Chance::ALWAYS),
            random: Chance::of_percent(&t.random_sampling, Chance::ALWAYS),
            overall: Chance::of_percent(&t.overall_sampling, Chance::ALWAYS),
        },
        custom_tags: each(&t.custom_tags, "customTags", custom_tag)?,
        tracer,
        max_path_tag_length: number(&t.max_path_tag_length).unwrap_or(256),
        spawn_upstream_span: flag(&t.spawn_upstream_span, false),
        propagates: !t.no_context_propagation,
    })
}

fn custom_tag(t: &tag::CustomTag) -> Taken<CustomTag> {
    use proto::pb::envoy::r#type::metadata::v3 as metadata;
    use tag::custom_tag::Type;
    let value = match t.r#type.as_ref().ok_or_else(|| Refusal::new("is empty"))? {
        Type::Literal(l) => TagValue::Literal(l.value.as_str().into()),
        Type::Environment(e) => {
            TagValue::Environment(e.name.as_str().into(), e.default_value.as_str().into())
        }
        Type::RequestHeader(h) => {
            TagValue::RequestHeader(h.name.as_str().into(), h.default_value.as_str().into())
        }
        Type::Metadata(m) => {
            let key = m
                .metadata_key
                .as_ref()
                .ok_or_else(|| Refusal::new("is missing").under("metadata.metadataKey"))?;
            let path = each(&key.path, "path", |segment| match &segment.segment {
                Some(metadata::metadata_key::path_segment::Segment::Key(key)) => Ok(key.as_str().into()),
                Some(_) => Err(Refusal::unsupported("index")),
                None => Err(Refusal::new("is empty")),
            })?;
            TagValue::Metadata(key.key.as_str().into(), path, m.default_value.as_str().into())
        }
        Type::Value(format) => TagValue::Format(Format::compile(format, true).within("value")?),
    };
    Ok(CustomTag { tag: t.tag.as_str().into(), value })
}
