//! Distributions by seeded simulation, against what each balancer promises.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use base::{Locality, Random, SeededRandom};

use crate::*;

fn endpoint(port: u16, weight: u32) -> Endpoint {
    let mut endpoint = Endpoint::new(Address::parse("10.0.0.1", port));
    endpoint.weight = weight;
    endpoint
}

fn group(priority: u32, weight: u32, zone: &str, endpoints: Vec<Endpoint>) -> LocalityGroup {
    let locality = Arc::new(Locality { zone: zone.into(), ..Locality::default() });
    LocalityGroup { locality, priority, weight, endpoints: endpoints.into_iter().map(Arc::new).collect() }
}

/// When every test begins.
fn start() -> Instant {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    *START
}

fn settings(kind: LbKind) -> ClusterSettings {
    ClusterSettings { lb: LbPolicy { kind, ..LbPolicy::default() }, ..ClusterSettings::default() }
}

fn balancer(
    assignment: &Assignment,
    settings: &ClusterSettings,
    rng: &mut SeededRandom,
) -> (ClusterState, Balancer) {
    let state = ClusterState::new(settings, start());
    let set = state.update(assignment, settings, start());
    (state, Balancer::new(set, rng))
}

/// How many of `picks` went to each port.
fn count(
    balancer: &mut Balancer,
    picks: usize,
    rng: &mut SeededRandom,
    hash: impl Fn(usize) -> Option<u64>,
) -> HashMap<u16, usize> {
    let mut counts = HashMap::new();
    for i in 0..picks {
        let host = balancer.pick(&Pick { hash: hash(i), ..Pick::default() }, rng).unwrap();
        *counts.entry(host.address().port().unwrap()).or_insert(0) += 1;
    }
    counts
}

#[track_caller]
fn about(counts: &HashMap<u16, usize>, port: u16, expected: usize, tolerance: usize) {
    let found = counts.get(&port).copied().unwrap_or(0);
    assert!(
        found.abs_diff(expected) <= tolerance,
        "{port}: {found}, expected {expected} ± {tolerance}: {counts:?}"
    );
}

const EACH: [LbKind; 5] = [
    LbKind::RoundRobin,
    LbKind::LeastRequest { choices: 2 },
    LbKind::Random,
    LbKind::RingHash(RingHashConfig { minimum_size: 1024, maximum_size: 8 << 20, key: HashKey::Address }),
    LbKind::Maglev(MaglevConfig { table_size: 65537, key: HashKey::Address }),
];

#[test]
fn equal_hosts_get_equal_shares() {
    for kind in EACH {
        let mut rng = SeededRandom::new(7);
        let assignment = Assignment::of((1..=4).map(|p| endpoint(p, 1)).collect());
        let (_state, mut balancer) = balancer(&assignment, &settings(kind), &mut rng);
        let counts = count(&mut balancer, 10_000, &mut rng, |i| Some(xxh64(&i.to_le_bytes(), 0)));
        let tolerance = match kind {
            LbKind::RoundRobin => 1,
            LbKind::RingHash(_) => 600,
            _ => 200,
        };
        for port in 1..=4 {
            about(&counts, port, 2500, tolerance);
        }
    }
}

#[test]
fn weights_are_honoured_where_envoy_honours_them() {
    for kind in EACH.into_iter().filter(|k| !matches!(k, LbKind::Random)) {
        let mut rng = SeededRandom::new(7);
        let assignment = Assignment::of(vec![endpoint(1, 1), endpoint(2, 3)]);
        let (_state, mut balancer) = balancer(&assignment, &settings(kind), &mut rng);
        let counts = count(&mut balancer, 10_000, &mut rng, |i| Some(xxh64(&i.to_le_bytes(), 0)));
        about(&counts, 1, 2500, if matches!(kind, LbKind::RingHash(_)) { 500 } else { 150 });
    }
}

#[test]
fn the_less_loaded_host_is_taken() {
    let mut rng = SeededRandom::new(7);
    let assignment = Assignment::of(vec![endpoint(1, 1), endpoint(2, 1)]);
    let (state, mut balancer) =
        balancer(&assignment, &settings(LbKind::LeastRequest { choices: 2 }), &mut rng);
    let busy = state.endpoints().hosts().find(|h| h.address().port() == Some(1)).unwrap().clone();
    let _requests: Vec<_> = (0..5).map(|_| busy.start_request()).collect();
    let counts = count(&mut balancer, 1000, &mut rng, |_| None);
    // Both choices are the busy one in a quarter of the draws.
    about(&counts, 1, 250, 60);
}

#[test]
fn a_hash_stays_with_its_host_and_leaves_only_when_the_host_does() {
    for kind in &EACH[3..] {
        let mut rng = SeededRandom::new(7);
        let hosts =
            |ports: std::ops::RangeInclusive<u16>| Assignment::of(ports.map(|p| endpoint(p, 1)).collect());
        let (state, mut balancer) = balancer(&hosts(1..=10), &settings(*kind), &mut rng);
        let host_of = |balancer: &mut Balancer, hash, rng: &mut SeededRandom| {
            balancer
                .pick(&Pick { hash: Some(hash), ..Pick::default() }, rng)
                .unwrap()
                .address()
                .port()
                .unwrap()
        };
        let hashes: Vec<u64> = (0..2000u64).map(|i| xxh64(&i.to_le_bytes(), 0)).collect();
        let before: Vec<_> = hashes.iter().map(|h| host_of(&mut balancer, *h, &mut rng)).collect();
        balancer.replace(state.update(&hosts(1..=9), &settings(*kind), start()), &mut rng);
        let moved = hashes
            .iter()
            .zip(&before)
            .filter(|(hash, old)| **old != 10 && host_of(&mut balancer, **hash, &mut rng) != **old)
            .count();
        assert!(moved < 200, "{kind:?}: {moved} of 2000 moved though their host stayed");
    }
}

#[test]
fn traffic_goes_to_the_next_priority_as_far_as_health_is_missing() {
    let mut rng = SeededRandom::new(7);
    let sick = |port| Endpoint { health: Health::Unhealthy, ..endpoint(port, 1) };
    for (healthy, in_first) in [(10, 10_000), (8, 10_000), (5, 7000), (1, 1400), (0, 0)] {
        let first = (1..=10).map(|p| if p <= healthy { endpoint(p, 1) } else { sick(p) }).collect();
        let second = (11..=20).map(|p| endpoint(p, 1)).collect();
        let groups = vec![group(0, 1, "a", first), group(1, 1, "b", second)];
        let assignment = Assignment { groups, ..Assignment::default() };
        let (_state, mut balancer) = balancer(&assignment, &settings(LbKind::RoundRobin), &mut rng);
        let counts = count(&mut balancer, 10_000, &mut rng, |_| None);
        let found: usize = (1..=10).map(|p| counts.get(&p).copied().unwrap_or(0)).sum();
        assert!(found.abs_diff(in_first) < 200, "{healthy} healthy: {found} in the first priority");
        let dead: usize = (healthy + 1..=10).map(|p| counts.get(&p).copied().unwrap_or(0)).sum();
        assert_eq!(dead, 0, "{healthy} healthy");
    }
}

#[test]
fn when_too_few_are_healthy_health_is_ignored_unless_that_is_off() {
    let mut rng = SeededRandom::new(7);
    let sick = |port| Endpoint { health: Health::Unhealthy, ..endpoint(port, 1) };
    let assignment = Assignment::of(vec![endpoint(1, 1), sick(2), sick(3), sick(4)]);
    let mut settings = settings(LbKind::RoundRobin);
    let (state, mut balancer) = balancer(&assignment, &settings, &mut rng);
    about(&count(&mut balancer, 1000, &mut rng, |_| None), 2, 250, 2);
    settings.lb.panic_threshold = 0.0;
    balancer.replace(state.update(&assignment, &settings, start()), &mut rng);
    about(&count(&mut balancer, 1000, &mut rng, |_| None), 1, 1000, 0);
    let nobody = Assignment::of(vec![sick(1)]);
    balancer.replace(state.update(&nobody, &settings, start()), &mut rng);
    assert!(balancer.pick(&Pick::default(), &mut rng).is_none());
    balancer.replace(state.update(&Assignment::default(), &settings, start()), &mut rng);
    assert!(balancer.pick(&Pick::default(), &mut rng).is_none());
}

#[test]
fn localities_get_their_weight_until_their_hosts_fail() {
    let mut rng = SeededRandom::new(7);
    let mut settings = settings(LbKind::RoundRobin);
    settings.lb.locality = LocalityLb::Weighted;
    let groups = |far| vec![group(0, 80, "near", vec![endpoint(1, 1)]), group(0, 20, "far", far)];
    let assignment =
        Assignment { groups: groups(vec![endpoint(2, 1), endpoint(3, 1)]), ..Assignment::default() };
    let (_state, mut balancer) = balancer(&assignment, &settings, &mut rng);
    let counts = count(&mut balancer, 10_000, &mut rng, |_| None);
    about(&counts, 1, 8000, 20);
    about(&counts, 2, 1000, 20);
}

#[test]
fn retries_go_to_other_hosts_first() {
    let mut rng = SeededRandom::new(7);
    let assignment = Assignment::of((1..=3).map(|p| endpoint(p, 1)).collect());
    let (state, mut balancer) = balancer(&assignment, &settings(LbKind::RoundRobin), &mut rng);
    for tried in state.endpoints().hosts() {
        for _ in 0..20 {
            let avoid = std::slice::from_ref(tried);
            let host = balancer.pick(&Pick { avoid, attempts: 5, ..Pick::default() }, &mut rng).unwrap();
            assert_ne!(host, *tried);
        }
    }
    let all: Vec<_> = state.endpoints().hosts().cloned().collect();
    assert!(
        balancer.pick(&Pick { avoid: &all, attempts: 5, ..Pick::default() }, &mut rng).is_some(),
        "at last any will do"
    );
}

#[test]
fn a_host_that_was_not_tried_is_found_although_it_is_busy() {
    let mut rng = SeededRandom::new(7);
    let assignment = Assignment::of((1..=2).map(|p| endpoint(p, 1)).collect());
    let settings = settings(LbKind::LeastRequest { choices: 2 });
    let (state, mut balancer) = balancer(&assignment, &settings, &mut rng);
    let hosts: Vec<_> = state.endpoints().hosts().cloned().collect();
    let _busy = (hosts[1].start_request(), hosts[1].start_request());
    for _ in 0..1000 {
        let host = balancer.pick(&Pick { avoid: &hosts[..1], attempts: 5, ..Pick::default() }, &mut rng);
        assert_eq!(host.as_ref(), Some(&hosts[1]));
    }
}

#[test]
fn an_ejected_host_gets_nothing_and_comes_back() {
    let mut rng = SeededRandom::new(7);
    let mut settings = settings(LbKind::RoundRobin);
    let outlier = OutlierConfig { consecutive_5xx: 2, max_ejection_percent: 100, ..OutlierConfig::default() };
    settings.outlier = Some(Arc::new(outlier));
    let assignment = Assignment::of((1..=3).map(|p| endpoint(p, 1)).collect());
    let (state, mut balancer) = balancer(&assignment, &settings, &mut rng);
    let sick = state.endpoints().hosts().next().unwrap().clone();
    let now = Instant::now();
    assert!(balancer.record(&sick, Outcome::Status(500), now, &mut rng).is_none());
    assert!(balancer.record(&sick, Outcome::Status(500), now, &mut rng).is_some());
    assert_eq!(count(&mut balancer, 300, &mut rng, |_| None).get(&1), None);
    // A new configuration does not let it back.
    balancer.replace(state.update(&assignment, &settings, start()), &mut rng);
    assert_eq!(count(&mut balancer, 300, &mut rng, |_| None).get(&1), None);
    assert_eq!(state.tick(now + Duration::from_secs(31), &mut rng).len(), 1);
    about(&count(&mut balancer, 300, &mut rng, |_| None), 1, 100, 1);
}

proptest::proptest! {
    #[test]
    fn whatever_the_hosts_are_a_pick_is_one_that_may_be_used(
        healths in proptest::collection::vec((0u8..4, 1u32..5, 0u32..3, 0u32..3), 0..12), seed: u64, kind in 0usize..5
    ) {
        let mut rng = SeededRandom::new(seed);
        let groups = healths
            .iter()
            .zip(1u16..)
            .map(|((health, weight, priority, locality), port)| {
                let health = [Health::Healthy, Health::Degraded, Health::Unhealthy, Health::Draining][*health as usize];
                group(*priority, *locality, "z", vec![Endpoint { health, ..endpoint(port, *weight) }])
            })
            .collect();
        let assignment = Assignment { groups, ..Assignment::default() };
        let mut settings = settings(EACH[kind]);
        settings.lb.panic_threshold = 0.0;
        let (state, mut balancer) = balancer(&assignment, &settings, &mut rng);
        let usable = state.endpoints().hosts().any(Host::is_available);
        for _ in 0..20 {
            let hash = Some(rng.next_u64());
            let host = balancer.pick(&Pick { hash, ..Pick::default() }, &mut rng);
            proptest::prop_assert!(host.as_ref().is_none_or(Host::is_available));
            proptest::prop_assert_eq!(host.is_some(), usable);
        }
    }
}

#[test]
fn a_new_host_takes_its_share_bit_by_bit() {
    let window = Duration::from_secs(100);
    let hosts =
        |ports: std::ops::RangeInclusive<u16>| Assignment::of(ports.map(|p| endpoint(p, 1)).collect());
    for kind in [LbKind::RoundRobin, LbKind::LeastRequest { choices: 2 }] {
        let mut settings = settings(kind);
        settings.lb.slow_start = Some(SlowStart { window, aggression: 1.0, min_percent: 10.0 });
        let mut rng = SeededRandom::new(5);
        let (state, mut balancer) = balancer(&hosts(1..=2), &settings, &mut rng);
        let later = start() + Duration::from_secs(1000);
        balancer.replace(state.update(&hosts(1..=3), &settings, later), &mut rng);
        for (age, share) in [(0, 0.1 / 2.1), (50, 0.5 / 2.5), (100, 1.0 / 3.0)] {
            let now = Some(later + Duration::from_secs(age));
            let mut taken = 0;
            for _ in 0..20_000 {
                let host = balancer.pick(&Pick { now, ..Pick::default() }, &mut rng).unwrap();
                taken += usize::from(host.address().port() == Some(3));
            }
            let found = taken as f64 / 20_000.0;
            assert!((found - share).abs() < 0.02, "{kind:?} at {age} s: {found}, expected {share}");
        }
    }
}

/// Requests that come one a millisecond, each answered after what its host takes: how many went to each host from some
/// moment to another.
struct Simulation {
    balancer: Balancer,
    rng: SeededRandom,
    /// When each ends, to which host it went, and how long it took.
    running: Vec<(u64, Host, u64, ActiveRequest)>,
    now: u64,
}

impl Simulation {
    fn run(&mut self, until: u64, takes: impl Fn(u16) -> u64) -> HashMap<u16, usize> {
        let mut counts = HashMap::new();
        while self.now < until {
            let at = start() + Duration::from_millis(self.now);
            let (over, running) =
                std::mem::take(&mut self.running).into_iter().partition(|r| r.0 <= self.now);
            self.running = running;
            let over: Vec<_> = over;
            for (_, host, took, _active) in over {
                self.balancer.set().observe_latency(&host, Duration::from_millis(took), at);
            }
            let pick = Pick { now: Some(at), ..Pick::default() };
            let host = self.balancer.pick(&pick, &mut self.rng).unwrap();
            let port = host.address().port().unwrap();
            *counts.entry(port).or_insert(0) += 1;
            let active = host.start_request();
            let took = takes(port);
            self.running.push((self.now + took, host, took, active));
            self.now += 1;
        }
        counts
    }
}

#[test]
fn peak_ewma_keeps_away_from_hosts_that_are_slow_and_comes_back() {
    let config = PeakEwma { decay: Duration::from_secs(2), ..PeakEwma::default() };
    let assignment = Assignment::of((1..=4).map(|p| endpoint(p, 1)).collect());
    let mut rng = SeededRandom::new(7);
    let (_state, balancer) = balancer(&assignment, &settings(LbKind::PeakEwma(config)), &mut rng);
    let mut simulation = Simulation { balancer, rng, running: Vec::new(), now: 0 };
    let alike = simulation.run(5000, |_| 5);
    (1..=4).for_each(|port| about(&alike, port, 1250, 250));
    // One becomes slow: what it had is lost to it at once.
    let slow = simulation.run(10_000, |port| if port == 1 { 400 } else { 5 });
    assert!(slow.get(&1).is_none_or(|n| *n < 120), "{slow:?}");
    // It is well again, and is found out to be.
    simulation.run(25_000, |_| 5);
    let again = simulation.run(35_000, |_| 5);
    about(&again, 1, 2500, 700);
    // Three of four are slow: the one that is left takes what it can before it costs as much.
    let one = simulation.run(45_000, |port| if port == 2 { 5 } else { 200 });
    assert!(one[&2] > 4500, "{one:?}");
}

#[test]
fn peak_ewma_does_not_wait_in_line_behind_hosts_that_never_answer() {
    let assignment = Assignment::of((1..=3).map(|p| endpoint(p, 1)).collect());
    let mut rng = SeededRandom::new(7);
    let kind = LbKind::PeakEwma(PeakEwma::default());
    let (_state, balancer) = balancer(&assignment, &settings(kind), &mut rng);
    let mut simulation = Simulation { balancer, rng, running: Vec::new(), now: 0 };
    let counts = simulation.run(10_000, |port| if port == 3 { 1_000_000 } else { 20 });
    assert!(counts.get(&3).is_none_or(|n| *n < 20), "{counts:?}");
    about(&counts, 1, 5000, 500);
}
