//! What was counted at one moment, of one worker or of all.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use decide::{Count, CountScope};

use super::histogram::Histogram;
use super::istio::IstioSnapshot;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Counter,
    Gauge,
}

/// One number with its name.
#[derive(Debug, Clone)]
pub struct Sample {
    pub name: StatName,
    pub kind: Kind,
    pub value: i64,
}

/// Envoy's name in parts: `cluster` `NAME` `upstream_rq_total`, or with a status code.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StatName {
    pub prefix: &'static str,
    pub tag: &'static str,
    pub owner: Arc<str>,
    pub stat: Cow<'static, str>,
    /// For `…_rq_<code>`.
    pub code: u16,
}

impl Sample {
    pub fn new(
        prefix: &'static str,
        tag: &'static str,
        owner: &Arc<str>,
        stat: &'static str,
        kind: Kind,
        value: i64,
    ) -> Self {
        let name = StatName { prefix, tag, owner: owner.clone(), stat: stat.into(), code: 0 };
        Self { name, kind, value }
    }

    /// What a filter counted.
    pub fn counted(count: &Count, n: u64) -> Self {
        let (prefix, tag) = match count.scope {
            CountScope::Http => ("http", "envoy_http_conn_manager_prefix"),
            CountScope::Cluster => ("cluster", "envoy_cluster_name"),
            CountScope::Requests => ("", "envoy_local_http_ratelimit_prefix"),
            CountScope::Logs => ("access_logs", ""),
            CountScope::Authz => ("ext_authz", "envoy_ext_authz_prefix"),
            CountScope::Connections => ("local_rate_limit", "envoy_local_network_ratelimit_prefix"),
        };
        let stat = Cow::Owned(count.stat.to_string());
        let name = StatName { prefix, tag, owner: count.owner.clone(), stat, code: 0 };
        Self { name, kind: Kind::Counter, value: n as i64 }
    }
}

#[derive(Debug, Default)]
pub struct Snapshot {
    pub samples: BTreeMap<StatName, (Kind, i64)>,
    pub histograms: BTreeMap<StatName, Histogram>,
    pub istio: IstioSnapshot,
}

impl Snapshot {
    pub fn push(&mut self, sample: Sample) {
        self.samples.entry(sample.name).or_insert((sample.kind, 0)).1 += sample.value;
    }

    pub fn push_code(
        &mut self,
        prefix: &'static str,
        tag: &'static str,
        owner: &Arc<str>,
        code: u16,
        n: u64,
    ) {
        let stat = if prefix == "cluster" { "upstream_rq" } else { "downstream_rq" };
        let name = StatName { prefix, tag, owner: owner.clone(), stat: stat.into(), code };
        self.samples.entry(name).or_insert((Kind::Counter, 0)).1 += n as i64;
    }

    pub fn push_histogram(
        &mut self,
        prefix: &'static str,
        tag: &'static str,
        owner: &Arc<str>,
        h: &Histogram,
    ) {
        let stat = if prefix == "cluster" { "upstream_rq_time" } else { "downstream_rq_time" };
        let name = StatName { prefix, tag, owner: owner.clone(), stat: stat.into(), code: 0 };
        self.histograms.entry(name).or_default().merge(h);
    }

    pub fn merge(&mut self, other: Self) {
        for (name, (kind, value)) in other.samples {
            self.samples.entry(name).or_insert((kind, 0)).1 += value;
        }
        for (name, histogram) in other.histograms {
            self.histograms.entry(name).or_default().merge(&histogram);
        }
        self.istio.merge(other.istio);
    }
}
