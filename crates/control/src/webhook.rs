//! Registers the validating webhook on an API server, for the objects of our own revision only, so that an Istio beside
//! us is left alone.
//!
//! It is registered so that it cannot stop anybody, then tried with a resource that it must refuse; only when the API
//! server was seen to reach us does it become binding.

use std::time::Duration;

use api::mesh::CONFIG_MAP;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration as Configuration;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use tracing::{info, warn};

const MANAGER: &str = "mizzen-control";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The webhook's own name, by which refusals are introduced.
const NAME: &str = "rev.validation.istio.io";
/// The name of the one for MeshConfig.
const MESH_NAME: &str = "mesh.validation.istio.io";
const GROUPS: [&str; 4] =
    ["networking.istio.io", "security.istio.io", "telemetry.istio.io", "extensions.istio.io"];
/// How often it is looked after: roots change, and people delete things.
const TICK: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(2);

/// What to register.
#[derive(Clone)]
pub struct Registration {
    pub client: kube::Client,
    pub root_namespace: String,
    pub revision: String,
    /// Where an API server reaches `/validate`.
    pub url: String,
    /// The roots that our certificate leads to.
    pub bundle: tls::BundleSource,
}

/// Istio's name of the configuration.
fn name(revision: &str, namespace: &str) -> String {
    match revision {
        "" | "default" => format!("istio-validator-{namespace}"),
        revision => format!("istio-validator-{revision}-{namespace}"),
    }
}

impl Registration {
    /// Keeps the webhook registered, for ever.
    pub async fn keep(self) {
        let mut roots = self.bundle.watch();
        let mut binding = false;
        let mut said = String::new();
        loop {
            let (outcome, pause) = match self.renew(&mut binding).await {
                Ok(()) => (format!("the webhook {} is binding", self.name()), TICK),
                Err(reason) => (reason, SOON),
            };
            if outcome != said && binding {
                info!("{outcome}");
            } else if outcome != said {
                warn!(
                    "{outcome}; until then only schemas judge what is applied, and the status of resources says the rest"
                );
            }
            said = outcome;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = roots.changed() => {}
            }
        }
    }

    /// Takes it away again, so that nobody waits for an answer that cannot come.
    pub async fn withdraw(&self) -> kube::Result<()> {
        let configurations = self.configurations();
        match configurations.get_opt(&self.name()).await? {
            Some(found) if is_ours(&found) => {
                configurations.delete(&self.name(), &DeleteParams::default()).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    fn name(&self) -> String {
        name(&self.revision, &self.root_namespace)
    }

    fn configurations(&self) -> Api<Configuration> {
        Api::all(self.client.clone())
    }

    async fn renew(&self, binding: &mut bool) -> Result<(), String> {
        let failed =
            |error: kube::Error| format!("the webhook {} cannot be registered: {error}", self.name());
        if let Some(found) = self.configurations().get_opt(&self.name()).await.map_err(failed)?
            && !is_ours(&found)
        {
            *binding = false;
            return Err(format!(
                "{} belongs to another control plane; start with another --revision to validate beside it",
                self.name()
            ));
        }
        let Some(bundle) = self.bundle.current() else { return Err("there is no root to trust yet".into()) };
        let apply = async |binding: bool| {
            let wanted = self.configuration(&bundle.to_pem(), binding);
            let params = PatchParams::apply(MANAGER).force();
            self.configurations().patch(&self.name(), &params, &Patch::Apply(&wanted)).await.map(drop)
        };
        apply(*binding).await.map_err(failed)?;
        if !*binding {
            self.reached().await?;
            *binding = true;
            apply(true).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Whether a resource that only we refuse is refused.
    async fn reached(&self) -> Result<(), String> {
        let gvk = GroupVersionKind::gvk("security.istio.io", "v1", "AuthorizationPolicy");
        let resource = ApiResource::from_gvk_with_plural(&gvk, "authorizationpolicies");
        let policies: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.root_namespace, &resource);
        let probe: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": { "name": "mizzen-validation-probe", "labels": { "istio.io/rev": self.revision } },
            "spec": { "rules": [{ "from": [{ "source": { "principals": ["spiffe://refuse-me"] } }] }] },
        }))
        .map_err(|error| error.to_string())?;
        let params = PostParams { dry_run: true, field_manager: Some(MANAGER.into()) };
        match policies.create(&params, &probe).await {
            Err(kube::Error::Api(status)) if status.message.contains(NAME) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                Err("the API server has no AuthorizationPolicy: apply the output of `mizzen crds`".into())
            }
            Err(error) => Err(format!("the webhook cannot be tried: {error}")),
            Ok(_) => Err(format!("the API server does not reach {} to have resources validated", self.url)),
        }
    }

    fn configuration(&self, roots: &str, binding: bool) -> Value {
        use base64::Engine as _;
        let groups: Vec<&str> = GROUPS.to_vec();
        let client = json!({
            "url": self.url,
            "caBundle": base64::engine::general_purpose::STANDARD.encode(roots),
        });
        let failure = if binding { "Fail" } else { "Ignore" };
        // MeshConfig is ours unless it says that it is another control plane's.
        let ours = format!(
            "object.metadata.name == '{CONFIG_MAP}' && (!has(object.metadata.labels) || \
             !('istio.io/rev' in object.metadata.labels) || object.metadata.labels['istio.io/rev'] == '{}')",
            self.revision
        );
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {
                "name": self.name(),
                "labels": { MANAGED_BY: "mizzen", "app": "istiod", "istio.io/rev": self.revision },
            },
            "webhooks": [{
                "name": NAME,
                "clientConfig": client,
                "rules": [{
                    "apiGroups": groups, "apiVersions": ["*"], "resources": ["*"],
                    "operations": ["CREATE", "UPDATE"], "scope": "*",
                }],
                "objectSelector": {
                    "matchExpressions": [{ "key": "istio.io/rev", "operator": "In", "values": [self.revision] }],
                },
                "failurePolicy": failure,
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "timeoutSeconds": 5,
            }, {
                "name": MESH_NAME,
                "clientConfig": client,
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
                    "operations": ["CREATE", "UPDATE"], "scope": "Namespaced",
                }],
                "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": self.root_namespace } },
                "matchConditions": [{ "name": "mesh-config", "expression": ours }],
                "failurePolicy": failure,
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "timeoutSeconds": 5,
            }],
        })
    }
}

fn is_ours(found: &Configuration) -> bool {
    let labels = found.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == "mizzen")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_called_as_istio_calls_it() {
        assert_eq!(name("default", "istio-system"), "istio-validator-istio-system");
        assert_eq!(name("canary", "istio-system"), "istio-validator-canary-istio-system");
    }
}
