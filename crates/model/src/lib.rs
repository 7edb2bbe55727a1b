//! What the mesh knows: `World` takes `Change`s and yields `Snapshot`s.
//!
//! [`Change`] is the only way in, [`World`] the only writer, [`Snapshot`] what everybody else reads. Services are
//! merged over clusters by host and namespace, endpoints travel a lane of their own, and every entry carries a
//! revision, so that whoever remembers [`Key`]s with their revisions knows when to look again. There is no I/O here.

mod change;
mod config;
mod derive;
mod facts;
mod finding;
mod kube;
mod map;
mod object;
mod protocol;
mod rules;
mod service;
mod snapshot;
mod source;
mod visibility;
mod world;

use std::sync::Arc;

pub use change::{Action, Change, Kind, Object, ObjectRef};
pub use config::{Config, Configs};
pub use finding::{Finding, Severity};
pub use kube::{created, name};
pub use map::Map;
pub use protocol::{Handling, Protocol};
pub use service::{
    Accounts, Endpoint, Endpoints, Health, Origin, Resolution, Service, ServiceKey, ServicePort,
};
pub use snapshot::{Diff, Key, Mesh, NetworkGateway, Revised, Services, Snapshot};
pub use source::{
    ClusterId, KeySet, KubePort, KubeService, Labels, Namespace, Node, Sensitive, Slice, SliceEndpoint,
    TargetPort, TlsSecret, Workload, WorkloadKind,
};
pub use visibility::Visibility;
pub use world::{Settings, World};

/// A host as written in a resource of `namespace`, made whole: a short name is a service of that namespace.
pub fn resolve_host(host: &str, namespace: &str, domain: &str) -> Arc<str> {
    api::names::resolve_host_in(host, namespace, domain).into()
}

#[cfg(test)]
mod tests;
