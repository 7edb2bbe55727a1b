//! PeerAuthentication: which mutual TLS a workload's ports ask for.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::security::{MutualTlsMode, PeerAuthentication};
use model::{Config, Endpoint, Key, Kind};

use crate::build::Context;
use crate::scope::Facet;

/// What the receiving side of a port insists on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    Disable,
    Permissive,
    Strict,
}

/// The modes of a workload's ports.
#[derive(Debug, Clone)]
pub(crate) struct Modes {
    pub(crate) default: Mode,
    ports: BTreeMap<u32, Mode>,
}

impl Modes {
    pub(crate) fn of_port(&self, port: u32) -> Mode {
        self.ports.get(&port).copied().unwrap_or(self.default)
    }
}

/// Those of the scope's own workload.
pub(crate) fn own(context: &Context<'_>) -> Modes {
    let namespace = &context.reader.facets(Facet::Namespace).namespace;
    modes(context, namespace, || &context.reader.facets(Facet::Labels).labels)
}

/// Whether an endpoint's port refuses mutual TLS.
pub(crate) fn disabled(context: &Context<'_>, endpoint: &Endpoint) -> bool {
    if endpoint.namespace.is_empty() {
        return false;
    }
    modes(context, &endpoint.namespace, || &endpoint.labels).of_port(endpoint.port) == Mode::Disable
}

/// The mesh's, the namespace's and the workload's policy, each in the place of the one before; oldest first.
fn modes<'a>(
    context: &Context<'_>,
    namespace: &Arc<str>,
    labels: impl Fn() -> &'a BTreeMap<String, String>,
) -> Modes {
    let root = context.reader.read(Key::Mesh).root_namespace();
    let in_namespace = |name: &Arc<str>| {
        let snapshot = context.reader.read(Key::KindIn(Kind::PeerAuthentication, Arc::clone(name)));
        snapshot.peer_authentications().in_namespace(name)
    };
    let general = |config: &&Arc<Config<PeerAuthentication>>| {
        config.spec.selector.as_ref().is_none_or(|selector| selector.match_labels.is_empty())
    };
    let mode_of =
        |config: &Arc<Config<PeerAuthentication>>| config.spec.mtls.as_ref().and_then(|mtls| mode(mtls.mode));
    let own = in_namespace(namespace);
    let mut default = in_namespace(root).iter().find(general).and_then(&mode_of).unwrap_or(Mode::Permissive);
    if namespace != root {
        default = own.iter().find(general).and_then(&mode_of).unwrap_or(default);
    }
    let mut ports = BTreeMap::new();
    let workload = own
        .iter()
        .filter(|config| !general(config))
        .find(|config| config.spec.selector.as_ref().is_some_and(|selector| selector.selects(labels())));
    if let Some(workload) = workload {
        default = mode_of(workload).unwrap_or(default);
        for (port, mtls) in &workload.spec.port_level_mtls {
            ports.insert(*port, mode(mtls.mode).unwrap_or(default));
        }
    }
    Modes { default, ports }
}

fn mode(mode: MutualTlsMode) -> Option<Mode> {
    match mode {
        MutualTlsMode::Unset => None,
        MutualTlsMode::Disable => Some(Mode::Disable),
        MutualTlsMode::Permissive => Some(Mode::Permissive),
        MutualTlsMode::Strict => Some(Mode::Strict),
    }
}
