//! The objects that make a process known to the mesh: its account, its Service, its WorkloadEntry, its token.
//!
//! Written through the user's own kubeconfig, the same on an embedded API and on a cluster.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow};
use futures::StreamExt;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};

use super::{Port, Spec};
use crate::objects::explain;

/// Istio's name for whom the token is meant.
const AUDIENCE: &str = "istio-ca";
/// An hour: renewed long before.
const TOKEN_SECONDS: i64 = 3600;
const ROOT_CONFIG_MAP: &str = "istio-ca-root-cert";
const ROOT_KEY: &str = "root-cert.pem";
/// Istio's annotation: without a condition `Healthy` the entry gets no traffic.
const HEALTH_ANNOTATION: &str = "proxy.istio.io/health-checks-enabled";
/// Ours: the entry goes when its proxy is lost for long.
const EPHEMERAL_ANNOTATION: &str = "mizzen.dev/ephemeral";

/// One namespace of the API server, for one workload.
#[derive(Clone)]
pub(crate) struct Objects {
    client: Client,
    namespace: String,
}

/// What proves the workload's account to the authority.
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) seconds: u64,
}

impl Objects {
    pub(crate) fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned() }
    }

    /// Makes the account if it is absent.
    pub(crate) async fn ensure_account(&self, name: &str) -> anyhow::Result<()> {
        let accounts: Api<ServiceAccount> = self.api();
        let account = ServiceAccount {
            metadata: kube::api::ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
            ..Default::default()
        };
        create_if_absent(&accounts, name, &account)
            .await
            .map(drop)
            .with_context(|| format!("service account {}/{name}", self.namespace))
    }

    /// Makes the Service if it is absent. One that is there belongs to whoever made it.
    pub(crate) async fn ensure_service(&self, name: &str, ports: &[Port]) -> anyhow::Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        let services: Api<Service> = self.api();
        let service: Service = serde_json::from_value(service(name, ports))?;
        create_if_absent(&services, name, &service)
            .await
            .map(drop)
            .with_context(|| format!("service {}/{name}", self.namespace))
    }

    /// Makes the group by which workloads of another host register themselves, if it is absent.
    pub(crate) async fn ensure_group(&self, spec: &Spec) -> anyhow::Result<()> {
        let name = spec.workload();
        let group: DynamicObject = serde_json::from_value(group(&name, spec))?;
        self.ensure(api::Kind::WorkloadGroup, &name, &group).await
    }

    /// Makes what lets other networks in through a gateway at that address: its Service, which says where the door of the
    /// network is, and the Gateway resource by which it passes the mesh's own TLS through.
    pub(crate) async fn ensure_door(&self, name: &str, network: &str, address: &str) -> anyhow::Result<()> {
        let services: Api<Service> = self.api();
        let service: Service = serde_json::from_value(door(name, network, address))?;
        create_if_absent(&services, name, &service)
            .await
            .map(drop)
            .with_context(|| format!("service {}/{name}", self.namespace))?;
        let gateway: DynamicObject = serde_json::from_value(cross_network_gateway())?;
        self.ensure(api::Kind::Gateway, CROSS_NETWORK, &gateway).await
    }

    /// Keeps the record of a join token.
    pub(crate) async fn keep_token(&self, kept: &ca::Kept) -> anyhow::Result<()> {
        let secrets: Api<Secret> = self.api();
        let secret = crate::join_secret::new(kept);
        secrets
            .create(&PostParams::default(), &secret)
            .await
            .map(drop)
            .context("keep the join token's record")
    }

    async fn ensure(&self, kind: api::Kind, name: &str, object: &DynamicObject) -> anyhow::Result<()> {
        let api = self.resources(kind);
        if api.get_opt(name).await?.is_some() {
            return Ok(());
        }
        match api.create(&PostParams::default(), object).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            result => result.map(drop).with_context(|| format!("{} {}/{name}", kind.name(), self.namespace)),
        }
    }

    /// A token of the account for the mesh's authority.
    pub(crate) async fn token(&self, account: &str) -> anyhow::Result<Token> {
        let accounts: Api<ServiceAccount> = self.api();
        let spec = TokenRequestSpec {
            audiences: Some(vec![AUDIENCE.into()]),
            expiration_seconds: Some(TOKEN_SECONDS),
            ..Default::default()
        };
        let request = TokenRequest { spec: Some(spec), ..Default::default() };
        let answer = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .with_context(|| format!("token of the service account {}/{account}", self.namespace))?;
        let seconds = answer.spec.and_then(|spec| spec.expiration_seconds).unwrap_or(TOKEN_SECONDS);
        let text = answer.status.and_then(|status| status.token);
        let text = text.ok_or_else(|| anyhow!("the API server returned no token"))?;
        Ok(Token { text, seconds: u64::try_from(seconds).unwrap_or(0) })
    }

    /// The mesh's root certificates, which the control plane puts into every namespace; `None` until it has.
    pub(crate) async fn root_certificates(&self) -> anyhow::Result<Option<String>> {
        let maps: Api<ConfigMap> = self.api();
        let map = maps.get_opt(ROOT_CONFIG_MAP).await.context("the mesh's root certificates")?;
        Ok(map.and_then(|map| map.data?.remove(ROOT_KEY)))
    }

    /// Registers the workload, not yet ready for traffic.
    pub(crate) async fn register(&self, name: &str, spec: &Spec, address: &str) -> anyhow::Result<()> {
        let entry: DynamicObject = serde_json::from_value(entry(name, spec, address))?;
        self.entries()
            .create(&PostParams::default(), &entry)
            .await
            .with_context(|| format!("workload entry {}/{name}", self.namespace))?;
        self.set_ready(name, false).await
    }

    /// Completes when the entry is not there, or no more.
    pub(crate) async fn until_gone(&self, name: &str) {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut events = watcher::watcher(self.entries(), config).default_backoff().boxed();
        let mut found = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => found = false,
                Ok(watcher::Event::InitApply(_) | watcher::Event::Apply(_)) => found = true,
                Ok(watcher::Event::InitDone) if found => {}
                Ok(watcher::Event::InitDone | watcher::Event::Delete(_)) => return,
                Err(error) => tracing::debug!(%error, name, "the entry cannot be watched"),
            }
        }
    }

    pub(crate) async fn set_ready(&self, name: &str, ready: bool) -> anyhow::Result<()> {
        let status = json!({"status": {"conditions": [condition(ready)]}});
        self.entries()
            .patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
            .await
            .map(drop)
            .with_context(|| format!("status of workload entry {}/{name}", self.namespace))
    }

    /// Takes the workload out of the mesh's register; it may be gone already.
    pub(crate) async fn withdraw(&self, name: &str) -> anyhow::Result<()> {
        match self.entries().delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => result.map(drop).with_context(|| format!("workload entry {}/{name}", self.namespace)),
        }
    }

    fn entries(&self) -> Api<DynamicObject> {
        self.resources(api::Kind::WorkloadEntry)
    }

    fn resources(&self, kind: api::Kind) -> Api<DynamicObject> {
        resources(&self.client, kind, &self.namespace)
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// The resources of one of Istio's kinds in a namespace.
pub(super) fn resources(client: &Client, kind: api::Kind, namespace: &str) -> Api<DynamicObject> {
    let info = kind.info();
    let gvk = GroupVersionKind::gvk(info.group, info.storage, info.name);
    let resource = ApiResource::from_gvk_with_plural(&gvk, info.plural);
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// Makes the namespace if it is absent.
pub(crate) async fn ensure_namespace(client: Client, name: &str) -> anyhow::Result<()> {
    let metadata = kube::api::ObjectMeta { name: Some(name.to_owned()), ..Default::default() };
    let namespace = Namespace { metadata, ..Default::default() };
    let made = create_if_absent(&Api::all(client), name, &namespace).await;
    made.map(drop).with_context(|| format!("namespace {name}"))
}

async fn create_if_absent<K>(api: &Api<K>, name: &str, object: &K) -> anyhow::Result<bool>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize + kube::Resource,
{
    if let Some(found) = api.get_opt(name).await.map_err(explain)? {
        tracing::debug!(name = found.name_any(), "exists");
        return Ok(false);
    }
    match api.create(&PostParams::default(), object).await {
        // Another replica was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        result => result.map(|_| true).map_err(explain),
    }
}

fn service(name: &str, ports: &[Port]) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|port| json!({"name": port.name, "port": port.number, "targetPort": port.target, "protocol": "TCP"}))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": {"app": name, "service": name}},
        "spec": {"selector": {"app": name}, "ports": ports},
    })
}

/// A Service's ports that are served on another number.
fn moved(spec: &Spec) -> BTreeMap<&str, u16> {
    spec.ports.iter().filter(|p| p.number != p.target).map(|p| (p.name.as_str(), p.target)).collect()
}

fn group(name: &str, spec: &Spec) -> Value {
    let labels = spec.labels();
    let mut template = json!({"labels": labels, "serviceAccount": spec.account()});
    if !moved(spec).is_empty() {
        template["ports"] = json!(moved(spec));
    }
    if let Some(network) = &spec.network {
        template["network"] = json!(network);
    }
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadGroup",
        "metadata": {"name": name, "labels": labels},
        "spec": {"metadata": {"labels": labels}, "template": template},
    })
}

/// The port of the mesh's own TLS at the door of a network, as in Istio.
pub(crate) const DOOR_PORT: u16 = 15443;
/// The label of gateways that are doors.
pub(crate) const DOOR: &str = "eastwestgateway";
const CROSS_NETWORK: &str = "cross-network-gateway";

fn door(name: &str, network: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "labels": {"app": name, "istio": DOOR, "topology.istio.io/network": network},
        },
        "spec": {
            "selector": {"app": name},
            "ports": [{"name": "tls", "port": DOOR_PORT, "targetPort": DOOR_PORT, "protocol": "TCP"}],
            "externalIPs": [address],
        },
    })
}

fn cross_network_gateway() -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": CROSS_NETWORK},
        "spec": {
            "selector": {"istio": DOOR},
            "servers": [{
                "port": {"number": DOOR_PORT, "name": "tls", "protocol": "TLS"},
                "tls": {"mode": "AUTO_PASSTHROUGH"},
                "hosts": ["*.local"],
            }],
        },
    })
}

fn entry(name: &str, spec: &Spec, address: &str) -> Value {
    let labels = spec.labels();
    let moved = moved(spec);
    let mut entry = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": {
            "name": name,
            "labels": labels,
            "annotations": {HEALTH_ANNOTATION: "true", EPHEMERAL_ANNOTATION: "true"},
        },
        "spec": {"address": address, "labels": labels, "serviceAccount": spec.account()},
    });
    if !moved.is_empty() {
        entry["spec"]["ports"] = json!(moved);
    }
    if let Some(locality) = &spec.locality {
        entry["spec"]["locality"] = json!(locality);
    }
    if let Some(network) = &spec.network {
        entry["spec"]["network"] = json!(network);
    }
    entry
}

/// Istio's own condition of a WorkloadEntry.
fn condition(ready: bool) -> Value {
    let now = jiff::Timestamp::now();
    let now = now.round(jiff::Unit::Second).unwrap_or(now);
    let (status, reason) = if ready { ("True", "Ready") } else { ("False", "NotReady") };
    json!({"type": "Healthy", "status": status, "reason": reason, "lastTransitionTime": now.to_string()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_who_where_and_how_to_choose_it() {
        let spec = Spec {
            version: Some("v2".into()),
            ports: vec!["http=80:9080".parse().unwrap(), "grpc=7000".parse().unwrap()],
            locality: Some("eu/a".into()),
            ..Spec::sidecar("reviews")
        };
        let entry = entry("reviews-v2-abcde", &spec, "10.44.0.5");
        assert_eq!(entry["spec"]["serviceAccount"], "reviews");
        assert_eq!(entry["spec"]["ports"], json!({"http": 9080}));
        assert_eq!(entry["spec"]["locality"], "eu/a");
        assert_eq!(entry["spec"]["labels"]["app"], "reviews");
        assert_eq!(entry["spec"]["labels"]["version"], "v2");
        assert_eq!(entry["spec"].get("network"), None);
    }

    #[test]
    fn a_service_selects_by_its_name() {
        let made = service("reviews", &["http=80:9080".parse().unwrap()]);
        assert_eq!(made["spec"]["selector"], json!({"app": "reviews"}));
        assert_eq!(
            made["spec"]["ports"][0],
            json!({"name": "http", "port": 80, "targetPort": 9080, "protocol": "TCP"})
        );
    }
}
