//! Sources of configuration beside the aggregated stream: who is asked for what, and what is still waited for.
//!
//! Each pair of a source and a type is one task: a stream, a poll or a watched file. What clusters and listeners refer to
//! is asked for by name; what nobody refers to any more is let go. Names of different sources are kept apart by
//! [`Origin::key`].

mod file;
mod refer;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use decide::Origin;
use prost::Message as _;
use proto::pb::envoy::config::cluster::v3::Cluster as PbCluster;
use proto::pb::envoy::config::core::v3 as core;
use proto::{Delta, Rejection, ResourceType};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use xds::client::{Names, Update};

use super::apply::rejection;
use super::{Control, Secrets};
use crate::reach::reach;
use crate::stats::{Kind, Sample, Snapshot};
use file::FileSource;
use refer::{Reference, of_cluster, of_listener, of_table};

/// How long what is new waits for what it refers to.
pub(super) const WAIT: Duration = Duration::from_secs(15);

/// Where a change came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    Bootstrap,
    /// Over the aggregated stream, whose client has waited for what it refers to there.
    Ads,
    /// From a server of one type.
    Server,
    File,
    /// A control plane sent it to an earlier process.
    LastGood,
}

impl Came {
    pub(super) fn is_dynamic(self) -> bool {
        self != Self::Bootstrap
    }

    /// Whether it is lost with this process unless it is kept.
    pub(super) fn is_kept(self) -> bool {
        matches!(self, Self::Ads | Self::Server)
    }
}

pub(super) struct Sources {
    node: core::Node,
    updates: mpsc::Sender<Update>,
    /// By the mark of their updates, less one.
    running: Vec<Running>,
    /// What clusters and listeners refer to, those apart that wait themselves.
    references: HashMap<(ResourceType, Arc<str>, bool), Vec<Reference>>,
    /// Virtual hosts that requests asked for.
    demanded: BTreeSet<(Origin, Arc<str>)>,
    /// What the aggregated stream is asked for beside what its own resources refer to.
    ads: watch::Sender<Names>,
    /// What will not come for now: nobody waits for it.
    absent: BTreeSet<(ResourceType, Arc<str>)>,
    since: Instant,
}

struct Running {
    origin: Origin,
    resource_type: ResourceType,
    all: bool,
    names: watch::Sender<Names>,
    /// It has answered, be it with nothing.
    has_spoken: bool,
    /// None where it could not be started, or was ended.
    task: Option<AbortHandle>,
    counts: BTreeMap<Arc<str>, Counts>,
    /// Of those of which everything comes: answers that were none, and that could not be taken.
    failures: i64,
    refusals: i64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    success: i64,
    rejected: i64,
    failure: i64,
}

/// A source that is to be started, and who refers to it.
type Wanted = BTreeMap<(Origin, ResourceType), BTreeSet<Arc<str>>>;

impl Sources {
    pub(super) fn new(node: core::Node, updates: mpsc::Sender<Update>) -> Self {
        Self {
            node,
            updates,
            running: Vec::new(),
            references: HashMap::new(),
            demanded: BTreeSet::new(),
            ads: watch::Sender::new(Names::default()),
            absent: BTreeSet::new(),
            since: Instant::now(),
        }
    }

    /// Names that the aggregated stream's client is to ask for.
    pub(super) fn ads_names(&self) -> watch::Receiver<Names> {
        self.ads.subscribe()
    }

    /// Learns what a resource refers to; true when that is news.
    fn refer(&mut self, of: (ResourceType, Arc<str>, bool), references: Vec<Reference>) -> bool {
        if references.is_empty() {
            return self.references.remove(&of).is_some();
        }
        let before = self.references.insert(of, references.clone());
        before.is_none_or(|before| before != references)
    }

    /// Wants a virtual host from now on, if those that are wanted are no more than that.
    pub(super) fn demand(&mut self, origin: &Origin, name: &Arc<str>, most: usize) -> bool {
        let key = (origin.clone(), name.clone());
        let has_room = self.demanded.len() < most || self.demanded.contains(&key);
        if has_room {
            self.demanded.insert(key);
        }
        has_room
    }

    /// Wants those of such keys no more; true where any was wanted.
    pub(super) fn demand_no_more(&mut self, is_gone: &dyn Fn(&Arc<str>) -> bool) -> bool {
        let before = self.demanded.len();
        self.demanded.retain(|(origin, name)| !is_gone(&origin.key(name)));
        self.demanded.len() < before
    }

    /// What is wanted of which source.
    fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::new();
        for reference in self.references.values().flatten() {
            let key = (reference.origin.clone(), reference.resource_type);
            wanted.entry(key).or_default().insert(reference.name.clone());
        }
        for (origin, name) in &self.demanded {
            let key = (origin.clone(), ResourceType::VirtualHost);
            wanted.entry(key).or_default().insert(name.clone());
        }
        wanted
    }

    /// Tells those that run what is wanted of them, and ends those of which nothing is; those to start come back.
    fn tell(&mut self) -> Wanted {
        let mut wanted = self.wanted();
        let references = &self.references;
        self.absent.retain(|(t, key)| {
            let name = Origin::name_of(key);
            references.values().flatten().any(|r| r.resource_type == *t && &*r.name == name)
        });
        let of_type =
            |t: ResourceType, names: BTreeSet<Arc<str>>| names.into_iter().map(move |name| (t, name));
        let mut by_ads = BTreeSet::new();
        for t in ResourceType::ALL {
            if let Some(names) = wanted.remove(&(Origin::Ads, t)) {
                by_ads.extend(of_type(t, names));
            }
        }
        replace(&self.ads, by_ads);
        for running in self.running.iter_mut().filter(|r| !r.all) {
            let t = running.resource_type;
            let names = wanted.remove(&(running.origin.clone(), t)).unwrap_or_default();
            if names.is_empty() {
                if let Some(task) = running.task.take() {
                    task.abort();
                }
                running.counts.clear();
            } else if running.task.is_none() {
                wanted.insert((running.origin.clone(), t), names.clone());
            }
            running.counts.retain(|name, _| names.contains(name));
            replace(&running.names, of_type(t, names).collect());
        }
        wanted
    }

    /// Changes under the names that they are kept under.
    pub(super) fn keyed(&mut self, source: usize, mut deltas: Vec<Delta>) -> Vec<Delta> {
        let origin = self.by_mark(source).map(|running| {
            running.has_spoken |= !deltas.is_empty();
            running.origin.clone()
        });
        for delta in &mut deltas {
            let t = delta.resource_type;
            if let Some(origin) = origin.as_ref().filter(|_| !t.is_complete()) {
                delta.changed.iter_mut().for_each(|r| r.name = origin.key(&r.name));
                delta.removed.iter_mut().for_each(|name| *name = origin.key(name));
            }
            for resource in &delta.changed {
                self.absent.remove(&(t, resource.name.clone()));
            }
            if !self.references.is_empty() && !t.is_complete() {
                self.absent.extend(delta.removed.iter().map(|name| (t, name.clone())));
            }
        }
        deltas
    }

    /// Where updates with this mark come from.
    pub(super) fn came(&mut self, source: usize) -> Came {
        match self.by_mark(source).map(|running| &running.origin) {
            None | Some(Origin::Ads) => Came::Ads,
            Some(Origin::File { .. }) => Came::File,
            Some(Origin::Grpc { .. } | Origin::Rest { .. }) => Came::Server,
        }
    }

    fn by_mark(&mut self, source: usize) -> Option<&mut Running> {
        self.running.get_mut(source.checked_sub(1)?)
    }

    /// Counts what became of an answer.
    pub(super) fn note(&mut self, source: usize, deltas: &[(ResourceType, Arc<str>)], refused: &[Rejection]) {
        let Some(running) = self.by_mark(source).filter(|running| !running.all) else { return };
        let mut gone = Vec::new();
        for (t, key) in deltas.iter().filter(|(t, _)| *t == running.resource_type) {
            let name = counted_under(*t, Origin::name_of(key)).into();
            let counts = running.counts.entry(name).or_default();
            if refused.iter().any(|r| r.resource_type == *t && r.name == *key) {
                counts.rejected += 1;
                gone.push((*t, key.clone()));
            } else {
                counts.success += 1;
            }
        }
        self.absent.extend(gone);
    }

    /// Counts that a source cannot be asked; which type is all of its own, if it is.
    pub(super) fn failed(&mut self, source: usize, is_refusal: bool) -> Option<(ResourceType, bool)> {
        let running = self.by_mark(source)?;
        let is_file = matches!(running.origin, Origin::File { .. });
        if running.all {
            *(if is_refusal { &mut running.refusals } else { &mut running.failures }) += 1;
            return Some((running.resource_type, is_file));
        }
        let names = running.names.borrow().clone();
        let origin = running.origin.clone();
        for (_, name) in names.iter().filter(|(t, name)| counted_under(*t, name) == &**name) {
            let counts = running.counts.entry(name.clone()).or_default();
            *(if is_refusal { &mut counts.rejected } else { &mut counts.failure }) += 1;
        }
        if is_file {
            self.absent.extend(names.iter().map(|(t, name)| (*t, origin.key(name))));
        }
        None
    }

    /// What clusters and listeners refer to and has neither come nor will come for now.
    pub(super) fn awaited(&self, t: ResourceType) -> impl Iterator<Item = Arc<str>> {
        let all = self.references.values().flatten().filter(move |r| r.resource_type == t);
        all.map(|r| r.origin.key(&r.name)).filter(move |key| !self.absent.contains(&(t, key.clone())))
    }

    pub(super) fn is_absent(&self, t: ResourceType, key: &Arc<str>) -> bool {
        self.absent.contains(&(t, key.clone()))
    }

    /// Whether the source has said which virtual hosts there are.
    pub(super) fn has_told_hosts(&self, origin: &Origin) -> bool {
        let of = |r: &&Running| r.resource_type == ResourceType::VirtualHost && r.origin == *origin;
        self.running.iter().find(of).is_some_and(|running| running.has_spoken)
    }

    /// Whether it started so long ago that nothing is waited for any more.
    pub(super) fn is_late(&self) -> bool {
        self.since.elapsed() >= WAIT
    }

    /// How often there was no answer with all of a type, and how often one that could not be taken.
    pub(super) fn failures(&self, t: ResourceType) -> (i64, i64) {
        let of_type = self.running.iter().filter(|r| r.all && r.resource_type == t);
        of_type.fold((0, 0), |(failed, refused), r| (failed + r.failures, refused + r.refusals))
    }
}

/// A virtual host is counted with its table.
fn counted_under(t: ResourceType, name: &str) -> &str {
    match t {
        ResourceType::VirtualHost => proto::table_of_host(name).unwrap_or(name),
        _ => name,
    }
}

fn replace(names: &watch::Sender<Names>, with: BTreeSet<(ResourceType, Arc<str>)>) {
    names.send_if_modified(|held| {
        let changed = **held != with;
        if changed {
            *held = Arc::new(with);
        }
        changed
    });
}

impl Control {
    /// Starts a source that everything of a type comes from.
    pub(super) fn follow_all(&mut self, t: ResourceType, origin: Origin) -> Result<(), String> {
        self.launch(origin, t, true, BTreeSet::new())
    }

    /// Learns what a cluster or listener refers to. `waits`: the form of a listener that waits itself.
    pub(super) fn refer(&mut self, t: ResourceType, name: &Arc<str>, came: Came, waits: bool) -> bool {
        let mut found = match t {
            ResourceType::Cluster => self.plan.cluster_named(name).map(|c| of_cluster(c)).unwrap_or_default(),
            ResourceType::Listener => self.plan.listener(name).map(|l| of_listener(l)).unwrap_or_default(),
            ResourceType::Route => {
                let table = self.plan.route_table_named(name);
                table.map(|table| of_table(table)).unwrap_or_default()
            }
            _ => return false,
        };
        if t == ResourceType::Route {
            let table = Origin::name_of(name);
            self.sources.demanded.retain(|(origin, host)| {
                counted_under(ResourceType::VirtualHost, host) != table
                    || found.iter().any(|reference| reference.origin == *origin)
            });
        }
        let secrets = &self.secrets;
        found.retain(|r| {
            let by_the_stream = r.origin == Origin::Ads && came == Came::Ads;
            !by_the_stream && !(r.resource_type == ResourceType::Secret && secrets.is_provided(&r.name))
        });
        found.sort();
        found.dedup();
        self.sources.refer((t, name.clone(), waits), found)
    }

    /// Lets go of what the waiting form of a listener referred to.
    pub(super) fn refer_no_more(&mut self, t: ResourceType, name: &Arc<str>) -> bool {
        self.sources.refer((t, name.clone(), true), Vec::new())
    }

    /// Asks every source for what is wanted of it now.
    pub(super) fn follow(
        &mut self,
        is_new: &dyn Fn(ResourceType, &Arc<str>) -> bool,
        rejections: &mut Vec<Rejection>,
    ) {
        for ((origin, t), names) in self.sources.tell() {
            let Err(reason) = self.launch(origin.clone(), t, false, names) else { continue };
            for ((of, name, waits), references) in &self.sources.references {
                let refers = references.iter().any(|r| r.origin == origin && r.resource_type == t);
                if refers && (*waits || is_new(*of, name)) {
                    rejections.push(rejection(*of, name, "configSource", reason.clone()));
                }
            }
        }
    }

    fn launch(
        &mut self,
        origin: Origin,
        t: ResourceType,
        all: bool,
        names: BTreeSet<Arc<str>>,
    ) -> Result<(), String> {
        let known = self.sources.running.iter().position(|r| r.origin == origin && r.resource_type == t);
        let index = known.unwrap_or_else(|| {
            self.sources.running.push(Running {
                origin: origin.clone(),
                resource_type: t,
                all,
                names: watch::Sender::new(Names::default()),
                has_spoken: false,
                task: None,
                counts: BTreeMap::new(),
                failures: 0,
                refusals: 0,
            });
            self.sources.running.len() - 1
        });
        replace(&self.sources.running[index].names, names.into_iter().map(|name| (t, name)).collect());
        let receiver = self.sources.running[index].names.subscribe();
        let updates = self.sources.updates.clone();
        let source = index + 1;
        let task = match &origin {
            Origin::Ads => return Ok(()),
            Origin::File { path, watched } => {
                let file = FileSource {
                    path: (**path).into(),
                    watched: watched.as_ref().map(|path| (**path).into()),
                    resource_type: t,
                    all,
                    names: receiver,
                    source,
                };
                tokio::task::spawn_local(file.run(updates)).abort_handle()
            }
            Origin::Grpc { cluster, authority, delta } => {
                let mode = if *delta { xds::Mode::Delta } else { xds::Mode::Sotw };
                let mut config = self.client(cluster, b"h2", mode, t, all, receiver, source)?;
                if !authority.is_empty() {
                    config.authority = authority.to_string();
                }
                tokio::task::spawn_local(xds::client::run(config, updates)).abort_handle()
            }
            Origin::Rest { cluster, refresh, timeout } => {
                let config = self.client(cluster, b"http/1.1", xds::Mode::Sotw, t, all, receiver, source)?;
                let work = xds::client::poll(config, *refresh, *timeout, updates);
                tokio::task::spawn_local(work).abort_handle()
            }
        };
        self.sources.running[index].task = Some(task);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "each is another part of one configuration")]
    fn client(
        &mut self,
        cluster: &Arc<str>,
        alpn: &[u8],
        mode: xds::Mode,
        t: ResourceType,
        all: bool,
        wanted: watch::Receiver<Names>,
        source: usize,
    ) -> Result<xds::client::Config, String> {
        let fixed = self
            .resources
            .get(&(ResourceType::Cluster, cluster.clone()))
            .filter(|(.., came)| !came.is_dynamic());
        let Some((resource, ..)) = fixed else { return Err(format!("{cluster:?} is no static cluster")) };
        let message = PbCluster::decode(resource.body.clone()).map_err(|e| e.to_string())?;
        let secrets: &mut Secrets = &mut self.secrets;
        let reach = reach(&message, alpn, secrets).map_err(|e| e.to_string())?;
        Ok(xds::client::Config {
            connect: reach.dial,
            authority: reach.authority,
            tls: reach.tls,
            token: None,
            mode,
            node: self.sources.node.clone(),
            all: if all { vec![t] } else { Vec::new() },
            names: Vec::new(),
            health: None,
            wanted: Some(wanted),
            own: Some(t),
            source,
        })
    }

    /// Updates of single resources, under Envoy's names.
    pub(super) fn collect_sources(&self, into: &mut Snapshot) {
        for running in self.sources.running.iter().filter(|r| !r.all) {
            for (name, counts) in &running.counts {
                let key = running.origin.key(name);
                for (prefix, tag, owner, under) in self.counted_as(running.resource_type, &key, name) {
                    for (stat, value) in [
                        ("update_attempt", counts.success + counts.rejected + counts.failure),
                        ("update_success", counts.success),
                        ("update_rejected", counts.rejected),
                        ("update_failure", counts.failure),
                    ] {
                        let mut sample = Sample::new(prefix, tag, &owner, stat, Kind::Counter, value);
                        if !under.is_empty() {
                            sample.name.stat = format!("{under}{stat}").into();
                        }
                        into.push(sample);
                    }
                }
            }
        }
    }

    /// Tag and prefixes of the counters of connection managers whose routes are kept under such a key.
    fn prefixes(&self, is: &dyn Fn(&str) -> bool) -> impl Iterator<Item = (&'static str, Arc<str>)> + use<> {
        let all: BTreeSet<Arc<str>> =
            self.plan.listeners().flat_map(|listener| refer::prefixes_of(listener, is)).collect();
        all.into_iter().map(|prefix| ("envoy_http_conn_manager_prefix", prefix))
    }

    /// Prefix, tag, owner, and what stands before the counter's own name.
    fn counted_as(
        &self,
        t: ResourceType,
        key: &Arc<str>,
        name: &Arc<str>,
    ) -> Vec<(&'static str, &'static str, Arc<str>, String)> {
        match t {
            ResourceType::Endpoint => {
                let clusters = self.by_service.get(key).into_iter().flatten();
                let named = clusters.filter_map(|c| Some(self.clusters.get(c)?.target.stat_name.clone()));
                named.map(|name| ("cluster", "envoy_cluster_name", name, String::new())).collect()
            }
            ResourceType::Route => self
                .prefixes(&|of| of == &**key)
                .map(|(tag, p)| ("http", tag, p, format!("rds.{name}.")))
                .collect(),
            ResourceType::VirtualHost => {
                let of_table = |of: &str| Origin::name_of(of) == &**name;
                self.prefixes(&of_table).map(|(tag, p)| ("http", tag, p, format!("vhds.{name}."))).collect()
            }
            ResourceType::Secret => vec![("sds", "envoy_sds_name", name.clone(), String::new())],
            _ => Vec::new(),
        }
    }
}
