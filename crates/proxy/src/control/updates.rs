//! What became of the control plane's answers: counted under Envoy's names, and the last refusal of each resource.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use proto::{Delta, Rejection, ResourceType};
use serde_json::{Value, json};

use crate::clock::timestamp;
use crate::stats::{Kind, Sample, Snapshot};

type Key = (ResourceType, Arc<str>);

/// What of Envoy's is counted, under which names: Istio's agents and dashboards read these.
const COUNTED: [(ResourceType, &str); 2] =
    [(ResourceType::Cluster, "cluster_manager.cds"), (ResourceType::Listener, "listener_manager.lds")];

#[derive(Debug, Default)]
pub(super) struct Updates {
    /// Answers that were taken whole, and those of which something was refused.
    counts: BTreeMap<ResourceType, (i64, i64)>,
    refused: BTreeMap<Key, (String, SystemTime)>,
}

/// What an answer spoke of.
#[derive(Debug)]
pub(super) struct Answer {
    types: BTreeSet<ResourceType>,
    keys: Vec<Key>,
}

impl Answer {
    pub(super) fn of(deltas: &[Delta]) -> Self {
        let keys = deltas.iter().flat_map(|delta| {
            let changed = delta.changed.iter().map(|resource| &resource.name);
            changed.chain(&delta.removed).map(|name| (delta.resource_type, name.clone()))
        });
        Self { types: deltas.iter().map(|delta| delta.resource_type).collect(), keys: keys.collect() }
    }
}

impl Answer {
    /// Each resource that it spoke of.
    pub(super) fn keys(&self) -> &[(ResourceType, Arc<str>)] {
        &self.keys
    }
}

impl Updates {
    pub(super) fn note(&mut self, answer: Answer, rejections: &[Rejection], now: SystemTime) {
        for t in answer.types {
            let (taken, refused) = self.counts.entry(t).or_default();
            let bad = rejections.iter().any(|rejection| rejection.resource_type == t);
            *(if bad { refused } else { taken }) += 1;
        }
        for key in answer.keys {
            self.refused.remove(&key);
        }
        for rejection in rejections {
            let details = format!("{}: {}", rejection.field, rejection.reason);
            self.refused.insert((rejection.resource_type, rejection.name.clone()), (details, now));
        }
    }

    /// `failures` tells how often a source had no answer, and how often one that was refused as a whole.
    pub(super) fn count(&self, failures: impl Fn(ResourceType) -> (i64, i64), snapshot: &mut Snapshot) {
        for (t, manager) in COUNTED {
            let (taken, refused) = self.counts.get(&t).copied().unwrap_or_default();
            let (failed, whole) = failures(t);
            let refused = refused + whole;
            let both = [
                ("update_attempt", taken + refused + failed),
                ("update_failure", failed),
                ("update_success", taken),
                ("update_rejected", refused),
            ];
            for (stat, value) in both {
                snapshot.push(Sample::new(manager, "", &Arc::from(""), stat, Kind::Counter, value));
            }
        }
    }

    /// Names of that type of which the last version was refused, as `error_state` shows it.
    pub(super) fn errors(&self, t: ResourceType) -> BTreeMap<&str, Value> {
        let of = self.refused.iter().filter(|((u, _), _)| *u == t);
        of.map(|((_, name), (details, at))| {
            (&**name, json!({"details": details, "last_update_attempt": timestamp(*at)}))
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use proto::Resource;

    use super::*;

    fn answer(changed: &[&str], removed: &[&str]) -> Answer {
        let resource = |name: &&str| Resource { name: (*name).into(), version: 1, body: Vec::new().into() };
        Answer::of(&[Delta {
            resource_type: ResourceType::Listener,
            changed: changed.iter().map(resource).collect(),
            removed: removed.iter().map(|name| (*name).into()).collect(),
        }])
    }

    #[test]
    fn answers_are_counted_and_refusals_stay_until_the_resource_is_good_or_gone() {
        let mut updates = Updates::default();
        let bad = |name: &str| Rejection {
            resource_type: ResourceType::Listener,
            name: name.into(),
            field: "address".into(),
            reason: "is missing".into(),
        };
        let now = SystemTime::UNIX_EPOCH;
        updates.note(answer(&["a", "b", "c"], &[]), &[bad("a"), bad("b")], now);
        let errors = updates.errors(ResourceType::Listener);
        assert_eq!(errors.keys().copied().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(errors["a"]["details"], "address: is missing");
        updates.note(answer(&["a", "c"], &["b"]), &[], now);
        assert!(updates.errors(ResourceType::Listener).is_empty());

        let mut snapshot = Snapshot::default();
        updates.count(|_| (0, 0), &mut snapshot);
        let text = crate::stats::text(&snapshot, &Default::default());
        for line in [
            "listener_manager.lds.update_attempt: 2",
            "listener_manager.lds.update_rejected: 1",
            "listener_manager.lds.update_success: 1",
            "cluster_manager.cds.update_rejected: 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{text}");
        }
        let prometheus = crate::stats::prometheus(&snapshot);
        assert!(prometheus.contains("\nenvoy_listener_manager_lds_update_rejected{} 1\n"), "{prometheus}");
    }
}
