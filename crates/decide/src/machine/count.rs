//! What filters count, by Envoy's names.

use std::sync::Arc;

use super::{Context, State};
use crate::request::Request;

/// A counter that a filter moves by one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Count {
    pub scope: CountScope,
    /// The connection manager's prefix, or the cluster's name.
    pub owner: Arc<str>,
    /// Below the owner: `ext_authz.ok`.
    pub stat: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CountScope {
    /// `http.OWNER.STAT`
    Http,
    /// `cluster.OWNER.STAT`
    Cluster,
    /// `OWNER.STAT`: requests that are limited by their rate.
    Requests,
    /// `local_rate_limit.OWNER.STAT`: connections that are.
    Connections,
    /// `ext_authz.OWNER.STAT`: connections that somebody else is asked about.
    Authz,
    /// `access_logs.STAT`: records that collectors are sent.
    Logs,
}

impl State {
    pub(super) fn count(&mut self, cx: &Context<'_>, stat: &Arc<str>) {
        let owner = Arc::clone(&cx.hcm.stat_prefix);
        self.counts.push(Count { scope: CountScope::Http, owner, stat: Arc::clone(stat) });
    }

    /// Of the cluster that the route leads to.
    pub(super) fn count_cluster(&mut self, cx: &Context<'_>, request: &Request, stat: &Arc<str>) {
        if let Some(cluster) = self.cluster(cx, request) {
            let owner = Arc::clone(&cluster.stat_name);
            self.counts.push(Count { scope: CountScope::Cluster, owner, stat: Arc::clone(stat) });
        }
    }

    pub(super) fn count_with_cluster(&mut self, cx: &Context<'_>, request: &Request, stat: &Arc<str>) {
        self.count(cx, stat);
        self.count_cluster(cx, request, stat);
    }
}
