use std::time::Instant;

use base::SeededRandom;
use proptest::prelude::*;

use super::*;
use crate::{Address, Balancer, ClusterSettings, ClusterState, LbPolicy, Pick};

fn endpoint(port: u16, labels: &[(&str, &str)]) -> Endpoint {
    let mut endpoint = Endpoint::new(Address::parse("10.0.0.1", port));
    let label = |(key, value): &(&str, &str)| LbLabel {
        key: (*key).into(),
        value: (*value).into(),
        items: value.split('|').filter(|_| value.contains('|')).map(Into::into).collect(),
    };
    endpoint.lb_labels = labels.iter().map(label).collect();
    endpoint
}

fn labels(pairs: &[(&str, &str)]) -> Box<Labels> {
    pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
}

fn selector(keys: &[&str], fallback: Option<SelectorFallback>) -> SubsetSelector {
    SubsetSelector { keys: keys.iter().map(|k| (*k).into()).collect(), single_host: false, fallback }
}

fn config(fallback: Fallback, selectors: Vec<SubsetSelector>) -> SubsetConfig {
    SubsetConfig {
        fallback,
        default: labels(&[("version", "1")]),
        selectors,
        locality_weight_aware: false,
        scale_locality_weight: false,
        panic_mode_any: false,
        list_as_any: false,
    }
}

/// Ports that requests with these wishes go to.
fn picked(config: SubsetConfig, endpoints: Vec<Endpoint>, wanted: Option<&[(&str, &str)]>) -> Vec<u16> {
    let (now, mut rng) = (Instant::now(), SeededRandom::new(1));
    let settings = ClusterSettings {
        lb: LbPolicy { panic_threshold: 0.0, ..LbPolicy::default() },
        subsets: Some(Arc::new(config)),
        ..ClusterSettings::default()
    };
    let state = ClusterState::new(&settings, now);
    let set = state.update(&Assignment::of(endpoints), &settings, now);
    let mut balancer = Balancer::new(set, &mut rng);
    let wanted = wanted.map(labels);
    let pick = Pick { subset: wanted.as_deref(), ..Pick::default() };
    let mut ports: Vec<_> =
        (0..12).filter_map(|_| balancer.pick(&pick, &mut rng)?.address().port()).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn three() -> Vec<Endpoint> {
    vec![
        endpoint(1, &[("stage", "prod"), ("version", "1")]),
        endpoint(2, &[("stage", "prod"), ("version", "2")]),
        endpoint(3, &[("stage", "test"), ("version", "2")]),
    ]
}

#[test]
fn requests_get_the_hosts_that_they_ask_for_or_the_fallback() {
    let by_both = || vec![selector(&["version"], None), selector(&["stage", "version"], None)];
    for (fallback, wanted, expected) in [
        (Fallback::None, Some(&[("version", "2")][..]), &[2, 3][..]),
        (Fallback::None, Some(&[("stage", "prod"), ("version", "2")]), &[2]),
        (Fallback::None, Some(&[("stage", "prod")]), &[]),
        (Fallback::None, Some(&[("version", "9")]), &[]),
        (Fallback::None, None, &[]),
        (Fallback::Any, Some(&[("version", "9")]), &[1, 2, 3]),
        (Fallback::Any, None, &[1, 2, 3]),
        (Fallback::Default, Some(&[("stage", "prod")]), &[1]),
        (Fallback::Default, Some(&[("version", "2")]), &[2, 3]),
        (Fallback::Default, None, &[1]),
    ] {
        assert_eq!(picked(config(fallback, by_both()), three(), wanted), expected, "{fallback:?} {wanted:?}");
    }
}

#[test]
fn selectors_have_fallbacks_of_their_own() {
    let keys = SelectorFallback::Keys(vec!["version".into()]);
    for (fallback, expected) in [
        (SelectorFallback::Of(Fallback::None), &[][..]),
        (SelectorFallback::Of(Fallback::Any), &[1, 2, 3]),
        (SelectorFallback::Of(Fallback::Default), &[1]),
        (keys, &[2, 3]),
    ] {
        let selectors = vec![selector(&["stage", "version"], Some(fallback)), selector(&["version"], None)];
        let wanted = Some(&[("stage", "gone"), ("version", "2")][..]);
        assert_eq!(picked(config(Fallback::None, selectors), three(), wanted), expected);
    }
}

#[test]
fn one_host_of_each_subset_lists_and_panic() {
    let mut single = config(Fallback::None, vec![selector(&["version"], None)]);
    single.selectors[0].single_host = true;
    assert_eq!(picked(single, three(), Some(&[("version", "2")])), [2]);
    let lists = vec![endpoint(1, &[("version", "1|2")]), endpoint(2, &[("version", "2")])];
    let mut any = config(Fallback::None, vec![selector(&["version"], None)]);
    assert_eq!(picked(any.clone(), lists.clone(), Some(&[("version", "2")])), [2]);
    any.list_as_any = true;
    assert_eq!(picked(any, lists, Some(&[("version", "2")])), [1, 2]);
    let mut panics = config(Fallback::Default, vec![]);
    panics.default = labels(&[("version", "9")]);
    assert_eq!(picked(panics.clone(), three(), None), [] as [u16; 0]);
    panics.panic_mode_any = true;
    assert_eq!(picked(panics, three(), None), [1, 2, 3]);
}

proptest! {
    /// Whatever hosts there are, a subset holds those that agree, and nobody else.
    #[test]
    fn a_subset_holds_exactly_the_hosts_that_agree(values in proptest::collection::vec((0u8..3, 0u8..3), 1..20)) {
        let texts: Vec<_> = values.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        let endpoints = || texts.iter().zip(1..).map(|((a, b), port)| endpoint(port, &[("a", a), ("b", b)]));
        for (a, b) in [(0u8, 0u8), (1, 2), (2, 1)] {
            let wanted = [("a", &*a.to_string()), ("b", &*b.to_string())].map(|(k, v)| (k, v.to_owned()));
            let wanted: Vec<_> = wanted.iter().map(|(k, v)| (*k, v.as_str())).collect();
            let config = config(Fallback::None, vec![selector(&["a", "b"], None)]);
            let settings = ClusterSettings { subsets: Some(Arc::new(config)), ..ClusterSettings::default() };
            let state = ClusterState::new(&settings, Instant::now());
            let set = state.update(&Assignment::of(endpoints().collect()), &settings, Instant::now());
            let chosen = set.subsets.as_ref().and_then(|s| s.set(Chosen::Labels(&labels(&wanted))).cloned());
            let expected = values.iter().filter(|v| **v == (a, b)).count();
            prop_assert_eq!(chosen.map_or(0, |s| s.len()), expected);
        }
    }
}
