//! What happens to a request before it is routed: refused, made canonical, cleaned of what its sender may not say.

use std::borrow::Cow;
use std::sync::Arc;

use base::Random;

use super::address::Client;
use super::path::Canonical;
use super::{Hcm, Sampling, StripPort};
use crate::connection::Connection;
use crate::decision::{LocalReply, TraceDecision};
use crate::headers::{HeaderName, Known};
use crate::request::{Request, Version};
use crate::route::without_port;

/// What was learned on the way.
pub(crate) struct Prelude {
    pub(crate) client: Client,
    pub(crate) request_id: Arc<str>,
}

impl Hcm {
    pub(crate) fn receive<R: Random + ?Sized>(
        &self,
        connection: &Connection,
        request: &mut Request,
        rng: &mut R,
    ) -> Result<Prelude, Box<LocalReply>> {
        if request.scheme.is_empty() {
            request.scheme = Cow::Borrowed(if connection.tls.is_some() { "https" } else { "http" });
        }
        self.judge_target(connection, request)?;
        let upgrade = request.upgrade.is_some();
        drop_hop_by_hop(request, upgrade);
        let client = self.addresses.apply(connection, request);
        let told = request.headers.known_str(Known::XForwardedProto);
        match (&self.scheme, told.filter(|p| matches!(*p, "http" | "https"))) {
            (Some(scheme), _) => {
                request.headers.set(Known::XForwardedProto, scheme.to_string());
                request.scheme = Cow::Owned(scheme.to_string());
            }
            // HTTP/2 says it by itself.
            (None, Some(proto)) if request.version != Version::Http2 && !request.scheme_is_told => {
                request.scheme = Cow::Owned(proto.to_owned());
            }
            _ => {}
        }
        drop_internal(request, &client);
        if !self.via.is_empty() {
            let via = match request.headers.joined(&Known::Via.into()) {
                Some(before) => [&before, &b", "[..], &self.via].concat(),
                None => self.via.to_vec(),
            };
            request.headers.set(Known::Via, via);
        }
        if client.edge {
            request.headers.set(Known::XEnvoyExternalAddress, client.address.ip().to_canonical().to_string());
        }
        let request_id = self.request_id.set(request, client.edge, rng);
        self.xfcc.apply(connection, request);
        Ok(Prelude { client, request_id })
    }

    /// Whether the request is traced: once its route is known, which may have shares of its own.
    pub(crate) fn trace<R: Random + ?Sized>(
        &self,
        of_route: Option<&Sampling>,
        request: &mut Request,
        request_id: &mut Arc<str>,
        rng: &mut R,
    ) -> TraceDecision {
        let own = self.tracing.as_ref().map(|t| &t.sampling);
        self.request_id.trace(own.and(of_route.or(own)), request, request_id, rng)
    }

    /// Host and path must be there and unambiguous.
    fn judge_target(&self, connection: &Connection, request: &mut Request) -> Result<(), Box<LocalReply>> {
        let bad = |details| {
            // As Envoy: whoever sends such a thing need not be listened to any longer.
            Err(Box::new(LocalReply { close: true, ..LocalReply::new(400, "", details) }))
        };
        if request.version == Version::Http10 && !self.http1.accept_http10 {
            return Err(Box::new(LocalReply::new(426, "", "low_version")));
        }
        if request.authority.is_empty() {
            if request.version == Version::Http10 && !self.http1.default_host.is_empty() {
                request.authority = self.http1.default_host.to_string();
            } else {
                return bad("missing_host_header");
            }
        }
        if !is_authority(&request.authority) {
            return bad("invalid_authority");
        }
        self.strip_host(connection, request);
        if request.is_connect() && request.upgrade.is_none() {
            return Ok(());
        }
        if request.path.is_empty() {
            return bad("missing_path_rejected");
        }
        if !request.path.starts_with('/') {
            return Err(Box::new(LocalReply::new(404, "", "absolute_path_rejected")));
        }
        match self.path.apply(&request.path) {
            Canonical::Unchanged => Ok(()),
            Canonical::Path(path) => {
                request.path = path;
                Ok(())
            }
            Canonical::Redirect(path) => {
                let mut reply = LocalReply::new(307, "", "path_normalization_failed");
                reply.headers.set(Known::Location, path);
                Err(Box::new(reply))
            }
            Canonical::Reject => bad("path_normalization_failed"),
        }
    }

    fn strip_host(&self, connection: &Connection, request: &mut Request) {
        let host = without_port(&request.authority);
        let strip = match self.strip_port {
            StripPort::No => false,
            StripPort::Any => true,
            StripPort::Matching => {
                request.authority.get(host.len() + 1..).and_then(|p| p.parse().ok())
                    == Some(connection.local.port())
            }
        };
        if strip {
            request.authority.truncate(host.len());
        }
        if self.strip_trailing_dot {
            let host = without_port(&request.authority);
            if host.ends_with('.') {
                let at = host.len() - 1;
                request.authority.remove(at);
            }
        }
    }
}

/// No userinfo, no white space, nothing that could be read in two ways.
fn is_authority(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_graphic() && !matches!(b, b'@' | b'/' | b'?' | b'#' | b'\\' | b'<' | b'>' | b'"'))
}

/// RFC 9110, section 7.6.1. `te: trailers` stays, as gRPC needs it.
fn drop_hop_by_hop(request: &mut Request, upgrade: bool) {
    let name = Known::Connection.into();
    let nominated: Vec<HeaderName> = match request.headers.joined(&name) {
        None => Vec::new(),
        Some(list) => String::from_utf8_lossy(&list)
            .split(',')
            .map(str::trim)
            .filter(|option| is_removable(option))
            .map(HeaderName::from)
            .collect(),
    };
    request.headers.retain(|name, value| match name.known() {
        Some(Known::Connection | Known::KeepAlive | Known::ProxyConnection | Known::TransferEncoding) => {
            false
        }
        Some(Known::Upgrade) => upgrade,
        Some(Known::Te) => value.eq_ignore_ascii_case(b"trailers"),
        _ => !nominated.contains(name),
    });
}

/// A client may not have us drop what later hops rely on.
fn is_removable(option: &str) -> bool {
    let lower = option.to_ascii_lowercase();
    !lower.is_empty()
        && !matches!(
            lower.as_str(),
            "close"
                | "keep-alive"
                | "upgrade"
                | "te"
                | "host"
                | "content-length"
                | "cookie"
                | "authorization"
        )
        && !lower.starts_with("x-")
}

/// Envoy's internal headers are believed from inside only.
fn drop_internal(request: &mut Request, client: &Client) {
    if client.internal {
        request.headers.set(Known::XEnvoyInternal, "true");
        return;
    }
    let edge = client.edge;
    request.headers.retain(|name, _| match name.known() {
        Some(
            Known::XEnvoyDecoratorOperation
            | Known::XEnvoyDownstreamServiceCluster
            | Known::XEnvoyDownstreamServiceNode,
        ) => !edge,
        Some(
            Known::XEnvoyInternal
            | Known::XEnvoyRetriableStatusCodes
            | Known::XEnvoyRetriableHeaderNames
            | Known::XEnvoyRetryOn
            | Known::XEnvoyRetryGrpcOn
            | Known::XEnvoyMaxRetries
            | Known::XEnvoyUpstreamAltStatName
            | Known::XEnvoyUpstreamRqTimeoutMs
            | Known::XEnvoyUpstreamRqPerTryTimeoutMs
            | Known::XEnvoyUpstreamRqTimeoutAltResponse
            | Known::XEnvoyExpectedRqTimeoutMs
            | Known::XEnvoyForceTrace
            | Known::XEnvoyIpTags
            | Known::XEnvoyOriginalUrl
            | Known::XEnvoyOriginalPath
            | Known::XEnvoyOriginalHost
            | Known::XEnvoyOriginalMethod
            | Known::XEnvoyHedgeOnPerTryTimeout,
        ) => false,
        _ => true,
    });
}
