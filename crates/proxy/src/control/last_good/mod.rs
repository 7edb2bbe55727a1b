//! The last good configuration: kept in a file while a control plane speaks, used at a start at which none does.
//!
//! What is used of it is replaced by what the control plane sends once it answers, and what it does not send any more is
//! removed. Nothing of this is on the request path: the file is written by a thread of its own.

mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use proto::{Delta, Resource, ResourceType};
use tokio::task::JoinHandle;

use super::Control;
use super::sources::Came;
use crate::stats::{Kind, Sample, Snapshot};
use file::{KEPT, Saver, Stored};

/// How long a control plane may take to answer before the last good configuration is used.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// A control plane may send its first answer in parts: what it did not send by then is not sent any more.
const GRACE: Duration = Duration::from_secs(5);

pub(super) struct LastGood {
    path: PathBuf,
    node: String,
    stored: Option<Stored>,
    /// Types of which control planes send everything.
    whole: Vec<ResourceType>,
    using: Option<Using>,
    /// Resources that are not the proxy's own and are kept for who they are for.
    others: BTreeMap<(ResourceType, Arc<str>), Resource>,
    changed: bool,
    saver: Option<Saver>,
    saving: Option<JoinHandle<(Saver, std::io::Result<usize>)>>,
    saved: i64,
    failed: i64,
    left_out: i64,
}

/// What is in use and has not been sent again.
struct Using {
    written: String,
    names: BTreeSet<(ResourceType, Arc<str>)>,
    answered: BTreeMap<ResourceType, Instant>,
}

impl LastGood {
    /// Reads what is there.
    pub(super) fn open(path: PathBuf, node: &str, whole: Vec<ResourceType>) -> Self {
        let stored = file::read(&path, node).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), error, "the last good configuration is not used");
            None
        });
        Self {
            path,
            node: node.to_owned(),
            stored,
            whole,
            using: None,
            others: BTreeMap::new(),
            changed: false,
            saver: Some(Saver::default()),
            saving: None,
            saved: 0,
            failed: 0,
            left_out: 0,
        }
    }

    /// When what is in use was written, if any is.
    pub(super) fn in_use(&self) -> Option<&str> {
        self.using.as_ref().map(|using| using.written.as_str())
    }

    /// Notes what a control plane sent.
    pub(super) fn note(&mut self, delta: &Delta) {
        let t = delta.resource_type;
        self.changed |= KEPT.contains(&t);
        if matches!(t, ResourceType::NameTable | ResourceType::ProxyConfig) {
            for resource in &delta.changed {
                self.others.insert((t, resource.name.clone()), resource.clone());
            }
            for name in &delta.removed {
                self.others.remove(&(t, name.clone()));
            }
        }
        if let Some(using) = &mut self.using {
            for name in delta.changed.iter().map(|r| &r.name).chain(&delta.removed) {
                using.names.remove(&(t, name.clone()));
            }
            if t.is_complete() {
                using.answered.entry(t).or_insert_with(Instant::now);
            }
        }
        // Whoever has spoken will say all of it.
        self.stored = None;
    }

    fn collect(&self, into: &mut Snapshot) {
        let none = Arc::from("");
        let in_use = i64::from(self.using.is_some());
        for (stat, kind, value) in [
            ("in_use", Kind::Gauge, in_use),
            ("left_out", Kind::Gauge, self.left_out),
            ("saved", Kind::Counter, self.saved),
            ("save_failed", Kind::Counter, self.failed),
        ] {
            into.push(Sample::new("last_good", "", &none, stat, kind, value));
        }
    }

    /// Takes what a finished writer says.
    async fn finish(&mut self, wait: bool) {
        let Some(saving) = self.saving.take_if(|saving| wait || saving.is_finished()) else { return };
        let Ok((saver, result)) = saving.await else {
            self.saver = Some(Saver::default());
            return;
        };
        self.saver = Some(saver);
        match result {
            Ok(left_out) => {
                self.saved += 1;
                self.left_out = left_out as i64;
            }
            Err(error) => {
                self.failed += 1;
                tracing::warn!(path = %self.path.display(), %error, "the last good configuration is not kept");
            }
        }
    }
}

impl Control {
    pub(super) fn collect_last_good(&self, into: &mut Snapshot) {
        if let Some(last) = &self.last_good {
            last.collect(into);
        }
    }

    /// Serves the last good configuration if no control plane has spoken; true when it does.
    pub(super) async fn fall_back(&mut self) -> bool {
        let Some(last) = &mut self.last_good else { return false };
        let Some(Stored { written, deltas }) = last.stored.take() else { return false };
        let names = deltas.iter().flat_map(|d| d.changed.iter().map(|r| (d.resource_type, r.name.clone())));
        let names: BTreeSet<_> = names.collect();
        let of = |t| names.iter().filter(|(u, _)| *u == t).count();
        tracing::warn!(
            %written,
            clusters = of(ResourceType::Cluster),
            listeners = of(ResourceType::Listener),
            "no control plane answers: the last good configuration is used"
        );
        let of_tables =
            |(t, key): &(ResourceType, Arc<str>)| (*t == ResourceType::VirtualHost).then(|| key.clone());
        let hosts: Vec<Arc<str>> = names.iter().filter_map(of_tables).collect();
        last.using = Some(Using { written, names, answered: BTreeMap::new() });
        for rejection in self.apply_now(deltas, Came::LastGood).await {
            tracing::warn!(%rejection, "refused");
        }
        self.demand_again(&hosts);
        true
    }

    /// Keeps the file up to date, and lets go of what is in use and was not sent again.
    pub(super) async fn keep_last_good(&mut self) {
        self.let_go().await;
        let Some(last) = &mut self.last_good else { return };
        last.finish(false).await;
        // What is in use is there already, and what replaces it may not be whole yet.
        if self.settled && last.changed && last.saving.is_none() && last.using.is_none() {
            self.save_last_good();
        }
    }

    fn save_last_good(&mut self) {
        let Some(last) = &mut self.last_good else { return };
        let Some(mut saver) = last.saver.take() else { return };
        last.changed = false;
        let of_servers = self.resources.iter().filter(|(_, (_, _, came))| came.is_kept());
        let mut all: Vec<_> = of_servers.map(|((t, _), (resource, ..))| (*t, resource.clone())).collect();
        all.extend(last.others.iter().map(|((t, _), resource)| (*t, resource.clone())));
        all.retain(|(t, _)| KEPT.contains(t));
        let (path, node) = (last.path.clone(), last.node.clone());
        last.saving = Some(tokio::task::spawn_blocking(move || {
            let result = saver.save(&path, &node, &all, SystemTime::now());
            (saver, result)
        }));
    }

    /// Before the end: what changed last is written as well.
    pub(super) async fn keep_at_the_end(&mut self) {
        if let Some(last) = &mut self.last_good {
            last.finish(true).await;
            if self.settled && last.changed && last.using.is_none() {
                self.save_last_good();
            }
        }
        if let Some(last) = &mut self.last_good {
            last.finish(true).await;
        }
    }

    async fn let_go(&mut self) {
        let Some(last) = &mut self.last_good else { return };
        let of_servers = last.whole.clone();
        let Some(using) = &mut last.using else { return };
        let over = |t| {
            !of_servers.contains(&t)
                || using.answered.get(&t).is_some_and(|at: &Instant| at.elapsed() >= GRACE)
        };
        let (clusters, listeners) = (over(ResourceType::Cluster), over(ResourceType::Listener));
        let whole = clusters && listeners;
        let gone = |t: ResourceType| match t {
            ResourceType::Cluster => clusters,
            ResourceType::Listener => listeners,
            _ => whole,
        };
        let (out, kept): (BTreeSet<_>, _) =
            std::mem::take(&mut using.names).into_iter().partition(|(t, _)| gone(*t));
        using.names = kept;
        if whole {
            last.using = None;
            tracing::info!("the control plane's configuration has replaced the last good one");
        }
        if out.is_empty() {
            return;
        }
        // Listeners go first: nothing is left to lead to what goes with them.
        let routes: BTreeSet<_> = self.plan.wanted_route_tables().into_iter().collect();
        let assignments: BTreeSet<_> = self.plan.wanted_assignments().into_iter().collect();
        let mut deltas = Vec::new();
        for t in [ResourceType::Listener, ResourceType::Route, ResourceType::Cluster, ResourceType::Endpoint]
        {
            let stays = |name: &Arc<str>| match t {
                ResourceType::Route => routes.contains(name),
                ResourceType::Endpoint => assignments.contains(name),
                _ => false,
            };
            let removed: Vec<_> = out
                .iter()
                .filter(|(u, name)| *u == t && !stays(name))
                .map(|(_, name)| name.clone())
                .collect();
            if !removed.is_empty() {
                deltas.push(Delta { resource_type: t, changed: Vec::new(), removed });
            }
        }
        self.apply_now(deltas, Came::LastGood).await;
    }
}
