//! The control thread: takes configuration, compiles it, tells the workers, and answers for all of them together.
//!
//! Nothing on the request path waits for it. When it is busy or the control plane is gone, workers go on with what they have.

mod apply;
mod demand;
mod dns;
mod dump;
mod last_good;
mod listeners;
mod run;
mod secrets;
mod sources;
mod target;
mod updates;
mod warm;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use decide::Plan;
use proto::{Delta, Rejection, Resource, ResourceType};
use tokio::sync::{mpsc, oneshot, watch};
use upstream::{Assignment, ClusterState};

use crate::check::{Checker, FirstRound};
use crate::cluster::Target;
use crate::log::LogSink;
use crate::net::{DnsCache, LookUp, Outside};
use crate::overload::Manager;
use crate::restart::{Given, Inherited, Parent};
use crate::stats::Snapshot;
use crate::worker::{Demand, Node, Servers, WorkerHandle};

pub use secrets::{SecretError, Secrets};

/// What a proxy starts from.
pub struct Settings {
    pub node: Node,
    /// The encoded message, which `/config_dump` shows.
    pub bootstrap: Bytes,
    /// Clusters, listeners, routes and secrets that are there from the start.
    pub initial: Vec<Delta>,
    pub ads: Option<xds::client::Config>,
    /// Types of which everything comes from a source of their own.
    pub sources: Vec<(ResourceType, decide::Origin)>,
    /// Where what control planes sent is kept for a start without them.
    pub last_good: Option<PathBuf>,
    pub secrets: Secrets,
    pub concurrency: usize,
    pub admin: Option<SocketAddr>,
    /// Beside the admin port: `/healthz/ready` and `/stats/prometheus` alone, for anybody.
    pub readiness: Option<SocketAddr>,
    pub prometheus: Option<SocketAddr>,
    /// The file that access logs to `/dev/stdout` go to.
    pub stdout: Option<PathBuf>,
    pub drain_time: Duration,
    /// How connections leave where this network has no way out.
    pub outside: Option<Outside>,
    /// How names become addresses where this network's own resolver is not the one to ask.
    pub look_up: Option<LookUp>,
    pub overload: Option<Manager>,
    /// The process that this one replaces, and the sockets that it gave.
    pub inherited: Inherited,
    pub parent: Option<Parent>,
    /// Whether another process may replace this one.
    pub replaceable: bool,
    /// Resources that are not the proxy's own, such as the name table.
    pub others: Option<mpsc::Sender<Delta>>,
}

impl Settings {
    /// Compiles everything that is there from the start, without opening a socket.
    pub fn check(&mut self) -> Result<(), Vec<Rejection>> {
        let mut plan = Plan::new();
        let mut rejections = Vec::new();
        for delta in &self.initial {
            let (next, refused) = plan.apply(delta);
            plan = next;
            rejections.extend(refused);
        }
        for cluster in plan.clusters() {
            if let Err(error) = target::target(cluster, &mut self.secrets) {
                let reason = error.to_string();
                rejections.push(apply::rejection(
                    ResourceType::Cluster,
                    &cluster.name,
                    "transportSocket",
                    reason,
                ));
            }
        }
        if rejections.is_empty() { Ok(()) } else { Err(rejections) }
    }
}

/// Commands that may wait for the control thread.
const QUEUE: usize = 256;

pub(crate) enum Command {
    Apply(Vec<Delta>, oneshot::Sender<Vec<Rejection>>),
    Secret(Box<proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret>),
    Stats(oneshot::Sender<Snapshot>),
    Clusters(oneshot::Sender<Vec<ClusterView>>),
    Listeners(oneshot::Sender<Vec<(Arc<str>, SocketAddr)>>),
    Dump {
        endpoints: bool,
        reply: oneshot::Sender<serde_json::Value>,
    },
    Certificates(oneshot::Sender<serde_json::Value>),
    Plan(oneshot::Sender<Arc<Plan>>),
    FlushLogs(oneshot::Sender<()>),
    Drain {
        limit: Duration,
        gently: bool,
        reply: oneshot::Sender<bool>,
    },
    CutIdle,
    /// Listening sockets for the process that comes.
    Sockets(oneshot::Sender<Given>),
    DrainInbound(oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
}

/// A cluster with its hosts, for `/clusters`.
pub struct ClusterView {
    pub name: Arc<str>,
    pub state: Arc<ClusterState>,
    pub target: Arc<Target>,
    pub dynamic: bool,
}

/// A grip on a running proxy. Dropping every one of them does not stop it.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    ready: watch::Receiver<bool>,
    admin: watch::Receiver<Option<SocketAddr>>,
    stopped: watch::Receiver<bool>,
    drain_time: Duration,
}

/// The proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    #[error("admin address {0}: {1}")]
    Admin(SocketAddr, std::io::Error),
    #[error("{}", list(.0))]
    Rejected(Vec<Rejection>),
}

fn list(rejections: &[Rejection]) -> String {
    rejections.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

struct ClusterEntry {
    state: Arc<ClusterState>,
    target: Arc<Target>,
    /// What DNS made of the configured names.
    resolved: Option<Assignment>,
    resolver: Option<tokio::task::AbortHandle>,
    checker: Option<Checker>,
    dynamic: bool,
    /// Its endpoints came by EDS before.
    was_assigned: bool,
}

struct Bound {
    key: u64,
    /// For a process that takes over, if one may.
    sockets: Vec<std::os::fd::OwnedFd>,
    address: SocketAddr,
    wanted: upstream::Address,
}

struct Control {
    plan: Arc<Plan>,
    secrets: Secrets,
    servers: Servers,
    workers: Vec<WorkerHandle>,
    clusters: HashMap<Arc<str>, ClusterEntry>,
    /// Clusters by the name that their endpoints are assigned under.
    by_service: HashMap<Arc<str>, Vec<Arc<str>>>,
    bound: HashMap<Arc<str>, Vec<Bound>>,
    next_key: u64,
    resources: BTreeMap<(ResourceType, Arc<str>), (Resource, SystemTime, sources::Came)>,
    bootstrap: Bytes,
    log: LogSink,
    dns: mpsc::Sender<(Arc<str>, Assignment)>,
    others: Option<mpsc::Sender<Delta>>,
    outside: Option<Outside>,
    look_up: LookUp,
    draining: bool,
    overload: Option<Manager>,
    /// Sockets of the process before, what it counted, and whether another may come.
    inherited: Inherited,
    parent: Option<Parent>,
    keeps_sockets: bool,
    /// What the admin ports listen with.
    admin_sockets: Given,
    admin_tasks: Vec<tokio::task::AbortHandle>,
    updates: updates::Updates,
    sources: sources::Sources,
    warming: BTreeMap<Arc<str>, warm::Warming>,
    last_good: Option<last_good::LastGood>,
    /// What the first configuration refers to has come, or was waited for long enough.
    settled: bool,
    caches: HashMap<Arc<str>, std::sync::Weak<DnsCache>>,
    /// Requests that wait for a virtual host.
    demands: Vec<Demand>,
    /// Whether hosts that are new have been checked.
    first_round: Rc<FirstRound>,
}

/// Starts a proxy: its workers, its control thread and its admin port.
pub async fn start(settings: Settings) -> Result<Handle, StartError> {
    let (commands, inbox) = mpsc::channel(QUEUE);
    let (ready_tx, ready) = watch::channel(false);
    let (admin_tx, admin) = watch::channel(None);
    let (stopped_tx, stopped) = watch::channel(false);
    let (started_tx, started) = oneshot::channel();
    let handle = Handle { commands, ready, admin, stopped, drain_time: settings.drain_time };
    let own = handle.clone();
    std::thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            run::thread(
                settings,
                inbox,
                own,
                run::Signals { ready: ready_tx, admin: admin_tx, stopped: stopped_tx },
                started_tx,
            )
        })
        .map_err(StartError::Thread)?;
    match started.await {
        Ok(Ok(())) => Ok(handle),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(StartError::Thread(std::io::Error::other("the control thread ended"))),
    }
}

impl Handle {
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Applies changes; what was refused comes back, all else is served from now on.
    pub async fn apply(&self, deltas: Vec<Delta>) -> Vec<Rejection> {
        self.ask(|reply| Command::Apply(deltas, reply)).await.unwrap_or_default()
    }

    /// Takes a secret, as SDS would bring it.
    pub async fn set_secret(&self, secret: proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret) {
        let _ = self.commands.send(Command::Secret(Box::new(secret))).await;
    }

    /// Everything that all workers counted.
    pub async fn stats(&self) -> Snapshot {
        self.ask(Command::Stats).await.unwrap_or_default()
    }

    /// Where each listener listens; more than one address for some.
    pub async fn listeners(&self) -> Vec<(Arc<str>, SocketAddr)> {
        self.ask(Command::Listeners).await.unwrap_or_default()
    }

    /// The first address of a listener.
    pub async fn address(&self, listener: &str) -> Option<SocketAddr> {
        self.listeners().await.into_iter().find(|(name, _)| &**name == listener).map(|(_, a)| a)
    }

    pub(crate) async fn clusters(&self) -> Vec<ClusterView> {
        self.ask(Command::Clusters).await.unwrap_or_default()
    }

    pub(crate) async fn dump(&self, endpoints: bool) -> serde_json::Value {
        self.ask(|reply| Command::Dump { endpoints, reply }).await.unwrap_or_default()
    }

    pub(crate) async fn certificates(&self) -> serde_json::Value {
        self.ask(Command::Certificates).await.unwrap_or_default()
    }

    /// The configuration as compiled, for `explain`.
    pub async fn plan(&self) -> Option<Arc<Plan>> {
        self.ask(Command::Plan).await
    }

    /// Writes every access-log line that was made so far.
    pub async fn flush_logs(&self) {
        let _ = self.ask(Command::FlushLogs).await;
    }

    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Waits until the first configuration is served.
    pub async fn ready(&self) {
        let mut ready = self.ready.clone();
        let _ = ready.wait_for(|r| *r).await;
    }

    /// Where the admin port listens.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        *self.admin.borrow()
    }

    /// Sends callers elsewhere: their connections end with the request that is under way. New ones are still accepted,
    /// and the application beside may go on calling out.
    pub async fn drain_inbound(&self) {
        let _ = self.ask(Command::DrainInbound).await;
    }

    /// Stops accepting and lets requests end; true when all ended within the drain time.
    pub async fn drain(&self) -> bool {
        let limit = self.drain_time;
        self.ask(|reply| Command::Drain { limit, gently: false, reply }).await.unwrap_or(true)
    }

    /// Stops accepting, and lets each connection end with its next request; one that waits for a request is left. True
    /// when all ended in time.
    pub async fn drain_gently(&self, limit: Duration) -> bool {
        self.ask(|reply| Command::Drain { limit, gently: true, reply }).await.unwrap_or(true)
    }

    /// During a gentle drain: ends the connections that wait for a request.
    pub async fn cut_idle(&self) {
        let _ = self.commands.send(Command::CutIdle).await;
    }

    /// The same as [`Self::stats`], for threads that may block.
    pub(crate) fn stats_blocking(&self) -> Snapshot {
        self.ask_blocking(Command::Stats).unwrap_or_default()
    }

    pub(crate) fn sockets_blocking(&self) -> Given {
        self.ask_blocking(Command::Sockets).unwrap_or_default()
    }

    fn ask_blocking<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.blocking_send(command(reply)).ok()?;
        answer.blocking_recv().ok()
    }

    /// Ends the proxy at once.
    pub async fn stop(&self) {
        let _ = self.ask(Command::Stop).await;
    }

    /// Waits until the proxy has ended.
    pub async fn stopped(&self) {
        let mut stopped = self.stopped.clone();
        let _ = stopped.wait_for(|s| *s).await;
    }
}
