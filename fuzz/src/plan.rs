//! Configuration, as control planes and files give it.

use proto::{Delta, Resource, ResourceType};
use serde_json::Value;

use crate::deciding;

const TYPES: [ResourceType; 4] =
    [ResourceType::Listener, ResourceType::Cluster, ResourceType::Route, ResourceType::Endpoint];

/// A resource of the type that the first byte says, in protobuf, applied to a plan that has others.
pub fn resource(data: &[u8]) {
    let Some((&which, rest)) = data.split_first() else { return };
    apply(TYPES[usize::from(which) % TYPES.len()], rest.to_vec());
}

/// The same in JSON.
pub fn json(data: &[u8]) {
    let Some((&which, rest)) = data.split_first() else { return };
    let resource_type = TYPES[usize::from(which) % TYPES.len()];
    let Ok(value) = serde_json::from_slice::<Value>(rest) else { return };
    if let Ok(body) = proto::json::from_value(resource_type.url(), &value) {
        apply(resource_type, body);
    }
}

/// A whole bootstrap, in JSON or YAML.
pub fn bootstrap(data: &[u8]) {
    if let Ok(value) = serde_json::from_slice(data).or_else(|_| serde_yaml_ng::from_slice(data)) {
        proxy::fuzz::bootstrap(value);
    }
}

fn apply(resource_type: ResourceType, body: Vec<u8>) {
    let resource = Resource { name: "fuzz".into(), version: 1, body: body.into() };
    let delta = Delta { resource_type, changed: vec![resource], removed: Vec::new() };
    let (plan, rejections) = deciding::ground().plan.apply(&delta);
    for rejection in &rejections {
        assert!(!rejection.reason.is_empty(), "refused without a reason: {rejection:?}");
    }
    // The same again is the same.
    assert_eq!(plan.apply(&delta).1.len(), rejections.len());
    let _ = (plan.wanted_route_tables(), plan.wanted_assignments(), plan.wanted_secrets());
    if let Some(listener) = plan.listener("fuzz") {
        deciding::ask(
            &plan,
            listener,
            &mut deciding::Odds::new(&[]),
            &[b"GET /a?b HTTP/1.1\r\nhost: c\r\n\r\n".to_vec()],
        );
    }
    let removed = Delta { resource_type, changed: Vec::new(), removed: vec!["fuzz".into()] };
    plan.apply(&removed);
}
