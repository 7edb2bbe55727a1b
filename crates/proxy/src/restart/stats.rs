//! Counters on their way from the process that goes to the one that comes, so that none goes backwards.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::stats::{Histogram, IstioSnapshot, Kind, RequestSeries, Snapshot, StatName, TcpSeries};

type Name = (String, String, String, String, u16);
type LabelList = Vec<(String, String)>;

/// Everything that only grows; gauges are each process's own.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Counters {
    counters: Vec<(Name, i64)>,
    histograms: Vec<(Name, Histogram)>,
    requests: Vec<(LabelList, RequestSeries)>,
    tcp: Vec<(LabelList, TcpSeries)>,
}

impl Counters {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let name = |n: &StatName| {
            (n.prefix.to_owned(), n.tag.to_owned(), n.owner.to_string(), n.stat.to_string(), n.code)
        };
        let labels = |list: &[(&'static str, String)]| {
            list.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect::<LabelList>()
        };
        let grows = |(_, (kind, _)): &(&StatName, &(Kind, i64))| *kind == Kind::Counter;
        Self {
            counters: snapshot.samples.iter().filter(grows).map(|(n, (_, v))| (name(n), *v)).collect(),
            histograms: snapshot.histograms.iter().map(|(n, h)| (name(n), h.clone())).collect(),
            requests: snapshot.istio.requests.iter().map(|(l, s)| (labels(l), s.clone())).collect(),
            tcp: snapshot.istio.tcp.iter().map(|(l, s)| (labels(l), *s)).collect(),
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let name = |(prefix, tag, owner, stat, code): &Name| StatName {
            prefix: known(prefix),
            tag: known(tag),
            owner: owner.as_str().into(),
            stat: stat.clone().into(),
            code: *code,
        };
        let labels = |list: &LabelList| {
            list.iter().map(|(k, v)| (known(k), v.clone())).collect::<Vec<(&'static str, String)>>()
        };
        Snapshot {
            samples: self.counters.iter().map(|(n, v)| (name(n), (Kind::Counter, *v))).collect(),
            histograms: self.histograms.iter().map(|(n, h)| (name(n), h.clone())).collect(),
            istio: IstioSnapshot {
                requests: self.requests.iter().map(|(l, s)| (labels(l), s.clone())).collect(),
                tcp: self.tcp.iter().map(|(l, s)| (labels(l), *s)).collect(),
                ..IstioSnapshot::default()
            },
        }
    }
}

/// Prefixes, tags and names of labels are few, and live as long as the process.
fn known(text: &str) -> &'static str {
    static ALL: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(text) = all.get(text) {
        return text;
    }
    let text: &'static str = Box::leak(text.to_owned().into_boxed_str());
    all.insert(text);
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::stats::Sample;

    #[test]
    fn what_grows_arrives_and_is_added_and_gauges_are_left() {
        let mut snapshot = Snapshot::default();
        let owner = Arc::from("a");
        snapshot.push(Sample::new(
            "cluster",
            "envoy_cluster_name",
            &owner,
            "upstream_rq_total",
            Kind::Counter,
            5,
        ));
        snapshot.push(Sample::new(
            "cluster",
            "envoy_cluster_name",
            &owner,
            "upstream_cx_active",
            Kind::Gauge,
            2,
        ));
        snapshot.push_code("cluster", "envoy_cluster_name", &owner, 200, 4);
        let mut histogram = Histogram::default();
        histogram.record(3.0);
        snapshot.push_histogram("cluster", "envoy_cluster_name", &owner, &histogram);
        let labels = vec![("reporter", "source".to_owned())];
        snapshot
            .istio
            .requests
            .insert(labels.clone(), RequestSeries { requests: 7, ..RequestSeries::default() });
        let sent = serde_json::to_vec(&Counters::of(&snapshot)).unwrap();
        let came = serde_json::from_slice::<Counters>(&sent).unwrap().snapshot();
        assert_eq!(came.histograms, snapshot.histograms);
        snapshot.merge(came);
        let text = crate::stats::text(&snapshot, &Default::default());
        for line in [
            "cluster.a.upstream_rq_total: 10",
            "cluster.a.upstream_cx_active: 2",
            "cluster.a.upstream_rq_200: 8",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert_eq!(snapshot.istio.requests[&labels].requests, 14);
    }
}
