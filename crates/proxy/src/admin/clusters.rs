//! `/clusters`, as text and as Envoy's JSON.

use std::fmt::Write;

use serde_json::{Value, json};
use upstream::{Address, Health, Host, Priority, Resource};

use crate::control::ClusterView;
use crate::stats::Snapshot;

pub(super) fn text(views: &[ClusterView], _snapshot: &Snapshot) -> String {
    let mut out = String::new();
    for view in views {
        let name = &view.name;
        let _ = writeln!(out, "{name}::observability_name::{}", view.target.stat_name);
        for (priority, label) in [(Priority::Default, "default_priority"), (Priority::High, "high_priority")]
        {
            let limit = |resource| view.state.breakers.limit(resource, priority);
            let _ = writeln!(out, "{name}::{label}::max_connections::{}", limit(Resource::Connection));
            let _ = writeln!(out, "{name}::{label}::max_pending_requests::{}", limit(Resource::Pending));
            let _ = writeln!(out, "{name}::{label}::max_requests::{}", limit(Resource::Request));
            let _ = writeln!(out, "{name}::{label}::max_retries::{}", limit(Resource::Retry));
        }
        let _ = writeln!(out, "{name}::added_via_api::{}", view.dynamic);
        for (priority, locality, host) in view.state.endpoints().placed_hosts() {
            let address = host.address();
            let _ = writeln!(out, "{name}::{address}::rq_active::{}", host.active_requests());
            let _ = writeln!(out, "{name}::{address}::hostname::{}", host.endpoint.hostname);
            let _ = writeln!(out, "{name}::{address}::health_flags::{}", flags(host));
            let _ = writeln!(out, "{name}::{address}::weight::{}", host.endpoint.weight);
            let _ = writeln!(out, "{name}::{address}::region::{}", locality.region);
            let _ = writeln!(out, "{name}::{address}::zone::{}", locality.zone);
            let _ = writeln!(out, "{name}::{address}::sub_zone::{}", locality.subzone);
            let _ = writeln!(out, "{name}::{address}::priority::{priority}");
        }
    }
    out
}

/// Every reason against a host, in Envoy's words and order.
fn flags(host: &Host) -> String {
    let health = host.endpoint.health;
    let flags: String = [
        (host.fails_checks(), "/failed_active_hc"),
        (host.is_ejected(), "/failed_outlier_check"),
        (matches!(health, Health::Unhealthy | Health::Draining), "/failed_eds_health"),
        (host.is_degraded_by_checks(), "/degraded_active_hc"),
        (health == Health::Degraded, "/degraded_eds_health"),
        (host.is_kept_by_checks(), "/pending_dynamic_removal"),
        (host.times_out(), "/active_hc_timeout"),
    ]
    .into_iter()
    .filter_map(|(holds, flag)| holds.then_some(flag))
    .collect();
    if flags.is_empty() { "healthy".into() } else { flags }
}

pub(super) fn json(views: &[ClusterView]) -> Value {
    let statuses: Vec<Value> = views.iter().map(cluster).collect();
    json!({ "cluster_statuses": statuses })
}

fn cluster(view: &ClusterView) -> Value {
    let thresholds = |priority: Priority, name: &str| {
        json!({
            "priority": name,
            "max_connections": view.state.breakers.limit(Resource::Connection, priority),
            "max_pending_requests": view.state.breakers.limit(Resource::Pending, priority),
            "max_requests": view.state.breakers.limit(Resource::Request, priority),
            "max_retries": view.state.breakers.limit(Resource::Retry, priority),
        })
    };
    let hosts: Vec<Value> = view.state.endpoints().placed_hosts().map(|(p, l, h)| host(p, l, h)).collect();
    json!({
        "name": &*view.name,
        "observability_name": &*view.target.stat_name,
        "added_via_api": view.dynamic,
        "circuit_breakers": {"thresholds": [thresholds(Priority::Default, "DEFAULT"), thresholds(Priority::High, "HIGH")]},
        "host_statuses": hosts,
    })
}

fn host(priority: u32, locality: &base::Locality, host: &Host) -> Value {
    let address = match host.address() {
        Address::Socket(a) => {
            json!({"socket_address": {"address": a.ip().to_string(), "port_value": a.port()}})
        }
        Address::Name(name, port) => json!({"socket_address": {"address": &**name, "port_value": port}}),
        Address::Pipe(path) => json!({"pipe": {"path": &**path}}),
    };
    let eds = match host.endpoint.health {
        Health::Healthy => "HEALTHY",
        Health::Degraded => "DEGRADED",
        Health::Unhealthy | Health::Draining => "UNHEALTHY",
    };
    let mut health = json!({"eds_health_status": eds});
    for (holds, flag) in [
        (host.fails_checks(), "failed_active_health_check"),
        (host.is_ejected(), "failed_outlier_check"),
        (host.is_degraded_by_checks(), "failed_active_degraded_check"),
        (host.is_kept_by_checks(), "pending_dynamic_removal"),
        (host.times_out(), "active_hc_timeout"),
    ] {
        if holds {
            health[flag] = true.into();
        }
    }
    json!({
        "address": address,
        "hostname": &*host.endpoint.hostname,
        "health_status": health,
        "weight": host.endpoint.weight,
        "priority": priority,
        "locality": {"region": locality.region, "zone": locality.zone, "sub_zone": locality.subzone},
        "stats": [{"name": "rq_active", "type": "GAUGE", "value": host.active_requests().to_string()}],
    })
}
