//! Route tables: which virtual host, which route, and what the route says to do.

mod action;
mod compile;
mod follow;
mod hash;
mod host;
mod matcher;
mod mutation;
mod policy;
mod vhds;

use std::sync::Arc;

use crate::explain::{Note, Recorder};
use crate::filters::Overrides;
use crate::headers::HeaderName;
use crate::limit::RateLimits;
use crate::origin::Origin;
use crate::plan::{ClusterId, RouteTableId};
use crate::request::Request;

pub use action::{
    Action, Destination, DirectResponse, ForwardAction, HostRewrite, PathRewrite, Redirect, WeightedCluster,
};
pub(crate) use action::{Subject as MatchSubject, append_list};
pub(crate) use compile::{compile_table, compile_virtual_host, inline_table};
pub use follow::{Followed, InternalRedirects, NotFollowed, Redirected};
pub(crate) use hash::hash;
pub use hash::{HashPolicy, NetworkHash};
pub(crate) use host::without_port;
pub use matcher::{PathMatch, RouteMatch};
pub(crate) use mutation::Mutations;
pub use mutation::{HeaderMutations, MutationLevels};
pub(crate) use policy::MirrorTarget;
pub use policy::{MirrorPolicy, Retry};

/// A cluster by name: it need not exist (yet).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClusterRef {
    pub id: ClusterId,
    pub name: Arc<str>,
}

/// A compiled `RouteConfiguration`.
#[derive(Debug, Clone)]
pub struct RouteTable {
    pub id: RouteTableId,
    pub name: Arc<str>,
    /// Those of its own, then those that came by VHDS.
    pub virtual_hosts: Vec<Arc<VirtualHost>>,
    pub(crate) own_hosts: usize,
    pub(crate) hosts: host::HostIndex,
    /// Where more virtual hosts come from.
    pub vhds: Option<Origin>,
    pub(crate) most_body: usize,
    pub(crate) ignore_port: bool,
    /// Match this header instead of the authority.
    pub(crate) host_header: Option<HeaderName>,
    pub(crate) ignore_path_parameters: bool,
    pub(crate) mutations: HeaderMutations,
    pub(crate) most_specific_wins: bool,
    /// Headers that requests from outside may not carry.
    pub(crate) internal_only_headers: Vec<HeaderName>,
    pub(crate) mirrors: Vec<MirrorPolicy>,
    pub(crate) overrides: Overrides,
}

#[derive(Debug, Clone)]
pub struct VirtualHost {
    pub name: Arc<str>,
    pub domains: Vec<Box<str>>,
    pub routes: Vec<Route>,
    pub(crate) require_tls: RequireTls,
    pub(crate) mutations: HeaderMutations,
    pub(crate) attempt_count: bool,
    /// Whether the response tells the client how many tries it took.
    pub attempt_count_in_response: bool,
    pub(crate) rate_limits: RateLimits,
    pub(crate) overrides: Overrides,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum RequireTls {
    #[default]
    None,
    External,
    All,
}

#[derive(Debug, Clone)]
pub struct Route {
    pub name: Arc<str>,
    pub matches: RouteMatch,
    pub action: Action,
    /// The span's name: Istio's `host:port/path`.
    pub operation: Option<Arc<str>>,
    /// The resource that configured it.
    pub config: Arc<str>,
    pub(crate) mutations: HeaderMutations,
    pub(crate) overrides: Overrides,
    pub(crate) tracing: Option<crate::hcm::Sampling>,
}

impl RouteTable {
    /// The virtual host of a request.
    pub fn virtual_host<R: Recorder>(
        &self,
        request: &Request,
        recorder: &mut R,
    ) -> Option<&Arc<VirtualHost>> {
        let by_header = self.host_header.as_ref().and_then(|h| request.value(h));
        let host = match &by_header {
            Some(value) => std::str::from_utf8(value).unwrap_or_default(),
            None => &request.authority,
        };
        let found = self.hosts.find(host, self.ignore_port);
        recorder.note(|| match found {
            Some(index) => {
                let found = &self.virtual_hosts[index];
                let domain = host::HostIndex::domain_of(host, self.ignore_port, &found.domains);
                let reason =
                    format!("host {host:?} matches the domain {domain:?} of route table {:?}", self.name);
                Note::new("virtual host", &*found.name, reason)
            }
            None => {
                Note::new("virtual host", host, format!("no domain of route table {:?} matches", self.name))
            }
        });
        found.map(|index| &self.virtual_hosts[index])
    }
}

impl VirtualHost {
    /// The first route that matches.
    pub(crate) fn route<R: Recorder>(
        &self,
        subject: &mut MatchSubject<'_>,
        recorder: &mut R,
    ) -> Option<usize> {
        let table = subject.ignore_path_parameters;
        self.routes.iter().enumerate().position(|(index, route)| {
            let verdict = route.matches.check(subject, table, recorder);
            recorder.note(|| {
                let name = if route.name.is_empty() {
                    format!("#{index}")
                } else {
                    format!("{} (#{index})", route.name)
                };
                let reason = match &verdict {
                    Ok(()) => format!("matches: {}", route.matches.describe()),
                    Err(miss) => format!("does not match: {miss}"),
                };
                Note::new("route", name, reason)
            });
            verdict.is_ok()
        })
    }
}
