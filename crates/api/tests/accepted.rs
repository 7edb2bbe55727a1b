//! Resources as people write them are accepted without a word.

use api::networking::{DestinationRule, SimpleLb, VirtualService};
use api::security::{MutualTlsMode, PeerAuthentication};
use api::{Kind, Object};

fn objects(text: &str) -> Vec<serde_json::Value> {
    api::yaml::documents(text).unwrap()
}

fn check(text: &str) -> Vec<Object> {
    let judge = |document: &serde_json::Value| {
        let kind = api::kind_of(document).unwrap();
        let found = api::validate(kind, document);
        assert_eq!(
            (found.errors, found.warnings),
            (vec![], vec![]),
            "{kind} {}",
            document["metadata"]["name"]
        );
        Object::from_json(document).unwrap()
    };
    objects(text).iter().map(judge).collect()
}

#[test]
fn bookinfo_is_accepted() {
    let objects = check(include_str!("data/bookinfo.yaml"));
    let reviews =
        objects.iter().filter_map(Object::get::<VirtualService>).find(|vs| vs.hosts == ["reviews"]).unwrap();
    let weights: Vec<_> = reviews.http[1].weighted().iter().map(|(_, weight)| *weight).collect();
    assert_eq!(weights, [90, 20]);
    assert_eq!(reviews.http[0].weighted().len(), 1);
}

/// The samples of this repository; the kinds that are not ours are not judged here.
#[test]
fn samples_are_accepted() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/bookinfo/networking");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        count += check(&std::fs::read_to_string(file.unwrap().path()).unwrap()).len();
    }
    assert!(count > 5, "{count}");
}

#[test]
fn every_kind_is_accepted() {
    let objects = check(include_str!("data/everything.yaml"));
    for kind in Kind::all() {
        assert!(objects.iter().any(|object| object.kind == kind), "{kind} is missing");
    }
    let rule = objects.iter().find_map(Object::get::<DestinationRule>).unwrap();
    let simple = |port, subset| rule.policy(port, subset).load_balancer.unwrap().simple;
    assert_eq!(simple(1, None), Some(SimpleLb::LeastRequest));
    assert_eq!(simple(1, Some("v1")), Some(SimpleLb::LeastRequest));
    assert_eq!(simple(1, Some("v2")), Some(SimpleLb::RoundRobin));
    assert_eq!(simple(9080, None), None);
    assert!(rule.policy(9080, None).connection_pool.is_none(), "a port's own entry inherits nothing");
    let peers = objects.iter().find_map(Object::get::<PeerAuthentication>).unwrap();
    assert_eq!(peers.mode(9080), Some(MutualTlsMode::Permissive));
    assert_eq!(peers.mode(9081), Some(MutualTlsMode::Disable));
    assert_eq!(peers.mode(9082), Some(MutualTlsMode::Strict));
}

#[test]
fn every_version_that_is_served_is_accepted() {
    for kind in Kind::all() {
        let info = kind.info();
        for version in info.versions {
            let api_version = format!("{}/{version}", info.group);
            assert_eq!(Kind::of(&api_version, info.name), Some(kind));
        }
    }
}
