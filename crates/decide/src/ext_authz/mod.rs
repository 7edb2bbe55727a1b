//! External authorization (`envoy.filters.http.ext_authz`): somebody else is told of a request, and says whether it passes
//! and what becomes of it.

mod check;
mod compile;
mod network;
mod verdict;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::ask::GrpcTarget;
use crate::matching::{MetadataMatcher, StringMatcher};
use crate::metadata::DynamicMetadata;
use crate::route::Mutations;
use crate::wire::Chance;

pub(crate) use check::struct_of;
pub use network::NetworkAuthz;
pub(crate) use network::{NETWORK_METADATA, NetworkVerdict};
pub(crate) use verdict::{Changes, HeaderChange, Verdict};

/// Where what the service says is kept for logs and later filters.
pub(crate) const METADATA: &str = "envoy.filters.http.ext_authz";

/// The filter's configuration.
#[derive(Debug)]
pub(crate) struct ExtAuthz {
    service: Service,
    /// Whether requests pass that nobody could judge, and whether upstreams are told so.
    pub(crate) failure_allows: bool,
    pub(crate) failure_header: bool,
    pub(crate) status_on_error: u16,
    body: Option<BodySettings>,
    pub(crate) clear_route_cache: bool,
    metadata_namespaces: Vec<Box<str>>,
    enabled: Option<Chance>,
    enabled_metadata: Option<MetadataMatcher>,
    pub(crate) deny_at_disable: bool,
    peer_certificate: bool,
    tls_session: bool,
    raw_headers: bool,
    /// Which headers the service is told of; nothing: all.
    allowed: Option<Names>,
    disallowed: Names,
    pub(crate) takes_metadata: bool,
    pub(crate) charges_cluster: bool,
    /// 0: as long as it is.
    max_denied_body: usize,
    pub(crate) stats: Stats,
}

#[derive(Debug)]
enum Service {
    Grpc(GrpcTarget),
    Http(Box<HttpService>),
}

#[derive(Debug)]
struct HttpService {
    cluster: Arc<str>,
    timeout: Option<Duration>,
    path_prefix: Box<str>,
    path_override: Box<str>,
    headers_to_add: Mutations,
    to_upstream: Names,
    append_upstream: Names,
    /// Nothing: all but `:authority`.
    to_client: Option<Names>,
    to_client_on_success: Names,
    to_metadata: Names,
}

/// `withRequestBody`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BodySettings {
    pub(crate) max_bytes: u64,
    pub(crate) allow_partial: bool,
    as_bytes: bool,
}

/// What a route says instead.
#[derive(Debug)]
pub(crate) struct PerRoute {
    pub(crate) disabled: bool,
    pub(crate) extensions: Vec<(String, String)>,
    body: RouteBody,
}

#[derive(Debug, Clone, Copy)]
enum RouteBody {
    AsFilter,
    Off,
    Settings(BodySettings),
}

/// Names of the counters, below `http.PREFIX.` and `cluster.NAME.`.
#[derive(Debug)]
pub(crate) struct Stats {
    pub(crate) ok: Arc<str>,
    pub(crate) denied: Arc<str>,
    pub(crate) error: Arc<str>,
    pub(crate) disabled: Arc<str>,
    pub(crate) failure_mode_allowed: Arc<str>,
    pub(crate) ignored_dynamic_metadata: Arc<str>,
}

/// A list of matchers for names of headers.
#[derive(Debug, Default)]
struct Names(Vec<StringMatcher>);

impl Names {
    fn matches(&self, name: &[u8]) -> bool {
        self.0.iter().any(|m| m.matches(name))
    }
}

impl Stats {
    fn new(prefix: &str) -> Self {
        let name = |what: &str| match prefix {
            "" => format!("ext_authz.{what}").into(),
            prefix => format!("ext_authz.{prefix}.{what}").into(),
        };
        Self {
            ok: name("ok"),
            denied: name("denied"),
            error: name("error"),
            disabled: name("disabled"),
            failure_mode_allowed: name("failure_mode_allowed"),
            ignored_dynamic_metadata: name("ignored_dynamic_metadata"),
        }
    }
}

impl ExtAuthz {
    pub(crate) fn cluster(&self) -> &str {
        match &self.service {
            Service::Grpc(target) => &target.cluster,
            Service::Http(service) => &service.cluster,
        }
    }

    /// Whether the request is one to ask about.
    pub(crate) fn is_enabled<R: base::Random + ?Sized>(
        &self,
        metadata: &DynamicMetadata,
        rng: &mut R,
    ) -> bool {
        self.enabled.is_none_or(|chance| chance.draw(rng))
            && self.enabled_metadata.as_ref().is_none_or(|matcher| matcher.matches(metadata))
    }

    /// How much of the body the service is to see.
    pub(crate) fn body(&self, own: Option<&PerRoute>) -> Option<BodySettings> {
        match own.map_or(RouteBody::AsFilter, |own| own.body) {
            RouteBody::AsFilter => self.body,
            RouteBody::Off => None,
            RouteBody::Settings(settings) => Some(settings),
        }
    }
}
