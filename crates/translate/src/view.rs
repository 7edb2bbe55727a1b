//! What a scope may see: its Sidecar resource, the services it imports, the VirtualServices that act on it.

use std::collections::BTreeSet;
use std::sync::Arc;

use ahash::AHashMap;
use api::mesh::OutboundMode;
use api::networking as net;
use base::NamespacedName;
use model::{Config, Handling, Key, Kind, Protocol, Service, ServicePort, Visibility, resolve_host};

use crate::delegate;
use crate::listener::outbound::address;
use crate::memo::Reader;
use crate::node::NodeKind;
use crate::scope::Facet;

/// The services that a scope may reach, ordered by host; each host once.
#[derive(Debug)]
pub(crate) struct Services {
    all: Vec<Visible>,
    by_host: AHashMap<Arc<str>, usize>,
    pub(crate) sidecar: Option<Arc<Config<net::Sidecar>>>,
    pub(crate) registry_only: bool,
    /// The ports that have a listener of their own in the Sidecar's egress, which has no address of its own.
    declared: BTreeSet<u32>,
}

#[derive(Debug)]
pub(crate) struct Visible {
    pub(crate) service: Arc<Service>,
    /// The listeners that import it; none where everything is imported.
    listeners: Vec<Arc<Egress>>,
}

/// A listener of a Sidecar's egress.
#[derive(Debug)]
struct Egress {
    /// The port that it takes; all that have no listener of their own when absent.
    port: Option<u32>,
    /// Instead of what services say.
    protocol: Option<Protocol>,
    bind: Option<Arc<str>>,
}

/// How a port of a service is called.
#[derive(Debug)]
pub(crate) struct Door<'a> {
    pub(crate) port: &'a ServicePort,
    pub(crate) protocol: Protocol,
    /// The address, where it is not the service's own.
    pub(crate) bind: Option<&'a Arc<str>>,
    /// Whether a listener is for this port alone.
    pub(crate) declared: bool,
}

impl<'a> Door<'a> {
    /// The one address at which it is called, where a Sidecar says so.
    pub(crate) fn address(&self) -> Option<&'a str> {
        self.bind.map(|bind| &**bind).filter(|bind| !address::is_unspecified(bind))
    }
}

impl Visible {
    pub(crate) fn ports(&self) -> impl Iterator<Item = &ServicePort> {
        self.service.ports.iter().filter(|port| {
            self.listeners.is_empty()
                || self.listeners.iter().any(|listener| listener.port.is_none_or(|only| only == port.number))
        })
    }

    /// The doors of a port that are, or may be, for HTTP.
    pub(crate) fn http_on(&self, port: u32) -> impl Iterator<Item = Door<'_>> {
        self.doors().filter(move |door| door.port.number == port && door.protocol.handling() != Handling::Tcp)
    }

    pub(crate) fn doors(&self) -> impl Iterator<Item = Door<'_>> {
        self.service.ports.iter().flat_map(|port| {
            let number = port.number;
            let taking = self.listeners.iter().filter(move |one| one.port.is_none_or(|only| only == number));
            let written = taking.map(move |listener| Door {
                port,
                protocol: listener.protocol.unwrap_or(port.protocol),
                bind: listener.bind.as_ref(),
                declared: listener.port.is_some(),
            });
            let plain = Door { port, protocol: port.protocol, bind: None, declared: false };
            written.chain(self.listeners.is_empty().then_some(plain))
        })
    }
}

impl Services {
    pub(crate) fn build(reader: &Reader<'_>) -> Self {
        let sidecar = sidecar(reader);
        let mesh = &reader.read(Key::Mesh).mesh().value;
        let policy = sidecar.as_ref().and_then(|sidecar| sidecar.spec.outbound_traffic_policy.as_ref());
        let registry_only = match policy {
            Some(policy) => policy.mode == net::OutboundTrafficMode::RegistryOnly,
            None => mesh.outbound_mode() == OutboundMode::RegistryOnly,
        };
        let namespace = &reader.facets(Facet::Namespace).namespace;
        let imports = Imports::of(sidecar.as_deref(), namespace);
        let mut best: AHashMap<&Arc<str>, Visible> = AHashMap::new();
        for service in reader.read(Key::Services).services().iter() {
            if *service.key.namespace != **namespace && !service.visibility.admits(namespace) {
                continue;
            }
            let Some(listeners) = imports.listeners(service) else { continue };
            let rank = |service: &Service| {
                (
                    service.key.namespace != *namespace,
                    service.origin != model::Origin::Kubernetes,
                    service.created,
                )
            };
            let better = best.get(&service.key.host).is_none_or(|known| rank(service) < rank(&known.service));
            if better {
                best.insert(&service.key.host, Visible { service: Arc::clone(service), listeners });
            }
        }
        let mut all: Vec<_> = best.into_values().collect();
        all.sort_by(|a, b| a.service.key.cmp(&b.service.key));
        let by_host =
            all.iter().enumerate().map(|(at, visible)| (Arc::clone(&visible.service.key.host), at)).collect();
        let egress = sidecar.iter().flat_map(|sidecar| &sidecar.spec.egress);
        let anywhere =
            egress.filter(|listener| listener.bind.is_empty() || address::is_unspecified(&listener.bind));
        let declared = anywhere.filter_map(|listener| Some(listener.port.as_ref()?.number)).collect();
        Self { all, by_host, sidecar, registry_only, declared }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Visible> {
        self.all.iter()
    }

    /// Whether the Sidecar's egress has a listener for a port alone.
    pub(crate) fn declares_ports(&self) -> bool {
        self.sidecar.iter().flat_map(|sidecar| &sidecar.spec.egress).any(|listener| listener.port.is_some())
    }

    /// Whether HTTP on a port may be for the service, at the address of a listener or everywhere else: there only by the
    /// port's own listener, where it has one.
    pub(crate) fn has_http_on(&self, visible: &Visible, port: u32, bind: Option<&str>) -> bool {
        let own = self.declared.contains(&port);
        visible.http_on(port).any(|door| match bind {
            Some(bind) => door.address() == Some(bind),
            None => door.address().is_none() && door.declared == own,
        })
    }

    pub(crate) fn get(&self, host: &str) -> Option<&Arc<Service>> {
        self.by_host.get(host).map(|at| &self.all[*at].service)
    }

    /// The services that a host of a VirtualService stands for: one, or those that its wildcard covers.
    pub(crate) fn matching<'a>(&'a self, host: &'a str) -> Vec<&'a Visible> {
        if let Some(at) = self.by_host.get(host) {
            return vec![&self.all[*at]];
        }
        match host.strip_prefix('*') {
            Some(suffix) => {
                self.all.iter().filter(|visible| visible.service.key.host.ends_with(suffix)).collect()
            }
            None => Vec::new(),
        }
    }
}

/// The Sidecar resource that is meant for the scope: by selector, then its namespace's, then the mesh's.
fn sidecar(reader: &Reader<'_>) -> Option<Arc<Config<net::Sidecar>>> {
    if reader.facets(Facet::Kind).kind != NodeKind::Sidecar {
        return None;
    }
    let namespace = &reader.facets(Facet::Namespace).namespace;
    let own =
        reader.read(Key::KindIn(Kind::Sidecar, Arc::clone(namespace))).sidecars().in_namespace(namespace);
    let selector = |config: &Config<net::Sidecar>| {
        config.spec.workload_selector.clone().filter(|s| !s.labels.is_empty())
    };
    let general = |list: &[Arc<Config<net::Sidecar>>]| {
        list.iter().find(|config| selector(config).is_none()).map(Arc::clone)
    };
    let selected = own.iter().find(|config| {
        selector(config).is_some_and(|selector| selector.selects(&reader.facets(Facet::Labels).labels))
    });
    selected.map(Arc::clone).or_else(|| general(own)).or_else(|| {
        let root = reader.read(Key::Mesh).root_namespace();
        let key = Key::KindIn(Kind::Sidecar, Arc::clone(root));
        general(reader.read(key).sidecars().in_namespace(root))
    })
}

/// What a Sidecar's egress imports.
struct Imports<'a> {
    own: &'a str,
    /// Each listener with the namespaces and hosts that it imports; without a Sidecar everything is imported.
    entries: Option<Vec<(Arc<Egress>, Vec<(&'a str, &'a str)>)>>,
}

impl Egress {
    fn new(listener: &net::IstioEgressListener) -> Self {
        let port = listener.port.as_ref();
        Self {
            port: port.map(|port| port.number),
            protocol: port.and_then(|port| Protocol::named(&port.protocol)),
            bind: Some(listener.bind.as_str()).filter(|bind| !bind.is_empty()).map(Into::into),
        }
    }
}

impl<'a> Imports<'a> {
    fn of(sidecar: Option<&'a Config<net::Sidecar>>, own: &'a str) -> Self {
        let egress = sidecar.map(|sidecar| &sidecar.spec.egress).filter(|egress| !egress.is_empty());
        let entries = egress.map(|egress| {
            egress
                .iter()
                .map(|listener| (Arc::new(Egress::new(listener)), listener.hosts().collect()))
                .collect()
        });
        Self { own, entries }
    }

    fn covers(&self, namespace: &str, host: &str, entry: (&str, &str)) -> bool {
        let in_namespace = match entry.0 {
            "*" => true,
            "." => namespace == self.own,
            "~" => false,
            name => namespace == name,
        };
        in_namespace
            && match entry.1.strip_prefix('*') {
                Some(suffix) => host.ends_with(suffix),
                None => host.eq_ignore_ascii_case(entry.1),
            }
    }

    /// The listeners that import a service: `None` if it is not imported, none of them if all of it is.
    fn listeners(&self, service: &Service) -> Option<Vec<Arc<Egress>>> {
        let Some(entries) = &self.entries else { return Some(Vec::new()) };
        let (namespace, host) = (&service.key.namespace, &service.key.host);
        let importing = entries.iter().filter(|(listener, hosts)| {
            // A port that the service does not have imports nothing of it.
            listener.port.is_none_or(|port| service.port(port).is_some())
                && hosts.iter().any(|entry| self.covers(namespace, host, *entry))
        });
        let listeners: Vec<_> = importing.map(|(listener, _)| Arc::clone(listener)).collect();
        (!listeners.is_empty()).then_some(listeners)
    }

    fn imports(&self, namespace: &str, host: &str) -> bool {
        self.entries.as_ref().is_none_or(|entries| {
            entries.iter().flat_map(|(_, hosts)| hosts).any(|(ns, name)| {
                // A wildcard host of a resource is imported where it could stand for something imported.
                self.covers(namespace, host, (ns, name))
                    || (host.starts_with('*') && self.covers(namespace, name, (ns, host)))
            })
        })
    }
}

/// The VirtualServices that may act on a scope, in the order in which they are asked.
#[derive(Debug)]
pub(crate) struct VirtualServices {
    /// Those for sidecars.
    pub(crate) mesh: Vec<Arc<VirtualService>>,
    /// Those for gateways, by `namespace/name`.
    by_gateway: AHashMap<String, Vec<Arc<VirtualService>>>,
}

/// A VirtualService with its names made whole and its delegates merged in.
#[derive(Debug)]
pub(crate) struct VirtualService {
    pub(crate) name: NamespacedName,
    pub(crate) hosts: Vec<Arc<str>>,
    /// `mesh` or `namespace/name`.
    pub(crate) gateways: Vec<String>,
    pub(crate) spec: Arc<net::VirtualService>,
    /// Changes with the resource and with those that it delegates to.
    pub(crate) revision: u64,
    /// Whether what proxies would not take has to be looked for.
    pub(crate) faulty: bool,
}

impl VirtualServices {
    pub(crate) fn build(reader: &Reader<'_>) -> Self {
        let namespace = &reader.facets(Facet::Namespace).namespace;
        let kind = reader.facets(Facet::Kind).kind;
        let default = &reader.read(Key::Mesh).mesh().value.default_virtual_service_export_to;
        let configs = reader.read(Key::Kind(Kind::VirtualService)).virtual_services();
        let sidecar = sidecar(reader);
        let imports = Imports::of(sidecar.as_deref(), namespace);
        let mut ranked = Vec::new();
        for config in configs.iter().filter(|config| !config.spec.hosts.is_empty()) {
            let home = &config.name.namespace;
            let visibility = Visibility::parse(&config.spec.export_to, home, default);
            if !visibility.admits(namespace) {
                continue;
            }
            let rank = match visibility {
                Visibility::Namespaces(_) if home == namespace => 0,
                Visibility::Namespaces(_) => 1,
                _ => 2,
            };
            let resolved = VirtualService::new(config, configs, reader.domain());
            if kind == NodeKind::Router || resolved.hosts.iter().any(|host| imports.imports(home, host)) {
                ranked.push((rank, Arc::new(resolved)));
            }
        }
        // Stable: within a rank they stay oldest first.
        ranked.sort_by_key(|(rank, _)| *rank);
        let mut by_gateway: AHashMap<String, Vec<_>> = AHashMap::new();
        let mut mesh = Vec::new();
        for (_, resolved) in ranked {
            for gateway in &resolved.gateways {
                if gateway == "mesh" {
                    mesh.push(Arc::clone(&resolved));
                } else {
                    by_gateway.entry(gateway.clone()).or_default().push(Arc::clone(&resolved));
                }
            }
        }
        Self { mesh, by_gateway }
    }

    pub(crate) fn of_gateway(&self, gateway: &NamespacedName) -> &[Arc<VirtualService>] {
        self.by_gateway.get(&gateway.to_string()).map_or(&[], Vec::as_slice)
    }
}

impl VirtualService {
    fn new(
        config: &Arc<Config<net::VirtualService>>,
        all: &model::Configs<net::VirtualService>,
        domain: &str,
    ) -> Self {
        let namespace = &config.name.namespace;
        let gateway = |gateway: &String| match gateway.as_str() {
            "mesh" => "mesh".to_owned(),
            name if name.contains('/') => name.to_owned(),
            name => format!("{namespace}/{name}"),
        };
        let gateways = match config.spec.gateways.as_slice() {
            [] => vec!["mesh".to_owned()],
            list => list.iter().map(gateway).collect(),
        };
        let merged = delegate::merged(config, all, domain);
        Self {
            name: config.name.clone(),
            hosts: config.spec.hosts.iter().map(|host| resolve_host(host, namespace, domain)).collect(),
            gateways,
            spec: Arc::new(merged.spec),
            revision: merged.revision,
            faulty: merged.faulty,
        }
    }
}
