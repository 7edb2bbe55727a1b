//! Who splits traces: workloads that call others without their caller's trace headers. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::exposition;
use crate::traffic::{Workload, grown};

/// Calls that a workload made while it was asked itself: with its caller's trace headers, and without.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Contexts {
    kept: f64,
    lost: f64,
}

/// Those of all workloads at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Traces(BTreeMap<Workload, Contexts>);

/// A workload that does not hand trace headers on, so that what it calls looks like a trace of its own.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Splitter {
    #[serde(flatten)]
    pub workload: Workload,
    /// Calls without the headers.
    pub lost: f64,
    /// Of a hundred calls, how many were without.
    pub lost_percent: f64,
}

/// Fewer than this of a hundred calls may belong to no request: a service has work of its own.
const OWN_WORK_PERCENT: f64 = 10.0;

impl Traces {
    /// Adds what one proxy exposes.
    pub(crate) fn add(&mut self, text: &str) {
        for sample in exposition::samples(text, "mizzen_trace_contexts_total") {
            let label = |name: &str| sample.label(name).to_owned();
            let (name, namespace) = (label("workload"), label("workload_namespace"));
            let own = Workload { name, namespace, app: label("app"), version: label("version") };
            let contexts = self.0.entry(own).or_default();
            match sample.label("context") {
                "kept" => contexts.kept += sample.value,
                "lost" => contexts.lost += sample.value,
                _ => {}
            }
        }
    }

    /// What one proxy counted since an earlier moment of its own.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let of = |(workload, now): (&Workload, &Contexts)| {
            let before = earlier.0.get(workload).copied().unwrap_or_default();
            let grown = Contexts { kept: grown(now.kept, before.kept), lost: grown(now.lost, before.lost) };
            (workload.clone(), grown)
        };
        Self(self.0.iter().map(of).collect())
    }

    /// Adds what another proxy counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (workload, more) in &other.0 {
            let sum = self.0.entry(workload.clone()).or_default();
            sum.kept += more.kept;
            sum.lost += more.lost;
        }
    }

    /// Who made more calls without headers than work of its own explains.
    pub(crate) fn splitters(&self) -> Vec<Splitter> {
        let of = |(workload, Contexts { kept, lost }): (&Workload, &Contexts)| {
            let lost_percent = 100.0 * lost / (kept + lost).max(1.0);
            let splits = lost_percent >= OWN_WORK_PERCENT;
            splits.then(|| Splitter { workload: workload.clone(), lost: *lost, lost_percent })
        };
        self.0.iter().filter_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(counts: &[(&str, &str, u32)]) -> Traces {
        let mut traces = Traces::default();
        for (workload, context, n) in counts {
            traces.add(&format!(
                "mizzen_trace_contexts_total{{workload=\"{workload}\",workload_namespace=\"default\",\
                 app=\"a\",version=\"v1\",context=\"{context}\"}} {n}\n"
            ));
        }
        traces
    }

    #[test]
    fn who_loses_headers_is_named_and_work_of_ones_own_is_not_held_against_anybody() {
        let before = traces(&[("careless", "lost", 100), ("careful", "kept", 10)]);
        let now = traces(&[
            ("careless", "lost", 130),
            ("careless", "kept", 10),
            ("careful", "kept", 109),
            ("careful", "lost", 1),
        ]);
        let found = now.since(&before).splitters();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].workload.name.as_str(), found[0].lost, found[0].lost_percent),
            ("careless", 30.0, 75.0)
        );
        assert!(now.since(&now).splitters().is_empty());
    }
}
