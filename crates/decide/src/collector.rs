//! Who is sent spans and access logs, and how they are asked to take them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::pb::envoy::config::core::v3 as core;

use crate::ask::GrpcTarget;
use crate::headers::HeaderName;
use crate::refusal::{Refusal, Taken, Within, each};
use crate::wire::duration;

/// Where spans or records are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    pub cluster: Arc<str>,
    pub protocol: CollectorProtocol,
    pub authority: Arc<str>,
    /// Where to post, or the method of a gRPC service.
    pub path: Arc<str>,
    pub headers: Vec<(HeaderName, Bytes)>,
    pub timeout: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CollectorProtocol {
    ZipkinJson,
    OtlpHttp,
    Grpc,
}

/// One that a unary method of a gRPC service is called on.
pub(crate) fn grpc(service: &core::GrpcService, method: &str) -> Taken<Collector> {
    let GrpcTarget { cluster, authority, metadata: headers, timeout } = GrpcTarget::compile(service, None)?;
    Ok(Collector {
        cluster,
        protocol: CollectorProtocol::Grpc,
        authority,
        path: method.into(),
        headers,
        timeout,
    })
}

/// One that is posted to.
pub(crate) fn http(
    service: &core::HttpService,
    protocol: CollectorProtocol,
    field: &str,
) -> Taken<Collector> {
    let uri = service.http_uri.as_ref().ok_or_else(|| Refusal::new("is missing").under("httpUri"))?;
    let cluster = match &uri.http_upstream_type {
        Some(core::http_uri::HttpUpstreamType::Cluster(name)) if !name.is_empty() => name,
        _ => return Err(Refusal::new(format_args!("names no cluster for {field}")).under("httpUri")),
    };
    // Envoy takes a path alone, too; then the cluster's name stands for the host.
    let (host, path) = match uri.uri.split_once("://") {
        Some((_, rest)) => rest.split_once('/').unwrap_or((rest, "")),
        None => (cluster.as_str(), uri.uri.trim_start_matches('/')),
    };
    let headers = each(&service.request_headers_to_add, "requestHeadersToAdd", |option| {
        let value = option.header.as_ref().ok_or_else(|| Refusal::new("is missing").under("header"))?;
        header(value).within("header")
    })?;
    Ok(Collector {
        cluster: cluster.as_str().into(),
        protocol,
        authority: host.into(),
        path: format!("/{path}").into(),
        headers,
        timeout: duration(&uri.timeout, "timeout").within("httpUri")?,
    })
}

/// A header of a call of the proxy's own, where no request is at hand that operators could speak of.
pub(crate) fn header(header: &core::HeaderValue) -> Taken<(HeaderName, Bytes)> {
    if header.value.replace("%%", "").contains('%') {
        return Err(Refusal::new("operators are not supported here; % is written %%").under("value"));
    }
    Ok((HeaderName::from(header.key.as_str()), header.value.replace("%%", "%").into()))
}
