//! Proxies without Kubernetes register themselves: the WorkloadGroup that a node names says what entry is made for it.
//!
//! The group is the word of whoever may write it: labels and account come from there, and the node must have proved to be
//! of that account. From the node come its name, address, network and locality. No I/O: a [`Registrar`] writes.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use api::networking::WorkloadEntry;
use base::{NamespacedName, SpiffeId};
use model::Snapshot;
use translate::Node;
use xds::grpc::Status;

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Writes entries where they are kept.
pub trait Registrar: Send + Sync {
    /// Makes the entry, or takes over one that was made by the same group for the same account.
    fn enter<'a>(&'a self, registration: &'a Registration) -> BoxFuture<'a, Result<(), RegisterError>>;

    /// Whether the workload takes traffic.
    fn set_health<'a>(
        &'a self,
        name: &'a NamespacedName,
        healthy: bool,
    ) -> BoxFuture<'a, Result<(), RegisterError>>;

    /// Removes the entry of a workload that ended as it should.
    fn leave<'a>(&'a self, name: &'a NamespacedName) -> BoxFuture<'a, Result<(), RegisterError>>;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    #[error("{0} is there already, and is not this workload's")]
    Taken(NamespacedName),
    #[error("the API server: {0}")]
    Unavailable(String),
}

/// An entry that is to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    pub name: NamespacedName,
    /// The group's name, in the same namespace.
    pub group: Arc<str>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub entry: WorkloadEntry,
}

/// What is to be made for a node that asks to be registered; nothing for one that does not.
pub(crate) fn registration(
    snapshot: &Snapshot,
    node: &Node,
    identity: Option<&SpiffeId>,
) -> Result<Option<Registration>, Status> {
    let Some(group) = &node.register else { return Ok(None) };
    let refused = |why: String| Status::new(Status::PERMISSION_DENIED, why);
    let Some(identity) = identity else {
        return Err(refused("only a proxy that proves who it is can register itself".into()));
    };
    let at = NamespacedName::new(Arc::clone(&node.namespace), Arc::clone(group));
    let config = snapshot.workload_groups().get(&at).ok_or_else(|| {
        refused(format!("there is no WorkloadGroup {at}: `mizzen token create` makes it, or kubectl apply"))
    })?;
    let template = config.spec.template.clone().unwrap_or_default();
    let account = if template.service_account.is_empty() { "default" } else { &template.service_account };
    if *account != *identity.service_account {
        let own = &identity.service_account;
        return Err(refused(format!("WorkloadGroup {at} is for the account {account}, the proxy is {own}")));
    }
    let meta = config.spec.metadata.clone().unwrap_or_default();
    let mut labels: BTreeMap<String, String> = template.labels.clone().into_iter().collect();
    labels.extend(meta.labels);
    let address = node.addresses.first().map(ToString::to_string).unwrap_or_default();
    let or_else = |own: &str, other: String| if own.is_empty() { other } else { own.to_owned() };
    let entry = WorkloadEntry {
        address,
        labels: labels.clone().into_iter().collect(),
        network: or_else(&node.network, template.network),
        locality: or_else(&node.locality.to_string(), template.locality),
        service_account: account.to_owned(),
        ports: template.ports,
        weight: template.weight,
    };
    Ok(Some(Registration {
        name: NamespacedName::new(Arc::clone(&node.namespace), Arc::clone(&node.name)),
        group: Arc::clone(group),
        labels,
        annotations: meta.annotations.into_iter().collect(),
        entry,
    }))
}

#[cfg(test)]
mod tests {
    use model::{Change, Config, Object, Settings, World};
    use proto::pb::envoy::config::core::v3 as core;
    use proto::pb::google::protobuf::{Struct, Value, value::Kind};

    use super::*;

    fn snapshot() -> Snapshot {
        let spec = serde_json::from_value(serde_json::json!({
            "metadata": {"labels": {"team": "books"}},
            "template": {"labels": {"app": "reviews"}, "serviceAccount": "reviews", "network": "far"},
        }));
        let group = Config::new(NamespacedName::new("default", "reviews-v3"), 0, spec.unwrap());
        let mut world = World::new(Settings::default());
        world.apply(vec![Change::upsert("home", Object::WorkloadGroup(group))])
    }

    fn node(group: Option<&str>) -> Node {
        let text = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
        let fields = group.map(|group| ("AUTO_REGISTER_GROUP".to_owned(), text(group)));
        let node = core::Node {
            id: "sidecar~10.44.0.9~reviews-v3-abcde.default~default.svc.cluster.local".into(),
            metadata: Some(Struct { fields: fields.into_iter().collect() }),
            ..Default::default()
        };
        Node::from_proto(&node).unwrap()
    }

    #[test]
    fn what_an_entry_says_is_the_groups_word() {
        let id = "spiffe://cluster.local/ns/default/sa/reviews".parse().unwrap();
        let made = registration(&snapshot(), &node(Some("reviews-v3")), Some(&id)).unwrap().unwrap();
        assert_eq!(made.name.to_string(), "default/reviews-v3-abcde");
        assert_eq!((made.entry.address.as_str(), made.entry.network.as_str()), ("10.44.0.9", "far"));
        assert_eq!(made.labels.keys().collect::<Vec<_>>(), ["app", "team"]);
        assert_eq!(made.entry.service_account, "reviews");
        assert_eq!(registration(&snapshot(), &node(None), Some(&id)), Ok(None));
    }

    #[test]
    fn nobody_registers_as_somebody_else() {
        let other = "spiffe://cluster.local/ns/default/sa/ratings".parse().unwrap();
        for (group, identity) in
            [("reviews-v3", Some(&other)), ("reviews-v3", None), ("mysqldb", Some(&other))]
        {
            let refused = registration(&snapshot(), &node(Some(group)), identity).unwrap_err();
            assert_eq!(refused.code, Status::PERMISSION_DENIED, "{group}");
        }
    }
}
