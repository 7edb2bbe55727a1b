//! The control thread's loop.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base::ThreadRandom;
use decide::Plan;
use proto::ResourceType;
use tokio::sync::{mpsc, oneshot, watch};

use super::updates::{Answer, Updates};
use super::{Command, Control, Handle, Settings, StartError};
use crate::admin;
use crate::log::LogSink;
use crate::stats::Snapshot;
use crate::trace::Serving;
use crate::worker::{self, Config, Message};

pub(super) struct Signals {
    pub(super) ready: watch::Sender<bool>,
    pub(super) admin: watch::Sender<Option<SocketAddr>>,
    pub(super) stopped: watch::Sender<bool>,
}

type Started = oneshot::Sender<Result<(), StartError>>;

const TICK: Duration = Duration::from_secs(1);

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
    let admin_ports = (settings.admin, settings.readiness, settings.prometheus);
    let ads = settings.ads.take();
    let initial = std::mem::take(&mut settings.initial);
    let mut control = match control(settings, dns_tx) {
        Ok(control) => control,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let rejected = control.apply(initial, false).await;
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
        match admin::listen(address, scope, handle.clone()) {
            Ok(bound) if scope == admin::Scope::All => _ = signals.admin.send(Some(bound)),
            Ok(_) => {}
            Err(error) => {
                let _ = started.send(Err(StartError::Admin(address, error)));
                return;
            }
        }
    }
    let _ = started.send(Ok(()));
    let (updates_tx, mut updates) = mpsc::channel(4);
    let awaits_ads = ads.is_some();
    if let Some(config) = ads {
        tokio::task::spawn_local(xds::client::run(config, updates_tx.clone()));
    } else {
        ready_after_checks(&control, signals);
    }
    let mut seen = (false, false);
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            biased;
            command = inbox.recv() => match command {
                None => break,
                Some(Command::Stop(done)) => {
                    control.tell_all(|| Message::Stop).await;
                    control.join();
                    let _ = done.send(());
                    break;
                }
                Some(command) => control.obey(command).await,
            },
            update = updates.recv() => if let Some(update) = update {
                for delta in &update.deltas {
                    seen.0 |= delta.resource_type == ResourceType::Cluster;
                    seen.1 |= delta.resource_type == ResourceType::Listener;
                }
                let answer = Answer::of(&update.deltas);
                let rejections = control.apply(update.deltas, true).await;
                control.updates.note(answer, &rejections, SystemTime::now());
                for rejection in &rejections {
                    tracing::warn!(%rejection, "refused");
                }
                let _ = update.verdict.send(rejections);
                if awaits_ads && seen == (true, true) {
                    ready_after_checks(&control, signals);
                }
            },
            resolved = dns.recv() => if let Some((name, assignment)) = resolved {
                control.resolved(&name, assignment).await;
            },
            _ = tick.tick() => control.tick().await,
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
) -> Result<Control, StartError> {
    let log = LogSink::start(settings.stdout).map_err(StartError::Thread)?;
    let node = Arc::new(settings.node);
    let config = Config { plan: Arc::new(Plan::default()), servers: Arc::default() };
    let count = settings.concurrency.max(1);
    let shared = worker::Shared { log: log.clone(), serving: Serving::new(count) };
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
        updates: Updates::default(),
        first_round: std::rc::Rc::default(),
        caches: HashMap::new(),
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
            Command::Apply(deltas, reply) => _ = reply.send(self.apply(deltas, true).await),
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
            Command::Drain(limit, reply) => self.drain(limit, reply).await,
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
        self.updates.count(&mut all);
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
        all
    }

    /// Tells the workers to drain and answers when they have, without keeping this thread from its work.
    async fn drain(&mut self, limit: Duration, reply: oneshot::Sender<bool>) {
        self.draining = true;
        self.bound.clear();
        let mut waits = Vec::new();
        for worker in &self.workers {
            let (done, wait) = oneshot::channel();
            if worker.messages.send(Message::Drain(done)).await.is_ok() {
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
