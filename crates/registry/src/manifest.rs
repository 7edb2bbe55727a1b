//! Objects as JSON, from an API server or from the files that people write, as the world knows them.
//!
//! All are judged as strictly; nothing is read from disk here.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use model::Object;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::istio;

/// What the mesh makes of an object; nothing of kinds that it does not read (Deployments, for instance) and of objects
/// that mean nothing to it.
pub fn object(value: &Value) -> Result<Option<Object>, Vec<String>> {
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    Ok(match (version, kind) {
        ("v1", "Service") => model::KubeService::from_kube(&typed::<Service>(value)?).map(Object::Service),
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            model::Slice::from_kube(&typed::<EndpointSlice>(value)?).map(Object::Slice)
        }
        ("v1", "Pod") => model::Workload::from_pod(&typed::<Pod>(value)?).map(Object::Pod),
        ("v1", "Namespace") => {
            model::Namespace::from_kube(&typed::<Namespace>(value)?).map(Object::Namespace)
        }
        ("v1", "Node") => model::Node::from_kube(&typed::<Node>(value)?).map(Object::Node),
        ("v1", "Secret") => model::TlsSecret::from_kube(&typed::<Secret>(value)?).map(Object::Secret),
        ("v1", "ConfigMap") if api::is_mesh_config_map(value) => {
            Some(Object::Mesh(Box::new(istio::mesh(&typed::<ConfigMap>(value)?)?)))
        }
        _ if version.split('/').next().is_some_and(|group| group.ends_with(".istio.io")) => {
            Some(istio::object(value)?)
        }
        _ => None,
    })
}

fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, Vec<String>> {
    T::deserialize(value).map_err(|error| vec![error.to_string()])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object_of(version: &str, kind: &str, spec: Value) -> Result<Option<Object>, Vec<String>> {
        let metadata = json!({"name": "reviews", "namespace": "default"});
        object(&json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}))
    }

    #[test]
    fn kinds_of_the_mesh_are_read_and_others_left_alone() {
        let service = object_of("v1", "Service", json!({"ports": [{"name": "http", "port": 9080}]}));
        assert!(matches!(service, Ok(Some(Object::Service(s))) if &*s.name.name == "reviews"));
        let rule = object_of("networking.istio.io/v1", "DestinationRule", json!({"host": "reviews"}));
        assert!(matches!(rule, Ok(Some(Object::DestinationRule(_)))));
        assert!(matches!(object_of("apps/v1", "Deployment", json!({})), Ok(None)));
    }

    #[test]
    fn what_an_api_server_refuses_is_refused_here() {
        let wrong = object_of("networking.istio.io/v1", "DestinationRule", json!({"hots": "reviews"}));
        assert!(wrong.is_err_and(|errors| errors.iter().any(|e| e.contains("hots"))));
        assert!(object_of("v1", "Service", json!({"ports": "many"})).is_err());
        assert!(object_of("networking.istio.io/v1", "Nonsense", json!({})).is_err());
    }
}
