//! WorkloadEntries of proxies that register themselves, in the API server.

use base::NamespacedName;
use control::register::{RegisterError, Registrar, Registration};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Istio's: the group that the entry was made from.
const GROUP: &str = "istio.io/autoRegistrationGroup";
/// Istio's: without a condition `Healthy` the entry gets no traffic.
const HEALTH: &str = "proxy.istio.io/health-checks-enabled";
/// Ours: the entry goes when its proxy is lost for long.
const EPHEMERAL: &str = "mizzen.dev/ephemeral";

/// Writes through a client of the control plane's own.
pub(super) struct KubeRegistrar(pub(super) kube::Client);

impl KubeRegistrar {
    fn entries(&self, namespace: &str) -> Api<DynamicObject> {
        let info = api::Kind::WorkloadEntry.info();
        let gvk = kube::core::GroupVersionKind::gvk(info.group, info.storage, info.name);
        let kind = ApiResource::from_gvk_with_plural(&gvk, info.plural);
        Api::namespaced_with(self.0.clone(), namespace, &kind)
    }

    async fn enter(&self, wanted: &Registration) -> Result<(), RegisterError> {
        let entries = self.entries(&wanted.name.namespace);
        let object: DynamicObject = serde_json::from_value(object(wanted)).map_err(unavailable)?;
        match entries.create(&PostParams::default(), &object).await {
            Ok(_) => Ok(()),
            // Its proxy comes back, or another process took its name.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let known = entries.get(&wanted.name.name).await.map_err(unavailable)?;
                if !is_of(&known, wanted) {
                    return Err(RegisterError::Taken(wanted.name.clone()));
                }
                let patch = json!({"metadata": object.metadata, "spec": object.data["spec"]});
                let params = PatchParams::default();
                let patched = entries.patch(&wanted.name.name, &params, &Patch::Merge(&patch)).await;
                patched.map(drop).map_err(unavailable)
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn set_health(&self, name: &NamespacedName, healthy: bool) -> Result<(), RegisterError> {
        let now = jiff::Timestamp::now();
        let now = now.round(jiff::Unit::Second).unwrap_or(now).to_string();
        let (status, reason) = if healthy { ("True", "Ready") } else { ("False", "NotReady") };
        let condition = json!({
            "type": "Healthy", "status": status, "reason": reason, "lastTransitionTime": now,
            "message": "as its proxy reports",
        });
        let patch = Patch::Merge(json!({"status": {"conditions": [condition]}}));
        let entries = self.entries(&name.namespace);
        entries.patch_status(&name.name, &PatchParams::default(), &patch).await.map(drop).map_err(unavailable)
    }

    async fn leave(&self, name: &NamespacedName) -> Result<(), RegisterError> {
        match self.entries(&name.namespace).delete(&name.name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => result.map(drop).map_err(unavailable),
        }
    }
}

fn unavailable(error: impl std::fmt::Display) -> RegisterError {
    RegisterError::Unavailable(error.to_string())
}

/// Made by the same group, for the same account.
fn is_of(known: &DynamicObject, wanted: &Registration) -> bool {
    let group = known.metadata.annotations.as_ref().and_then(|annotations| annotations.get(GROUP));
    let account = known.data["spec"]["serviceAccount"].as_str().unwrap_or("default");
    group.is_some_and(|group| **group == *wanted.group) && account == wanted.entry.service_account
}

fn object(wanted: &Registration) -> Value {
    let mut annotations = wanted.annotations.clone();
    for (key, value) in [(GROUP, &*wanted.group), (HEALTH, "true"), (EPHEMERAL, "true")] {
        annotations.insert(key.to_owned(), value.to_owned());
    }
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": {
            "name": wanted.name.name, "namespace": wanted.name.namespace,
            "labels": wanted.labels, "annotations": annotations,
        },
        "spec": spec(wanted),
    })
}

/// Only what is said.
fn spec(wanted: &Registration) -> Value {
    let entry = &wanted.entry;
    let mut spec = json!({
        "address": entry.address, "labels": wanted.labels, "serviceAccount": entry.service_account,
    });
    for (key, text) in [("network", &entry.network), ("locality", &entry.locality)] {
        if !text.is_empty() {
            spec[key] = json!(text);
        }
    }
    if !entry.ports.is_empty() {
        spec["ports"] = json!(entry.ports);
    }
    if entry.weight > 0 {
        spec["weight"] = json!(entry.weight);
    }
    spec
}

impl Registrar for KubeRegistrar {
    fn enter<'a>(&'a self, wanted: &'a Registration) -> BoxFuture<'a, Result<(), RegisterError>> {
        Box::pin(Self::enter(self, wanted))
    }

    fn set_health<'a>(
        &'a self,
        name: &'a NamespacedName,
        healthy: bool,
    ) -> BoxFuture<'a, Result<(), RegisterError>> {
        Box::pin(Self::set_health(self, name, healthy))
    }

    fn leave<'a>(&'a self, name: &'a NamespacedName) -> BoxFuture<'a, Result<(), RegisterError>> {
        Box::pin(Self::leave(self, name))
    }
}
