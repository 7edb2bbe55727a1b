//! HTTP towards the upstream: `HttpProtocolOptions`, and the older fields of the cluster itself.

use std::time::Duration;

use proto::pb::envoy::config::cluster::v3 as pb;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::upstreams::http::v3 as http;

use super::{Http2Keepalive, HttpSettings, UpstreamProtocol};
use crate::refusal::{Refusal, Taken, Within, refuse};
use crate::wire::{duration, number, timeout, unpack};

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

pub(super) fn http_settings(message: &pb::Cluster) -> Taken<HttpSettings> {
    let mut settings =
        HttpSettings { idle_timeout: Some(Duration::from_secs(3600)), ..HttpSettings::default() };
    settings.max_requests_per_connection = number(&message.max_requests_per_connection).filter(|n| *n > 0);
    if let Some(common) = &message.common_http_protocol_options {
        apply_common(common, &mut settings).within("commonHttpProtocolOptions")?;
    }
    if let Some(h1) = &message.http_protocol_options {
        apply_http1(h1, &mut settings).within("httpProtocolOptions")?;
    }
    if let Some(h2) = &message.http2_protocol_options {
        settings.protocol = UpstreamProtocol::Http2;
        apply_http2(h2, &mut settings).within("http2ProtocolOptions")?;
    }
    if message.protocol_selection == pb::cluster::ClusterProtocolSelection::UseDownstreamProtocol as i32 {
        settings.protocol = UpstreamProtocol::Downstream;
    }
    if let Some(options) = &message.upstream_http_protocol_options {
        apply_upstream(options, &mut settings).within("upstreamHttpProtocolOptions")?;
    }
    for (key, any) in &message.typed_extension_protocol_options {
        if key != "envoy.extensions.upstreams.http.v3.HttpProtocolOptions" {
            return Err(Refusal::new("not supported by this proxy")
                .under(format_args!("typedExtensionProtocolOptions[{key:?}]")));
        }
        unpack(any)
            .and_then(|o| apply(&o, &mut settings))
            .keyed("typedExtensionProtocolOptions", HTTP_OPTIONS)?;
    }
    Ok(settings)
}

fn apply(options: &http::HttpProtocolOptions, settings: &mut HttpSettings) -> Taken<()> {
    use http::http_protocol_options::UpstreamProtocolOptions;
    use http::http_protocol_options::explicit_http_config::ProtocolConfig;
    refuse!(
        options,
        http_filters,
        header_validation_config,
        outlier_detection,
        request_mirror_policies,
        hash_policy,
        retry_policy
    );
    if let Some(common) = &options.common_http_protocol_options {
        apply_common(common, settings).within("commonHttpProtocolOptions")?;
    }
    if let Some(upstream) = &options.upstream_http_protocol_options {
        apply_upstream(upstream, settings).within("upstreamHttpProtocolOptions")?;
    }
    match &options.upstream_protocol_options {
        None => {}
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => match &explicit.protocol_config {
            Some(ProtocolConfig::HttpProtocolOptions(h1)) => {
                settings.protocol = UpstreamProtocol::Http1;
                apply_http1(h1, settings).within("httpProtocolOptions").within("explicitHttpConfig")?;
            }
            Some(ProtocolConfig::Http2ProtocolOptions(h2)) => {
                settings.protocol = UpstreamProtocol::Http2;
                apply_http2(h2, settings).within("http2ProtocolOptions").within("explicitHttpConfig")?;
            }
            Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                return Err(Refusal::unsupported("http3ProtocolOptions").under("explicitHttpConfig"));
            }
            None => return Err(Refusal::new("is empty").under("explicitHttpConfig")),
        },
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(c)) => {
            settings.protocol = UpstreamProtocol::Downstream;
            both(&c.http_protocol_options, &c.http2_protocol_options, settings)
                .within("useDownstreamProtocolConfig")?;
        }
        Some(UpstreamProtocolOptions::AutoConfig(c)) => {
            if c.http3_protocol_options.is_some() {
                return Err(Refusal::unsupported("http3ProtocolOptions").under("autoConfig"));
            }
            settings.protocol = UpstreamProtocol::Alpn;
            both(&c.http_protocol_options, &c.http2_protocol_options, settings).within("autoConfig")?;
        }
    }
    Ok(())
}

fn both(
    h1: &Option<core::Http1ProtocolOptions>,
    h2: &Option<core::Http2ProtocolOptions>,
    settings: &mut HttpSettings,
) -> Taken<()> {
    if let Some(h1) = h1 {
        apply_http1(h1, settings).within("httpProtocolOptions")?;
    }
    if let Some(h2) = h2 {
        apply_http2(h2, settings).within("http2ProtocolOptions")?;
    }
    Ok(())
}

fn apply_common(common: &core::HttpProtocolOptions, settings: &mut HttpSettings) -> Taken<()> {
    refuse!(common, headers_with_underscores_action);
    if common.idle_timeout.is_some() {
        settings.idle_timeout = timeout(&common.idle_timeout, "idleTimeout")?;
    }
    settings.max_connection_duration = timeout(&common.max_connection_duration, "maxConnectionDuration")?;
    settings.max_stream_duration = timeout(&common.max_stream_duration, "maxStreamDuration")?;
    if let Some(most) = number(&common.max_requests_per_connection) {
        settings.max_requests_per_connection = Some(most).filter(|n| *n > 0);
    }
    Ok(())
}

fn apply_http1(options: &core::Http1ProtocolOptions, settings: &mut HttpSettings) -> Taken<()> {
    refuse!(options, send_fully_qualified_url);
    (settings.proper_case, settings.preserve_case) = key_format(&options.header_key_format)?;
    Ok(())
}

/// Whether header names are written in proper case, and whether as they came.
pub(crate) fn key_format(
    format: &Option<core::http1_protocol_options::HeaderKeyFormat>,
) -> Taken<(bool, bool)> {
    use core::http1_protocol_options::header_key_format::HeaderFormat;
    match format.as_ref().and_then(|f| f.header_format.as_ref()) {
        None => Ok((false, false)),
        Some(HeaderFormat::ProperCaseWords(_)) => Ok((true, false)),
        Some(HeaderFormat::StatefulFormatter(f))
            if f.name == "preserve_case" || f.name.ends_with(".preserve_case") =>
        {
            Ok((false, true))
        }
        Some(HeaderFormat::StatefulFormatter(_)) => {
            Err(Refusal::unsupported("statefulFormatter").under("headerKeyFormat"))
        }
    }
}

fn apply_http2(options: &core::Http2ProtocolOptions, settings: &mut HttpSettings) -> Taken<()> {
    refuse!(options, allow_metadata, custom_settings_parameters);
    settings.max_concurrent_streams = number(&options.max_concurrent_streams);
    settings.initial_stream_window = number(&options.initial_stream_window_size);
    settings.initial_connection_window = number(&options.initial_connection_window_size);
    settings.keepalive = options
        .connection_keepalive
        .as_ref()
        .map(|k| http2_keepalive(k).within("connectionKeepalive"))
        .transpose()?;
    Ok(())
}

pub(crate) fn http2_keepalive(k: &core::KeepaliveSettings) -> Taken<Http2Keepalive> {
    Ok(Http2Keepalive {
        interval: duration(&k.interval, "interval")?,
        timeout: duration(&k.timeout, "timeout")?.unwrap_or(Duration::from_secs(20)),
        idle_interval: duration(&k.connection_idle_interval, "connectionIdleInterval")?,
    })
}

fn apply_upstream(options: &core::UpstreamHttpProtocolOptions, settings: &mut HttpSettings) -> Taken<()> {
    refuse!(options, override_auto_sni_header);
    settings.auto_sni = options.auto_sni;
    settings.auto_san_validation = options.auto_san_validation;
    Ok(())
}
