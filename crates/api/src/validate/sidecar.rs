//! Sidecar.

use std::collections::HashSet;

use super::destination_rule::connection_pool;
use super::rules;
use super::{Meta, note};
use crate::error::{FieldError, Path, Validation};
use crate::networking::{IstioEgressListener, IstioIngressListener, Sidecar, SidecarPort};

pub(super) fn check(it: &Sidecar, meta: &Meta<'_>, spec: &Path, out: &mut Validation) {
    rules::workload_selector(it.workload_selector.as_ref(), spec, out);
    let says = !it.ingress.is_empty() || !it.egress.is_empty();
    if !says && it.outbound_traffic_policy.is_none() && it.inbound_connection_pool.is_none() {
        let what = "one of ingress, egress, outboundTrafficPolicy and inboundConnectionPool";
        out.error(FieldError::required(spec, what));
    }
    if let Some(pool) = &it.inbound_connection_pool {
        connection_pool(pool, &spec.field("inboundConnectionPool"), out);
    }
    let mut numbers = HashSet::new();
    for (index, listener) in it.ingress.iter().enumerate() {
        ingress(listener, &mut numbers, &spec.field("ingress").index(index), out);
    }
    let mut numbers = HashSet::new();
    for (index, listener) in it.egress.iter().enumerate() {
        let path = spec.field("egress").index(index);
        if listener.port.is_none() && index + 1 != it.egress.len() {
            let error = FieldError::required(&path.field("port"), "only the last listener may be without");
            out.error(error);
        }
        egress(listener, meta, &mut numbers, &path, out);
    }
}

fn ingress(it: &IstioIngressListener, numbers: &mut HashSet<u32>, path: &Path, out: &mut Validation) {
    match &it.port {
        None => out.error(FieldError::required(&path.field("port"), "")),
        Some(port) => listener_port(port, &it.bind, numbers, path, out),
    }
    if !it.default_endpoint.is_empty() {
        note(out, default_endpoint(&path.field("defaultEndpoint"), &it.default_endpoint));
    }
    if let Some(pool) = &it.connection_pool {
        connection_pool(pool, &path.field("connectionPool"), out);
    }
}

fn listener_port(
    port: &SidecarPort,
    bind: &str,
    numbers: &mut HashSet<u32>,
    path: &Path,
    out: &mut Validation,
) {
    let at = path.field("port");
    note(out, rules::port(&at.field("number"), port.number));
    if !numbers.insert(port.number) {
        out.error(FieldError::duplicate(&at.field("number"), port.number));
    }
    if !port.protocol.is_empty() {
        note(out, rules::protocol(&at.field("protocol"), &port.protocol));
    }
    if !port.name.is_empty() {
        note(out, rules::dns_label(&at.field("name"), &port.name, "port's name"));
    }
    self::bind(bind, path, out);
}

fn bind(bind: &str, path: &Path, out: &mut Validation) {
    if !bind.is_empty() {
        note(out, rules::ip(&path.field("bind"), bind));
    }
}

/// Where the application listens: on the workload's own addresses only.
fn default_endpoint(path: &Path, text: &str) -> Option<FieldError> {
    if text.starts_with("unix://") {
        return rules::unix_address(path, text);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let own = ["", "127.0.0.1", "0.0.0.0", "[::1]", "[::]"].contains(&host);
    let port = port.parse::<u16>().is_ok_and(|port| port > 0);
    (!own || !port).then(|| {
        let detail = "must be 127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT or unix:///path";
        FieldError::invalid(path, text, detail)
    })
}

fn egress(
    it: &IstioEgressListener,
    meta: &Meta<'_>,
    numbers: &mut HashSet<u32>,
    path: &Path,
    out: &mut Validation,
) {
    match &it.port {
        Some(port) => listener_port(port, &it.bind, numbers, path, out),
        None => bind(&it.bind, path, out),
    }
    // What a workload sends to itself is not captured.
    if it.bind.parse::<std::net::IpAddr>().is_ok_and(|bind| bind.is_loopback()) {
        let detail = "must be no loopback address: calls to it are not captured";
        out.error(FieldError::invalid(&path.field("bind"), it.bind.as_str(), detail));
    }
    if it.hosts.is_empty() {
        let error = FieldError::required(&path.field("hosts"), "at least one host");
        out.error(error.hint("\"./*\" stands for this namespace, \"~/*\" for nothing"));
    }
    let mut seen = HashSet::new();
    for (index, text) in it.hosts.iter().enumerate() {
        let path = path.field("hosts").index(index);
        note(out, rules::scoped_host(&path, text, false));
        let meant = text.strip_prefix("./").map_or(text.clone(), |host| format!("{}/{host}", meta.namespace));
        if !seen.insert(meant) {
            out.warn(&path, format!("{text:?} is there twice"));
        }
    }
}
