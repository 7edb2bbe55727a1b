//! `/debug/configz`: the users' resources as the control plane holds them, for people and for `mizzen wait`.
//!
//! Only specs; when the world has taken a resource in is seen by its spec being there.

use base::NamespacedName;
use model::{Config, Configs, Snapshot};
use serde::Serialize;
use serde_json::{Value, json};

/// One resource; nothing if there is none of that name, or the kind is not one that users' resources have.
pub(crate) fn one(snapshot: &Snapshot, kind: &str, name: &NamespacedName) -> Option<Value> {
    fn show<T: Serialize>(kind: &str, configs: &Configs<T>, name: &NamespacedName) -> Option<Value> {
        configs.get(name).map(|config| entry(kind, config))
    }
    match kind {
        "VirtualService" => show(kind, snapshot.virtual_services(), name),
        "DestinationRule" => show(kind, snapshot.destination_rules(), name),
        "Gateway" => show(kind, snapshot.gateways(), name),
        "ServiceEntry" => show(kind, snapshot.service_entries(), name),
        "Sidecar" => show(kind, snapshot.sidecars(), name),
        "WorkloadGroup" => show(kind, snapshot.workload_groups(), name),
        "ProxyConfig" => show(kind, snapshot.proxy_configs(), name),
        "AuthorizationPolicy" => show(kind, snapshot.authorization_policies(), name),
        "PeerAuthentication" => show(kind, snapshot.peer_authentications(), name),
        "RequestAuthentication" => show(kind, snapshot.request_authentications(), name),
        "Telemetry" => show(kind, snapshot.telemetries(), name),
        _ => None,
    }
}

fn entry<T: Serialize>(kind: &str, config: &Config<T>) -> Value {
    json!({
        "kind": kind,
        "metadata": {"name": *config.name.name, "namespace": *config.name.namespace},
        "spec": config.spec,
    })
}
