//! What a proxy runs: everything that was accepted, compiled, immutable, and shared with the plans before and after.

mod ids;
mod store;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use proto::pb::envoy::config::cluster::v3::Cluster as PbCluster;
use proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use proto::pb::envoy::config::listener::v3::Listener as PbListener;
use proto::pb::envoy::config::route::v3::{
    RouteConfiguration, ScopedRouteConfiguration, VirtualHost as PbVirtualHost,
};
use proto::{Delta, Rejection, Resource, ResourceType};
use upstream::Assignment;

use crate::cluster::{Cluster, Discovery, compile_assignment, compile_cluster};
use crate::hcm::{RouteSource, Scope, ScopeKey, ScopeTable, compile_scope};
use crate::listener::{Listener, Terminal, compile_listener};
use crate::origin::Origin;
use crate::refusal::{Refusal, Taken};
use crate::route::{RouteTable, VirtualHost, compile_table, compile_virtual_host};
use crate::support::read;
use crate::tls::{CertificateSource, SecretRef, TlsCommon, Transport};
use store::{Shards, Slab};

pub(crate) use ids::Ids;
pub use ids::{ClusterId, RouteTableId};

/// A compiled configuration. Cloning and changing it costs little: what did not change is shared.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    names: Arc<ids::Names>,
    clusters: Slab<Versioned<Cluster>>,
    tables: Slab<Versioned<RouteTable>>,
    /// What came by VHDS; the tables that they are of have them too.
    virtual_hosts: Arc<BTreeMap<Arc<str>, Versioned<VirtualHost>>>,
    assignments: Shards<Versioned<Assignment>>,
    listeners: Arc<BTreeMap<Arc<str>, Versioned<Listener>>>,
    scopes: Arc<BTreeMap<Arc<str>, Versioned<Scope>>>,
    by_key: Arc<HashMap<ScopeKey, Arc<Scope>>>,
    by_socket: Arc<HashMap<SocketAddr, Arc<Listener>>>,
}

#[derive(Debug)]
struct Versioned<T> {
    version: u64,
    value: Arc<T>,
}

impl<T> Clone for Versioned<T> {
    fn clone(&self) -> Self {
        Self { version: self.version, value: Arc::clone(&self.value) }
    }
}

impl Plan {
    pub fn new() -> Self {
        Self::default()
    }

    /// The plan with what changed. A resource that cannot be taken is rejected alone: its last good form stays.
    pub fn apply(&self, delta: &Delta) -> (Self, Vec<Rejection>) {
        let mut plan = self.clone();
        let mut rejections = Vec::new();
        let mut ids = Ids::new(Arc::clone(&self.names));
        if delta.resource_type == ResourceType::VirtualHost {
            let rejections = plan.take_virtual_hosts(delta, &mut ids);
            plan.names = ids.finish();
            return (plan, rejections);
        }
        if delta.resource_type == ResourceType::ScopedRoute {
            // A key may go from one scope to another.
            plan.remove_scopes(&delta.removed);
        }
        for resource in &delta.changed {
            let taken = match delta.resource_type {
                ResourceType::Cluster => plan.take_cluster(resource, &mut ids),
                ResourceType::Endpoint => plan.take_assignment(resource),
                ResourceType::Listener => plan.take_listener(resource, &mut ids),
                ResourceType::Route => plan.take_table(resource, &mut ids),
                ResourceType::ScopedRoute => plan.take_scope(resource, &mut ids),
                other => Err(Refusal::new(format_args!("{other} is not for a plan"))),
            };
            if let Err(refusal) = taken {
                rejections.push(rejection(delta.resource_type, &resource.name, refusal));
            }
        }
        for name in &delta.removed {
            plan.remove(delta.resource_type, name, &ids);
        }
        plan.names = ids.finish();
        if delta.resource_type == ResourceType::Route && !plan.virtual_hosts.is_empty() {
            plan.forget_virtual_hosts();
        }
        if delta.resource_type == ResourceType::Listener {
            plan.by_socket = Arc::new(plan.index_sockets());
        }
        (plan, rejections)
    }

    pub fn cluster(&self, id: ClusterId) -> Option<&Arc<Cluster>> {
        self.clusters.get(id.index()).map(|v| &v.value)
    }

    pub fn cluster_named(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.cluster(self.names.clusters.get(name).copied().map(ClusterId)?)
    }

    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.iter().map(|v| &v.value)
    }

    pub fn route_table(&self, id: RouteTableId) -> Option<&Arc<RouteTable>> {
        self.tables.get(id.index()).map(|v| &v.value)
    }

    pub fn route_table_named(&self, name: &str) -> Option<&Arc<RouteTable>> {
        self.route_table(self.names.tables.get(name).copied().map(RouteTableId)?)
    }

    pub fn route_tables(&self) -> impl Iterator<Item = &Arc<RouteTable>> {
        self.tables.iter().map(|v| &v.value)
    }

    /// Where requests of a scope are routed by, as SRDS says.
    pub(crate) fn scope(&self, key: &[Box<str>]) -> Option<&ScopeTable> {
        self.by_key.get(key).map(|scope| &scope.table)
    }

    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners.get(name).map(|v| &v.value)
    }

    pub fn listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners.values().map(|v| &v.value)
    }

    /// Endpoints of a cluster: its own, or what EDS assigned, once it did.
    pub fn assignment<'a>(&'a self, cluster: &'a Cluster) -> Option<&'a Arc<Assignment>> {
        match &cluster.discovery {
            Discovery::Eds { service_name, .. } => self.assignments.get(service_name).map(|v| &v.value),
            _ => cluster.own_assignment(),
        }
    }

    /// The listener that takes a connection over by its original destination: the one with that very address, else one
    /// with any address and that port. Nothing when it stays where it is.
    pub fn hand_over(&self, from: &Listener, destination: SocketAddr) -> Option<&Arc<Listener>> {
        if !from.use_original_dst {
            return None;
        }
        let ip = destination.ip().to_canonical();
        let exact = SocketAddr::new(ip, destination.port());
        let any = |ip: std::net::IpAddr| SocketAddr::new(ip, destination.port());
        let v4 = ip.is_ipv4().then(|| any(std::net::Ipv4Addr::UNSPECIFIED.into()));
        [Some(exact), v4, Some(any(std::net::Ipv6Addr::UNSPECIFIED.into()))]
            .into_iter()
            .flatten()
            .find_map(|socket| self.by_socket.get(&socket))
            .filter(|listener| listener.name != from.name)
    }

    /// Route tables that listeners ask for by RDS.
    pub fn wanted_route_tables(&self) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        for chain in self.chains() {
            let Terminal::Http(hcm) = &chain.terminal else { continue };
            match &hcm.routes {
                RouteSource::Rds { name, .. } => names.push(Arc::clone(name)),
                RouteSource::Inline(_) => {}
                RouteSource::Scoped(scoped) => {
                    names.extend(scoped.wanted_tables());
                    let by_srds = self.scopes.values().filter(|_| scoped.is_by_srds());
                    names.extend(by_srds.filter_map(|scope| scope.value.table.wanted()));
                }
            }
        }
        names.sort();
        names.dedup();
        names
    }

    /// Assignments that clusters ask for by EDS.
    pub fn wanted_assignments(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self
            .clusters()
            .filter_map(|c| match &c.discovery {
                Discovery::Eds { service_name, .. } => Some(Arc::clone(service_name)),
                _ => None,
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Secrets that TLS contexts refer to.
    pub fn wanted_secrets(&self) -> Vec<SecretRef> {
        let mut all = Vec::new();
        for chain in self.chains() {
            if let Transport::Tls(tls) = &chain.transport {
                secrets_of(&tls.common, &mut all);
            }
        }
        for cluster in self.clusters() {
            let transports =
                cluster.transport_matches.iter().map(|m| &m.transport).chain([&cluster.transport]);
            for transport in transports {
                if let Transport::Tls(tls) = transport {
                    secrets_of(&tls.common, &mut all);
                }
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.dedup();
        all
    }

    fn chains(&self) -> impl Iterator<Item = &Arc<crate::listener::FilterChain>> {
        self.listeners().flat_map(|l| l.all_chains())
    }

    fn take_cluster(&mut self, resource: &Resource, ids: &mut Ids) -> Taken<()> {
        let id = ids.cluster(&resource.name);
        if self.clusters.get(id.index()).is_some_and(|v| v.version == resource.version) {
            return Ok(());
        }
        let message: PbCluster = read(&resource.body)?;
        named(&message.name, &resource.name, "name")?;
        let value = Arc::new(compile_cluster(&message, ids)?);
        self.clusters.set(id.index(), Some(Versioned { version: resource.version, value }));
        Ok(())
    }

    fn take_table(&mut self, resource: &Resource, ids: &mut Ids) -> Taken<()> {
        let id = ids.table(&resource.name);
        if self.tables.get(id.index()).is_some_and(|v| v.version == resource.version) {
            return Ok(());
        }
        let message: RouteConfiguration = read(&resource.body)?;
        named(&message.name, &resource.name, "name")?;
        let table = compile_table(&message, ids)?;
        // One whose domain the table has itself by now is left out.
        let value =
            Arc::new(if table.vhds.is_some() { self.with_hosts(&table, &|_| false).0 } else { table });
        self.tables.set(id.index(), Some(Versioned { version: resource.version, value }));
        Ok(())
    }

    /// The table with what is there for it; of two that want one domain it is the newer that is left out.
    fn with_hosts(
        &self,
        table: &RouteTable,
        is_new: &dyn Fn(&str) -> bool,
    ) -> (RouteTable, Vec<(Arc<str>, Refusal)>) {
        let of_table = || self.virtual_hosts.iter().filter(|(key, _)| table.owns(key));
        let (old, new) =
            (of_table().filter(|(key, _)| !is_new(key)), of_table().filter(|(key, _)| is_new(key)));
        let (table, mut refused) = table.with_hosts(old.chain(new).map(|(key, host)| (key, &host.value)));
        refused.retain(|(key, _)| is_new(key));
        (table, refused)
    }

    /// Takes all that came at once, as each of them makes its table anew.
    fn take_virtual_hosts(&mut self, delta: &Delta, ids: &mut Ids) -> Vec<Rejection> {
        let before = Arc::clone(&self.virtual_hosts);
        let mut refused: Vec<(Arc<str>, Refusal)> = Vec::new();
        let mut hosts = (*before).clone();
        for name in &delta.removed {
            hosts.remove(name);
        }
        for resource in &delta.changed {
            if hosts.get(&resource.name).is_some_and(|host| host.version == resource.version) {
                continue;
            }
            let of = self.route_tables().find(|table| table.owns(&resource.name));
            let most_body = of.map_or(DIRECT_BODY, |table| table.most_body);
            let taken = read::<PbVirtualHost>(&resource.body)
                .and_then(|message| compile_virtual_host(&message, most_body, ids));
            match taken {
                Ok(host) => {
                    let value = Arc::new(host);
                    hosts.insert(Arc::clone(&resource.name), Versioned { version: resource.version, value });
                }
                Err(refusal) => refused.push((Arc::clone(&resource.name), refusal)),
            }
        }
        self.virtual_hosts = Arc::new(hosts);
        let is_new = |key: &str| delta.changed.iter().any(|resource| *resource.name == *key);
        let spoken = || delta.changed.iter().map(|resource| &resource.name).chain(&delta.removed);
        let is_touched = |table: &Versioned<RouteTable>| spoken().any(|key| table.value.owns(key));
        for (index, Versioned { version, value: table }) in self.tables.indexed(is_touched) {
            let (mut with_hosts, clashes) = self.with_hosts(&table, &is_new);
            if !clashes.is_empty() {
                // What was good before stays where what came is not.
                let hosts = Arc::make_mut(&mut self.virtual_hosts);
                for (key, _) in &clashes {
                    match before.get(key) {
                        Some(good) => _ = hosts.insert(Arc::clone(key), good.clone()),
                        None => _ = hosts.remove(key),
                    }
                }
                with_hosts = self.with_hosts(&table, &is_new).0;
                refused.extend(clashes);
            }
            self.tables.set(index, Some(Versioned { version, value: Arc::new(with_hosts) }));
        }
        let rejections = refused.into_iter();
        rejections.map(|(name, refusal)| rejection(ResourceType::VirtualHost, &name, refusal)).collect()
    }

    /// Those of tables that have gone, or that take none any more.
    fn forget_virtual_hosts(&mut self) {
        let mut hosts = std::mem::take(&mut self.virtual_hosts);
        if hosts.keys().any(|key| !self.route_tables().any(|table| table.owns(key))) {
            Arc::make_mut(&mut hosts).retain(|key, _| self.route_tables().any(|table| table.owns(key)));
        }
        self.virtual_hosts = hosts;
    }

    /// Where the virtual host of this key is asked for; nothing where no table has it.
    pub fn source_of_virtual_host(&self, key: &str) -> Option<Origin> {
        self.route_tables().find(|table| table.owns(key))?.vhds.clone()
    }

    /// Whether the virtual host that is asked for under this key is there.
    pub fn has_virtual_host(&self, key: &str) -> bool {
        self.route_tables().any(|table| table.owns(key) && table.has_host(Origin::name_of(key)))
    }

    fn take_scope(&mut self, resource: &Resource, ids: &mut Ids) -> Taken<()> {
        if self.scopes.get(&resource.name).is_some_and(|v| v.version == resource.version) {
            return Ok(());
        }
        let message: ScopedRouteConfiguration = read(&resource.body)?;
        named(&message.name, &resource.name, "name")?;
        let value = Arc::new(compile_scope(&message, ids)?);
        let own = self.scopes.get(&resource.name).map(|v| Arc::clone(&v.value));
        if let Some(other) = self.by_key.get(&value.key)
            && !own.as_ref().is_some_and(|own| Arc::ptr_eq(own, other))
        {
            return Err(Refusal::new("is the key of another scope as well").under("key"));
        }
        let by_key = Arc::make_mut(&mut self.by_key);
        if let Some(own) = own {
            by_key.remove(&own.key);
        }
        by_key.insert(value.key.clone(), Arc::clone(&value));
        let entry = Versioned { version: resource.version, value };
        Arc::make_mut(&mut self.scopes).insert(Arc::clone(&resource.name), entry);
        Ok(())
    }

    fn remove_scopes(&mut self, names: &[Arc<str>]) {
        for name in names.iter().filter(|name| self.scopes.contains_key(*name)).cloned().collect::<Vec<_>>() {
            if let Some(scope) = Arc::make_mut(&mut self.scopes).remove(&name) {
                Arc::make_mut(&mut self.by_key).remove(&scope.value.key);
            }
        }
    }

    fn take_assignment(&mut self, resource: &Resource) -> Taken<()> {
        if self.assignments.get(&resource.name).is_some_and(|v| v.version == resource.version) {
            return Ok(());
        }
        let message: ClusterLoadAssignment = read(&resource.body)?;
        named(&message.cluster_name, &resource.name, "clusterName")?;
        let value = Arc::new(compile_assignment(&message)?);
        self.assignments.set(&resource.name, Some(Versioned { version: resource.version, value }));
        Ok(())
    }

    fn take_listener(&mut self, resource: &Resource, ids: &mut Ids) -> Taken<()> {
        if self.listeners.get(&resource.name).is_some_and(|v| v.version == resource.version) {
            return Ok(());
        }
        let message: PbListener = read(&resource.body)?;
        named(&message.name, &resource.name, "name")?;
        let value = Arc::new(compile_listener(&message, ids)?);
        let entry = Versioned { version: resource.version, value };
        Arc::make_mut(&mut self.listeners).insert(Arc::clone(&resource.name), entry);
        Ok(())
    }

    fn remove(&mut self, resource_type: ResourceType, name: &str, ids: &Ids) {
        match resource_type {
            ResourceType::Cluster => {
                if let Some(id) = ids.known_cluster(name) {
                    self.clusters.set(id.index(), None);
                }
            }
            ResourceType::Route => {
                if let Some(id) = ids.known_table(name) {
                    self.tables.set(id.index(), None);
                }
            }
            ResourceType::Endpoint => self.assignments.set(name, None),
            ResourceType::Listener if self.listeners.contains_key(name) => {
                Arc::make_mut(&mut self.listeners).remove(name);
            }
            _ => {}
        }
    }

    fn index_sockets(&self) -> HashMap<SocketAddr, Arc<Listener>> {
        self.listeners()
            .flat_map(|l| l.addresses.iter().filter_map(upstream::Address::socket).map(move |s| (s, l)))
            .map(|(s, l)| (SocketAddr::new(s.ip().to_canonical(), s.port()), Arc::clone(l)))
            .collect()
    }
}

/// The longest body of a direct response, in bytes, where no table says.
pub(crate) const DIRECT_BODY: usize = 4096;

fn rejection(resource_type: ResourceType, name: &Arc<str>, refusal: Refusal) -> Rejection {
    Rejection { resource_type, name: Arc::clone(name), field: refusal.field(), reason: refusal.reason }
}

/// A resource must be what it is called.
fn named(inner: &str, outer: &str, field: &str) -> Taken<()> {
    let outer = Origin::name_of(outer);
    if inner == outer {
        return Ok(());
    }
    Err(Refusal::new(format_args!("{inner:?} is not the name {outer:?} that it was sent under")).under(field))
}

fn secrets_of(common: &TlsCommon, all: &mut Vec<SecretRef>) {
    all.extend(common.certificates.iter().filter_map(|c| match c {
        CertificateSource::Secret(secret) => Some(secret.clone()),
        CertificateSource::Inline { .. } => None,
    }));
    all.extend(common.validation.as_ref().and_then(|v| v.secret.clone()));
}
