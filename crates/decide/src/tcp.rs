//! Deciding on a connection: its network filters, and where plain TCP goes.

use std::sync::Arc;

use base::Random;
use bytes::Bytes;

use crate::ask::{Answered, Call, CallFault};
use crate::cluster::Cluster;
use crate::connection::Connection;
use crate::decision::PolicyHit;
use crate::explain::{Note, Recorder};
use crate::ext_authz::{NETWORK_METADATA, NetworkAuthz, NetworkVerdict};
use crate::flags::ResponseFlags;
use crate::hcm::Hcm;
use crate::listener::{FilterChain, Terminal};
use crate::log::LogEntry;
use crate::machine::{Count, CountScope, by_weight};
use crate::metadata::DynamicMetadata;
use crate::network::{NetworkFilter, TcpProxy};
use crate::plan::Plan;
use crate::rbac;

/// Under which name network RBAC leaves what its dry runs found.
const NETWORK_RBAC: &str = "envoy.filters.network.rbac";

/// What happens to a connection.
#[derive(Debug, Clone)]
pub struct ConnectionDecision {
    pub outcome: ConnectionOutcome,
    pub policies: Vec<PolicyHit>,
    /// What dry runs of network RBAC found, for logs.
    pub metadata: DynamicMetadata,
    /// Facts for the log, by name.
    pub filter_state: Vec<(Arc<str>, String)>,
    pub flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%` where a filter ends the connection.
    pub response_details: &'static str,
    pub counts: Vec<Count>,
}

#[derive(Debug, Clone)]
pub enum ConnectionOutcome {
    Http(Arc<Hcm>),
    Tcp(TcpForward),
    /// Write and close.
    Write(Bytes),
    Echo,
    /// Somebody else is to be asked first: decide again with the answer.
    Ask(Box<Call>),
    Close {
        /// `%CONNECTION_TERMINATION_DETAILS%`.
        details: String,
    },
}

#[derive(Debug, Clone)]
pub struct TcpForward {
    pub proxy: Arc<TcpProxy>,
    pub cluster: Arc<Cluster>,
    pub hash: Option<u64>,
    /// Whom a cluster for any host is to look up, and its port.
    pub dynamic: Option<(Arc<str>, u16)>,
}

/// Judges a connection whose handshake, where there is one, is complete. Connection limits are the caller's to keep:
/// they are state. Continuous RBAC is judged anew by calling this again; who was asked at first is not asked again for it.
pub fn decide_connection<R: Random + ?Sized, E: Recorder>(
    plan: &Plan,
    chain: &FilterChain,
    connection: &Connection,
    start: std::time::SystemTime,
    rng: &mut R,
    recorder: &mut E,
) -> ConnectionDecision {
    decide_connection_with(plan, chain, connection, start, &[], rng, recorder)
}

/// The same with what came of asking, in the order in which it was asked for.
pub fn decide_connection_with<R: Random + ?Sized, E: Recorder>(
    plan: &Plan,
    chain: &FilterChain,
    connection: &Connection,
    start: std::time::SystemTime,
    answers: &[Result<Answered, CallFault>],
    rng: &mut R,
    recorder: &mut E,
) -> ConnectionDecision {
    let mut decision = ConnectionDecision {
        outcome: ConnectionOutcome::Close { details: String::new() },
        policies: Vec::new(),
        metadata: DynamicMetadata::default(),
        filter_state: Vec::new(),
        flags: ResponseFlags::NONE,
        response_details: "",
        counts: Vec::new(),
    };
    let mut answers = answers.iter();
    let (mut by_name, mut dynamic) = (None, None);
    for filter in &chain.filters {
        match filter {
            NetworkFilter::Rbac(rbac) => {
                let subject = rbac::Subject { connection, request: None, remote: connection.remote };
                let mut learned = Vec::new();
                let verdict = rbac.judge(&subject, &mut decision.policies, &mut learned, recorder);
                rbac::store(&mut decision.metadata, NETWORK_RBAC, learned);
                if !verdict.allowed {
                    let policy = verdict.policy.as_deref().unwrap_or("none").replace(' ', "_");
                    let details = format!("rbac_access_denied_matched_policy[{policy}]");
                    decision.outcome = ConnectionOutcome::Close { details };
                    return decision;
                }
            }
            NetworkFilter::Authz(authz) => {
                if !authz.is_enabled(&decision.metadata) {
                    decision.count(authz, "disabled");
                    continue;
                }
                let Some(answer) = answers.next() else {
                    recorder.note(|| Note::new("authorization", &*authz.service.cluster, "is asked"));
                    let call = authz.call(connection, &decision.metadata);
                    decision.outcome = ConnectionOutcome::Ask(Box::new(call));
                    return decision;
                };
                let verdict = authz.judge(answer);
                recorder.note(|| Note::new("authorization", &*authz.service.cluster, &*verdict.why));
                if let Some(details) = decision.heed(authz, verdict) {
                    decision.flags.insert(ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE);
                    decision.response_details = details;
                    return decision;
                }
            }
            NetworkFilter::SniDynamicForward { port } => {
                let name = &connection.server_name;
                dynamic = (!name.is_empty()).then(|| (Arc::clone(name), *port));
            }
            NetworkFilter::SniCluster => by_name = Some(&*connection.server_name),
            NetworkFilter::SetFilterState(values) => {
                let entry = LogEntry::new(connection, start);
                decision.filter_state.extend(
                    values.iter().map(|(key, format)| (Arc::clone(key), format.render_header(&entry))),
                );
            }
            NetworkFilter::MetadataExchange
            | NetworkFilter::Stats
            | NetworkFilter::ConnectionLimit { .. }
            | NetworkFilter::RateLimit(_) => {}
        }
    }
    decision.outcome = match &chain.terminal {
        Terminal::Http(hcm) => ConnectionOutcome::Http(Arc::clone(hcm)),
        Terminal::DirectResponse(bytes) => ConnectionOutcome::Write(bytes.clone()),
        Terminal::Echo => ConnectionOutcome::Echo,
        Terminal::Close => ConnectionOutcome::Close { details: String::new() },
        Terminal::Tcp(proxy) => match forward(plan, proxy, by_name, connection, rng, recorder) {
            Some(forward) => ConnectionOutcome::Tcp(TcpForward { dynamic, ..forward }),
            None => {
                decision.flags.insert(ResponseFlags::NO_CLUSTER_FOUND);
                ConnectionOutcome::Close { details: String::new() }
            }
        },
    };
    decision
}

impl ConnectionDecision {
    fn count(&mut self, authz: &NetworkAuthz, stat: &'static str) {
        let owner = Arc::clone(&authz.owner);
        self.counts.push(Count { scope: CountScope::Authz, owner, stat: stat.into() });
    }

    /// Notes what came of asking; why the connection ends, if it does.
    fn heed(&mut self, authz: &NetworkAuthz, verdict: NetworkVerdict) -> Option<&'static str> {
        self.count(authz, "total");
        self.count(authz, verdict.stat);
        if verdict.failure_allowed {
            self.count(authz, "failure_mode_allowed");
        }
        for (key, value) in verdict.metadata {
            self.metadata.set(NETWORK_METADATA, &key, value);
        }
        if verdict.refused.is_some() {
            self.count(authz, "cx_closed");
        }
        verdict.refused
    }
}

fn forward<R: Random + ?Sized, E: Recorder>(
    plan: &Plan,
    proxy: &Arc<TcpProxy>,
    by_name: Option<&str>,
    connection: &Connection,
    rng: &mut R,
    recorder: &mut E,
) -> Option<TcpForward> {
    let found = match by_name {
        Some(name) => plan.cluster_named(name),
        None => {
            let index = match proxy.clusters.len() {
                1 => 0,
                _ => by_weight(proxy.clusters.iter().map(|c| c.1), rng.below(proxy.total_weight)),
            };
            plan.cluster(proxy.clusters.get(index)?.0.id)
        }
    };
    recorder.note(|| match found {
        Some(cluster) => {
            Note::new("cluster", &*cluster.name, format!("of the TCP proxy {}", proxy.stat_prefix))
        }
        None => Note::new("cluster", by_name.unwrap_or_default(), "does not exist"),
    });
    let hash = proxy.hash.first().map(|h| h.hash(connection));
    Some(TcpForward { proxy: Arc::clone(proxy), cluster: Arc::clone(found?), hash, dynamic: None })
}
