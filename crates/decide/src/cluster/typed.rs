//! HTTP towards the upstream: `HttpProtocolOptions`, and the older fields of the cluster itself.

use std::time::Duration;

use proto::pb::envoy::config::cluster::v3 as pb;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::upstreams::http::v3 as http;

use super::{Http2Keepalive, HttpSettings, UpstreamProtocol};
use crate::refusal::{Refusal, Taken, Within};
use crate::wire::{duration, number, timeout, unpack};

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

pub(super) fn http_settings(message: &pb::Cluster) -> Taken<HttpSettings> {
    let mut settings =
        HttpSettings { idle_timeout: Some(Duration::from_secs(3600)), ..HttpSettings::default() };
    settings.max_requests_per_connection = number(&message.max_requests_per_connection).filter(|n| *n > 0);
    if let Some(common) = &message.common_http_protocol_options {
        apply_common(common, &mut settings).within("commonHttpProtocolOptions")?;
    }
    if message.http2_protocol_options.is_some() {
        settings.protocol = UpstreamProtocol::Http2;
        apply_http2(&message.http2_protocol_options, &mut settings)?;
    }
    if message.protocol_selection == pb::cluster::ClusterProtocolSelection::UseDownstreamProtocol as i32 {
        settings.protocol = UpstreamProtocol::Downstream;
    }
    if let Some(options) = &message.upstream_http_protocol_options {
        settings.auto_sni = options.auto_sni;
        settings.auto_san_validation = options.auto_san_validation;
    }
    for (key, any) in &message.typed_extension_protocol_options {
        if key != HTTP_OPTIONS {
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
    use http::http_protocol_options::UpstreamProtocolOptions as Options;
    if let Some(common) = &options.common_http_protocol_options {
        apply_common(common, settings).within("commonHttpProtocolOptions")?;
    }
    if let Some(upstream) = &options.upstream_http_protocol_options {
        settings.auto_sni = upstream.auto_sni;
        settings.auto_san_validation = upstream.auto_san_validation;
    }
    match &options.upstream_protocol_options {
        None => Ok(()),
        Some(Options::ExplicitHttpConfig(c)) => explicit(c, settings).within("explicitHttpConfig"),
        Some(Options::UseDownstreamProtocolConfig(c)) => {
            settings.protocol = UpstreamProtocol::Downstream;
            apply_http2(&c.http2_protocol_options, settings).within("useDownstreamProtocolConfig")
        }
        Some(Options::AutoConfig(c)) => {
            settings.protocol = UpstreamProtocol::Alpn;
            apply_http2(&c.http2_protocol_options, settings).within("autoConfig")
        }
    }
}

fn explicit(
    config: &http::http_protocol_options::ExplicitHttpConfig,
    settings: &mut HttpSettings,
) -> Taken<()> {
    use http::http_protocol_options::explicit_http_config::ProtocolConfig;
    match &config.protocol_config {
        Some(ProtocolConfig::HttpProtocolOptions(_)) => {
            settings.protocol = UpstreamProtocol::Http1;
            Ok(())
        }
        Some(ProtocolConfig::Http2ProtocolOptions(h2)) => {
            settings.protocol = UpstreamProtocol::Http2;
            apply_http2(&Some(h2.clone()), settings)
        }
        Some(ProtocolConfig::Http3ProtocolOptions(_)) => Err(Refusal::unsupported("http3ProtocolOptions")),
        None => Err(Refusal::new("is empty")),
    }
}

/// The same message stands in listeners, where more of it has a meaning.
fn apply_common(common: &core::HttpProtocolOptions, settings: &mut HttpSettings) -> Taken<()> {
    if common.max_headers_count.is_some() {
        return Err(Refusal::unsupported("maxHeadersCount"));
    }
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

fn apply_http2(options: &Option<core::Http2ProtocolOptions>, settings: &mut HttpSettings) -> Taken<()> {
    let Some(options) = options else { return Ok(()) };
    settings.max_concurrent_streams = number(&options.max_concurrent_streams);
    settings.initial_stream_window = number(&options.initial_stream_window_size);
    settings.initial_connection_window = number(&options.initial_connection_window_size);
    let keepalive = options.connection_keepalive.as_ref();
    settings.keepalive = keepalive
        .map(|k| http2_keepalive(k).within("connectionKeepalive").within("http2ProtocolOptions"))
        .transpose()?;
    Ok(())
}

fn http2_keepalive(k: &core::KeepaliveSettings) -> Taken<Http2Keepalive> {
    Ok(Http2Keepalive {
        interval: duration(&k.interval, "interval")?.filter(|every| !every.is_zero()),
        timeout: duration(&k.timeout, "timeout")?.unwrap_or(Duration::from_secs(20)),
    })
}
