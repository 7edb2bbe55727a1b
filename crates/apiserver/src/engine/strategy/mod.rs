//! What is particular to a kind: defaults, validation, what an empty object looks like, addresses.

mod addresses;
mod custom;
mod service;
mod simple;
mod workload;

pub(super) use custom::hint;

use crate::kinds::{Core, Resource};
use crate::status::Cause;
use serde_json::{Value, json};

/// What the real server's empty object of the kind already has, which a creation is compared with.
pub(super) fn zero(resource: &Resource) -> Value {
    match resource.core {
        None => json!({ "metadata": {} }),
        Some(Core::Service) => json!({ "metadata": {}, "spec": {}, "status": { "loadBalancer": {} } }),
        Some(Core::Namespace) => json!({ "metadata": {}, "spec": {}, "status": {} }),
        Some(Core::Pod) => json!({ "metadata": {}, "spec": { "containers": null }, "status": {} }),
        Some(Core::Node) => {
            json!({ "metadata": {}, "spec": {}, "status": { "daemonEndpoints": { "kubeletEndpoint": {} }, "nodeInfo": {} } })
        }
        Some(Core::Deployment) => json!({ "metadata": {}, "status": {}, "spec": {
            "selector": null, "strategy": {}, "template": { "metadata": {}, "spec": { "containers": null } } } }),
        Some(Core::ReplicaSet) => json!({ "metadata": {}, "status": {}, "spec": {
            "selector": null, "template": { "metadata": {}, "spec": { "containers": null } } } }),
        Some(Core::EndpointSlice) => {
            json!({ "metadata": {}, "addressType": "", "endpoints": null, "ports": null })
        }
        Some(Core::Event) => json!({ "metadata": {}, "involvedObject": {}, "source": {},
            "firstTimestamp": null, "lastTimestamp": null, "eventTime": null,
            "reportingComponent": "", "reportingInstance": "" }),
        Some(_) => json!({ "metadata": {}, "spec": {} }),
    }
}

/// What a creation sets that the caller may not.
pub(super) fn prepare_create(resource: &Resource, object: &mut Value) {
    match resource.core {
        Some(Core::Namespace) => {
            simple::namespace(object);
        }
        Some(Core::Pod) => {
            workload::pod_status(object);
        }
        Some(Core::Service) => {
            service::families(object);
            object["status"] = json!({ "loadBalancer": {} });
        }
        Some(Core::Deployment | Core::ReplicaSet | Core::Node) => object["status"] = json!({}),
        _ => {}
    }
}

/// What an update may not change is put back.
pub(super) fn prepare_update(resource: &Resource, current: &Value, new: &mut Value) {
    match resource.core {
        Some(Core::Namespace) => {
            if let Some(spec) = current.get("spec") {
                new["spec"] = spec.clone();
            }
        }
        Some(Core::Service) => service::carry_over(current, new),
        _ => {}
    }
}

/// What the real server settles only when it stores an update.
pub(super) fn settle(resource: &Resource, object: &mut Value) {
    if resource.core == Some(Core::Service) {
        service::families(object);
    }
}

pub(super) fn defaults(resource: &Resource, object: &mut Value) {
    match resource.core {
        Some(Core::Service) => service::defaults(object),
        Some(Core::Pod) => workload::pod_defaults(&mut object["spec"]),
        Some(Core::Deployment) => workload::deployment_defaults(object),
        Some(Core::ReplicaSet) => workload::replica_set_defaults(object),
        Some(Core::Secret) => simple::secret_defaults(object),
        Some(Core::Namespace) => simple::namespace_label(object),
        Some(Core::EndpointSlice) => simple::slice_defaults(object),
        _ => {}
    }
}

pub(super) fn validate(
    resource: &Resource,
    object: &Value,
    old: Option<&Value>,
    causes: &mut Vec<Cause>,
    warnings: &mut Vec<String>,
) {
    match resource.core {
        None => custom::validate(resource, object, causes, warnings),
        Some(Core::Service) => service::validate(object, old, causes),
        Some(Core::Pod) => workload::validate_pod(object, old, causes),
        Some(Core::Deployment | Core::ReplicaSet) => {
            workload::validate_deployment(resource, object, old, causes);
            if resource.core == Some(Core::Deployment) && old.is_none() {
                warnings.push(workload::no_runtime(object));
            }
        }
        Some(Core::Secret) => simple::validate_secret(object, old, causes),
        Some(Core::ConfigMap) => {
            simple::validate_config_map(object, old, causes);
            custom::validate_mesh_config(object, causes, warnings);
        }
        Some(Core::EndpointSlice) => simple::validate_slice(object, old, causes),
        _ => {}
    }
}
