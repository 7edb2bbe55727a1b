//! Changes of configuration, from resources to what workers are told.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use decide::{Cluster, Discovery};
use prost::Message as _;
use proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use proto::{Delta, Rejection, ResourceType};
use upstream::{Assignment, ClusterState, EndpointSet, Health, Host};

use super::dns::{Resolution, Resolved, chosen};
use super::sources::Came;
use super::{ClusterEntry, ClusterView, Control, target};
use crate::check::Checker;
use crate::net::DnsCache;
use crate::stats::{Kind, Sample, Snapshot};
use crate::worker::{ClusterUpdate, Config, Message};

/// How long a change may wait for the addresses of names that are new.
const WARM_UP: Duration = Duration::from_secs(1);

impl Control {
    /// Applies deltas in their order; a resource that is refused leaves its last good version serving. A listener may
    /// wait for what it refers to.
    pub(super) async fn apply(&mut self, deltas: Vec<Delta>, came: Came) -> Vec<Rejection> {
        self.change(deltas, came, true).await
    }

    /// The same without waiting.
    pub(super) async fn apply_now(&mut self, deltas: Vec<Delta>, came: Came) -> Vec<Rejection> {
        self.change(deltas, came, false).await
    }

    async fn change(&mut self, deltas: Vec<Delta>, came: Came, may_wait: bool) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        let mut touched = Touched { may_wait, ..Touched::default() };
        for delta in deltas {
            match delta.resource_type {
                ResourceType::Secret => self.take_secrets(&delta, &mut rejections),
                ResourceType::Cluster
                | ResourceType::Endpoint
                | ResourceType::Listener
                | ResourceType::Route
                | ResourceType::VirtualHost
                | ResourceType::ScopedRoute
                | ResourceType::ExtensionConfig => self.take(delta, came, &mut touched, &mut rejections),
                _ => {
                    if let Some(others) = &self.others {
                        let _ = others.send(delta).await;
                    }
                }
            }
        }
        self.spread(touched, &mut rejections).await;
        rejections
    }

    fn take_secrets(&mut self, delta: &Delta, rejections: &mut Vec<Rejection>) {
        for resource in &delta.changed {
            let taken = match Secret::decode(&resource.body[..]) {
                Ok(mut secret) => {
                    secret.name = resource.name.to_string();
                    self.secrets.set(&secret).map_err(|e| e.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = taken {
                rejections.push(rejection(ResourceType::Secret, &resource.name, "secret", reason));
            }
        }
    }

    fn take(&mut self, mut delta: Delta, came: Came, touched: &mut Touched, rejections: &mut Vec<Rejection>) {
        let before = self.plan.clone();
        let (plan, refused) = before.apply(&delta);
        let bad: BTreeSet<&Arc<str>> = refused.iter().map(|r| &r.name).collect();
        self.plan = Arc::new(plan);
        if touched.may_wait
            && delta.resource_type == ResourceType::Listener
            && self.hold_back(&mut delta, came, &|name| bad.contains(name))
        {
            self.plan = Arc::new(before.apply(&delta).0);
            touched.follow = true;
        }
        let dynamic = came.is_dynamic();
        for resource in delta.changed.iter().filter(|r| !bad.contains(&r.name)) {
            let key = (delta.resource_type, resource.name.clone());
            self.resources.insert(key, (resource.clone(), SystemTime::now(), came));
            touched.note(delta.resource_type, &resource.name, dynamic);
            touched.follow |= self.refer(delta.resource_type, &resource.name, came, false);
        }
        for name in &delta.removed {
            self.resources.remove(&(delta.resource_type, name.clone()));
            touched.note(delta.resource_type, name, dynamic);
            touched.follow |= self.refer(delta.resource_type, name, came, false);
        }
        touched.plan |= delta.resource_type != ResourceType::Endpoint;
        rejections.extend(refused);
    }

    /// Tells the workers what changed.
    async fn spread(&mut self, touched: Touched, rejections: &mut Vec<Rejection>) {
        if touched.follow {
            self.follow(&|t, name| touched.is_of(t, name), rejections);
        }
        let mut upserted = Vec::new();
        let mut removed = Vec::new();
        let mut warm = self.warm_up(&touched).await;
        for (name, dynamic) in &touched.clusters {
            match self.plan.cluster_named(name).cloned() {
                Some(cluster) => match self.upsert(&cluster, *dynamic, warm.remove(name)) {
                    Ok(update) => upserted.push(update),
                    Err(reason) => {
                        rejections.push(rejection(ResourceType::Cluster, name, "transportSocket", reason));
                    }
                },
                None => {
                    if let Some(entry) = self.clusters.remove(name) {
                        if let Some(resolver) = entry.resolver {
                            resolver.abort();
                        }
                        self.by_service.values_mut().for_each(|v| v.retain(|n| n != name));
                        removed.push(name.clone());
                    }
                }
            }
        }
        if !touched.listeners.is_empty() {
            self.compile_servers(rejections);
        }
        // Nobody is to come in by a listener of which the plan knows nothing any more.
        self.unbind(&touched.listeners).await;
        if touched.plan || !upserted.is_empty() {
            let upserted: Arc<[ClusterUpdate]> = upserted.into();
            let removed: Arc<[Arc<str>]> = removed.into();
            let config = Config { plan: self.plan.clone(), servers: self.servers.clone() };
            self.tell_all(|| Message::Change {
                upserted: upserted.clone(),
                config: Box::new(config.clone()),
                removed: removed.clone(),
            })
            .await;
        }
        for service in &touched.endpoints {
            self.spread_endpoints(service).await;
        }
        if !touched.hosts.is_empty() || (touched.plan && !self.demands.is_empty()) {
            self.answer_demands(&touched.hosts).await;
        }
        if !touched.listeners.is_empty() {
            self.bind(&touched.listeners, rejections).await;
        }
    }

    /// Assignments that were taken back leave clusters the hosts that they have, as in Envoy: whoever ends a cluster takes
    /// the cluster itself back, and routes may lead there until then. No endpoints are an assignment that is empty.
    async fn spread_endpoints(&mut self, service: &Arc<str>) {
        for name in self.by_service.get(service).cloned().unwrap_or_default() {
            let Some(entry) = self.clusters.get_mut(&name) else { continue };
            let Some(assignment) = self.plan.assignment(&entry.target.config).cloned() else { continue };
            let set = entry.take(&assignment);
            self.tell_all(|| Message::Endpoints(name.clone(), set.clone())).await;
        }
    }

    /// Looks up names that are new, so that the first requests find hosts.
    async fn warm_up(&self, touched: &Touched) -> HashMap<Arc<str>, Resolved> {
        let looking = touched.clusters.iter().filter_map(|(name, _)| {
            let resolution = self.resolution(self.plan.cluster_named(name)?)?;
            let known = self.clusters.get(name).is_some_and(|entry| {
                let before = self.resolution(&entry.target.config);
                entry.resolved.is_some() && before.is_some_and(|b| b.assignment == resolution.assignment)
            });
            (!known).then_some(async move {
                let resolved = tokio::time::timeout(WARM_UP, resolution.resolve()).await.ok()?.ok()?;
                Some((name.clone(), resolved))
            })
        });
        futures::future::join_all(looking).await.into_iter().flatten().collect()
    }

    fn upsert(
        &mut self,
        cluster: &Arc<Cluster>,
        dynamic: bool,
        warm: Option<Resolved>,
    ) -> Result<ClusterUpdate, String> {
        let mut target = target::target(cluster, &mut self.secrets).map_err(|e| e.to_string())?;
        target.outside.clone_from(&self.outside);
        target.names = self.names(cluster);
        let target = Arc::new(target);
        let mut old = self.clusters.remove(&cluster.name);
        if let Some(resolver) = old.as_ref().and_then(|o| o.resolver.as_ref()) {
            resolver.abort();
        }
        let state = match &old {
            Some(old) => old.state.clone(),
            None => Arc::new(ClusterState::new(&cluster.settings, Instant::now())),
        };
        let checker = old.as_mut().and_then(|o| o.checker.take());
        let checker = Checker::renewed(checker, &target, &state, &self.first_round);
        let was_assigned =
            old.as_ref().is_some_and(|o| matches!(o.target.config.discovery, Discovery::Eds { .. }));
        let resolved = old.and_then(|o| o.resolved);
        let mut entry =
            ClusterEntry { state, target, resolved, resolver: None, checker, dynamic, was_assigned };
        let empty = Arc::new(Assignment::default());
        let assignment = match &cluster.discovery {
            Discovery::Static(assignment) => assignment.clone(),
            Discovery::Eds { service_name, .. } => {
                let clusters = self.by_service.entry(service_name.clone()).or_default();
                if !clusters.contains(&cluster.name) {
                    clusters.push(cluster.name.clone());
                }
                match self.plan.assignment(cluster).cloned() {
                    Some(assignment) => assignment,
                    // Not said yet by another source, or taken back: those from before serve meanwhile.
                    None if entry.was_assigned => {
                        let endpoints = entry.state.endpoints();
                        let update = ClusterUpdate {
                            target: entry.target.clone(),
                            state: entry.state.clone(),
                            endpoints,
                        };
                        self.clusters.insert(cluster.name.clone(), entry);
                        return Ok(update);
                    }
                    None => empty,
                }
            }
            Discovery::StrictDns { .. } | Discovery::LogicalDns { .. } => {
                if let Some(warm) = &warm {
                    entry.resolved = Some(warm.assignment.clone());
                }
                entry.resolver = self.resolution(cluster).map(|resolution| {
                    let work = resolution.keep(cluster.name.clone(), warm, self.dns.clone());
                    tokio::task::spawn_local(work).abort_handle()
                });
                entry.resolved.clone().map_or(empty, Arc::new)
            }
            Discovery::OriginalDestination { .. }
            | Discovery::Aggregate { .. }
            | Discovery::Dynamic { .. } => empty,
        };
        let endpoints = entry.take(&assignment);
        let update = ClusterUpdate { target: entry.target.clone(), state: entry.state.clone(), endpoints };
        self.clusters.insert(cluster.name.clone(), entry);
        Ok(update)
    }

    /// The cache of a cluster whose requests name their hosts. Caches of one name are one, and outlive clusters' changes.
    fn names(&mut self, cluster: &Cluster) -> Option<Arc<DnsCache>> {
        let Discovery::Dynamic { cache } = &cluster.discovery else { return None };
        self.caches.retain(|_, cache| cache.strong_count() > 0);
        let known = self.caches.get(&cache.name).and_then(Weak::upgrade);
        Some(known.filter(|known| *known.settings() == **cache).unwrap_or_else(|| {
            let started = DnsCache::start((**cache).clone(), self.look_up.clone(), chosen);
            self.caches.insert(cache.name.clone(), Arc::downgrade(&started));
            started
        }))
    }

    /// How the names of a cluster become addresses, if it has any.
    fn resolution(&self, cluster: &Cluster) -> Option<Resolution> {
        let (assignment, settings, all) = match &cluster.discovery {
            Discovery::StrictDns { assignment, dns } => (assignment, dns, true),
            Discovery::LogicalDns { assignment, dns } => (assignment, dns, false),
            _ => return None,
        };
        let look_up = self.look_up.clone();
        Some(Resolution { assignment: assignment.clone(), settings: *settings, all, look_up })
    }

    pub(super) async fn resolved(&mut self, name: &Arc<str>, assignment: Assignment) {
        let Some(entry) = self.clusters.get_mut(name) else { return };
        let set = entry.take(&assignment);
        entry.resolved = Some(assignment);
        self.tell_all(|| Message::Endpoints(name.clone(), set.clone())).await;
    }

    pub(super) fn views(&self) -> Vec<ClusterView> {
        let mut views: Vec<_> = self
            .clusters
            .iter()
            .map(|(name, entry)| ClusterView {
                name: name.clone(),
                state: entry.state.clone(),
                target: entry.target.clone(),
                dynamic: entry.dynamic,
            })
            .collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }
}

impl ClusterEntry {
    /// Takes new endpoints.
    fn take(&mut self, assignment: &Assignment) -> Arc<EndpointSet> {
        let set = self.state.update(assignment, &self.target.config.settings, Instant::now());
        if let Some(checker) = &mut self.checker {
            checker.watch(&set);
        }
        set
    }

    /// What is counted once for all workers: hosts by their health, and checks.
    pub(super) fn collect(&self, into: &mut Snapshot) {
        let mut push = |stat, kind, value: u64| {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            into.push(Sample::new(
                "cluster",
                "envoy_cluster_name",
                &self.target.stat_name,
                stat,
                kind,
                value,
            ));
        };
        let set = self.state.endpoints();
        let count = |wanted: &dyn Fn(&Host) -> bool| set.hosts().filter(|host| wanted(host)).count() as u64;
        push("membership_total", Kind::Gauge, set.len() as u64);
        push("membership_healthy", Kind::Gauge, count(&|host| host.health() == Health::Healthy));
        push("membership_degraded", Kind::Gauge, count(&|host| host.health() == Health::Degraded));
        push("membership_change", Kind::Counter, self.state.membership_changes.load(Relaxed));
        if let Some(subsets) = set.subsets() {
            push("lb_subsets_active", Kind::Gauge, subsets as u64);
        }
        if self.checker.is_none() {
            return;
        }
        let checked = |host: &Host| !host.endpoint.check.disabled;
        push("health_check.healthy", Kind::Gauge, count(&|host| checked(host) && !host.fails_checks()));
        push(
            "health_check.degraded",
            Kind::Gauge,
            count(&|host| checked(host) && host.is_degraded_by_checks()),
        );
        let checks = &self.state.checks;
        for (stat, counted) in [
            ("health_check.attempt", &checks.attempt),
            ("health_check.success", &checks.success),
            ("health_check.failure", &checks.failure),
            ("health_check.network_failure", &checks.network_failure),
            ("health_check.passive_failure", &checks.passive_failure),
            ("health_check.verify_cluster", &checks.verify_cluster),
        ] {
            push(stat, Kind::Counter, counted.load(Relaxed));
        }
    }
}

/// What a batch of deltas touched.
#[derive(Default)]
struct Touched {
    /// Listeners may wait for what they refer to.
    may_wait: bool,
    /// Something else is referred to now.
    follow: bool,
    plan: bool,
    clusters: Vec<(Arc<str>, bool)>,
    endpoints: Vec<Arc<str>>,
    listeners: Vec<Arc<str>>,
    hosts: Vec<Arc<str>>,
}

impl Touched {
    fn is_of(&self, t: ResourceType, name: &Arc<str>) -> bool {
        match t {
            ResourceType::Cluster => self.clusters.iter().any(|(touched, _)| touched == name),
            ResourceType::Listener => self.listeners.contains(name),
            _ => false,
        }
    }

    fn note(&mut self, resource_type: ResourceType, name: &Arc<str>, dynamic: bool) {
        match resource_type {
            ResourceType::Cluster => self.clusters.push((name.clone(), dynamic)),
            ResourceType::Endpoint => self.endpoints.push(name.clone()),
            ResourceType::Listener => self.listeners.push(name.clone()),
            ResourceType::VirtualHost => self.hosts.push(name.clone()),
            _ => {}
        }
    }
}

pub(super) fn rejection(t: ResourceType, name: &Arc<str>, field: &str, reason: String) -> Rejection {
    Rejection { resource_type: t, name: name.clone(), field: field.into(), reason }
}
