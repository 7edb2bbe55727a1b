//! What does not change keeps its bytes; what scopes have in common they share; one change moves one resource.

mod common;

use std::sync::Arc;

use base::NamespacedName;
use common::{Mesh, RESOURCES, facets, ingress, name, pod, sidecar, slice, upsert};
use model::{Change, Kind, Object};
use proptest::prelude::*;
use proto::ResourceType;
use translate::{Scope, Translator};

const TYPES: [ResourceType; 5] = [
    ResourceType::Cluster,
    ResourceType::Endpoint,
    ResourceType::Listener,
    ResourceType::Route,
    ResourceType::NameTable,
];

/// The names that a change moves, by type.
fn moved(mesh: &mut Mesh, scope: &Scope, changes: Vec<Change>) -> Vec<(ResourceType, Vec<String>)> {
    let old = mesh.world.snapshot();
    TYPES.iter().for_each(|of| drop(mesh.translator.set(&old, scope, *of)));
    let new = mesh.world.apply(changes);
    let names = |of: &ResourceType| {
        let changes = mesh.translator.changed(&old, &new, scope, *of);
        let all = changes.changed.iter().map(|resource| &resource.name).chain(&changes.removed);
        (*of, all.map(ToString::to_string).collect::<Vec<_>>())
    };
    TYPES.iter().map(names).filter(|(_, names)| !names.is_empty()).collect()
}

#[test]
fn an_endpoint_moves_its_load_assignments_alone() {
    let mut mesh = Mesh::bookinfo("");
    let more = [("details-v1", "10.244.1.11"), ("details-v1b", "10.244.1.99")];
    let changes = vec![
        upsert(Object::Pod(pod("default", "details-v1b", "10.244.1.99", "details", "v1", "r1/z1"))),
        upsert(Object::Slice(slice("default", "details", &more, &[("http", 9080)]))),
    ];
    let moved = moved(&mut mesh, &sidecar("reviews"), changes);
    let expected = vec!["outbound|9080||details.default.svc.cluster.local".to_owned()];
    assert_eq!(moved, [(ResourceType::Endpoint, expected)]);
}

#[test]
fn a_virtual_service_moves_its_route_configurations_alone() {
    let mut mesh = Mesh::bookinfo("");
    let rule = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: details, namespace: default}
spec: {hosts: [details], http: [{timeout: 3s, route: [{destination: {host: details}}]}]}
";
    let moved = moved(&mut mesh, &sidecar("reviews"), common::resources(rule));
    assert_eq!(moved, [(ResourceType::Route, vec!["80".to_owned(), "9080".to_owned()])]);
}

#[test]
fn scopes_whose_sets_come_out_equal_share_one() {
    let mesh = Mesh::bookinfo("");
    let (reviews, ratings) = (sidecar("reviews"), sidecar("ratings"));
    for of in TYPES {
        let (a, b) = (mesh.set(&reviews, of), mesh.set(&ratings, of));
        assert_eq!(a == b, Arc::ptr_eq(&a, &b), "{of}");
    }
    let endpoints = |scope| mesh.set(scope, ResourceType::Endpoint);
    assert!(Arc::ptr_eq(&endpoints(&reviews), &endpoints(&ratings)));
}

#[test]
fn what_concerns_nobody_moves_nothing() {
    let mut mesh = Mesh::bookinfo(RESOURCES);
    let elsewhere = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: x, namespace: tracing}
spec: {}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: x, namespace: tracing}
spec: {egress: [{hosts: ['./*']}]}
";
    assert_eq!(moved(&mut mesh, &sidecar("reviews"), common::resources(elsewhere)), []);
    let before = mesh.world.snapshot();
    let after = mesh.world.apply(common::resources(elsewhere));
    assert_eq!(before.id(), after.id(), "nothing new was said");
}

#[test]
fn scopes_share_what_does_not_depend_on_them() {
    let mesh = Mesh::bookinfo("");
    let (reviews, details) = (sidecar("reviews"), sidecar("details"));
    for of in [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Route] {
        let (a, b) = (mesh.set(&reviews, of), mesh.set(&details, of));
        let shared = a.iter().filter(|resource| !resource.name.starts_with("inbound")).all(|resource| {
            b.get(&resource.name).is_some_and(|other| other.body.as_ptr() == resource.body.as_ptr())
        });
        assert!(shared, "{of}");
    }
    let (a, b) = (mesh.set(&reviews, ResourceType::Route), mesh.set(&details, ResourceType::Route));
    assert!(Arc::ptr_eq(&a, &b), "labels are not read for routes, so that there is one set");
    let remembered = mesh.translator.remembered();
    TYPES.iter().for_each(|of| drop(mesh.set(&sidecar("ratings"), *of)));
    assert_eq!(mesh.translator.remembered(), remembered, "nothing was built again");
}

#[test]
fn the_same_world_gives_the_same_bytes() {
    let (a, b) = (Mesh::bookinfo(RESOURCES), Mesh::bookinfo(RESOURCES));
    for scope in [sidecar("reviews"), sidecar("ratings"), ingress()] {
        for of in TYPES {
            assert_eq!(a.set(&scope, of), b.set(&scope, of), "{of}");
        }
    }
}

#[test]
fn what_is_forgotten_is_built_again_the_same() {
    let mesh = Mesh::bookinfo(RESOURCES);
    let before: Vec<_> = TYPES.map(|of| mesh.set(&sidecar("reviews"), of)).into();
    mesh.translator.forget_before(u64::MAX);
    assert_eq!(mesh.translator.remembered(), 0);
    let after: Vec<_> = TYPES.map(|of| mesh.set(&sidecar("reviews"), of)).into();
    assert_eq!(before, after);
}

/// Resources that come and go, each on its own.
fn parts() -> Vec<Change> {
    common::resources(RESOURCES)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// However the world came to be as it is, and whatever was remembered on the way, a fresh translation of the
    /// same world is the same.
    #[test]
    fn memory_never_shows(steps in prop::collection::vec((0usize..13, any::<bool>()), 1..12)) {
        let mut mesh = Mesh::bookinfo("");
        let scopes = [sidecar("reviews"), Scope::new(facets("ratings", "v1")), ingress()];
        for (at, there) in steps {
            let parts = parts();
            let change = parts[at % parts.len()].clone();
            let model::Action::Upsert(object) = &change.action else { continue };
            let at = object.reference();
            mesh.world.apply(vec![if there { change } else { Change::delete(common::CLUSTER, at.kind, at.name) }]);
            let snapshot = mesh.world.snapshot();
            let fresh = Translator::new();
            for scope in &scopes {
                for of in TYPES {
                    prop_assert_eq!(mesh.translator.set(&snapshot, scope, of), fresh.set(&snapshot, scope, of));
                }
            }
        }
    }
}

#[test]
fn a_deleted_service_takes_its_clusters_with_it() {
    let mut mesh = Mesh::bookinfo("");
    let gone: NamespacedName = name("default", "details");
    let moved =
        moved(&mut mesh, &sidecar("reviews"), vec![Change::delete(common::CLUSTER, Kind::Service, gone)]);
    let of = |wanted| moved.iter().find(|(of, _)| *of == wanted).map(|(_, names)| names.clone());
    let cluster = vec!["outbound|9080||details.default.svc.cluster.local".to_owned()];
    assert_eq!(of(ResourceType::Cluster), Some(cluster.clone()));
    assert_eq!(of(ResourceType::Endpoint), Some(cluster));
    assert_eq!(of(ResourceType::Route), Some(vec!["9080".to_owned()]));
    assert_eq!(of(ResourceType::Listener), None);
}
