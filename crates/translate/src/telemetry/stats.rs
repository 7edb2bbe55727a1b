//! The configuration of Istio's statistics: which metrics, with which labels.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::WorkloadMode;
use api::telemetry as tm;
use model::Config;
use proto::pb::google::protobuf::{Any, Struct};

use super::Side;
use crate::build::Context;
use crate::encode::{fields, flag, list, object, text, typed_struct};

const METRICS: [(tm::IstioMetric, &str); 10] = [
    (tm::IstioMetric::RequestCount, "requests_total"),
    (tm::IstioMetric::RequestDuration, "request_duration_milliseconds"),
    (tm::IstioMetric::RequestSize, "request_bytes"),
    (tm::IstioMetric::ResponseSize, "response_bytes"),
    (tm::IstioMetric::TcpOpenedConnections, "tcp_connections_opened_total"),
    (tm::IstioMetric::TcpClosedConnections, "tcp_connections_closed_total"),
    (tm::IstioMetric::TcpSentBytes, "tcp_sent_bytes_total"),
    (tm::IstioMetric::TcpReceivedBytes, "tcp_received_bytes_total"),
    (tm::IstioMetric::GrpcRequestMessages, "request_messages_total"),
    (tm::IstioMetric::GrpcResponseMessages, "response_messages_total"),
];

#[derive(Debug, Clone, Default)]
struct Metric {
    drop: bool,
    set: BTreeMap<String, String>,
    removed: Vec<String>,
}

/// `None` where nothing is measured. Prometheus is the provider where no other is named.
pub(super) fn of(context: &Context<'_>, levels: &[Arc<Config<tm::Telemetry>>], side: Side) -> Option<Any> {
    let mesh = &context.mesh().value;
    let mut providers: Option<Vec<String>> =
        mesh.default_providers.as_ref().map(|providers| providers.metrics.clone());
    let mut metrics: BTreeMap<&str, Metric> = BTreeMap::new();
    for rule in levels.iter().flat_map(|level| &level.spec.metrics) {
        if !rule.providers.is_empty() {
            providers = Some(rule.providers.iter().map(|provider| provider.name.clone()).collect());
        }
        for change in &rule.overrides {
            apply(change, side, &mut metrics);
        }
    }
    let measured = providers.is_none_or(|names| {
        names.iter().any(|name| {
            name == "prometheus" || mesh.provider(name).is_some_and(|provider| provider.prometheus.is_some())
        })
    });
    let dropped = metrics.len() == METRICS.len() && metrics.values().all(|metric| metric.drop);
    if !measured || dropped {
        return None;
    }
    let mut config = Struct::default();
    if side != Side::Client {
        // A host header from outside must not become a label.
        config.fields.insert("disable_host_header_fallback".into(), flag(true));
    }
    if !metrics.is_empty() {
        let changes = metrics.iter().map(|(name, metric)| object(written(name, metric))).collect();
        config.fields.insert("metrics".into(), list(changes));
    }
    Some(typed_struct("stats.PluginConfig", config))
}

fn apply(change: &tm::MetricsOverrides, side: Side, metrics: &mut BTreeMap<&str, Metric>) {
    let selector = change.r#match.clone().unwrap_or_default();
    let meant = match selector.mode {
        WorkloadMode::ClientAndServer => true,
        WorkloadMode::Client => side != Side::Server,
        WorkloadMode::Server => side == Side::Server,
    };
    let wanted = selector.metric.unwrap_or_default();
    if !meant || selector.custom_metric.is_some() {
        return;
    }
    for (metric, name) in METRICS {
        if wanted != tm::IstioMetric::AllMetrics && wanted != metric {
            continue;
        }
        let entry = metrics.entry(name).or_default();
        entry.drop = change.disabled.unwrap_or(entry.drop);
        for (tag, change) in &change.tag_overrides {
            match change.operation {
                tm::TagOperation::Upsert => {
                    entry.set.insert(tag.clone(), change.value.clone());
                }
                tm::TagOperation::Remove => entry.removed.push(tag.clone()),
            }
        }
    }
}

fn written(name: &str, metric: &Metric) -> Struct {
    let mut written = fields([("name", text(name))]);
    if metric.drop {
        written.fields.insert("drop".into(), flag(true));
    }
    if !metric.set.is_empty() {
        let set = metric.set.iter().map(|(tag, value)| (tag.clone(), text(value.as_str()))).collect();
        written.fields.insert("dimensions".into(), object(Struct { fields: set }));
    }
    if !metric.removed.is_empty() {
        let removed = metric.removed.iter().map(|tag| text(tag.as_str())).collect();
        written.fields.insert("tags_to_remove".into(), list(removed));
    }
    written
}
