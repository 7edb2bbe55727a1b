//! From a compiled cluster and the secrets at hand to what workers dial with.

use std::sync::Arc;

use decide::{
    Cluster, Discovery, SocketOption, SocketState, SocketValue, UpstreamProtocol, UpstreamTransport,
};

use super::secrets::{SecretError, Secrets};
use crate::cluster::{HttpProtocol, Target, Transport};
use crate::net::{ConnectOptions, Keepalive};

/// Fails when a TLS context cannot be made, naming the field.
pub fn target(cluster: &Arc<Cluster>, secrets: &mut Secrets) -> Result<Target, SecretError> {
    let mut transports = Vec::with_capacity(cluster.transport_matches.len() + 1);
    for m in &cluster.transport_matches {
        let tls = client(&m.transport, cluster, secrets)?;
        transports.push(Transport { labels: m.labels.clone(), tls });
    }
    transports.push(Transport { labels: Vec::new(), tls: client(&cluster.transport, cluster, secrets)? });
    let http = &cluster.http;
    Ok(Target {
        name: cluster.name.clone(),
        stat_name: cluster.stat_name.trim_end_matches(';').into(),
        connect_timeout: cluster.connect_timeout,
        connect: connect_options(cluster)?,
        outside: None,
        transports,
        protocol: match http.protocol {
            UpstreamProtocol::Http1 => HttpProtocol::Http1,
            UpstreamProtocol::Http2 => HttpProtocol::Http2,
            UpstreamProtocol::Downstream => HttpProtocol::Downstream,
            UpstreamProtocol::Alpn => HttpProtocol::Alpn,
        },
        idle_timeout: http.idle_timeout,
        max_age: http.max_connection_duration,
        max_requests_per_connection: http.max_requests_per_connection,
        max_concurrent_streams: http.max_concurrent_streams.unwrap_or(1 << 29),
        original_destination: matches!(cluster.discovery, Discovery::OriginalDestination { .. }),
        aggregate: match &cluster.discovery {
            Discovery::Aggregate { clusters } => Some(clusters.clone()),
            _ => None,
        },
        names: None,
        exchange_metadata: cluster.metadata_exchange,
        config: cluster.clone(),
    })
}

fn client(
    transport: &UpstreamTransport,
    cluster: &Cluster,
    secrets: &mut Secrets,
) -> Result<Option<Arc<tls::ClientTls>>, SecretError> {
    match transport {
        UpstreamTransport::Plain => Ok(None),
        UpstreamTransport::Tls(context) => {
            let as_asked = context.auto_sni_san || cluster.http.auto_san_validation;
            secrets.client(context, as_asked).map(Some)
        }
    }
}

fn connect_options(cluster: &Cluster) -> Result<ConnectOptions, SecretError> {
    let bind = cluster.bind.as_ref();
    let mut mark = None;
    for option in bind.into_iter().flat_map(|b| &b.options) {
        mark = Some(mark_of(option)?);
    }
    Ok(ConnectOptions {
        source: bind.and_then(|b| b.source).map(|s| s.ip()).filter(|ip| !ip.is_unspecified()),
        mark,
        keepalive: cluster.tcp_keepalive.map(|k| Keepalive {
            probes: k.probes,
            time: k.time,
            interval: k.interval,
        }),
    })
}

/// The one option that is supported: `SOL_SOCKET` `SO_MARK`.
fn mark_of(option: &SocketOption) -> Result<u32, SecretError> {
    match option {
        SocketOption {
            level: libc::SOL_SOCKET,
            name: libc::SO_MARK,
            value: SocketValue::Int(mark),
            state: SocketState::Prebind,
        } => Ok(*mark as u32),
        SocketOption { level, name, .. } => Err(SecretError::Field(format!(
            "upstreamBindConfig.socketOptions: level {level} name {name} is not supported; only SO_MARK (level 1, name 36, STATE_PREBIND) is"
        ))),
    }
}
