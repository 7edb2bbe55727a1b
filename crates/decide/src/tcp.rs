//! Deciding on a connection: its network filters, and where plain TCP goes.

use std::sync::Arc;

use base::Random;
use bytes::Bytes;

use crate::cluster::Cluster;
use crate::connection::Connection;
use crate::decision::PolicyHit;
use crate::explain::{Note, Recorder};
use crate::flags::ResponseFlags;
use crate::hcm::Hcm;
use crate::listener::{FilterChain, Terminal};
use crate::log::LogEntry;
use crate::machine::by_weight;
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
}

#[derive(Debug, Clone)]
pub enum ConnectionOutcome {
    Http(Arc<Hcm>),
    Tcp(TcpForward),
    /// Write and close.
    Write(Bytes),
    Echo,
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
}

/// Judges a connection whose handshake, where there is one, is complete. Connection limits are the caller's to keep:
/// they are state. Continuous RBAC is judged anew by calling this again.
pub fn decide_connection<R: Random + ?Sized, E: Recorder>(
    plan: &Plan,
    chain: &FilterChain,
    connection: &Connection,
    start: std::time::SystemTime,
    rng: &mut R,
    recorder: &mut E,
) -> ConnectionDecision {
    let mut decision = ConnectionDecision {
        outcome: ConnectionOutcome::Close { details: String::new() },
        policies: Vec::new(),
        metadata: DynamicMetadata::default(),
        filter_state: Vec::new(),
        flags: ResponseFlags::NONE,
    };
    let mut by_name = None;
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
            Some(forward) => ConnectionOutcome::Tcp(forward),
            None => {
                decision.flags.insert(ResponseFlags::NO_CLUSTER_FOUND);
                ConnectionOutcome::Close { details: String::new() }
            }
        },
    };
    decision
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
    Some(TcpForward { proxy: Arc::clone(proxy), cluster: Arc::clone(found?), hash })
}
