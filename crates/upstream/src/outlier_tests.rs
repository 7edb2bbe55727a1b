use std::sync::Arc;

use base::SeededRandom;

use super::*;
use crate::{Assignment, ClusterSettings, ClusterState, Endpoint};

struct Mesh {
    state: ClusterState,
    start: Instant,
    rng: SeededRandom,
}

fn mesh(hosts: u16, config: OutlierConfig) -> Mesh {
    let start = Instant::now();
    let settings = ClusterSettings { outlier: Some(Arc::new(config)), ..ClusterSettings::default() };
    let state = ClusterState::new(&settings, start);
    let endpoints = (1..=hosts).map(|p| Endpoint::new(Address::parse("10.0.0.1", p))).collect();
    state.update(&Assignment::of(endpoints), &settings, Instant::now());
    Mesh { state, start, rng: SeededRandom::new(1) }
}

impl Mesh {
    /// `times` outcomes of a host; how many ejections they made.
    fn record(&mut self, host: usize, outcome: Outcome, times: usize, at: u64) -> usize {
        let set = self.state.endpoints();
        let host = set.hosts().nth(host).unwrap().clone();
        let now = self.start + Duration::from_secs(at);
        (0..times).filter(|_| set.record(&host, outcome, now, &mut self.rng).is_some()).count()
    }

    fn tick(&mut self, at: u64) -> usize {
        self.state.tick(self.start + Duration::from_secs(at), &mut self.rng).len()
    }
}

fn all() -> OutlierConfig {
    OutlierConfig {
        max_ejection_percent: 100,
        enforce_success_rate: 0,
        interval: Duration::from_secs(1),
        ..OutlierConfig::default()
    }
}

#[test]
fn the_seventh_error_in_a_row_ejects() {
    let mut mesh = mesh(3, OutlierConfig { consecutive_5xx: 7, ..all() });
    assert_eq!(mesh.record(0, Outcome::Status(500), 6, 0), 0);
    assert_eq!(mesh.record(0, Outcome::Status(200), 1, 0), 0, "a good answer starts the count anew");
    assert_eq!(mesh.record(0, Outcome::Status(500), 6, 0), 0);
    assert_eq!(mesh.record(0, Outcome::Status(500), 1, 0), 1);
    assert_eq!(mesh.state.ejected(), 1);
}

#[test]
fn never_more_than_the_percentage_are_out() {
    for (hosts, percent, expected) in
        [(3, 10, 0), (9, 10, 0), (10, 10, 1), (19, 10, 1), (20, 10, 2), (3, 50, 1), (4, 50, 2), (3, 100, 3)]
    {
        let mut mesh = mesh(hosts, OutlierConfig { max_ejection_percent: percent, ..all() });
        let out: usize = (0..usize::from(hosts)).map(|h| mesh.record(h, Outcome::Status(503), 5, 0)).sum();
        assert_eq!(out, expected, "{hosts} hosts, {percent} %");
    }
    let mut mesh = mesh(3, OutlierConfig { max_ejection_percent: 10, always_eject_one: true, ..all() });
    let out: usize = (0..3).map(|h| mesh.record(h, Outcome::Status(503), 5, 0)).sum();
    assert_eq!(out, 1, "alwaysEjectOneHost");
}

#[test]
fn each_ejection_lasts_longer_until_the_host_behaves() {
    let mut mesh = mesh(2, all());
    mesh.record(0, Outcome::Status(500), 5, 0);
    assert_eq!(mesh.tick(29), 0);
    assert_eq!(mesh.tick(30), 1);
    mesh.record(0, Outcome::Status(500), 5, 31);
    assert_eq!(mesh.tick(90), 0);
    assert_eq!(mesh.tick(91), 1, "twice the base time");
    mesh.tick(92);
    mesh.tick(93);
    mesh.record(0, Outcome::Status(500), 5, 100);
    assert_eq!(mesh.tick(130), 1, "two quiet intervals forgave two ejections");
}

#[test]
fn hosts_come_back_at_the_end_of_an_interval_however_often_it_is_asked() {
    let config = OutlierConfig {
        interval: Duration::from_secs(60),
        base_ejection_time: Duration::from_secs(10),
        ..all()
    };
    let mut mesh = mesh(2, config);
    mesh.record(0, Outcome::Status(500), 5, 0);
    let back: usize = (1..=53).map(|second| mesh.tick(second)).sum();
    assert_eq!(back, 0, "the time is over, the interval is not");
    assert_eq!(mesh.tick(60), 1);
}

#[test]
fn the_ejection_time_is_capped() {
    let config = OutlierConfig { base_ejection_time: Duration::from_secs(200), ..all() };
    let mut mesh = mesh(2, config);
    mesh.record(0, Outcome::Status(500), 5, 0);
    assert_eq!(mesh.tick(200), 1);
    mesh.record(0, Outcome::Status(500), 5, 200);
    assert_eq!(mesh.tick(499), 0);
    assert_eq!(mesh.tick(500), 1, "300 s at most, not 400");
}

#[test]
fn gateway_errors_and_local_ones_are_told_apart_when_asked() {
    let gateway = OutlierConfig { enforce_5xx: 0, enforce_gateway: 100, consecutive_gateway: 3, ..all() };
    let mut mesh_of_gateways = mesh(2, gateway);
    assert_eq!(mesh_of_gateways.record(0, Outcome::Status(500), 10, 0), 0);
    assert_eq!(mesh_of_gateways.record(0, Outcome::Status(502), 3, 0), 1);
    assert_eq!(
        mesh_of_gateways.record(1, Outcome::ConnectFailed, 3, 0),
        1,
        "a failed connection counts as 503"
    );
    let split = OutlierConfig { split_local_origin: true, consecutive_local: 2, ..all() };
    let mut mesh_of_local = mesh(2, split);
    assert_eq!(mesh_of_local.record(0, Outcome::Status(503), 4, 0), 0);
    assert_eq!(mesh_of_local.record(0, Outcome::Reset, 2, 0), 1);
}

#[test]
fn a_host_far_below_the_others_is_ejected_by_rate() {
    let config = OutlierConfig { enforce_success_rate: 100, consecutive_5xx: 1000, ..all() };
    let mut mesh = mesh(6, config);
    for host in 0..6 {
        mesh.record(host, Outcome::Status(200), if host == 0 { 50 } else { 100 }, 0);
        mesh.record(host, Outcome::Status(500), if host == 0 { 50 } else { 1 }, 0);
    }
    assert_eq!(mesh.tick(10), 1);
    assert!(mesh.state.endpoints().hosts().next().unwrap().is_ejected());
    assert_eq!(mesh.tick(20), 0, "counts start anew each interval");
}

#[test]
fn threads_together_eject_no_more_than_allowed() {
    for seed in 0..20 {
        let config = OutlierConfig { consecutive_5xx: 1, max_ejection_percent: 30, ..all() };
        let mesh = mesh(10, config);
        let set = mesh.state.endpoints();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let set = &set;
                scope.spawn(move || {
                    let mut rng = SeededRandom::new(seed * 4 + thread);
                    for host in set.hosts() {
                        set.record(host, Outcome::Status(500), mesh.start, &mut rng);
                    }
                });
            }
        });
        assert_eq!(mesh.state.ejected(), 3);
        assert_eq!(set.hosts().filter(|h| h.is_ejected()).count(), 3);
    }
}

#[test]
fn hosts_that_leave_take_their_ejection_with_them() {
    let mut mesh = mesh(4, all());
    mesh.record(0, Outcome::Status(500), 5, 0);
    let settings = ClusterSettings { outlier: Some(Arc::new(all())), ..ClusterSettings::default() };
    let rest = (2..=4).map(|p| Endpoint::new(Address::parse("10.0.0.1", p))).collect();
    mesh.state.update(&Assignment::of(rest), &settings, Instant::now());
    assert_eq!(mesh.state.ejected(), 0);
    mesh.record(0, Outcome::Status(500), 5, 0);
    let off = ClusterSettings::default();
    let rest = (2..=4).map(|p| Endpoint::new(Address::parse("10.0.0.1", p))).collect();
    assert!(
        mesh.state.update(&Assignment::of(rest), &off, Instant::now()).hosts().all(|h| !h.is_ejected()),
        "turned off lets all back"
    );
}
