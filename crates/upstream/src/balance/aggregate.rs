//! Clusters that stand for a list of others: the priorities of all of them are one list, in the clusters' order.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use base::Random;

use super::priority::{Counts, Loads, Place, Source};
use crate::{EndpointSet, LbPolicy};

/// One worker's view of an aggregate. What it knows of the health of the others is looked at anew when that changes.
#[derive(Debug, Default)]
pub struct AggregateBalancer {
    seen: Vec<(Arc<EndpointSet>, u64)>,
    /// Which cluster, and which of its priorities, for each of the list.
    places: Vec<(usize, usize)>,
    loads: Loads,
}

impl AggregateBalancer {
    /// Which of the clusters a request goes to, and to which of its hosts; nothing when none of them has any to use.
    pub fn choose<R: Random + ?Sized>(
        &mut self,
        sets: &[Arc<EndpointSet>],
        policy: &LbPolicy,
        rng: &mut R,
    ) -> Option<(usize, Place)> {
        let epoch = |set: &EndpointSet| set.shared.epoch.load(Relaxed);
        let known = self.seen.len() == sets.len()
            && self
                .seen
                .iter()
                .zip(sets)
                .all(|((seen, at), set)| Arc::ptr_eq(seen, set) && *at == epoch(set));
        if !known {
            self.seen = sets.iter().map(|set| (Arc::clone(set), epoch(set))).collect();
            let all = || {
                sets.iter().enumerate().flat_map(|(i, set)| set.priorities.iter().map(move |p| (i, set, p)))
            };
            self.loads = Loads::new(all().map(|(_, set, priority)| Counts::of_hosts(priority, set)), policy);
            self.places = sets
                .iter()
                .enumerate()
                .flat_map(|(i, set)| (0..set.priorities.len()).map(move |priority| (i, priority)))
                .collect();
        }
        let (index, source) = self.loads.choose(rng.next_u64())?;
        if source == Source::All && policy.fail_on_panic {
            return None;
        }
        let (cluster, priority) = *self.places.get(index)?;
        Some((cluster, Place { priority, degraded: source == Source::Degraded }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use base::SeededRandom;

    use super::*;
    use crate::{Address, Assignment, Balancer, ClusterSettings, ClusterState, Endpoint, Health, Pick};

    fn set(ports: &[(u16, Health)]) -> Arc<EndpointSet> {
        let endpoint = |(port, health): &(u16, Health)| {
            let mut endpoint = Endpoint::new(Address::parse("10.0.0.1", *port));
            endpoint.health = *health;
            endpoint
        };
        let settings = ClusterSettings::default();
        let state = ClusterState::new(&settings, Instant::now());
        state.update(&Assignment::of(ports.iter().map(endpoint).collect()), &settings, Instant::now())
    }

    /// Ports that requests go to, each with its share of 1,000.
    fn shares(sets: &[Arc<EndpointSet>], policy: &LbPolicy) -> Vec<(u16, usize)> {
        let (mut rng, mut aggregate) = (SeededRandom::new(3), AggregateBalancer::default());
        let mut balancers: Vec<_> = sets.iter().map(|s| Balancer::new(s.clone(), &mut rng)).collect();
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..1000 {
            let Some((i, place)) = aggregate.choose(sets, policy, &mut rng) else { continue };
            let pick = Pick { place: Some(place), ..Pick::default() };
            let host =
                balancers[i].pick(&pick, &mut rng).and_then(|h| h.address().port()).unwrap_or_default();
            *counts.entry(host).or_insert(0) += 1;
        }
        counts.into_iter().collect()
    }

    #[test]
    fn the_first_cluster_that_can_serve_does_and_others_take_what_it_cannot() {
        use Health::{Healthy, Unhealthy};
        let policy = LbPolicy::default();
        let first = set(&[(1, Healthy), (2, Healthy)]);
        let down = set(&[(1, Unhealthy), (2, Unhealthy)]);
        let second = set(&[(3, Healthy)]);
        assert_eq!(
            shares(&[first.clone(), second.clone()], &policy).iter().map(|s| s.0).collect::<Vec<_>>(),
            [1, 2]
        );
        assert_eq!(shares(&[down.clone(), second.clone()], &policy), [(3, 1000)]);
        let halved = set(&[(1, Healthy), (2, Unhealthy)]);
        let shares_of_halved = shares(&[halved, second], &policy);
        // 140 % of a half.
        assert!(
            shares_of_halved[0].0 == 1 && (640..760).contains(&shares_of_halved[0].1),
            "{shares_of_halved:?}"
        );
        assert_eq!(shares(&[set(&[]), first], &policy).iter().map(|s| s.0).collect::<Vec<_>>(), [1, 2]);
        assert!(!shares(std::slice::from_ref(&down), &policy).is_empty());
        let strict = LbPolicy { panic_threshold: 0.0, ..policy };
        assert!(shares(&[down], &strict).is_empty());
        assert!(shares(&[], &LbPolicy::default()).is_empty());
    }
}
