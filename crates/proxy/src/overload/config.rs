//! `overload_manager` of a bootstrap, read; what is not built is refused by name.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prost::{Message, Name};
use proto::pb::envoy::config::overload::v3 as pb;
use proto::pb::envoy::extensions::resource_monitors as monitors;
use proto::pb::google::protobuf::Any;

use super::monitor::Monitor;
use super::{Act, Action, Connections, Manager, Overload, Trigger, Watched};
use crate::bootstrap::{BootstrapError, wrong};

const FIELD: &str = "overloadManager";
const REFRESH: Duration = Duration::from_secs(1);
const LEAST_REFRESH: Duration = Duration::from_millis(1);

/// What a resource monitor is.
enum Kind {
    Read(Monitor),
    Connections(i64),
}

pub fn compile(message: &pb::OverloadManager) -> Result<Manager, BootstrapError> {
    for (set, field) in [
        (!message.loadshed_points.is_empty(), "loadshedPoints"),
        (message.buffer_factory_config.is_some(), "bufferFactoryConfig"),
    ] {
        if set {
            return Err(wrong(format!("{FIELD}.{field}"), "is not supported by this proxy"));
        }
    }
    let refresh = message
        .refresh_interval
        .as_ref()
        .map_or(REFRESH, |d| Duration::new(d.seconds.max(0) as u64, d.nanos.clamp(0, 999_999_999) as u32));
    let mut watched: Vec<Watched> = Vec::new();
    let mut limit = None;
    let mut connections = None;
    for (i, resource) in message.resource_monitors.iter().enumerate() {
        let field = format!("{FIELD}.resourceMonitors[{i}]");
        let name: Arc<str> = resource.name.as_str().into();
        if watched.iter().any(|w| w.name == name) || limit.as_ref() == Some(&name) {
            return Err(wrong(field, format!("{name} is there twice")));
        }
        match kind(resource).map_err(|reason| wrong(&*field, reason))? {
            Kind::Read(monitor) => watched.push(Watched { name, monitor, pressure: None, failed: 0 }),
            Kind::Connections(most) => {
                limit = Some(name);
                connections =
                    Some(Connections { most, active: AtomicI64::new(0), refused: AtomicI64::new(0) });
            }
        }
    }
    let mut actions: Vec<Action> = Vec::new();
    for (i, message) in message.actions.iter().enumerate() {
        let field = format!("{FIELD}.actions[{i}]");
        let action = action(message, &watched).map_err(|reason| wrong(&*field, reason))?;
        if actions.iter().any(|known| known.act == action.act) {
            return Err(wrong(field, format!("{} is there twice", action.name)));
        }
        actions.push(action);
    }
    let shared = Arc::new(Overload { connections, ..Overload::default() });
    Ok(Manager { refresh: refresh.max(LEAST_REFRESH), monitors: watched, actions, shared, limit })
}

fn kind(resource: &pb::ResourceMonitor) -> Result<Kind, String> {
    let Some(pb::resource_monitor::ConfigType::TypedConfig(any)) = &resource.config_type else {
        return Err("typedConfig: is missing".into());
    };
    if let Some(heap) = unpack::<monitors::fixed_heap::v3::FixedHeapConfig>(any)? {
        if heap.max_heap_size_bytes_runtime.is_some() {
            return Err("typedConfig.maxHeapSizeBytesRuntime: is not supported by this proxy".into());
        }
        return match heap.max_heap_size_bytes {
            0 => Err("typedConfig.maxHeapSizeBytes: must be greater than 0".into()),
            most => Ok(Kind::Read(Monitor::Heap { most })),
        };
    }
    if let Some(group) = unpack::<monitors::cgroup_memory::v3::CgroupMemoryConfig>(any)? {
        let most = Some(group.max_memory_bytes).filter(|most| *most > 0);
        return Ok(Kind::Read(Monitor::Cgroup { most }));
    }
    if let Some(injected) = unpack::<monitors::injected_resource::v3::InjectedResourceConfig>(any)? {
        return match injected.filename.as_str() {
            "" => Err("typedConfig.filename: is missing".into()),
            path => Ok(Kind::Read(Monitor::Injected(path.into()))),
        };
    }
    if let Some(limit) = unpack::<monitors::downstream_connections::v3::DownstreamConnectionsConfig>(any)? {
        return match limit.max_active_downstream_connections {
            most if most > 0 => Ok(Kind::Connections(most)),
            _ => Err("typedConfig.maxActiveDownstreamConnections: must be greater than 0".into()),
        };
    }
    Err(format!("typedConfig: {} is not supported by this proxy", any.type_url))
}

fn unpack<M: Name + Message + Default>(any: &Any) -> Result<Option<M>, String> {
    if any.type_url.rsplit('/').next() != Some(&*M::full_name()) {
        return Ok(None);
    }
    M::decode(any.value.as_slice()).map(Some).map_err(|e| e.to_string())
}

fn action(message: &pb::OverloadAction, watched: &[Watched]) -> Result<Action, String> {
    let act = match message.name.as_str() {
        "envoy.overload_actions.stop_accepting_requests" => Act::StopRequests,
        "envoy.overload_actions.disable_http_keepalive" => Act::DisableKeepalive,
        "envoy.overload_actions.stop_accepting_connections" => Act::StopConnections,
        "envoy.overload_actions.reject_incoming_connections" => Act::RejectConnections,
        other => return Err(format!("name: {other:?} is not supported by this proxy")),
    };
    if message.typed_config.is_some() {
        return Err("typedConfig: this action takes none".into());
    }
    let mut triggers: Vec<(Arc<str>, Trigger)> = Vec::new();
    for (i, trigger) in message.triggers.iter().enumerate() {
        let fault = |reason: &str| format!("triggers[{i}]: {reason}");
        let Some(of) = watched.iter().find(|w| *w.name == *trigger.name) else {
            return Err(fault(&format!("{:?} is no resource monitor that triggers", trigger.name)));
        };
        if triggers.iter().any(|(name, _)| *name == of.name) {
            return Err(fault("its resource has a trigger here already"));
        }
        let part = |value: f64| (0.0..=1.0).contains(&value);
        let read = match &trigger.trigger_oneof {
            Some(pb::trigger::TriggerOneof::Threshold(t)) if part(t.value) => Trigger::Threshold(t.value),
            Some(pb::trigger::TriggerOneof::Scaled(s))
                if part(s.scaling_threshold)
                    && part(s.saturation_threshold)
                    && s.scaling_threshold < s.saturation_threshold =>
            {
                Trigger::Scaled { from: s.scaling_threshold, to: s.saturation_threshold }
            }
            Some(pb::trigger::TriggerOneof::Threshold(_)) => {
                return Err(fault("threshold.value: must be from 0 to 1"));
            }
            Some(pb::trigger::TriggerOneof::Scaled(_)) => {
                return Err(fault(
                    "scaled: scalingThreshold must be below saturationThreshold, both from 0 to 1",
                ));
            }
            None => return Err(fault("says neither threshold nor scaled")),
        };
        triggers.push((of.name.clone(), read));
    }
    if triggers.is_empty() {
        return Err("triggers: is empty".into());
    }
    Ok(Action { name: message.name.as_str().into(), act, triggers })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn heap(name: &str) -> Value {
        json!({"name": name, "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
            "maxHeapSizeBytes": "1000"}})
    }

    fn stop(trigger: Value) -> Value {
        json!({"name": "envoy.overload_actions.stop_accepting_requests", "triggers": [trigger]})
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let at = json!({"name": "heap", "threshold": {"value": 0.9}});
        let scaled = json!({"name": "heap", "scaled": {"scalingThreshold": 0.9, "saturationThreshold": 0.8}});
        let cpu = json!({"name": "cpu", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.resource_monitors.cpu_utilization.v3.CpuUtilizationConfig"}});
        for (monitors, actions, fault) in [
            (json!([heap("heap")]), json!([stop(at.clone())]), ""),
            (json!([heap("heap"), heap("heap")]), json!([]), "resourceMonitors[1]: heap is there twice"),
            (
                json!([cpu]),
                json!([]),
                "resourceMonitors[0]: typedConfig: type.googleapis.com/envoy.extensions.resource_monitors.cpu",
            ),
            (
                json!([]),
                json!([stop(at.clone())]),
                "actions[0]: triggers[0]: \"heap\" is no resource monitor",
            ),
            (
                json!([heap("heap")]),
                json!([stop(scaled)]),
                "actions[0]: triggers[0]: scaled: scalingThreshold must be below",
            ),
            (
                json!([heap("heap")]),
                json!([stop(at.clone()), stop(at.clone())]),
                "actions[1]: envoy.overload_actions.stop_accepting_requests is there twice",
            ),
            (
                json!([heap("heap")]),
                json!([{"name": "envoy.overload_actions.shrink_heap", "triggers": [at]}]),
                "actions[0]: name: \"envoy.overload_actions.shrink_heap\" is not supported",
            ),
        ] {
            let message =
                proto::json::decode(&json!({"resourceMonitors": monitors, "actions": actions})).unwrap();
            let said = compile(&message).map_or_else(|e| e.to_string(), |_| String::new());
            let wanted = if fault.is_empty() { String::new() } else { format!("overloadManager.{fault}") };
            assert!(
                said.starts_with(&wanted) && said.is_empty() == fault.is_empty(),
                "{said} is not {wanted}"
            );
        }
    }
}
