//! VirtualService, but for its HTTP routes.

use std::net::IpAddr;

use base::Host;

use super::http_route;
use super::rules;
use super::{Meta, note};
use crate::error::{FieldError, Path, Validation};
use crate::names;
use crate::networking::{
    Destination, L4MatchAttributes, MESH_GATEWAY, RouteDestination, TcpRoute, TlsMatchAttributes, TlsRoute,
    VirtualService, routing_claim,
};

pub(super) fn check(it: &VirtualService, meta: &Meta<'_>, spec: &Path, out: &mut Validation) {
    hosts(it, spec, out);
    gateways(&it.gateways, &spec.field("gateways"), out);
    if it.http.is_empty() && it.tls.is_empty() && it.tcp.is_empty() {
        out.error(FieldError::required(spec, "one of http, tls and tcp"));
    }
    for (index, route) in it.http.iter().enumerate() {
        http_route::check(route, &spec.field("http").index(index), out);
    }
    for (index, route) in it.tls.iter().enumerate() {
        tls_route(route, it, &spec.field("tls").index(index), out);
    }
    for (index, route) in it.tcp.iter().enumerate() {
        tcp_route(route, &spec.field("tcp").index(index), out);
    }
    claims_in_mesh(it, spec, out);
    unreachable(it, spec, out);
    rules::export_to(spec, &it.export_to, meta.namespace, false, out);
}

/// Only gateways know of tokens when they choose a route.
fn claims_in_mesh(it: &VirtualService, spec: &Path, out: &mut Validation) {
    if it.gateways().any(|gateway| gateway != MESH_GATEWAY) {
        return;
    }
    for (i, route) in it.http.iter().enumerate() {
        for (j, request) in route.r#match.iter().enumerate() {
            let path = spec.field("http").index(i).field("match").index(j);
            for (field, headers) in
                [("headers", &request.headers), ("withoutHeaders", &request.without_headers)]
            {
                for name in headers.keys().filter(|name| routing_claim(name).is_some()) {
                    let error = FieldError::forbidden(
                        &path.field(field).key(name),
                        "sidecars do not route by the claims of tokens, as in Istio",
                    );
                    out.error(error.hint("name a Gateway in spec.gateways"));
                }
            }
        }
    }
}

fn hosts(it: &VirtualService, spec: &Path, out: &mut Validation) {
    let path = spec.field("hosts");
    if it.hosts.is_empty() {
        let error = FieldError::required(&path, "at least one host");
        out.error(error.hint("a VirtualService without hosts is one to delegate to, which is not supported"));
    }
    let in_mesh = it.gateways().any(|gateway| gateway == MESH_GATEWAY);
    for (index, text) in it.hosts.iter().enumerate() {
        let path = path.index(index);
        if text.parse::<IpAddr>().is_ok() {
            continue;
        }
        note(out, rules::host(&path, text));
        if text == "*" && in_mesh {
            let error = FieldError::invalid(&path, "*", "must not be \"*\" for sidecars");
            out.error(error.hint("name hosts, or name gateways other than \"mesh\""));
        }
        let covered = |earlier: &&String| {
            let pair = (Host::parse(earlier), Host::parse(text));
            matches!(pair, (Ok(earlier), Ok(this)) if earlier.overlaps(&this))
        };
        if it.hosts[..index].iter().any(|earlier| covered(&earlier)) {
            out.error(FieldError::duplicate(&path, text.as_str()));
        }
    }
}

/// `mesh`, `name` or `namespace/name`.
pub(super) fn gateways(list: &[String], path: &Path, out: &mut Validation) {
    for (index, text) in list.iter().enumerate() {
        let path = path.index(index);
        let good = match text.split_once('/') {
            Some((namespace, name)) => {
                (namespace == "." || names::is_dns_label(namespace)) && names::is_dns_label(name)
            }
            None => names::is_dns_label(text),
        };
        if !good {
            let error = FieldError::invalid(
                &path,
                text.as_str(),
                "must be \"mesh\" or [namespace/]name of a Gateway",
            );
            let mut parts = text.split('.');
            out.error(match (parts.next(), parts.next()) {
                (Some(name), Some(namespace)) => error.hint(format!("write \"{namespace}/{name}\"")),
                _ => error,
            });
        }
    }
}

fn tls_route(it: &TlsRoute, of: &VirtualService, path: &Path, out: &mut Validation) {
    if it.r#match.is_empty() {
        out.error(FieldError::required(&path.field("match"), "at least one match with sniHosts"));
    }
    for (index, condition) in it.r#match.iter().enumerate() {
        tls_match(condition, of, &path.field("match").index(index), out);
    }
    destinations(&it.route, &path.field("route"), out);
}

fn tls_match(it: &TlsMatchAttributes, of: &VirtualService, path: &Path, out: &mut Validation) {
    if it.sni_hosts.is_empty() {
        out.error(FieldError::required(&path.field("sniHosts"), "at least one host"));
    }
    for (index, text) in it.sni_hosts.iter().enumerate() {
        sni_host(text, of, &path.field("sniHosts").index(index), out);
    }
    subnets(&it.destination_subnets, path, out);
    note(out, rules::optional_port(&path.field("port"), it.port));
    rules::label_map(&path.field("sourceLabels"), &it.source_labels, out);
    gateways(&it.gateways, &path.field("gateways"), out);
}

fn sni_host(text: &str, of: &VirtualService, path: &Path, out: &mut Validation) {
    if text.parse::<IpAddr>().is_ok() {
        out.warn(path, "clients do not send addresses as server names");
        return;
    }
    if let Some(error) = rules::host(path, text) {
        out.error(error);
        return;
    }
    let covers = |host: &String| match (Host::parse(host), Host::parse(text)) {
        (Ok(host), Ok(sni)) => host.covers(&sni),
        _ => false,
    };
    if !of.hosts.iter().any(covers) {
        let detail = format!("must be covered by the hosts of this resource: {}", of.hosts.join(", "));
        out.error(FieldError::invalid(path, text, detail).hint(format!("add {text:?} to spec.hosts")));
    }
}

fn tcp_route(it: &TcpRoute, path: &Path, out: &mut Validation) {
    for (index, condition) in it.r#match.iter().enumerate() {
        l4_match(condition, &path.field("match").index(index), out);
    }
    destinations(&it.route, &path.field("route"), out);
}

fn l4_match(it: &L4MatchAttributes, path: &Path, out: &mut Validation) {
    subnets(&it.destination_subnets, path, out);
    note(out, rules::optional_port(&path.field("port"), it.port));
    rules::label_map(&path.field("sourceLabels"), &it.source_labels, out);
    gateways(&it.gateways, &path.field("gateways"), out);
}

fn subnets(list: &[String], path: &Path, out: &mut Validation) {
    for (index, text) in list.iter().enumerate() {
        note(out, rules::subnet(&path.field("destinationSubnets").index(index), text));
    }
}

fn destinations(list: &[RouteDestination], path: &Path, out: &mut Validation) {
    if list.is_empty() {
        out.error(FieldError::required(path, "at least one destination"));
    }
    for (index, to) in list.iter().enumerate() {
        destination(&to.destination, &path.index(index).field("destination"), out);
    }
    weights(list.iter().map(|to| to.weight), path, out);
}

pub(super) fn weights(weights: impl ExactSizeIterator<Item = i32>, path: &Path, out: &mut Validation) {
    let several = weights.len() > 1;
    let values: Vec<i32> = weights.collect();
    for (index, weight) in values.iter().enumerate() {
        note(out, rules::not_negative(&path.index(index).field("weight"), *weight));
    }
    if several && values.iter().all(|weight| *weight == 0) {
        let error = FieldError::invalid(path, "array", "must have a weight that is not 0");
        out.error(error.hint("give every destination its share, such as weight: 50"));
    }
}

pub(super) fn destination(it: &Destination, path: &Path, out: &mut Validation) {
    let host = path.field("host");
    if it.host == "*" {
        out.error(FieldError::invalid(&host, "*", "must be one service"));
    } else if it.host.parse::<IpAddr>().is_err() {
        note(out, rules::host(&host, &it.host));
    }
    if !it.subset.is_empty() {
        note(out, rules::dns_label(&path.field("subset"), &it.subset, "subset's name"));
    }
    if let Some(port) = &it.port {
        note(out, rules::port(&path.field("port").field("number"), port.number));
    }
}

/// Routes below one that takes everything.
fn unreachable(it: &VirtualService, spec: &Path, out: &mut Validation) {
    let mut below = |name: &str, everything: Vec<bool>| {
        if let Some(first) = everything.iter().position(|all| *all) {
            for index in first + 1..everything.len() {
                let text = format!("is never used: spec.{name}[{first}] has no match and takes everything");
                out.warn(&spec.field(name).index(index), text);
            }
        }
    };
    below("http", it.http.iter().map(|route| route.r#match.is_empty()).collect());
    below("tcp", it.tcp.iter().map(|route| route.r#match.is_empty()).collect());
}
