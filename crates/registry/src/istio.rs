//! Istio's kinds: from the API's JSON to typed changes.

use k8s_openapi::api::core::v1::ConfigMap;
use model::{Kind, Object};
use serde_json::Value;

/// The model's name of a kind.
pub(crate) fn kind(kind: api::Kind) -> Kind {
    match kind {
        api::Kind::VirtualService => Kind::VirtualService,
        api::Kind::DestinationRule => Kind::DestinationRule,
        api::Kind::Gateway => Kind::Gateway,
        api::Kind::ServiceEntry => Kind::ServiceEntry,
        api::Kind::Sidecar => Kind::Sidecar,
        api::Kind::WorkloadEntry => Kind::WorkloadEntry,
        api::Kind::WorkloadGroup => Kind::WorkloadGroup,
        api::Kind::ProxyConfig => Kind::ProxyConfig,
        api::Kind::AuthorizationPolicy => Kind::AuthorizationPolicy,
        api::Kind::PeerAuthentication => Kind::PeerAuthentication,
        api::Kind::RequestAuthentication => Kind::RequestAuthentication,
        api::Kind::Telemetry => Kind::Telemetry,
    }
}

/// Shape and sense are checked again here: on a cluster, nobody may have checked them before.
pub(crate) fn object(value: &Value) -> Result<Object, Vec<String>> {
    let object = api::Object::from_json(value).map_err(texts)?;
    let validation = api::validate(object.kind, value);
    if !validation.errors.is_empty() {
        return Err(texts(validation.errors));
    }
    typed(object, is_healthy(value))
}

/// MeshConfig, out of the ConfigMap `istio`.
pub(crate) fn mesh(map: &ConfigMap) -> Result<api::mesh::MeshConfig, Vec<String>> {
    let text = map.data.as_ref().and_then(|data| data.get("mesh")).map_or("{}", String::as_str);
    Ok(api::parse_mesh_config(text).map_err(texts)?.0)
}

fn texts(errors: Vec<api::FieldError>) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// A workload is healthy unless its status says otherwise; one whose health is checked is so only when it says so.
fn is_healthy(value: &Value) -> bool {
    let conditions = value["status"]["conditions"].as_array();
    let said =
        conditions.into_iter().flatten().find(|c| c["type"] == "Healthy").map(|c| c["status"] == "True");
    said.unwrap_or(value["metadata"]["annotations"]["proxy.istio.io/health-checks-enabled"] != "true")
}

fn typed(object: api::Object, healthy: bool) -> Result<Object, Vec<String>> {
    let leaving = object.metadata.deletion_timestamp.is_some();
    let mut typed = Object::from_api(object).ok_or_else(crate::nameless)?;
    if let Object::WorkloadEntry(workload) = &mut typed {
        workload.ready &= healthy && !leaving;
    }
    Ok(typed)
}
