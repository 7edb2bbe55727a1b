//! What is logged, traced and measured: Telemetry resources and MeshConfig, for one side of calls.

mod access_log;
mod stats;
mod tracing;

use std::sync::Arc;

use api::WorkloadMode;
use api::telemetry as tm;
use model::{Config, Key, Kind};
use proto::pb::envoy::config::accesslog::v3::AccessLog;
use proto::pb::envoy::config::listener::v3 as listener_pb;
use proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing;
use proto::pb::google::protobuf::Any;

use crate::build::Context;
use crate::listener::tcp::network_filter;
use crate::scope::Facet;

pub(crate) use tracing::service_cluster;

/// Which side of a call a listener is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
    Gateway,
}

/// The settings in force, as Envoy writes them.
#[derive(Debug)]
pub(crate) struct Telemetry {
    pub(crate) side: Side,
    logs: access_log::Logs,
    tracing: Option<Tracing>,
    stats: Option<Any>,
}

impl Telemetry {
    pub(crate) fn of(context: &Context<'_>, side: Side) -> Self {
        let levels = levels(context);
        Self {
            side,
            logs: access_log::all(context, &levels, side),
            tracing: tracing::of(context, &levels, side),
            stats: context.extensions().then(|| stats::of(context, &levels, side)).flatten(),
        }
    }

    pub(crate) fn http_logs(&self) -> Vec<AccessLog> {
        self.logs.http.clone()
    }

    pub(crate) fn tcp_logs(&self) -> Vec<AccessLog> {
        self.logs.tcp.clone()
    }

    /// Connections that no filter chain took.
    pub(crate) fn listener_logs(&self) -> Vec<AccessLog> {
        self.logs.tcp.iter().map(access_log::only_unrouted).collect()
    }

    pub(crate) fn tracing(&self) -> Option<Tracing> {
        self.tracing.clone()
    }

    pub(crate) fn stats(&self) -> Option<Any> {
        self.stats.clone()
    }

    /// The filters of TCP chains that measure.
    pub(crate) fn network_filters(&self) -> Vec<listener_pb::Filter> {
        self.stats.iter().map(|stats| network_filter("istio.stats", stats.clone())).collect()
    }
}

/// The resources that apply, from the mesh's to the workload's own.
fn levels(context: &Context<'_>) -> Vec<Arc<Config<tm::Telemetry>>> {
    let namespace = &context.reader.facets(Facet::Namespace).namespace;
    let root = context.reader.read(Key::Mesh).root_namespace();
    let in_namespace = |name: &Arc<str>| {
        let snapshot = context.reader.read(Key::KindIn(Kind::Telemetry, Arc::clone(name)));
        snapshot.telemetries().in_namespace(name)
    };
    let general = |config: &&Arc<Config<tm::Telemetry>>| {
        let selective = config.spec.selector.as_ref().is_some_and(|s| !s.match_labels.is_empty());
        !selective && config.spec.target_ref.is_none() && config.spec.target_refs.is_empty()
    };
    let mut levels: Vec<_> = in_namespace(root).iter().find(general).cloned().into_iter().collect();
    let own = in_namespace(namespace);
    if namespace != root {
        levels.extend(own.iter().find(general).cloned());
    }
    let selected = own.iter().filter(|config| !general(config)).find(|config| {
        config
            .spec
            .selector
            .as_ref()
            .is_some_and(|selector| selector.selects(&context.reader.facets(Facet::Labels).labels))
    });
    levels.extend(selected.cloned());
    levels
}

/// Whether a rule for one side of calls is meant for this one. A gateway calls.
fn meant(selector: Option<&tm::ModeSelector>, side: Side) -> bool {
    match selector.map(|selector| selector.mode).unwrap_or_default() {
        WorkloadMode::ClientAndServer => true,
        WorkloadMode::Client => side != Side::Server,
        WorkloadMode::Server => side == Side::Server,
    }
}

/// By name, the same as the workload calls itself in metrics.
fn canonical(labels: &api::StringMap, keys: [&str; 3], default: &str) -> String {
    keys.iter().find_map(|key| labels.get(*key)).cloned().unwrap_or_else(|| default.to_owned())
}
