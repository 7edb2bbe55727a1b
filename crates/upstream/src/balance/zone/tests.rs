//! That zones keep requests near without making anybody busier than others.

use std::collections::HashMap;
use std::time::Instant;

use base::SeededRandom;
use proptest::prelude::*;

use super::*;
use crate::{
    Address, Assignment, Balancer, ClusterSettings, ClusterState, Endpoint, LbKind, LbPolicy, LocalityGroup,
    LocalityLb, Pick,
};

fn locality(zone: usize) -> Locality {
    Locality { zone: zone.to_string(), ..Locality::default() }
}

/// So many endpoints in each zone, of which so many are healthy; a zone's ports begin at its thousand.
fn assignment(zones: &[(usize, usize)]) -> Assignment {
    let group = |(zone, (healthy, all)): (usize, &(usize, usize))| LocalityGroup {
        locality: Arc::new(locality(zone)),
        priority: 0,
        weight: 0,
        endpoints: (0..*all)
            .map(|i| {
                let mut endpoint = Endpoint::new(Address::parse("10.0.0.1", (1000 * (zone + 1) + i) as u16));
                endpoint.health = if i < *healthy { Health::Healthy } else { Health::Unhealthy };
                Arc::new(endpoint)
            })
            .collect(),
    };
    Assignment { groups: zones.iter().enumerate().map(group).collect(), ..Assignment::default() }
}

fn set(zones: &[(usize, usize)], policy: LbPolicy) -> Arc<EndpointSet> {
    let settings = ClusterSettings { lb: policy, ..ClusterSettings::default() };
    ClusterState::new(&settings, Instant::now()).update(&assignment(zones), &settings, Instant::now())
}

fn policy(kind: LbKind, zones: ZoneAware) -> LbPolicy {
    LbPolicy { kind, locality: LocalityLb::ZoneAware(zones), ..LbPolicy::default() }
}

const SMALL: ZoneAware = ZoneAware { enabled: 100, min_cluster_size: 1, force_at: None, by_weight: false };
const KINDS: [LbKind; 3] = [LbKind::RoundRobin, LbKind::LeastRequest { choices: 2 }, LbKind::Random];

/// How many of so many picks of a caller in a zone go to each zone, and what was counted.
fn picks(
    theirs: &Arc<EndpointSet>,
    callers: &Arc<EndpointSet>,
    from: usize,
    picks: usize,
) -> (HashMap<usize, usize>, LbCounts) {
    let mut rng = SeededRandom::new(11);
    let mut balancer = Balancer::new(Arc::clone(theirs), &mut rng);
    let at = locality(from);
    let mut zones = HashMap::new();
    for _ in 0..picks {
        let home = Some(Home { locality: &at, cluster: callers });
        let Some(host) = balancer.pick(&Pick { home, ..Pick::default() }, &mut rng) else { continue };
        assert_eq!(host.health(), Health::Healthy);
        let zone = usize::from(host.address().port().unwrap()) / 1000 - 1;
        *zones.entry(zone).or_insert(0) += 1;
    }
    (zones, balancer.take_counts().unwrap_or_default())
}

fn shares_of(zones: &[usize]) -> Vec<f64> {
    let total: usize = zones.iter().sum();
    zones.iter().map(|n| *n as f64 / total.max(1) as f64).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_can_stay_stays_and_no_zone_gets_more_than_its_share(
        theirs in proptest::collection::vec((0usize..6, 0usize..2), 2..5),
        callers in proptest::collection::vec(1usize..6, 2..5),
        kind in 0usize..3,
    ) {
        const PICKS: usize = 4000;
        let zones: Vec<(usize, usize)> = theirs.iter().map(|(healthy, ill)| (*healthy, healthy + ill)).collect();
        let healthy: Vec<usize> = zones.iter().map(|z| z.0).collect();
        // Panic is another matter.
        prop_assume!(healthy.iter().sum::<usize>() * 2 > zones.iter().map(|z| z.1).sum());
        prop_assume!(zones.iter().filter(|z| z.1 > 0).count() > 1);
        let theirs = set(&zones, policy(KINDS[kind], SMALL));
        let homes: Vec<(usize, usize)> = callers.iter().map(|n| (*n, *n)).collect();
        let homes = set(&homes, LbPolicy::default());
        let (capacity, demand) = (shares_of(&healthy), shares_of(&callers));
        let mut given = vec![0.0; zones.len()];
        for (from, share) in demand.iter().enumerate() {
            let (found, counts) = picks(&theirs, &homes, from, PICKS);
            let stayed = *found.get(&from).unwrap_or(&0) as f64 / PICKS as f64;
            let ours = capacity.get(from).copied().unwrap_or(0.0);
            let expected = (ours / share).min(1.0);
            prop_assert!((stayed - expected).abs() < 0.04, "{stayed} of {expected} stay in {from}: {found:?}");
            if expected >= 1.0 {
                prop_assert_eq!(counts.zone_direct as usize, PICKS);
            } else {
                prop_assert_eq!((counts.zone_sampled + counts.zone_cross) as usize, PICKS);
            }
            for (zone, n) in found {
                given[zone] += share * n as f64 / PICKS as f64;
            }
        }
        // Callers where nobody can be called spread as the others leave room.
        for (zone, given) in given.iter().enumerate() {
            let most = capacity[zone] + 0.04;
            prop_assert!(*given <= most, "zone {zone} gets {given} of {most}");
        }
    }
}

#[test]
fn zones_are_not_heeded_where_that_would_not_help() {
    let two = |policy| set(&[(2, 2), (2, 2)], policy);
    let callers = set(&[(1, 1), (1, 1)], LbPolicy::default());
    let evenly = |theirs: &Arc<EndpointSet>, callers: &Arc<EndpointSet>, from| {
        let (found, counts) = picks(theirs, callers, from, 2000);
        let spread = (800..1200).contains(found.get(&0).unwrap_or(&0));
        assert_eq!(counts.zone_direct + counts.zone_sampled + counts.zone_cross > 0, !spread, "{found:?}");
        (spread, counts)
    };
    for kind in KINDS {
        let small = two(policy(kind, SMALL));
        assert!(!evenly(&small, &callers, 0).0);
        let (spread, counts) = evenly(&two(policy(kind, ZoneAware::default())), &callers, 0);
        assert!(spread && counts.zone_too_small == 1, "four are fewer than six");
        assert!(evenly(&two(policy(kind, ZoneAware { enabled: 0, ..SMALL })), &callers, 0).0);
        let elsewhere = evenly(&small, &callers, 7);
        assert!(elsewhere.0 && elsewhere.1.zone_home_not_ok == 1, "nobody of ours is where we are");
        let alone = set(&[(1, 1)], LbPolicy::default());
        assert!(evenly(&small, &alone, 0).0, "all callers are in one zone");
        let ill = set(&[(1, 4), (0, 4)], LbPolicy::default());
        let (spread, counts) = evenly(&small, &ill, 0);
        assert!(spread && counts.zone_home_not_ok == 2000, "who we are is not known well");
        let fails = LbPolicy { fail_on_panic: true, ..policy(kind, SMALL) };
        assert!(picks(&two(fails), &ill, 0, 100).0.is_empty());
    }
    let hashed = LbKind::Maglev(crate::MaglevConfig::default());
    assert!(picks(&two(policy(hashed, SMALL)), &callers, 0, 100).1.zone_recalculated == 0);
}

#[test]
fn a_zone_of_ours_may_be_forced_to_take_everything() {
    let callers = set(&[(3, 3), (1, 1)], LbPolicy::default());
    let theirs = |force_at| set(&[(2, 2), (4, 4)], policy(LbKind::Random, ZoneAware { force_at, ..SMALL }));
    let stays = |force_at| *picks(&theirs(force_at), &callers, 0, 1000).0.get(&0).unwrap_or(&0);
    assert!((380..500).contains(&stays(None)), "a third of what 0.75 send");
    assert_eq!(stays(Some(2)), 1000);
    assert!(stays(Some(3)) < 500, "two are fewer than three");
}

#[test]
fn health_and_callers_are_followed_as_they_change() {
    let settings = ClusterSettings { lb: policy(LbKind::Random, SMALL), ..ClusterSettings::default() };
    let state = ClusterState::new(&settings, Instant::now());
    let mut rng = SeededRandom::new(5);
    let theirs = state.update(&assignment(&[(2, 2), (2, 2)]), &settings, Instant::now());
    let mut balancer = Balancer::new(theirs, &mut rng);
    let at = locality(0);
    let mut stays = |balancer: &mut Balancer, callers: &Arc<EndpointSet>| {
        let home = Some(Home { locality: &at, cluster: callers });
        let pick = Pick { home, ..Pick::default() };
        (0..1000).filter(|_| balancer.pick(&pick, &mut rng).unwrap().address().port().unwrap() < 2000).count()
    };
    let evenly = set(&[(1, 1), (1, 1)], LbPolicy::default());
    assert_eq!(stays(&mut balancer, &evenly), 1000);
    let more_of_us = set(&[(3, 3), (1, 1)], LbPolicy::default());
    assert!((600..730).contains(&stays(&mut balancer, &more_of_us)));
    balancer.replace(
        state.update(&assignment(&[(1, 1), (3, 3)]), &settings, Instant::now()),
        &mut SeededRandom::new(1),
    );
    assert!((440..560).contains(&stays(&mut balancer, &evenly)));
}
