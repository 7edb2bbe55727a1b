//! A mesh of Bookinfo's shape, and helpers to look at what it is translated to.
#![allow(dead_code)]

pub mod envoy;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use base::{Locality, NamespacedName};
use model::{
    Change, KubePort, KubeService, Object, Settings, Slice, SliceEndpoint, Snapshot, TargetPort, Workload,
    WorkloadKind, World,
};
use proto::ResourceType;
use serde_json::Value;
use translate::{Facets, Interception, IpMode, NodeKind, ResourceSet, Scope, Translator};

pub const RESOURCES: &str = include_str!("../bookinfo/resources.yaml");
pub const CLUSTER: &str = "Kubernetes";

pub fn name(namespace: &str, name: &str) -> NamespacedName {
    NamespacedName::new(namespace, name)
}

pub fn labels(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub fn upsert(object: Object) -> Change {
    Change::upsert(CLUSTER, object)
}

/// A Kubernetes service of `namespace/app` with a virtual address; ports are `(name, number, target)`.
pub fn service(namespace: &str, app: &str, vip: &str, ports: &[(&str, u32, u32)]) -> KubeService {
    let port = |(name, number, target): &(&str, u32, u32)| KubePort {
        name: (*name).into(),
        number: *number,
        target: TargetPort::Number(*target),
        transport: "TCP".into(),
        app_protocol: None,
    };
    KubeService {
        name: name(namespace, app),
        created: 1,
        labels: Arc::new(labels(&[("app", app)])),
        selector: labels(&[("app", app)]),
        cluster_ips: vip.parse().into_iter().collect(),
        external_addresses: Vec::new(),
        headless: vip.is_empty(),
        external_name: None,
        ports: ports.iter().map(port).collect(),
        export_to: Vec::new(),
        prefer_close: false,
        node_local: false,
        publish_not_ready: false,
    }
}

/// A pod with a sidecar.
pub fn pod(namespace: &str, pod: &str, address: &str, app: &str, version: &str, locality: &str) -> Workload {
    let account = if namespace == "default" { format!("bookinfo-{app}") } else { app.to_owned() };
    let mut all = labels(&[("app", app), ("security.istio.io/tlsMode", "istio")]);
    if !version.is_empty() {
        all.insert("version".into(), version.into());
    }
    Workload {
        kind: WorkloadKind::Pod,
        name: name(namespace, pod),
        addresses: vec![address.into()],
        labels: Arc::new(all),
        service_account: account.as_str().into(),
        locality: Some(Locality::parse(locality)),
        node: None,
        network: None,
        weight: None,
        ports: BTreeMap::new(),
        workload_name: pod.trim_end_matches('b').trim_end_matches('.').into(),
        ready: true,
        host_network: false,
    }
}

/// The slice of a service: each address with its pod, and the ports.
pub fn slice(namespace: &str, service: &str, pods: &[(&str, &str)], ports: &[(&str, u32)]) -> Slice {
    let endpoint = |(pod, address): &(&str, &str)| SliceEndpoint {
        addresses: vec![(*address).into()],
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        zone: None,
        pod: Some((*pod).into()).filter(|pod: &Arc<str>| !pod.is_empty()),
    };
    Slice {
        name: name(namespace, &format!("{service}-1")),
        service: service.into(),
        ports: ports.iter().map(|(name, number)| ((*name).into(), *number)).collect(),
        endpoints: pods.iter().map(endpoint).collect(),
    }
}

/// Services, pods and slices of Bookinfo, in two regions.
pub fn bookinfo() -> Vec<Change> {
    let mut changes = Vec::new();
    let mut add = |object| changes.push(upsert(object));
    let apps = [
        ("details", "10.96.130.117", &[("details-v1", "10.244.1.11", "v1", "r2/z2")][..]),
        ("productpage", "10.96.146.97", &[("productpage-v1", "10.244.1.13", "v1", "r2/z2")]),
        (
            "ratings",
            "10.96.64.102",
            &[("ratings-v1", "10.244.1.14", "v1", "r1/z1"), ("ratings-v1.b", "10.244.1.15", "v1", "r2/z2")],
        ),
        (
            "reviews",
            "10.96.177.211",
            &[
                ("reviews-v1", "10.244.1.16", "v1", "r1/z1"),
                ("reviews-v2", "10.244.1.17", "v2", "r2/z2"),
                ("reviews-v3", "10.244.1.18", "v3", "r1/z1"),
            ],
        ),
    ];
    for (app, vip, pods) in apps {
        add(Object::Service(service("default", app, vip, &[("http", 9080, 9080)])));
        for (pod_name, address, version, locality) in pods {
            add(Object::Pod(pod("default", pod_name, address, app, version, locality)));
        }
        let addresses: Vec<_> = pods.iter().map(|(pod, address, ..)| (*pod, *address)).collect();
        add(Object::Slice(slice("default", app, &addresses, &[("http", 9080)])));
    }
    add(Object::Service(service("default", "mysqldb", "10.96.100.40", &[("tcp", 3306, 3306)])));
    add(Object::Pod(pod("default", "mysqldb-v1", "10.244.1.12", "mysqldb", "v1", "r1/z1")));
    add(Object::Slice(slice("default", "mysqldb", &[("mysqldb-v1", "10.244.1.12")], &[("tcp", 3306)])));
    let ingress = "istio-ingressgateway";
    let ports = [("http2", 80, 8080), ("https", 443, 8443), ("tls", 15443, 15443)];
    add(Object::Service(service("istio-system", ingress, "10.96.3.252", &ports)));
    add(Object::Pod(pod("istio-system", "istio-ingressgateway-0", "10.244.1.19", ingress, "", "r2/z2")));
    let targets = ports.map(|(name, _, target)| (name, target));
    let there = [("istio-ingressgateway-0", "10.244.1.19")];
    add(Object::Slice(slice("istio-system", ingress, &there, &targets)));
    let mut kubernetes = service("default", "kubernetes", "10.96.0.1", &[("https", 443, 6443)]);
    kubernetes.selector.clear();
    add(Object::Service(kubernetes));
    add(Object::Slice(slice("default", "kubernetes", &[("", "10.240.0.1")], &[("https", 6443)])));
    add(Object::Service(service("default", "authz", "10.96.20.20", &[("http", 8000, 8000)])));
    add(Object::Service(service("tracing", "zipkin", "10.96.30.30", &[("http", 9411, 9411)])));
    changes
}

pub fn mesh(yaml: &str) -> Change {
    let (config, _) = api::parse_mesh_config(yaml).unwrap_or_else(|errors| panic!("{errors:?}"));
    upsert(Object::Mesh(Box::new(config)))
}

pub const MESH: &str = "
trustDomain: cluster.local
accessLogFile: /dev/stdout
enableTracing: true
extensionProviders:
- name: zipkin
  zipkin: {service: zipkin.tracing.svc.cluster.local, port: 9411}
";

/// Users' resources from YAML.
pub fn resources(yaml: &str) -> Vec<Change> {
    api::yaml::documents(yaml)
        .expect("YAML")
        .iter()
        .map(|document| {
            let object = api::Object::from_json(document).unwrap_or_else(|errors| panic!("{errors:?}"));
            upsert(Object::from_api(object).expect("a name"))
        })
        .collect()
}

pub struct Mesh {
    pub world: World,
    pub translator: Translator,
}

thread_local! {
    /// What was looked at, while somebody wants to know.
    static LOOKS: RefCell<Option<Vec<Look>>> = const { RefCell::new(None) };
}

/// A mesh at a moment, and who asked for configuration.
pub type Look = (Snapshot, Scope);

/// Every mesh that is looked at meanwhile, and by whom.
pub fn looks_of(tests: &[fn()]) -> Vec<Look> {
    LOOKS.set(Some(Vec::new()));
    tests.iter().for_each(|test| test());
    LOOKS.take().unwrap_or_default()
}

impl Mesh {
    /// Bookinfo with further resources.
    pub fn bookinfo(yaml: &str) -> Self {
        let mut mesh = Self::empty();
        mesh.world.apply(bookinfo());
        mesh.world.apply(vec![self::mesh(MESH)]);
        mesh.apply(yaml);
        mesh
    }

    pub fn empty() -> Self {
        Self { world: World::new(Settings::default()), translator: Translator::new() }
    }

    pub fn apply(&mut self, yaml: &str) -> Snapshot {
        self.world.apply(resources(yaml))
    }

    pub fn look(&self, scope: &Scope) -> Look {
        (self.world.snapshot(), scope.clone())
    }

    pub fn set(&self, scope: &Scope, of: ResourceType) -> Arc<ResourceSet> {
        LOOKS.with_borrow_mut(|looks| {
            if let Some(looks) = looks {
                looks.push(self.look(scope));
            }
        });
        self.translator.set(&self.world.snapshot(), scope, of)
    }

    /// Resources of a type in protobuf's JSON, by name. Our own proxy takes every one of them.
    pub fn json(&self, scope: &Scope, of: ResourceType) -> BTreeMap<String, Value> {
        if scope.facets().extensions {
            let changed = self.set(scope, of).iter().cloned().collect();
            let rejections = decide::Plan::new()
                .apply(&proto::Delta { resource_type: of, changed, removed: Vec::new() })
                .1;
            assert!(of == ResourceType::NameTable || rejections.is_empty(), "{rejections:#?}");
        }
        let decode = |body: &[u8]| proto::json::to_value(of.url(), body).unwrap_or_else(|e| panic!("{e:?}"));
        self.set(scope, of)
            .iter()
            .map(|resource| (resource.name.to_string(), decode(&resource.body)))
            .collect()
    }

    pub fn one(&self, scope: &Scope, of: ResourceType, name: &str) -> Value {
        self.json(scope, of).remove(name).unwrap_or_else(|| {
            panic!("no {of} {name}; there are {:?}", self.set(scope, of).names());
        })
    }

    pub fn cluster(&self, scope: &Scope, name: &str) -> Value {
        self.one(scope, ResourceType::Cluster, name)
    }

    pub fn listener(&self, scope: &Scope, name: &str) -> Value {
        self.one(scope, ResourceType::Listener, name)
    }

    pub fn endpoints(&self, scope: &Scope, name: &str) -> Value {
        self.one(scope, ResourceType::Endpoint, name)
    }

    /// The routes of a virtual host.
    pub fn routes(&self, scope: &Scope, config: &str, host: &str) -> Vec<Value> {
        let config = self.one(scope, ResourceType::Route, config);
        let hosts = config["virtualHosts"].as_array().cloned().unwrap_or_default();
        let found = hosts.iter().find(|candidate| candidate["name"] == host);
        let found = found.unwrap_or_else(|| panic!("no virtual host {host} in {config:#}"));
        found["routes"].as_array().cloned().unwrap_or_default()
    }
}

pub fn facets(app: &str, version: &str) -> Facets {
    let mut all = labels(&[("app", app), ("security.istio.io/tlsMode", "istio")]);
    if !version.is_empty() {
        all.insert("version".into(), version.into());
    }
    Facets {
        kind: NodeKind::Sidecar,
        namespace: "default".into(),
        labels: Arc::new(all),
        locality: Locality::parse("r2/z2"),
        network: "".into(),
        cluster: CLUSTER.into(),
        ip: IpMode::V4,
        interception: Interception::Redirect,
        dns_capture: false,
        extensions: true,
        http10: false,
        domain: "cluster.local".into(),
        mesh_id: "".into(),
        machine: "".into(),
    }
}

pub fn sidecar(app: &str) -> Scope {
    Scope::new(facets(app, "v1"))
}

pub fn stock(app: &str) -> Scope {
    Scope::new(Facets { extensions: false, ..facets(app, "v1") })
}

pub fn ingress() -> Scope {
    let mut labels = labels(&[("app", "istio-ingressgateway"), ("istio", "ingressgateway")]);
    labels.insert("security.istio.io/tlsMode".into(), "istio".into());
    Scope::new(Facets {
        kind: NodeKind::Router,
        namespace: "istio-system".into(),
        labels: Arc::new(labels),
        ..facets("istio-ingressgateway", "")
    })
}
