use std::sync::Arc;

use base::SeededRandom;
use proptest::prelude::*;

use super::*;
use crate::{
    Address, Assignment, Balancer, ClusterSettings, Endpoint, LbPolicy, Outcome, OutlierConfig, Pick,
};

const HEALTHY: CheckResult = CheckResult::Healthy { degraded: false };
const UNHEALTHY: CheckResult = CheckResult::Unhealthy { retriable: false };
const RETRIABLE: CheckResult = CheckResult::Unhealthy { retriable: true };

fn config() -> CheckConfig {
    let seconds = Duration::from_secs;
    CheckConfig {
        timeout: seconds(1),
        interval: seconds(10),
        initial_jitter: Duration::ZERO,
        interval_jitter: Duration::ZERO,
        interval_jitter_percent: 0,
        unhealthy_threshold: 2,
        healthy_threshold: 3,
        no_traffic_interval: seconds(60),
        no_traffic_healthy_interval: seconds(50),
        unhealthy_interval: seconds(20),
        unhealthy_edge_interval: seconds(5),
        healthy_edge_interval: seconds(2),
        drop_removed: false,
    }
}

#[test]
fn thresholds_and_intervals_are_envoys() {
    let (config, mut rng) = (config(), SeededRandom::new(1));
    let (mut check, mut flags) = (HostCheck::default(), FAILED);
    for (step, (result, failed, timed_out, seconds)) in [
        // The first result alone decides.
        (HEALTHY, false, false, 10),
        (CheckResult::Network, false, false, 5),
        (CheckResult::Timeout, true, true, 20),
        (CheckResult::Network, true, false, 20),
        (HEALTHY, true, false, 2),
        (HEALTHY, true, false, 2),
        (UNHEALTHY, true, false, 20),
        (HEALTHY, true, false, 2),
        (HEALTHY, true, false, 2),
        (HEALTHY, false, false, 10),
        (RETRIABLE, false, false, 5),
        (HEALTHY, false, false, 10),
        (RETRIABLE, false, false, 5),
        (RETRIABLE, true, false, 20),
        (HEALTHY, true, false, 2),
        (HEALTHY, true, false, 2),
        (HEALTHY, false, false, 10),
        (UNHEALTHY, true, false, 20),
    ]
    .into_iter()
    .enumerate()
    {
        let (after, wait) = check.conclude(&config, flags, result, true, &mut rng);
        flags = after;
        assert_eq!((flags & FAILED != 0, flags & TIMED_OUT != 0), (failed, timed_out), "step {step}");
        assert_eq!(wait, Duration::from_secs(seconds), "step {step}");
    }
}

#[test]
fn without_traffic_checks_are_slow_and_degraded_hosts_are_told_apart() {
    let (config, mut rng) = (config(), SeededRandom::new(1));
    let mut check = HostCheck::default();
    let (flags, wait) = check.conclude(&config, FAILED, CheckResult::Network, false, &mut rng);
    assert_eq!((flags, wait), (FAILED, Duration::from_secs(60)));
    let (flags, wait) = check.conclude(&config, 0, CheckResult::Healthy { degraded: true }, false, &mut rng);
    assert_eq!((flags, wait), (DEGRADED, Duration::from_secs(50)));
    assert_eq!(check.conclude(&config, flags, HEALTHY, true, &mut rng), (0, Duration::from_secs(10)));
}

proptest! {
    #[test]
    fn waits_stay_within_their_jitter_and_are_never_nothing(
        seed: u64, interval in 0u64..100_000, jitter in 0u64..10_000, percent in 0u32..200,
    ) {
        let config = CheckConfig {
            interval: Duration::from_millis(interval),
            interval_jitter: Duration::from_millis(jitter),
            interval_jitter_percent: percent,
            ..config()
        };
        let wait = config.wait(true, Change::No, true, &mut SeededRandom::new(seed)).as_millis() as u64;
        prop_assert!(wait >= interval.max(1));
        prop_assert!(wait <= 1 + interval + jitter + interval * u64::from(percent) / 100);
    }

    /// Whatever comes, a host is up only after a success, and down only after a failure.
    #[test]
    fn a_host_changes_only_by_a_result_of_that_kind(results in proptest::collection::vec(0u8..5, 1..60)) {
        let (config, mut rng) = (config(), SeededRandom::new(1));
        let (mut check, mut flags) = (HostCheck::default(), FAILED);
        for n in results {
            let result = [HEALTHY, UNHEALTHY, RETRIABLE, CheckResult::Network, CheckResult::Timeout][usize::from(n)];
            let (after, _) = check.conclude(&config, flags, result, true, &mut rng);
            if (after ^ flags) & FAILED != 0 {
                prop_assert_eq!(after & FAILED == 0, result == HEALTHY);
            }
            flags = after;
        }
    }
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint::new(Address::parse("10.0.0.1", port))
}

fn settings() -> ClusterSettings {
    let lb = LbPolicy { panic_threshold: 0.0, ..LbPolicy::default() };
    ClusterSettings { lb, check: Some(Arc::new(config())), ..ClusterSettings::default() }
}

fn ports(state: &ClusterState) -> Vec<u16> {
    let mut ports: Vec<_> = state.endpoints().hosts().filter_map(|h| h.address().port()).collect();
    ports.sort_unstable();
    ports
}

#[test]
fn nobody_is_chosen_before_a_check_passed_and_state_outlives_changes() {
    let (now, mut rng, settings) = (Instant::now(), SeededRandom::new(1), settings());
    let state = ClusterState::new(&settings, now);
    let mut unchecked = endpoint(3);
    unchecked.check.disabled = true;
    let set = state.update(&Assignment::of(vec![endpoint(1), endpoint(2)]), &settings, now);
    let mut balancer = Balancer::new(set.clone(), &mut rng);
    assert_eq!(balancer.pick(&Pick::default(), &mut rng), None);
    let host = set.hosts().next().unwrap();
    let mut check = HostCheck::default();
    state.checked((host, &mut check), &config(), HEALTHY, now, &mut rng);
    for _ in 0..4 {
        assert_eq!(balancer.pick(&Pick::default(), &mut rng).as_ref(), Some(host));
    }
    let set = state.update(&Assignment::of(vec![unchecked, endpoint(1), endpoint(2)]), &settings, now);
    let available: Vec<_> = set.hosts().map(Host::is_available).collect();
    assert_eq!(available, [true, true, false]);
    state.fail_check(&set, host);
    assert!(host.fails_checks());
    let plain = ClusterSettings { check: None, ..settings };
    assert!(state.update(&Assignment::of(vec![endpoint(1)]), &plain, now).hosts().all(Host::is_available));
}

#[test]
fn hosts_that_leave_stay_while_their_checks_pass() {
    let (now, mut rng, settings) = (Instant::now(), SeededRandom::new(1), settings());
    let state = ClusterState::new(&settings, now);
    let set = state.update(&Assignment::of(vec![endpoint(1), endpoint(2)]), &settings, now);
    let host = set.hosts().next().unwrap();
    let mut check = HostCheck::default();
    state.checked((host, &mut check), &config(), HEALTHY, now, &mut rng);
    // The other never passed a check.
    let set = state.update(&Assignment::of(vec![endpoint(3)]), &settings, now);
    assert_eq!(ports(&state), [1, 3]);
    assert!(set.hosts().any(|h| h == host && h.is_kept_by_checks()));
    assert!(state.let_go(now).is_none());
    state.update(&Assignment::of(vec![endpoint(1), endpoint(3)]), &settings, now);
    assert!(!host.is_kept_by_checks());
    state.update(&Assignment::of(vec![endpoint(3)]), &settings, now);
    state.checked((host, &mut check), &config(), UNHEALTHY, now, &mut rng);
    assert!(state.let_go(now).is_some());
    assert_eq!(ports(&state), [3]);
    let at_once = Arc::new(CheckConfig { drop_removed: true, ..config() });
    let settings = ClusterSettings { check: Some(at_once), ..settings };
    let set = state.endpoints();
    state.checked((set.hosts().next().unwrap(), &mut check), &config(), HEALTHY, now, &mut rng);
    state.update(&Assignment::of(vec![endpoint(4)]), &settings, now);
    assert_eq!(ports(&state), [4]);
}

#[test]
fn a_check_that_passes_ends_an_ejection() {
    let (now, mut rng) = (Instant::now(), SeededRandom::new(1));
    for lets_back in [true, false] {
        let outlier = OutlierConfig {
            consecutive_5xx: 1,
            max_ejection_percent: 100,
            uneject_on_check: lets_back,
            ..OutlierConfig::default()
        };
        let settings = ClusterSettings { outlier: Some(Arc::new(outlier)), ..settings() };
        let state = ClusterState::new(&settings, now);
        let set = state.update(&Assignment::of(vec![endpoint(1)]), &settings, now);
        let (host, mut check) = (set.hosts().next().unwrap(), HostCheck::default());
        state.checked((host, &mut check), &config(), HEALTHY, now, &mut rng);
        set.record(host, Outcome::Status(500), now, &mut rng);
        assert!(host.is_ejected());
        state.checked((host, &mut check), &config(), HEALTHY, now, &mut rng);
        assert_eq!(host.is_ejected(), !lets_back);
    }
}
