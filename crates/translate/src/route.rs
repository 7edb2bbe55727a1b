//! Route configurations of sidecars: by port, and by service where a port's protocol is detected.

pub(crate) mod http;
pub(crate) mod matches;
mod policy;

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::AHashSet;
use api::networking as net;
use model::Service;
use prost::Message;
use proto::Resource;
use proto::pb::envoy::config::route::v3 as pb;

use crate::build::Context;
use crate::cluster::{self, PASSTHROUGH};
use crate::encode::{self, boolv, content_hash, seconds, u32v};
use crate::listener::outbound::{self, address};
use crate::scope::Facet;
use crate::translator::{Part, resource};
use crate::view::VirtualService;

pub(crate) fn all(context: &Context<'_>) -> Vec<Resource> {
    let names = outbound::route_names(context);
    names.into_iter().map(|name| build(context, &name)).collect()
}

/// A virtual host before its routes are written.
struct Host {
    name: String,
    domains: Vec<String>,
    service: Option<Arc<Service>>,
    rules: Option<Arc<VirtualService>>,
}

fn build(context: &Context<'_>, name: &str) -> Resource {
    let (name_of_port, bind) = bound(name).map_or((name, None), |(port, bind)| (port, Some(bind)));
    let (sole, port) = match name_of_port.rsplit_once(':') {
        Some((host, port)) => (Some(host), port),
        None => (None, name_of_port),
    };
    let port: u32 = port.parse().unwrap_or_default();
    let mut hosts = hosts(context, port, bind, sole);
    if sole.is_some() {
        // Whatever the host header says: the address already told the service.
        hosts.truncate(1);
        hosts.iter_mut().for_each(|host| host.domains = vec!["*".into()]);
    }
    let mut written: Vec<Resource> =
        hosts.iter().filter_map(|host| virtual_host(context, name, port, host)).collect();
    if sole.is_none() {
        written.push(resource("", &catch_all(context)));
    }
    assemble(name, &written)
}

/// The port and the address of a listener that has one of its own, out of the name `PORT.ADDRESS`.
fn bound(name: &str) -> Option<(&str, &str)> {
    let (port, bind) = name.split_once('.')?;
    (port.parse::<u16>().is_ok() && bind.parse::<std::net::IpAddr>().is_ok()).then_some((port, bind))
}

/// The configuration around virtual hosts that are encoded already.
pub(crate) fn assemble(name: &str, virtual_hosts: &[Resource]) -> Resource {
    let config = pb::RouteConfiguration {
        name: name.into(),
        validate_clusters: Some(boolv(false)),
        max_direct_response_body_size_bytes: Some(u32v(1 << 20)),
        ignore_port_in_host_matching: true,
        ..Default::default()
    };
    let length: usize = virtual_hosts.iter().map(|host| host.body.len() + 6).sum();
    let mut body = Vec::with_capacity(length + 64);
    // Encoding into a vector cannot run out of room.
    let _ = config.encode(&mut body);
    for host in virtual_hosts {
        prost::encoding::encode_key(2, prost::encoding::WireType::LengthDelimited, &mut body);
        prost::encoding::encode_varint(host.body.len() as u64, &mut body);
        body.extend_from_slice(&host.body);
    }
    encode::resource(name.into(), body.into())
}

/// The virtual hosts of a port: those of VirtualServices first, then services without one; each domain once.
fn hosts(context: &Context<'_>, port: u32, bind: Option<&str>, sole: Option<&str>) -> Vec<Host> {
    let services = context.services();
    let on_port: BTreeMap<&Arc<str>, &Arc<Service>> = services
        .iter()
        .filter(|visible| match sole {
            Some(host) => *visible.service.key.host == *host && visible.http_on(port).next().is_some(),
            None => services.has_http_on(visible, port, bind),
        })
        .map(|visible| (&visible.service.key.host, &visible.service))
        .collect();
    let mut taken: AHashSet<String> = AHashSet::new();
    let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
    let mut add = |host: &str, service: Option<&Arc<Service>>, rules: Option<Arc<VirtualService>>| {
        let name = format!("{host}:{port}");
        if hosts.contains_key(&name) {
            return;
        }
        let all = service.map_or_else(|| vec![host.to_owned()], |service| domains(context, service));
        let domains: Vec<_> = all.into_iter().filter(|domain| taken.insert(domain.clone())).collect();
        if !domains.is_empty() {
            hosts.insert(name.clone(), Host { name, domains, service: service.cloned(), rules });
        }
    };
    for rules in &context.virtual_services().mesh {
        let found: Vec<_> = rules
            .hosts
            .iter()
            .flat_map(|host| services.matching(host))
            .filter_map(|visible| on_port.get(&visible.service.key.host).copied())
            .collect();
        if rules.spec.http.is_empty() {
            continue;
        }
        // Hosts that no service has are taken to be served on the ports of those that one has, else on port 80.
        let bare = |host: &&Arc<str>| services.matching(host).is_empty();
        if !found.is_empty() || (port == 80 && on_no_port(&services, rules)) {
            for service in &found {
                add(&service.key.host, Some(service), Some(Arc::clone(rules)));
            }
            let unserved =
                rules.hosts.iter().filter(|host| sole.is_none() && (found.is_empty() || bare(host)));
            for host in unserved {
                add(host, None, Some(Arc::clone(rules)));
            }
        }
    }
    for (host, service) in on_port {
        add(host, Some(service), None);
    }
    hosts.into_values().collect()
}

/// Whether no host of the rules has a service on port 80; they are then served there by name alone.
fn on_no_port(services: &crate::view::Services, rules: &VirtualService) -> bool {
    let mut meant = rules.hosts.iter().flat_map(|host| services.matching(host));
    !meant.any(|visible| visible.http_on(80).next().is_some())
}

/// The names by which a service is called: in full, as short as its namespace allows, and by address.
fn domains(context: &Context<'_>, service: &Service) -> Vec<String> {
    let host = &*service.key.host;
    let mut domains = vec![host.to_owned()];
    if !host.starts_with('*') && host.parse::<std::net::IpAddr>().is_err() {
        domains.push(format!("{host}."));
    }
    let facets = context.reader.facets(Facet::Domain);
    let suffix = format!(".svc.{}", facets.domain);
    if let Some(short) = host.strip_suffix(&suffix) {
        let own = &context.reader.facets(Facet::Namespace).namespace;
        if let Some(name) = short.strip_suffix(&format!(".{own}")).filter(|name| !name.contains('.')) {
            domains.push(name.to_owned());
            domains.push(format!("{short}.svc"));
            domains.push(short.to_owned());
        } else {
            domains.push(short.to_owned());
            domains.push(format!("{short}.svc"));
        }
    }
    if service.headless {
        // Each endpoint has a name of its own below the service's.
        let wildcards: Vec<_> =
            domains.iter().filter(|d| d.contains('.')).map(|d| format!("*.{d}")).collect();
        domains.extend(wildcards);
    }
    for vip in address::of(context, service) {
        match &*vip {
            v6 if v6.contains(':') && !v6.contains('/') => domains.push(format!("[{v6}]")),
            v4 if !v4.contains('/') => domains.push(v4.to_owned()),
            _ => {}
        }
    }
    domains
}

fn virtual_host(context: &Context<'_>, route: &str, port: u32, host: &Host) -> Option<Resource> {
    let mut inputs = host.domains.join(" ").into_bytes();
    inputs.extend(host.rules.as_ref().map_or(0, |rules| rules.revision).to_le_bytes());
    inputs.extend(host.service.as_ref().map_or(0, |service| service.revision).to_le_bytes());
    let part = Part::VirtualHost {
        route: route.into(),
        name: host.name.as_str().into(),
        inputs: content_hash(&inputs),
    };
    context.part(&part, |context| {
        let routes = host
            .rules
            .as_ref()
            .map(|rules| http::routes(context, rules, &http::Place { port, gateways: &["mesh"] }));
        let routes = match (routes, &host.service) {
            (Some(routes), _) if !routes.is_empty() => routes,
            (_, Some(service)) => vec![http::default_route(context, service, port)],
            (_, None) => return None,
        };
        Some(resource(host.name.as_str(), &wrap(host.name.clone(), host.domains.clone(), routes)))
    })
}

pub(crate) fn wrap(name: String, domains: Vec<String>, routes: Vec<pb::Route>) -> pb::VirtualHost {
    pb::VirtualHost { name, domains, routes, include_request_attempt_count: true, ..Default::default() }
}

/// Where requests for hosts that nobody declared go.
fn catch_all(context: &Context<'_>) -> pb::VirtualHost {
    let everything = pb::RouteMatch {
        path_specifier: Some(pb::route_match::PathSpecifier::Prefix("/".into())),
        ..Default::default()
    };
    let (name, action) = if context.services().registry_only {
        let refuse = pb::DirectResponseAction { status: 502, ..Default::default() };
        ("block_all", pb::route::Action::DirectResponse(refuse))
    } else {
        #[allow(deprecated)]
        let pass = pb::RouteAction {
            cluster_specifier: Some(pb::route_action::ClusterSpecifier::Cluster(PASSTHROUGH.into())),
            timeout: Some(seconds(0)),
            max_grpc_timeout: Some(seconds(0)),
            ..Default::default()
        };
        ("allow_any", pb::route::Action::Route(pass))
    };
    let route = pb::Route {
        name: name.into(),
        r#match: Some(everything),
        action: Some(action),
        ..Default::default()
    };
    wrap(name.into(), vec!["*".into()], vec![route])
}

/// The cluster that a destination names, as seen from a listener's port.
pub(crate) fn destination(
    context: &Context<'_>,
    rules: &VirtualService,
    to: &net::Destination,
    listener_port: u32,
) -> Destination {
    let host = model::resolve_host(&to.host, &rules.name.namespace, context.reader.domain());
    let service = context.services().get(&host).cloned();
    // A sidecar keeps the port that was called; a gateway's port says nothing about the service's.
    let only = service
        .as_ref()
        .filter(|service| context.is_router() && service.ports.len() == 1)
        .map(|service| service.ports[0].number);
    let port = to.port.as_ref().map(|port| port.number).or(only).unwrap_or(listener_port);
    Destination {
        cluster: cluster::name(port, &to.subset, &host),
        service,
        host,
        port,
        subset: to.subset.clone(),
    }
}

pub(crate) struct Destination {
    pub(crate) cluster: String,
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) host: Arc<str>,
    pub(crate) port: u32,
    pub(crate) subset: String,
}
