//! A real istiod on a real API server, for a mesh of Bookinfo's size: what our proxy stands below in place of Envoy.
//!
//! The mesh is `tests/peers/istiod`. Its pods are only written down; whoever wants one to be there runs its proxy.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use testkit::istiod::{MESH, PODS, RECORDED, WORKLOADS, record};
use testkit::peers::need;

use crate::ask::{ask, ask_json};
use crate::cluster::{Cluster, there};
use crate::mesh::program;
use crate::{stage, until, until_ok};

const START: Duration = Duration::from_secs(60);
/// The release that its main branch becomes; proxies say which one they are of.
const VERSION: &str = "1.31.0";

/// It ends, with the API server, when it is dropped.
pub struct Istiod {
    cluster: Cluster,
    pods: Vec<Pod>,
}

/// One that [`PODS`] lists.
#[derive(Debug, Clone)]
pub struct Pod {
    pub name: String,
    pub namespace: String,
    pub account: String,
    pub address: String,
    pub labels: Value,
    workload: String,
}

impl Istiod {
    /// On a mesh with these rules; none where this machine has no istiod.
    pub fn start(rules: &str) -> anyhow::Result<Option<Self>> {
        if need("istiod").is_none() || !there() {
            return Ok(None);
        }
        let cluster = Cluster::start()?;
        let mut files = Vec::new();
        for (name, text) in [("workloads.yaml", WORKLOADS), ("pods.yaml", PODS), ("rules.yaml", rules)] {
            fs::write(cluster.at(name), text)?;
            files.push(format!("--filename={}", cluster.at(name)));
        }
        let apply: Vec<&str> = ["apply"].into_iter().chain(files.iter().map(String::as_str)).collect();
        cluster.kubectl(&apply)?;
        // What is new has no status yet.
        cluster.kubectl(&["replace", "--subresource=status", &files[1]])?;
        fs::write(cluster.at("mesh.yaml"), MESH)?;
        let pods: Value = serde_json::from_str(&cluster.kubectl(&["get", "pods", "-A", "-o", "json"])?)?;
        let pods = list(&pods["items"]).map(Pod::of).collect();
        let mut istiod = Self { cluster, pods };
        istiod.serve()?;
        Ok(Some(istiod))
    }

    /// Starts it on the API server as that is, at first and after [`Istiod::kill`].
    pub fn serve(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(need("istiod").context("needs istiod")?);
        command
            .args(["discovery", "--meshConfig", "mesh.yaml", "--kubeconfig"])
            .arg(self.cluster.kubeconfig())
            .args(["--httpAddr", "127.0.0.1:8080", "--grpcAddr", "127.0.0.1:15010"])
            .args(["--secureGRPCAddr", ":15012", "--httpsAddr", "127.0.0.1:15017"])
            .args(["--monitoringAddr", "127.0.0.1:15014", "--shutdownDuration", "0s"])
            .env("POD_NAME", "istiod-0")
            .env("POD_NAMESPACE", "istio-system")
            .env("INJECT_ENABLED", "false");
        self.cluster.keep("istiod", &mut command)?;
        let ready = || ask("http://127.0.0.1:8080/ready", &[]).ok().filter(|answer| answer.status == 200);
        until("istiod is ready", START, ready).with_context(|| self.cluster.log("istiod")).map(drop)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.cluster.end("istiod");
    }

    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.cluster.kubectl(arguments)
    }

    /// Applies YAML with kubectl.
    pub fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        let file = self.cluster.at("applied.yaml");
        fs::write(&file, yaml)?;
        // What is applied by the client needs the server's schemas first, which takes seconds.
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &file]).map(drop)
    }

    /// Starts what ends with it; its log is kept for a failure.
    pub fn keep(&mut self, name: &str, command: &mut Command) -> anyhow::Result<()> {
        self.cluster.keep(name, command)
    }

    /// Where a file of that name is beside its own.
    pub fn at(&self, name: &str) -> String {
        self.cluster.at(name)
    }

    pub fn pod(&self, name: &str) -> anyhow::Result<Pod> {
        self.pods.iter().find(|pod| pod.name == name).cloned().with_context(|| format!("no pod {name}"))
    }

    /// The arguments of a `mizzen-proxy` beside the pod: its certificate by istiod's authority for a token of its account,
    /// its configuration over mutual TLS.
    pub fn agent(&self, pod: &Pod, control_plane: &str) -> anyhow::Result<Vec<String>> {
        let namespace = ["-n", &pod.namespace];
        let token = self
            .kubectl(&[&namespace[..], &["create", "token", &pod.account, "--audience=istio-ca"]].concat())?;
        // istiod writes it into every namespace, for pods to mount.
        let root = r"jsonpath={.data.root-cert\.pem}";
        let root = until_ok("istiod's root is published", START, || {
            self.kubectl(&[&namespace[..], &["get", "configmap", "istio-ca-root-cert", "-o", root]].concat())
        })?;
        let mut metadata = pod.metadata();
        metadata["DNS_CAPTURE"] = "true".into();
        let file = |what: &str, text: &str| -> anyhow::Result<String> {
            let path = self.cluster.at(&format!("{}.{what}", pod.name));
            fs::write(&path, text)?;
            Ok(path)
        };
        let arguments = [
            pod.kind(),
            "--node-id",
            &pod.node_id(),
            "--metadata-json",
            &file("json", &metadata.to_string())?,
            "--control-plane",
            control_plane,
            "--root-cert",
            &file("root", &root)?,
            "--token-file",
            &file("token", &token)?,
            "--concurrency",
            "1",
        ];
        Ok(arguments.map(str::to_owned).to_vec())
    }

    /// One of its debug pages about a proxy.
    pub fn debug(&self, page: &str, pod: &Pod) -> anyhow::Result<Value> {
        let id = format!("{}.{}", pod.name, pod.namespace);
        ask_json(&format!("http://127.0.0.1:8080/debug/{page}?proxyID={id}"), &[])
    }

    /// How many answers proxies refused, as it counted them.
    pub fn refused(&self) -> anyhow::Result<u64> {
        let metrics = ask("http://127.0.0.1:15014/metrics", &[])?.body;
        let counts = metrics.lines().filter(|line| line.starts_with("pilot_total_xds_rejects{"));
        Ok(counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }
}

impl Drop for Istiod {
    fn drop(&mut self) {
        stage::keep_for_a_failure(self.cluster.logs());
    }
}

impl Pod {
    fn of(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let replicas = text(&object["metadata"]["ownerReferences"][0]["name"]);
        let workload = replicas.rsplit_once('-').map(|(workload, _)| workload.to_owned());
        Self {
            name: text(&object["metadata"]["name"]),
            namespace: text(&object["metadata"]["namespace"]),
            account: text(&object["spec"]["serviceAccountName"]),
            address: text(&object["status"]["podIP"]),
            labels: object["metadata"]["labels"].clone(),
            workload: workload.unwrap_or_else(|| text(&object["metadata"]["name"])),
        }
    }

    fn kind(&self) -> &'static str {
        if self.account.ends_with("gateway") { "router" } else { "sidecar" }
    }

    fn node_id(&self) -> String {
        let Self { name, namespace, address, .. } = self;
        format!("{}~{address}~{name}.{namespace}~{namespace}.svc.cluster.local", self.kind())
    }

    fn metadata(&self) -> Value {
        json!({
            "NAME": self.name,
            "WORKLOAD_NAME": self.workload,
            "NAMESPACE": self.namespace,
            "SERVICE_ACCOUNT": self.account,
            "LABELS": self.labels,
            "INSTANCE_IPS": self.address,
            "CLUSTER_ID": "Kubernetes",
            "ISTIO_VERSION": VERSION,
            "INTERCEPTION_MODE": "REDIRECT",
        })
    }

    /// For a proxy without an agent, which asks in plaintext on the machine's own loopback.
    fn bootstrap(&self, api_type: &str) -> Value {
        let ads = json!({"ads": {}, "resourceApiVersion": "V3"});
        let http2 = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicitHttpConfig": {"http2ProtocolOptions": {}},
        }});
        let address = json!({"socketAddress": {"address": "127.0.0.1", "portValue": 15010}});
        json!({
            "node": {"id": self.node_id(), "cluster": self.account, "metadata": self.metadata()},
            "dynamicResources": {
                "cdsConfig": ads,
                "ldsConfig": ads,
                "adsConfig": {
                    "apiType": api_type,
                    "transportApiVersion": "V3",
                    "grpcServices": [{"envoyGrpc": {"clusterName": "istiod"}}],
                },
            },
            "staticResources": {"clusters": [{
                "name": "istiod",
                "typedExtensionProtocolOptions": http2,
                "loadAssignment": {
                    "clusterName": "istiod",
                    "endpoints": [{"lbEndpoints": [{"endpoint": {"address": address}}]}],
                },
            }]},
        })
    }
}

/// Makes what [`testkit::istiod`] describes, unless it is there or cannot be made here.
pub fn make_record() -> anyhow::Result<()> {
    let target = record();
    if target.is_dir() {
        return Ok(());
    }
    stage::own_network()?;
    let Some(mut istiod) = Istiod::start(testkit::istiod::RULES)? else { return Ok(()) };
    let folder = tempfile::tempdir_in(target.parent().context("the peers' folder")?)?;
    let pods = RECORDED.iter().map(|(name, pod)| Ok((*name, istiod.pod(pod)?)));
    let pods: Vec<(&str, Pod)> = pods.collect::<anyhow::Result<_>>()?;
    // Both ways to ask must come to the same.
    for ((name, pod), api_type) in pods.iter().zip(["DELTA_GRPC", "GRPC"].into_iter().cycle()) {
        let bootstrap = PathBuf::from(istiod.at(&format!("{name}.bootstrap")));
        fs::write(&bootstrap, pod.bootstrap(api_type).to_string())?;
        let mut proxy = Command::new(program("mizzen-proxy"));
        istiod.keep(name, proxy.args(["--concurrency", "1", "--config"]).arg(bootstrap))?;
    }
    for (name, pod) in &pods {
        let (config, endpoints) =
            until_ok(&format!("{name} has asked for everything"), START, || whole(&istiod, pod))
                .with_context(|| istiod.cluster.logs())?;
        fs::write(folder.path().join(format!("{name}.json")), config.to_string())?;
        fs::write(folder.path().join(format!("{name}.endpoints.json")), endpoints.to_string())?;
    }
    drop(istiod);
    // Somebody else may have made it meanwhile.
    let moved = fs::rename(folder.path(), &target);
    ensure!(moved.is_ok() || target.is_dir(), "{}: {moved:?}", target.display());
    println!("istiod's words are in {}", target.display());
    Ok(())
}

/// What istiod says to a proxy, as soon as that has asked for all that is referred to.
fn whole(istiod: &Istiod, pod: &Pod) -> anyhow::Result<(Value, Value)> {
    let config = istiod.debug("config_dump", pod)?;
    let endpoints = istiod.debug("edsz", pod)?;
    let parts = config["configs"].as_array().context("no configuration")?;
    let all = |field: &'static str| parts.iter().flat_map(move |part| list(&part[field]));
    let tables: Vec<&Value> = all("dynamicRouteConfigs").map(|entry| &entry["routeConfig"]["name"]).collect();
    let mut wanted = Vec::new();
    all("dynamicListeners").for_each(|listener| named(listener, "routeConfigName", &mut wanted));
    ensure!(!wanted.is_empty(), "no listener");
    for name in wanted {
        ensure!(tables.contains(&name), "no routes {name}");
    }
    let assigned: Vec<&Value> = list(&endpoints["configs"]).map(|entry| &entry["clusterName"]).collect();
    for cluster in all("dynamicActiveClusters").map(|entry| &entry["cluster"]).filter(|c| c["type"] == "EDS")
    {
        ensure!(assigned.contains(&&cluster["name"]), "no endpoints of {}", cluster["name"]);
    }
    Ok((config, endpoints))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// All values of that field, however deep.
fn named<'a>(value: &'a Value, field: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get(field));
            fields.values().for_each(|value| named(value, field, found));
        }
        Value::Array(values) => values.iter().for_each(|value| named(value, field, found)),
        _ => {}
    }
}
