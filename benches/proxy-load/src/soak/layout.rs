//! The configuration of the proxy under the soak: a bootstrap that never changes, and files that do.

use std::path::Path;

use serde_json::{Value, json};

use super::book::Door;
use super::plan::{Change, MORTAL, STEADY};
use crate::config::chain::{manager, router};
use crate::config::envoy::{Bootstrap, Hop, address, cluster, extension, listener, mutual_tls, typed};
use crate::keys::{HOST, Keys};

/// Ports are fixed: what listens there goes and comes, and the system must not give its port to somebody else meanwhile.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) base: u16,
}

impl Ports {
    pub(crate) fn door(self, door: Door) -> u16 {
        self.base + door as u16
    }

    pub(crate) fn admin(self) -> u16 {
        self.base + 9
    }

    /// HTTP/1.1; behind it are HTTP/2, mutual TLS and TCP.
    pub(crate) fn backend(self, number: usize) -> u16 {
        self.base + 10 + 10 * number as u16
    }

    pub(crate) fn all(self) -> impl Iterator<Item = u16> {
        let backends = (0..STEADY + MORTAL).flat_map(move |it| (0..4).map(move |of| self.backend(it) + of));
        Door::ALL.into_iter().map(move |door| self.door(door)).chain([self.admin()]).chain(backends)
    }
}

/// Clusters with their offset among a backend's ports, and whether their endpoints change.
const CLUSTERS: [(&str, u16, bool); 8] = [
    ("steady", 0, true),
    ("grpc", 1, true),
    ("secure", 2, true),
    ("tcp", 3, true),
    ("stale", 0, false),
    ("cut", 0, false),
    ("rude", 0, false),
    ("fickle", 0, false),
];

/// What changes, as it is now.
pub(crate) struct Layout<'a> {
    ports: Ports,
    folder: &'a Path,
    keys: &'a Keys,
    members: Vec<usize>,
    unhealthy: Option<usize>,
    routes: usize,
    clusters: usize,
    timeout: u64,
    fickle: Option<usize>,
    last_fickle: usize,
}

pub(crate) type Files = Vec<(String, Value)>;

impl<'a> Layout<'a> {
    pub(crate) fn new(ports: Ports, folder: &'a Path, keys: &'a Keys) -> Self {
        Self {
            ports,
            folder,
            keys,
            members: (0..STEADY).collect(),
            unhealthy: None,
            routes: 0,
            clusters: 0,
            timeout: 5,
            fickle: Some(0),
            last_fickle: 0,
        }
    }

    pub(crate) fn bootstrap(&self) -> Value {
        let secrets = Bootstrap::default().with_secrets(&self.keys.answer, &self.keys.root).secrets;
        json!({
            "node": {"id": "soak", "cluster": "soak"},
            "admin": address("127.0.0.1", self.ports.admin()),
            "static_resources": {"secrets": secrets},
            "dynamic_resources": {"lds_config": self.source("lds"), "cds_config": self.source("cds")},
        })
    }

    fn source(&self, file: &str) -> Value {
        let path = self.folder.join(format!("{file}.json"));
        json!({"resource_api_version": "V3", "path_config_source": {"path": path}})
    }

    /// All files, those first that others lead to.
    pub(crate) fn files(&self) -> Files {
        let mut all = self.endpoints(true);
        all.extend([self.cds(), self.rds(), self.lds()]);
        all
    }

    /// The files that the change makes anew; none where it is not the configuration that changes.
    pub(crate) fn apply(&mut self, change: &Change) -> Files {
        match change {
            Change::Endpoints { members, unhealthy } => {
                (self.members, self.unhealthy) = (members.clone(), *unhealthy);
                self.endpoints(false)
            }
            Change::Routes { others } => {
                self.routes = *others;
                vec![self.rds()]
            }
            Change::Clusters { others, timeout } => {
                (self.clusters, self.timeout) = (*others, *timeout);
                vec![self.cds()]
            }
            Change::Listener { version } => {
                (self.fickle, self.last_fickle) = (Some(*version), *version);
                vec![self.lds()]
            }
            Change::Absent => {
                self.fickle = None;
                vec![self.lds()]
            }
            Change::Present => {
                self.fickle = Some(self.last_fickle);
                vec![self.lds()]
            }
            Change::Kill(_) | Change::Start(_) => Vec::new(),
        }
    }

    fn endpoints(&self, all: bool) -> Files {
        let assignment = |name: &str, offset: u16, members: &[usize], unhealthy: Option<usize>| {
            let endpoint = |&member: &usize| {
                let health = if Some(member) == unhealthy { "UNHEALTHY" } else { "HEALTHY" };
                let at = address("127.0.0.1", self.ports.backend(member) + offset);
                json!({"endpoint": at, "health_status": health})
            };
            let endpoints: Vec<Value> = members.iter().map(endpoint).collect();
            let assignment = typed(
                "envoy.config.endpoint.v3.ClusterLoadAssignment",
                json!({"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}),
            );
            (format!("eds-{name}"), resources(vec![assignment]))
        };
        let fixed: Vec<usize> = (0..STEADY).collect();
        let mut files: Files = CLUSTERS
            .iter()
            .filter(|(_, _, changes)| all || *changes)
            .map(|&(name, offset, changes)| match changes {
                true => assignment(name, offset, &self.members, self.unhealthy),
                false => assignment(name, offset, &fixed, None),
            })
            .collect();
        if all {
            let mortal: Vec<usize> = (STEADY..STEADY + MORTAL).collect();
            files.push(assignment("mortal", 0, &mortal, None));
        }
        files
    }

    fn cds(&self) -> (String, Value) {
        let eds = |name: &str| {
            let hop = Hop { http2: name == "grpc", peer: (name == "secure").then_some(self.keys.answer.id) };
            let mut cluster = typed("envoy.config.cluster.v3.Cluster", cluster(name, 1, hop));
            cluster["type"] = "EDS".into();
            cluster["connect_timeout"] = "5s".into();
            cluster["eds_cluster_config"] = json!({"eds_config": self.source(&format!("eds-{name}"))});
            if let Some(fields) = cluster.as_object_mut() {
                fields.remove("load_assignment");
            }
            cluster
        };
        let mut all: Vec<Value> = CLUSTERS.iter().map(|(name, ..)| eds(name)).collect();
        all[0]["connect_timeout"] = format!("{}s", self.timeout).into();
        let mut mortal = eds("mortal");
        mortal["health_checks"] = json!([{"timeout": "1s", "interval": "0.5s", "no_traffic_interval": "0.5s",
            "unhealthy_threshold": 1, "healthy_threshold": 1, "http_health_check": {"path": "/mortal/health"}}]);
        all.push(mortal);
        all.extend((0..self.clusters).map(|number| {
            let other = cluster(&format!("other-{number}"), 1, Hop::default());
            typed("envoy.config.cluster.v3.Cluster", other)
        }));
        ("cds".to_owned(), resources(all))
    }

    fn rds(&self) -> (String, Value) {
        let to =
            |prefix: &str, cluster: &str| json!({"match": {"prefix": prefix}, "route": {"cluster": cluster}});
        let again = |mut route: Value| {
            route["route"]["retry_policy"] = json!({
                "retry_on": "connect-failure,refused-stream,reset",
                "num_retries": 3,
                "retry_host_predicate": [extension("envoy.retry_host_predicates.previous_hosts",
                    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", json!({}))],
                "host_selection_retry_max_attempts": "5",
                "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.02s"},
            });
            route
        };
        let mut routes: Vec<Value> = (0..self.routes)
            .map(|number| {
                json!({"match": {"path": format!("/other/{number}")}, "direct_response": {"status": 204}})
            })
            .collect();
        routes.extend([
            to("/steady/", "steady"),
            to("/soak.Echo/", "grpc"),
            to("/secure/", "secure"),
            to("/cut/", "cut"),
            to("/mortal/", "mortal"),
            again(to("/retried/", "mortal")),
            again(to("/stale/", "stale")),
        ]);
        let mut hosts = vec![json!({"name": "all", "domains": [HOST], "routes": routes})];
        hosts.extend((0..self.routes).map(|number| {
            let name = format!("other-{number}");
            json!({"name": name, "domains": [format!("{name}.example")], "routes": [to("/", "rude")]})
        }));
        let routes = json!({"name": "routes", "virtual_hosts": hosts});
        ("rds".to_owned(), resources(vec![typed("envoy.config.route.v3.RouteConfiguration", routes)]))
    }

    fn lds(&self) -> (String, Value) {
        let http = |door: Door, name: &str, tls: Option<Value>, routes: (&str, Value)| {
            let mut config = json!({
                "stat_prefix": name,
                "http_filters": [router()],
                "upgrade_configs": [{"upgrade_type": "websocket"}],
            });
            config[routes.0] = routes.1;
            listener(self.ports.door(door), manager(config), tls)
        };
        let shared = || ("rds", json!({"config_source": self.source("rds"), "route_config_name": "routes"}));
        let to = |cluster: &str| {
            let all = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}});
            let hosts = json!([{"name": "all", "domains": ["*"], "routes": [all]}]);
            ("route_config", json!({"name": cluster, "virtual_hosts": hosts}))
        };
        let tcp = extension(
            "envoy.filters.network.tcp_proxy",
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            json!({"stat_prefix": "tcp", "cluster": "tcp"}),
        );
        let mut all = vec![
            http(Door::Edge, "edge", None, shared()),
            http(Door::Tls, "tls", Some(mutual_tls()), shared()),
            listener(self.ports.door(Door::Tcp), tcp, None),
            http(Door::Rude, "rude", None, to("rude")),
        ];
        all.extend(self.fickle.map(|version| {
            let (field, mut routes) = to("fickle");
            routes["response_headers_to_add"] =
                json!([{"header": {"key": "version", "value": version.to_string()}}]);
            http(Door::Fickle, "fickle", None, (field, routes))
        }));
        let all = all.into_iter().map(|it| typed("envoy.config.listener.v3.Listener", it)).collect();
        ("lds".to_owned(), resources(all))
    }
}

fn resources(all: Vec<Value>) -> Value {
    json!({ "resources": all })
}

/// Written beside, then moved into place: in between there is no moment with half a file.
pub(crate) fn write(folder: &Path, files: &Files) -> std::io::Result<()> {
    for (name, content) in files {
        let beside = folder.join(format!("{name}.new"));
        std::fs::write(&beside, content.to_string())?;
        std::fs::rename(&beside, folder.join(format!("{name}.json")))?;
    }
    Ok(())
}
