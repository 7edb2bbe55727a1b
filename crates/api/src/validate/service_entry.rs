//! ServiceEntry, WorkloadEntry and WorkloadGroup.

use std::collections::HashSet;
use std::net::IpAddr;

use super::rules;
use super::{Meta, note};
use crate::error::{FieldError, Path, Validation};
use crate::networking::{Resolution, ServiceEntry, WorkloadEntry, WorkloadGroup};

const UNIX: &str = "unix://";

pub(super) fn check(it: &ServiceEntry, meta: &Meta<'_>, spec: &Path, out: &mut Validation) {
    rules::workload_selector(it.workload_selector.as_ref(), spec, out);
    for (index, text) in it.hosts.iter().enumerate() {
        let path = spec.field("hosts").index(index);
        if text == "*" {
            out.error(FieldError::invalid(&path, "*", "must not be \"*\"").hint("such as \"*.example.com\""));
        } else {
            note(out, rules::host(&path, text));
        }
    }
    for (index, text) in it.addresses.iter().enumerate() {
        let path = spec.field("addresses").index(index);
        note(out, rules::subnet(&path, text));
        let fixed = matches!(it.resolution, Resolution::None | Resolution::Static);
        if text.contains('/') && !fixed {
            let detail = "must be an address, not a network, unless resolution is NONE or STATIC";
            out.error(FieldError::invalid(&path, text.as_str(), detail));
        }
    }
    ports(it, spec, out);
    endpoints(it, spec, out);
    told_apart(it, spec, out);
    rules::export_to(spec, &it.export_to, meta.namespace, true, out);
}

fn ports(it: &ServiceEntry, spec: &Path, out: &mut Validation) {
    let mut numbers = HashSet::new();
    for (index, port) in it.ports.iter().enumerate() {
        let path = spec.field("ports").index(index);
        note(out, rules::port(&path.field("number"), port.number));
        if !numbers.insert(port.number) {
            out.error(FieldError::duplicate(&path.field("number"), port.number));
        }
        note(out, rules::dns_label(&path.field("name"), &port.name, "port's name"));
        if !port.protocol.is_empty() {
            note(out, rules::protocol(&path.field("protocol"), &port.protocol));
        }
        note(out, rules::optional_port(&path.field("targetPort"), port.target_port));
    }
}

fn endpoints(it: &ServiceEntry, spec: &Path, out: &mut Validation) {
    let path = spec.field("endpoints");
    match it.resolution {
        Resolution::None => {
            if !it.endpoints.is_empty() {
                let error = FieldError::invalid(&path, "array", "must not be set for resolution: NONE");
                out.error(error.hint("write resolution: STATIC for addresses, DNS for host names"));
            }
            if it.workload_selector.is_some() {
                out.warn(
                    &spec.field("workloadSelector"),
                    "without effect for resolution: NONE; write STATIC",
                );
            }
        }
        Resolution::Static => {}
        Resolution::Dns | Resolution::DnsRoundRobin | Resolution::DynamicDns => resolvable(it, spec, out),
    }
    if it.resolution == Resolution::DnsRoundRobin && it.endpoints.len() > 1 {
        out.error(FieldError::invalid(&path, "array", "must have at most one entry for DNS_ROUND_ROBIN"));
    }
    let names = it.resolution != Resolution::Static;
    for (index, endpoint) in it.endpoints.iter().enumerate() {
        let path = path.index(index);
        entry(endpoint, names, &path, out);
        for name in endpoint.ports.keys() {
            if !it.ports.iter().any(|port| port.name == *name) {
                let error = FieldError::invalid(
                    &path.field("ports").key(name),
                    name.as_str(),
                    "is no port of spec.ports",
                );
                let known = it.ports.iter().map(|port| port.name.as_str());
                let near = crate::error::nearest(name, known).map(|near| format!("did you mean {near:?}?"));
                out.error(match near {
                    Some(near) => error.hint(near),
                    None => error,
                });
            }
        }
    }
}

/// Without endpoints the hosts themselves are looked up.
fn resolvable(it: &ServiceEntry, spec: &Path, out: &mut Validation) {
    if !it.endpoints.is_empty() || it.workload_selector.is_some() {
        return;
    }
    for (index, text) in it.hosts.iter().enumerate().filter(|(_, text)| text.starts_with('*')) {
        let path = spec.field("hosts").index(index);
        let error = FieldError::invalid(&path, text.as_str(), "must be a full name, to be looked up in DNS");
        out.error(error.hint("name endpoints, or write resolution: NONE"));
    }
}

/// Nothing in plain TCP tells which of several hosts is meant.
fn told_apart(it: &ServiceEntry, spec: &Path, out: &mut Validation) {
    if it.resolution == Resolution::None || it.hosts.len() < 2 {
        return;
    }
    for (index, port) in it.ports.iter().enumerate() {
        if !rules::is_http(&port.protocol) && !rules::is_tls(&port.protocol) {
            let path = spec.field("ports").index(index).field("protocol");
            let detail = "must be an HTTP or TLS protocol where there are several hosts";
            out.error(
                FieldError::invalid(&path, port.protocol.as_str(), detail)
                    .hint("write one ServiceEntry per host"),
            );
        }
    }
}

/// A WorkloadEntry by itself may be of a service that resolves names.
pub(super) fn workload(it: &WorkloadEntry, spec: &Path, out: &mut Validation) {
    entry(it, true, spec, out);
}

fn entry(it: &WorkloadEntry, names: bool, path: &Path, out: &mut Validation) {
    let address = path.field("address");
    if it.address.is_empty() && it.network.is_empty() {
        out.error(FieldError::required(&address, ""));
    } else if it.address.starts_with(UNIX) {
        note(out, rules::unix_address(&address, &it.address));
        if !it.ports.is_empty() {
            out.error(FieldError::invalid(
                &path.field("ports"),
                "object",
                "must not be set for a Unix socket",
            ));
        }
    } else if !it.address.is_empty() && it.address.parse::<IpAddr>().is_err() {
        let error = match names {
            true => rules::full_host(&address, &it.address),
            false => rules::ip(&address, &it.address)
                .map(|error| error.hint("write resolution: DNS for host names")),
        };
        note(out, error);
    }
    for (name, port) in &it.ports {
        let path = path.field("ports").key(name);
        note(out, rules::dns_label(&path, name, "port's name"));
        note(out, rules::port(&path, *port));
    }
    rules::label_map(&path.field("labels"), &it.labels, out);
}

pub(super) fn group(it: &WorkloadGroup, spec: &Path, out: &mut Validation) {
    if let Some(template) = &it.template {
        let path = spec.field("template");
        for (name, port) in &template.ports {
            let path = path.field("ports").key(name);
            note(out, rules::dns_label(&path, name, "port's name"));
            note(out, rules::port(&path, *port));
        }
        rules::label_map(&path.field("labels"), &template.labels, out);
    }
    if let Some(metadata) = &it.metadata {
        rules::label_map(&spec.field("metadata").field("labels"), &metadata.labels, out);
    }
}
