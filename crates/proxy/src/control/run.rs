//! The control thread's loop.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base::ThreadRandom;
use decide::Plan;
use proto::ResourceType;
use tokio::sync::{mpsc, oneshot, watch};
use xds::client::Update;

use super::last_good::{self, LastGood};
use super::sources::{Came, Sources};
use super::updates::{Answer, Updates};
use super::{Command, Control, Handle, Settings, StartError};
use crate::admin;
use crate::log::LogSink;
use crate::overload::Manager;
use crate::stats::{Kind, Sample, Snapshot};
use crate::trace::Serving;
use crate::worker::{self, Config, Demand, Message};

pub(super) struct Signals {
    pub(super) ready: watch::Sender<bool>,
    pub(super) admin: watch::Sender<Option<SocketAddr>>,
    pub(super) stopped: watch::Sender<bool>,
}

type Started = oneshot::Sender<Result<(), StartError>>;

const TICK: Duration = Duration::from_secs(1);
/// Requests of which this thread has not heard yet.
const DEMANDS: usize = 256;

pub(super) fn thread(
    settings: Settings,
    inbox: mpsc::Receiver<Command>,
    handle: Handle,
    signals: Signals,
    started: Started,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(StartError::Thread(error)));
            return;
        }
    };
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, run(settings, inbox, handle, &signals, started));
    let _ = signals.stopped.send(true);
}

async fn run(
    mut settings: Settings,
    mut inbox: mpsc::Receiver<Command>,
    handle: Handle,
    signals: &Signals,
    started: Started,
) {
    let (dns_tx, mut dns) = mpsc::channel(64);
    let (updates_tx, mut updates) = mpsc::channel(4);
    let (demands_tx, mut demands) = mpsc::channel(DEMANDS);
    let admin_ports = (settings.admin, settings.readiness, settings.prometheus);
    let ads = settings.ads.take();
    let sources = std::mem::take(&mut settings.sources);
    let last_good = settings.last_good.take();
    let node = settings.node.id.clone();
    let initial = std::mem::take(&mut settings.initial);
    let mut control = match control(settings, dns_tx, updates_tx.clone(), demands_tx) {
        Ok(control) => control,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let rejected = control.apply(initial, Came::Bootstrap).await;
    if !rejected.is_empty() {
        let _ = started.send(Err(StartError::Rejected(rejected)));
        return;
    }
    for (address, scope) in [
        (admin_ports.0, admin::Scope::All),
        (admin_ports.1, admin::Scope::Readiness),
        (admin_ports.2, admin::Scope::Metrics),
    ] {
        let Some(address) = address else { continue };
        match control.open_admin(address, scope, &handle) {
            Ok(bound) if scope == admin::Scope::All => _ = signals.admin.send(Some(bound)),
            Ok(_) => {}
            Err(error) => {
                let _ = started.send(Err(StartError::Admin(address, error)));
                return;
            }
        }
    }
    let _ = started.send(Ok(()));
    let mut first = First::default();
    let mut by_servers = Vec::new();
    for (t, origin) in sources {
        first.own.insert(t);
        if !matches!(origin, decide::Origin::File { .. }) {
            by_servers.push(t);
        }
        if let Err(error) = control.follow_all(t, origin) {
            tracing::error!(%error, "configuration cannot be asked for");
        }
    }
    if let Some(mut config) = ads {
        let served = [ResourceType::Cluster, ResourceType::Listener];
        first.by_ads.extend(served.into_iter().filter(|t| config.all.contains(t)));
        by_servers.extend(&first.by_ads);
        config.wanted = Some(control.sources.ads_names());
        tokio::task::spawn_local(xds::client::run(config, updates_tx.clone()));
    }
    control.last_good = last_good.map(|path| LastGood::open(path, &node, by_servers));
    let mut patience = pin!(tokio::time::sleep(last_good::PATIENCE));
    let mut patient = control.last_good.is_some();
    control.settle(&first, signals).await;
    let mut tick = tokio::time::interval(TICK);
    let mut refresh =
        tokio::time::interval(control.overload.as_ref().map_or(TICK, |manager| manager.refresh));
    loop {
        tokio::select! {
            biased;
            command = inbox.recv() => match command {
                None => break,
                Some(Command::Stop(done)) => {
                    control.tell_all(|| Message::Stop).await;
                    control.keep_at_the_end().await;
                    control.join();
                    let _ = done.send(());
                    break;
                }
                Some(command) => control.obey(command).await,
            },
            update = updates.recv() => if let Some(update) = update {
                control.take_update(update, &mut first).await;
                control.settle(&first, signals).await;
            },
            demand = demands.recv() => if let Some(demand) = demand {
                control.demand(demand).await;
            },
            resolved = dns.recv() => if let Some((name, assignment)) = resolved {
                control.resolved(&name, assignment).await;
            },
            () = &mut patience, if patient => {
                patient = false;
                if control.fall_back().await {
                    ready_after_checks(&control, signals);
                }
            }
            _ = refresh.tick(), if control.overload.is_some() => {
                control.overload.iter_mut().for_each(Manager::refresh);
            }
            _ = tick.tick() => {
                control.keep_last_good().await;
                control.tick().await;
                control.settle(&first, signals).await;
            }
        }
    }
}

/// Types of which a first answer is waited for.
#[derive(Default)]
struct First {
    own: BTreeSet<ResourceType>,
    by_ads: BTreeSet<ResourceType>,
}

impl Control {
    async fn take_update(&mut self, update: Update, first: &mut First) {
        let Update { source, deltas, failure, verdict } = update;
        if let Some(failure) = failure {
            if let Some((t, true)) = self.sources.failed(source, failure.is_refusal) {
                first.own.remove(&t);
            }
            return;
        }
        let came = self.sources.came(source);
        let awaited = if source == 0 { &mut first.by_ads } else { &mut first.own };
        for delta in &deltas {
            awaited.remove(&delta.resource_type);
        }
        let deltas = self.sources.keyed(source, deltas);
        if came.is_kept()
            && let Some(last) = &mut self.last_good
        {
            deltas.iter().for_each(|delta| last.note(delta));
        }
        let answer = Answer::of(&deltas);
        let keys = answer.keys().to_vec();
        let mut rejections = self.apply(deltas, came).await;
        self.updates.note(answer, &rejections, SystemTime::now());
        self.sources.note(source, &keys, &rejections);
        for rejection in &mut rejections {
            tracing::warn!(%rejection, "refused");
            rejection.name = decide::Origin::name_of(&rejection.name).into();
        }
        let _ = verdict.send(rejections);
    }

    /// Serves what need not wait any more, and says so when everything that was waited for at the start has come.
    async fn settle(&mut self, first: &First, signals: &Signals) {
        let late = self.sources.is_late();
        if !self.settled && first.by_ads.is_empty() && (first.own.is_empty() || late) {
            self.settled =
                late || !(self.is_short_of(ResourceType::Endpoint) || self.is_short_of(ResourceType::Route));
        }
        self.release().await;
        if self.settled && self.warming.is_empty() {
            ready_after_checks(self, signals);
        }
    }
}

/// Ready to serve when every host that is to be checked has been checked once, as Envoy is.
fn ready_after_checks(control: &Control, signals: &Signals) {
    if *signals.ready.borrow() {
        return;
    }
    let (first_round, ready) = (control.first_round.clone(), signals.ready.clone());
    tokio::task::spawn_local(async move {
        first_round.over().await;
        ready.send_if_modified(|r| !std::mem::replace(r, true));
    });
}

fn control(
    settings: Settings,
    dns: mpsc::Sender<(Arc<str>, upstream::Assignment)>,
    updates: mpsc::Sender<Update>,
    demands: mpsc::Sender<Demand>,
) -> Result<Control, StartError> {
    let log = LogSink::start(settings.stdout).map_err(StartError::Thread)?;
    let node = Arc::new(settings.node);
    let config = Config { plan: Arc::new(Plan::default()), servers: Arc::default() };
    let count = settings.concurrency.max(1);
    let overload = settings.overload.as_ref().map(|manager| manager.shared.clone());
    let shared = worker::Shared { log: log.clone(), serving: Serving::new(count), overload, demands };
    let workers = (0..count)
        .map(|index| worker::start((index, count), node.clone(), config.clone(), shared.clone()))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(StartError::Thread)?;
    Ok(Control {
        plan: config.plan,
        secrets: settings.secrets,
        servers: config.servers,
        workers,
        clusters: HashMap::new(),
        by_service: HashMap::new(),
        bound: HashMap::new(),
        next_key: 0,
        resources: std::collections::BTreeMap::new(),
        bootstrap: settings.bootstrap,
        log,
        dns,
        others: settings.others,
        outside: settings.outside,
        look_up: settings.look_up.unwrap_or_else(crate::net::look_up_here),
        draining: false,
        overload: settings.overload,
        inherited: settings.inherited,
        parent: settings.parent,
        keeps_sockets: settings.replaceable,
        admin_sockets: Vec::new(),
        admin_tasks: Vec::new(),
        updates: Updates::default(),
        sources: Sources::new(node.wire.clone(), updates),
        warming: std::collections::BTreeMap::new(),
        last_good: None,
        settled: false,
        first_round: std::rc::Rc::default(),
        caches: HashMap::new(),
        demands: Vec::new(),
    })
}

impl Control {
    pub(super) async fn tell_all(&self, message: impl Fn() -> Message) {
        for worker in &self.workers {
            let _ = worker.messages.send(message()).await;
        }
    }

    fn join(&mut self) {
        for thread in self.workers.iter_mut().filter_map(|w| w.thread.take()) {
            let _ = thread.join();
        }
        self.log.sync();
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Apply(deltas, reply) => _ = reply.send(self.apply_now(deltas, Came::Ads).await),
            Command::Secret(secret) => {
                if let Err(error) = self.secrets.set(&secret) {
                    tracing::warn!(%error, secret = %secret.name, "secret refused");
                }
            }
            Command::Stats(reply) => _ = reply.send(self.stats().await),
            Command::Clusters(reply) => _ = reply.send(self.views()),
            Command::Listeners(reply) => _ = reply.send(self.addresses()),
            Command::Dump { endpoints, reply } => _ = reply.send(self.dump(endpoints)),
            Command::Certificates(reply) => _ = reply.send(self.certificates()),
            Command::Plan(reply) => _ = reply.send(self.plan.clone()),
            Command::FlushLogs(reply) => {
                for worker in &self.workers {
                    let (done, wait) = oneshot::channel();
                    if worker.messages.send(Message::FlushLogs(done)).await.is_ok() {
                        let _ = wait.await;
                    }
                }
                self.log.sync();
                let _ = reply.send(());
            }
            Command::Drain { limit, gently, reply } => self.drain(limit, gently, reply).await,
            Command::CutIdle => self.tell_all(|| Message::CutIdle).await,
            Command::Sockets(reply) => _ = reply.send(self.given()),
            Command::DrainInbound(reply) => {
                for worker in &self.workers {
                    let _ = worker.messages.send(Message::DrainInbound).await;
                }
                let _ = reply.send(());
            }
            Command::Stop(_) => {}
        }
    }

    async fn stats(&self) -> Snapshot {
        let mut all = Snapshot::default();
        self.updates.count(|t| self.sources.failures(t), &mut all);
        self.collect_sources(&mut all);
        self.collect_last_good(&mut all);
        for worker in &self.workers {
            let (reply, answer) = oneshot::channel();
            if worker.messages.send(Message::Stats(reply)).await.is_ok()
                && let Ok(snapshot) = answer.await
            {
                all.merge(*snapshot);
            }
        }
        for entry in self.clusters.values() {
            entry.collect(&mut all);
        }
        self.collect_filters(&mut all);
        if let Some(manager) = &self.overload {
            manager.collect(&mut all);
        }
        if let Some(parent) = &self.parent {
            all.merge(parent.stats().await);
        }
        all
    }

    /// What filters show that all workers share.
    fn collect_filters(&self, into: &mut Snapshot) {
        let mut shown = BTreeSet::new();
        for chain in self.plan.listeners().flat_map(|listener| listener.all_chains()) {
            let decide::Terminal::Http(hcm) = &chain.terminal else { continue };
            if shown.insert(hcm.stat_prefix.clone()) {
                let owner = hcm.stat_prefix.trim_end_matches(';').into();
                for (stat, value) in hcm.gauges() {
                    into.push(Sample::new(
                        "http",
                        "envoy_http_conn_manager_prefix",
                        &owner,
                        stat,
                        Kind::Gauge,
                        value,
                    ));
                }
            }
        }
    }

    /// Tells the workers to drain and answers when they have, without keeping this thread from its work.
    async fn drain(&mut self, limit: Duration, gently: bool, reply: oneshot::Sender<bool>) {
        self.draining = true;
        self.bound.clear();
        if gently {
            // The process that comes answers at these ports from now on.
            self.admin_tasks.drain(..).for_each(|task| task.abort());
            self.admin_sockets.clear();
        }
        let mut waits = Vec::new();
        for worker in &self.workers {
            let (done, wait) = oneshot::channel();
            let message = if gently { Message::DrainGently(done) } else { Message::Drain(done) };
            if worker.messages.send(message).await.is_ok() {
                waits.push(wait);
            }
        }
        tokio::task::spawn_local(async move {
            let all = async {
                for wait in waits {
                    let _ = wait.await;
                }
            };
            let _ = reply.send(tokio::time::timeout(limit, all).await.is_ok());
        });
    }

    async fn tick(&mut self) {
        let now = Instant::now();
        self.forget_demands();
        for (name, entry) in &self.clusters {
            for ejection in entry.state.tick(now, &mut ThreadRandom) {
                tracing::info!(cluster = %name, host = %ejection.address, kind = ?ejection.kind, "outlier detection");
            }
        }
        self.secrets.collect_garbage();
        let mut left = Vec::new();
        for (name, entry) in &mut self.clusters {
            let Some(checker) = &mut entry.checker else { continue };
            if let Some(set) = entry.state.let_go(now) {
                checker.watch(&set);
                left.push((name.clone(), set));
            }
        }
        for (name, set) in left {
            self.tell_all(|| Message::Endpoints(name.clone(), set.clone())).await;
        }
    }
}
