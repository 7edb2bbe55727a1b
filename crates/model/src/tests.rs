//! The world from outside: what goes in, what can be looked up.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::{Locality, NamespacedName};

use crate::{
    Change, Config, Health, Key, Kind, KubePort, KubeService, Labels, Object, Resolution, Sensitive,
    ServiceKey, Settings, Slice, SliceEndpoint, Snapshot, TargetPort, TlsSecret, Workload, WorkloadKind,
    World,
};

fn name(name: &str) -> NamespacedName {
    NamespacedName::new("default", name)
}

fn labels(of: &[(&str, &str)]) -> Labels {
    of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn service(app: &str, vip: &str) -> KubeService {
    KubeService {
        name: name(app),
        created: 1,
        labels: Arc::default(),
        selector: labels(&[("app", app)]),
        cluster_ips: vip.parse().into_iter().collect(),
        external_addresses: Vec::new(),
        headless: false,
        external_name: None,
        ports: vec![KubePort {
            name: "http".into(),
            number: 80,
            target: TargetPort::Number(8080),
            transport: "TCP".into(),
            app_protocol: None,
        }],
        export_to: Vec::new(),
        prefer_close: false,
        node_local: false,
        publish_not_ready: false,
    }
}

fn workload(kind: WorkloadKind, app: &str, address: &str) -> Workload {
    Workload {
        kind,
        name: name(address),
        addresses: vec![address.into()],
        labels: Arc::new(labels(&[("app", app)])),
        service_account: "account".into(),
        locality: Some(Locality::parse("r/z")),
        node: None,
        network: None,
        weight: Some(3),
        ports: BTreeMap::new(),
        workload_name: app.into(),
        ready: true,
        host_network: false,
    }
}

fn slice(service: &str, addresses: &[(&str, bool)]) -> Slice {
    let endpoint = |(address, ready): &(&str, bool)| SliceEndpoint {
        addresses: vec![(*address).into()],
        ready: *ready,
        serving: true,
        terminating: !*ready,
        node: None,
        zone: Some("zone".into()),
        pod: Some((*address).into()),
    };
    Slice {
        name: name(&format!("{service}-x")),
        service: service.into(),
        ports: vec![("http".into(), 8080)],
        endpoints: addresses.iter().map(endpoint).collect(),
    }
}

fn upsert(cluster: &str, object: Object) -> Change {
    Change::upsert(cluster, object)
}

fn key(app: &str) -> ServiceKey {
    ServiceKey::new(format!("{app}.default.svc.cluster.local"), "default")
}

fn addresses(snapshot: &Snapshot, app: &str) -> Vec<String> {
    let endpoints = snapshot.endpoints(&key(app)).map(|endpoints| endpoints.all.clone()).unwrap_or_default();
    endpoints.iter().map(|endpoint| format!("{}:{}", endpoint.address, endpoint.port)).collect()
}

#[test]
fn selectors_select_workload_entries_and_slices_name_pods() {
    let mut world = World::new(Settings::default());
    let snapshot = world.apply(vec![
        upsert("c", Object::Service(service("a", "10.0.0.1"))),
        upsert("c", Object::WorkloadEntry(workload(WorkloadKind::WorkloadEntry, "a", "10.1.0.1"))),
        upsert("c", Object::WorkloadEntry(workload(WorkloadKind::WorkloadEntry, "b", "10.1.0.2"))),
        upsert("c", Object::Pod(workload(WorkloadKind::Pod, "a", "10.1.0.3"))),
        upsert("c", Object::Slice(slice("a", &[("10.1.0.3", true), ("10.1.0.4", false)]))),
    ]);
    assert_eq!(addresses(&snapshot, "a"), ["10.1.0.1:8080", "10.1.0.3:8080", "10.1.0.4:8080"]);
    let all = &snapshot.endpoints(&key("a")).unwrap().all;
    let health: Vec<_> = all.iter().map(|endpoint| endpoint.health).collect();
    assert_eq!(health, [Health::Healthy, Health::Healthy, Health::Draining]);
    assert_eq!((all[0].weight, all[0].locality.to_string()), (3, "r/z".to_owned()));
    assert!(all[0].mutual_tls, "a WorkloadEntry with an account has an identity");
    assert!(!all[1].mutual_tls, "a pod says so by its label");
    let snapshot = world.apply(vec![Change::delete("c", Kind::WorkloadEntry, name("10.1.0.1"))]);
    assert_eq!(addresses(&snapshot, "a"), ["10.1.0.3:8080", "10.1.0.4:8080"]);
}

#[test]
fn an_endpoint_change_touches_its_own_entry_alone() {
    let mut world = World::new(Settings::default());
    let before = world.apply(vec![
        upsert("c", Object::Service(service("a", "10.0.0.1"))),
        upsert("c", Object::Service(service("b", "10.0.0.2"))),
        upsert("c", Object::Slice(slice("a", &[("10.1.0.3", true)]))),
        upsert("c", Object::Slice(slice("b", &[("10.1.0.4", true)]))),
    ]);
    let after =
        world.apply(vec![upsert("c", Object::Slice(slice("b", &[("10.1.0.4", true), ("10.1.0.5", true)])))]);
    let diff = before.diff(&after);
    assert!(diff.only_endpoints());
    assert_eq!(diff.endpoints, [key("b")]);
    assert_eq!(before.revision(&Key::Services), after.revision(&Key::Services));
    assert_eq!(addresses(&before, "b"), ["10.1.0.4:8080"], "an old snapshot stays what it was");
    let again =
        world.apply(vec![upsert("c", Object::Slice(slice("b", &[("10.1.0.4", true), ("10.1.0.5", true)])))]);
    assert!(after.diff(&again).is_empty() && again.id() == after.id());
}

#[test]
fn a_service_of_two_clusters_is_one() {
    let mut world = World::new(Settings::default());
    let mut younger = service("a", "10.9.0.1");
    younger.created = 2;
    let snapshot = world.apply(vec![
        upsert("east", Object::Service(younger)),
        upsert("west", Object::Service(service("a", "10.0.0.1"))),
        upsert("east", Object::Slice(slice("a", &[("10.1.0.1", true)]))),
        upsert("west", Object::Slice(slice("a", &[("10.2.0.1", true)]))),
    ]);
    let merged = snapshot.service(&key("a")).unwrap();
    assert_eq!(merged.created, 1);
    assert_eq!(merged.addresses_in("east")[0].as_ref(), "10.9.0.1");
    assert_eq!(merged.addresses_in("west")[0].as_ref(), "10.0.0.1");
    assert_eq!(addresses(&snapshot, "a"), ["10.1.0.1:8080", "10.2.0.1:8080"]);
    let snapshot = world.apply(vec![Change::delete("west", Kind::Service, name("a"))]);
    assert_eq!(addresses(&snapshot, "a"), ["10.1.0.1:8080"]);
}

fn config<T: serde::de::DeserializeOwned>(of: &str, created: i64, spec: serde_json::Value) -> Config<T> {
    Config::new(name(of), created, serde_json::from_value(spec).unwrap())
}

#[test]
fn service_entries_are_services_and_select_workloads() {
    let mut world = World::new(Settings::default());
    let entry = serde_json::json!({
        "hosts": ["db.example.com"], "location": "MESH_INTERNAL", "resolution": "STATIC",
        "ports": [{"number": 5432, "name": "tcp", "protocol": "TCP"}],
        "workloadSelector": {"labels": {"app": "db"}}
    });
    let dns = serde_json::json!({
        "hosts": ["api.example.com"], "resolution": "DNS",
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080}]
    });
    let snapshot = world.apply(vec![
        upsert("c", Object::WorkloadEntry(workload(WorkloadKind::WorkloadEntry, "db", "10.1.0.1"))),
        upsert("c", Object::ServiceEntry(config("db", 1, entry))),
        upsert("c", Object::ServiceEntry(config("api", 1, dns))),
    ]);
    let of = |host: &str| snapshot.endpoints(&ServiceKey::new(host, "default")).unwrap().all.clone();
    assert_eq!((of("db.example.com")[0].address.as_ref(), of("db.example.com")[0].port), ("10.1.0.1", 5432));
    assert_eq!(
        (of("api.example.com")[0].address.as_ref(), of("api.example.com")[0].port),
        ("api.example.com", 8080)
    );
    let api = snapshot.service(&ServiceKey::new("api.example.com", "default")).unwrap();
    assert!(api.mesh_external && api.resolution == Resolution::Dns && api.auto_address.is_some());
    let snapshot = world.apply(vec![
        upsert("c", Object::WorkloadEntry(workload(WorkloadKind::WorkloadEntry, "db", "10.1.0.2"))),
        Change::delete("c", Kind::ServiceEntry, name("api")),
    ]);
    let db = snapshot.endpoints(&ServiceKey::new("db.example.com", "default")).unwrap();
    assert_eq!(db.all.len(), 2);
    assert!(snapshot.service(&ServiceKey::new("api.example.com", "default")).is_none());
}

#[test]
fn rules_are_found_where_istio_looks() {
    let mut world = World::new(Settings::default());
    let rule = |host: &str, export: &[&str]| serde_json::json!({"host": host, "exportTo": export});
    let in_namespace = |namespace: &str, of: &str, spec| {
        let mut config: Config<api::networking::DestinationRule> = config(of, 1, spec);
        config.name = NamespacedName::new(namespace, of);
        upsert("c", Object::DestinationRule(config))
    };
    let snapshot = world.apply(vec![
        in_namespace("istio-system", "mesh", rule("*.local", &[])),
        in_namespace("default", "a", rule("a", &[])),
        in_namespace("default", "private", rule("b", &["."])),
        in_namespace("client", "own", rule("b.default.svc.cluster.local", &[])),
    ]);
    let found = |client: &str, app: &str| -> Vec<String> {
        snapshot.rules(client, &key(app)).iter().map(|rule| rule.name.name.to_string()).collect()
    };
    assert_eq!(found("other", "a"), ["a"]);
    assert_eq!(found("other", "b"), ["mesh"], "a private rule is not seen elsewhere");
    assert_eq!(found("default", "b"), ["private"]);
    assert_eq!(found("client", "b"), ["own"]);
    assert_eq!(found("client", "c"), ["mesh"]);
    let revision = |client: &str, app: &str| snapshot.revision(&Key::Rules(client.into(), key(app)));
    assert_ne!(revision("client", "b"), revision("other", "b"));
}

#[test]
fn namespaces_that_are_not_looked_at_are_as_if_empty() {
    let namespace = |team: &str| {
        let labels = Arc::new(labels(&[("team", team)]));
        upsert("a", Object::Namespace(crate::Namespace { name: "default".into(), labels }))
    };
    let mesh = |text: &str| upsert("a", Object::Mesh(Box::new(api::parse_mesh_config(text).unwrap().0)));
    let entry = api::networking::ServiceEntry { hosts: vec!["a.example.com".into()], ..Default::default() };
    let there = |snapshot: &Snapshot| {
        let counts = (snapshot.services().len(), snapshot.service_entries().iter().count());
        assert_eq!(addresses(snapshot, "reviews").len(), usize::from(counts.0 > 0));
        counts
    };
    let mut world = World::new(Settings::default());
    let reviews = slice("reviews", &[("10.0.0.1", true)]);
    let all = world.apply(vec![
        namespace("a"),
        upsert("a", Object::Service(service("reviews", "10.96.0.1"))),
        upsert("a", Object::Slice(reviews.clone())),
        upsert("a", Object::ServiceEntry(Config::new(name("outside"), 1, entry))),
    ]);
    assert_eq!(there(&all), (2, 1));
    let chosen = world.apply(vec![mesh("discoverySelectors: [{matchLabels: {team: a}}]")]);
    assert_eq!(there(&chosen), (2, 1));
    let relabelled = world.apply(vec![namespace("b")]);
    assert_eq!(there(&relabelled), (0, 0));
    // What changes out of sight is there when the namespace comes into sight.
    assert_eq!(there(&world.apply(vec![upsert("a", Object::Slice(reviews))])), (0, 0));
    let either = "discoverySelectors: [{matchLabels: {team: a}}, {matchExpressions: [{key: team, operator: In, values: [b]}]}]";
    assert_eq!(there(&world.apply(vec![mesh(either)])), (2, 1));
    let gone = Change::delete("a", Kind::Namespace, NamespacedName::new("", "default"));
    assert_eq!(there(&world.apply(vec![gone])), (0, 0), "a namespace that is not known has no labels");
    assert_eq!(there(&world.apply(vec![mesh("")])), (2, 1));
}

#[test]
fn what_dangles_is_found_and_named() {
    let mut world = World::new(Settings::default());
    let routes = serde_json::json!({
        "hosts": ["a"], "gateways": ["mesh", "none"],
        "http": [{"route": [
            {"destination": {"host": "a", "subset": "v9"}, "weight": 1}, {"destination": {"host": "gone"}},
            {"destination": {"host": "a", "port": {"number": 81}}}
        ]}]
    });
    let same = serde_json::json!({"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a"}}]}]});
    let outlier =
        serde_json::json!({"host": "a", "trafficPolicy": {"outlierDetection": {"consecutive5xxErrors": 7}}});
    let snapshot = world.apply(vec![
        upsert("c", Object::Service(service("a", "10.0.0.1"))),
        upsert("c", Object::Slice(slice("a", &[("10.1.0.3", true)]))),
        upsert("c", Object::VirtualService(config("first", 1, routes))),
        upsert("c", Object::VirtualService(config("second", 2, same))),
        upsert("c", Object::DestinationRule(config("a", 1, outlier))),
    ]);
    let found: Vec<_> =
        snapshot.findings().iter().map(|finding| (finding.code, finding.field.clone())).collect();
    let expected = [
        ("DanglingGateway", "spec.gateways[1]"),
        ("DanglingSubset", "spec.http[0].route[0].destination.subset"),
        ("DanglingHost", "spec.http[0].route[1].destination.host"),
        ("DanglingPort", "spec.http[0].route[2].destination.port.number"),
        ("DuplicateHost", "spec.hosts[0]"),
        ("NothingEjected", "spec.trafficPolicy.outlierDetection.maxEjectionPercent"),
    ];
    assert_eq!(found, expected.map(|(code, field)| (code, field.to_owned())));
}

#[test]
fn secrets_do_not_print() {
    let secret = TlsSecret {
        name: name("s"),
        certificate: None,
        private_key: Some(Sensitive::new(*b"PRIVATE")),
        roots: None,
        revoked: None,
    };
    let printed = format!("{secret:?} {:?}", Object::Secret(secret.clone()));
    assert!(printed.contains("[redacted]") && !printed.contains("PRIVATE") && !printed.contains("80, 82"));
}
