//! What a route says to do.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use upstream::{Labels, Priority};

use super::host::without_port;
use super::policy::upgrade_is_enabled;
use super::{
    ClusterRef, HashPolicy, HeaderMutations, InternalRedirects, MirrorPolicy, PathMatch, Retry, RouteMatch,
};
use crate::connection::Connection;
use crate::filters::{CorsPolicy, Overrides};
use crate::headers::{HeaderName, Known};
use crate::limit::RateLimits;
use crate::matching::RegexRewrite;
use crate::request::Request;

/// What routes are matched against.
pub(crate) struct Subject<'a> {
    pub(crate) request: &'a Request,
    pub(crate) connection: &'a Connection,
    /// The request's random number.
    pub(crate) draw: u64,
    pub(crate) ignore_path_parameters: bool,
}

#[derive(Debug, Clone)]
pub enum Action {
    Forward(Box<ForwardAction>),
    Redirect(Box<Redirect>),
    Direct(DirectResponse),
}

impl Action {
    pub fn forward(&self) -> Option<&ForwardAction> {
        match self {
            Self::Forward(action) => Some(action),
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
pub struct ForwardAction {
    pub destination: Destination,
    /// 503 unless configured.
    pub not_found_status: u16,
    pub path_rewrite: PathRewrite,
    pub host_rewrite: HostRewrite,
    pub append_forwarded_host: bool,
    /// 15 s unless configured; nothing when zero was written.
    pub timeout: Option<Duration>,
    /// In place of the connection manager's; `Some(None)` is without a bound, here and below.
    pub idle_timeout: Option<Option<Duration>>,
    pub max_stream_duration: Option<Option<Duration>>,
    /// Honour `grpc-timeout`, up to this; `Some(None)` is without a bound.
    pub grpc_timeout_max: Option<Option<Duration>>,
    pub grpc_timeout_offset: Option<Duration>,
    /// Timeouts are those of a stream, from its beginning, and not those of an answer.
    pub bounds_streams: bool,
    pub retry: Option<Arc<Retry>>,
    pub mirrors: Vec<MirrorPolicy>,
    pub priority: Priority,
    pub hash: Vec<HashPolicy>,
    /// Lower case, and whether it is enabled here; others as the connection manager says.
    pub upgrades: Vec<(Box<str>, bool)>,
    /// `hedgePolicy.hedgeOnPerTryTimeout`.
    pub(crate) hedge: bool,
    /// The older way to configure CORS.
    pub(crate) cors: Option<Arc<CorsPolicy>>,
    pub(crate) rate_limits: RateLimits,
    /// Those of the virtual host count as well.
    pub(crate) include_host_limits: bool,
    /// Redirects that are followed here.
    pub redirects: Option<Arc<InternalRedirects>>,
    /// What is wanted of hosts, where the cluster has subsets.
    pub(crate) subset: Arc<Labels>,
}

#[derive(Debug, Clone)]
pub enum Destination {
    Cluster(ClusterRef),
    /// The header names the cluster.
    Header(HeaderName),
    /// One of them by weight; `total` is more than zero.
    Weighted {
        clusters: Vec<WeightedCluster>,
        total: u64,
        by: Option<HeaderName>,
    },
}

#[derive(Debug, Clone)]
pub struct WeightedCluster {
    pub cluster: ClusterRef,
    pub weight: u32,
    pub(crate) mutations: HeaderMutations,
    pub(crate) host_rewrite: Option<Box<str>>,
    pub(crate) overrides: Overrides,
    /// In place of what the route says of hosts, key by key.
    pub(crate) subset: Box<Labels>,
}

#[derive(Debug, Clone)]
pub enum PathRewrite {
    None,
    /// Replaces what the route's path matched.
    Prefix(Box<str>),
    Regex(RegexRewrite),
}

#[derive(Debug, Clone)]
pub enum HostRewrite {
    None,
    Literal(Box<str>),
    /// The endpoint's host name.
    Auto,
    Header(HeaderName),
    /// The authority is what becomes of the path.
    PathRegex(RegexRewrite),
}

#[derive(Debug, Clone)]
pub struct DirectResponse {
    pub status: u16,
    pub body: Bytes,
}

#[derive(Debug, Clone)]
pub struct Redirect {
    pub status: u16,
    pub(super) https: bool,
    pub(super) scheme: Option<Box<str>>,
    pub(super) host: Option<Box<str>>,
    pub(super) port: Option<u16>,
    pub(super) path: RedirectPath,
    pub(super) strip_query: bool,
}

#[derive(Debug, Clone)]
pub(super) enum RedirectPath {
    Same,
    Whole(Box<str>),
    Prefix(Box<str>),
    Regex(RegexRewrite),
}

impl Redirect {
    /// The value of `location`.
    pub(crate) fn location(&self, request: &Request, matched: &RouteMatch, original: &str) -> String {
        let scheme: &str = match &self.scheme {
            Some(scheme) => scheme,
            None if self.https => "https",
            None => &request.scheme,
        };
        let host = match &self.host {
            Some(host) => Cow::Borrowed(&**host),
            None => Cow::Borrowed(self.kept_host(request, scheme)),
        };
        let port = self.port.map(|p| format!(":{p}")).unwrap_or_default();
        format!("{scheme}://{host}{port}{}", self.target(request, matched, original))
    }

    /// Without its port where the port cannot stay: another one is given, or the scheme changes away from its own.
    fn kept_host<'a>(&self, request: &'a Request, scheme: &str) -> &'a str {
        let host = request.authority.as_str();
        let name = without_port(host);
        let default = match &*request.scheme {
            "http" => ":80",
            "https" => ":443",
            _ => "",
        };
        let drop = self.port.is_some() || (scheme != request.scheme && &host[name.len()..] == default);
        if drop { name } else { host }
    }

    fn target(&self, request: &Request, matched: &RouteMatch, original: &str) -> String {
        let (path, query) = match original.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (original, None),
        };
        let new = match &self.path {
            RedirectPath::Same => path.to_owned(),
            // A path with a query of its own stands as it is.
            RedirectPath::Whole(whole) if whole.contains('?') => return whole.to_string(),
            RedirectPath::Whole(whole) => whole.to_string(),
            RedirectPath::Prefix(prefix) => replace_matched(request.path_only(), prefix, matched),
            RedirectPath::Regex(regex) => regex.apply(path),
        };
        match query {
            Some(query) if !self.strip_query => format!("{new}?{query}"),
            _ => new,
        }
    }
}

/// The path with what the route matched replaced.
fn replace_matched(path: &str, new: &str, matched: &RouteMatch) -> String {
    let length = match &matched.path {
        PathMatch::Prefix(p) | PathMatch::SeparatedPrefix(p) | PathMatch::Exact(p) => p.len(),
        PathMatch::Regex(_) => path.len(),
        PathMatch::Connect => 0,
    };
    format!("{new}{}", path.get(length..).unwrap_or_default())
}

impl ForwardAction {
    /// Rewrites path and host, leaving the originals in `x-envoy-original-path` (if it shall `tell`) and
    /// `x-forwarded-host`.
    /// Whether the host waits for the endpoint.
    pub(crate) fn rewrite(
        &self,
        request: &mut Request,
        matched: &RouteMatch,
        weighted: Option<usize>,
        tell: bool,
    ) -> bool {
        let by_path = match &self.host_rewrite {
            HostRewrite::PathRegex(regex) => Some(regex.apply(request.path_only())),
            _ => None,
        };
        self.rewrite_path(request, matched, tell);
        let literal = match (&self.destination, weighted) {
            (Destination::Weighted { clusters, .. }, Some(i)) => clusters[i].host_rewrite.as_deref(),
            _ => None,
        };
        let new = match (&self.host_rewrite, literal) {
            (_, Some(literal)) => Some(literal.to_owned()),
            (HostRewrite::Literal(literal), None) => Some(literal.to_string()),
            (HostRewrite::Header(name), None) => request
                .headers
                .get(name)
                .map(|first| std::borrow::Cow::Borrowed(&first[..]))
                .or_else(|| request.value(name))
                .map(|v| String::from_utf8_lossy(&v).into_owned())
                .filter(|v| !v.is_empty()),
            (HostRewrite::PathRegex(_), None) => by_path,
            (HostRewrite::None | HostRewrite::Auto, None) => None,
        };
        if let Some(new) = new {
            self.set_host(request, new);
            if literal.is_some() {
                // As Envoy, which tells it of the route's own rewrites only.
                request.headers.remove_known(Known::XEnvoyOriginalHost);
            }
        }
        literal.is_none() && matches!(self.host_rewrite, HostRewrite::Auto)
    }

    /// Sets the authority, leaving the original in `x-forwarded-host` where that is asked for.
    pub fn set_host(&self, request: &mut Request, new: String) {
        let old = std::mem::replace(&mut request.authority, new);
        request.headers.set(Known::XEnvoyOriginalHost, old.clone());
        if self.append_forwarded_host {
            append_list(request, Known::XForwardedHost, &old);
        }
    }

    fn rewrite_path(&self, request: &mut Request, matched: &RouteMatch, tell: bool) {
        let (path, rest) = request.path.split_at(request.path_only().len());
        let new = match &self.path_rewrite {
            PathRewrite::None => return,
            PathRewrite::Prefix(prefix) => replace_matched(path, prefix, matched),
            PathRewrite::Regex(regex) => regex.apply(path),
        };
        let new = format!("{new}{rest}");
        let old = std::mem::replace(&mut request.path, new);
        if tell {
            request.headers.set(Known::XEnvoyOriginalPath, old);
        }
    }

    pub(crate) fn allows_upgrade(&self, upgrade: &str, by_default: bool) -> bool {
        upgrade_is_enabled(&self.upgrades, upgrade).unwrap_or(by_default)
    }
}

/// Adds to a comma-separated header.
pub(crate) fn append_list(request: &mut Request, name: Known, value: &str) {
    let new = match request.headers.joined(&name.into()) {
        Some(old) if !old.is_empty() => [&old, &b","[..], value.as_bytes()].concat(),
        _ => value.as_bytes().to_vec(),
    };
    request.headers.set(name, new);
}
