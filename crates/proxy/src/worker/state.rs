//! What a worker owns. Everything is reached through one `Rc`; nothing is shared with other threads but by atomics below.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use ahash::AHashMap;
use base::{Locality, Random, SeededRandom};
use decide::{Collector, Count, Direction, Logged, NodeFacts, PeerMetadata, RouteTable};
use tokio::sync::{Notify, mpsc, oneshot};

use super::message::{ClusterUpdate, Config, Demand};
use crate::cluster::{Cluster, Neighbours};
use crate::log::{Batch, Batches, LogSink, WorkerLog};
use crate::overload::Overload;
use crate::stats::{HttpStats, IstioStats, ListenerStats, Sample, Snapshot, TcpStats, WorkerStats};
use crate::telemetry::Telemetry;
use crate::trace::{Serving, Span};

/// Who this proxy is.
#[derive(Debug, Clone, Default)]
pub struct Node {
    pub id: String,
    pub cluster: Arc<str>,
    /// Node metadata as peers and metrics see it.
    pub peer: Arc<PeerMetadata>,
    /// The same as servers are told it.
    pub wire: proto::pb::envoy::config::core::v3::Node,
    /// The service name of spans: `reviews.default`.
    pub service: String,
    pub hostname: String,
    /// The cluster of who else calls as we do (`clusterManager.localClusterName`), and where we are.
    pub home: Option<(Arc<str>, Locality)>,
}

/// Spans waiting to be sent, at most.
pub const MAX_SPANS: usize = 2048;

/// Which connections are to end with the request that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Draining {
    No,
    Inbound,
    /// All, but those that wait for a request are left waiting: one may be on its way.
    Gently,
    All,
}

/// What all workers of a proxy have in common.
#[derive(Clone)]
pub struct Shared {
    pub log: LogSink,
    pub serving: Serving,
    pub overload: Option<Arc<Overload>>,
    pub demands: mpsc::Sender<Demand>,
}

pub struct Worker {
    pub index: usize,
    pub node: Arc<Node>,
    /// The same, as peers are told by headers.
    pub facts: NodeFacts,
    config: RefCell<Config>,
    clusters: RefCell<AHashMap<Arc<str>, Rc<Cluster>>>,
    rng: RefCell<SeededRandom>,
    pub log: WorkerLog,
    pub stats: WorkerStats,
    http: RefCell<AHashMap<Arc<str>, Rc<HttpStats>>>,
    listeners: RefCell<AHashMap<Arc<str>, Rc<ListenerStats>>>,
    tcp: RefCell<AHashMap<Arc<str>, Rc<TcpStats>>>,
    pub istio: RefCell<IstioStats>,
    counts: RefCell<AHashMap<Count, u64>>,
    pub telemetry: Telemetry,
    pub spans: RefCell<Vec<(Arc<Collector>, Span)>>,
    records: RefCell<Batches>,
    records_come: Notify,
    /// What of its traces the application is at work on.
    pub serving: Serving,
    neighbours: Option<Rc<Neighbours>>,
    /// What the overload manager has decided, if there is one.
    pub overload: Option<Arc<Overload>>,
    demands: mpsc::Sender<Demand>,
    /// Ports whose servers spoke first: detection does not wait for their clients.
    pub server_first: RefCell<lru::Recent>,
    next_connection: Cell<u64>,
    live: Cell<usize>,
    draining: Cell<Draining>,
    drain: Notify,
    drain_inbound: Notify,
    emptied: Notify,
}

pub mod lru {
    //! A short memory of addresses.

    use std::collections::VecDeque;
    use std::net::SocketAddr;

    const CAPACITY: usize = 256;

    #[derive(Debug, Default)]
    pub struct Recent(VecDeque<SocketAddr>);

    impl Recent {
        pub fn contains(&self, address: SocketAddr) -> bool {
            self.0.contains(&address)
        }

        pub fn insert(&mut self, address: SocketAddr) {
            if !self.contains(address) {
                if self.0.len() == CAPACITY {
                    self.0.pop_front();
                }
                self.0.push_back(address);
            }
        }

        pub fn remove(&mut self, address: SocketAddr) {
            self.0.retain(|a| *a != address);
        }
    }
}

/// Counts a connection as live until it is dropped.
pub struct Live(Rc<Worker>);

impl Drop for Live {
    fn drop(&mut self) {
        let left = self.0.live.get() - 1;
        self.0.live.set(left);
        self.0.stats.connections.dec();
        if left == 0 {
            self.0.emptied.notify_waiters();
        }
    }
}

/// A proxy without a name has nothing to say of itself.
fn facts_of(node: &Node) -> NodeFacts {
    if node.id.is_empty() || node.peer.workload.is_empty() {
        return NodeFacts { cluster: node.cluster.clone(), ..NodeFacts::default() };
    }
    NodeFacts {
        cluster: node.cluster.clone(),
        id: node.id.clone().into(),
        metadata: node.peer.to_header().into(),
    }
}

impl Worker {
    pub fn new(index: usize, node: Arc<Node>, config: Config, shared: Shared) -> Rc<Self> {
        Rc::new(Self {
            index,
            telemetry: Telemetry::new(&node),
            facts: facts_of(&node),
            neighbours: node.home.clone().map(|(cluster, at)| Rc::new(Neighbours::new(cluster, at))),
            node,
            config: RefCell::new(config),
            clusters: RefCell::default(),
            rng: RefCell::new(SeededRandom::from_os()),
            log: WorkerLog::new(shared.log),
            serving: shared.serving,
            overload: shared.overload,
            demands: shared.demands,
            stats: WorkerStats::default(),
            http: RefCell::default(),
            listeners: RefCell::default(),
            tcp: RefCell::default(),
            istio: RefCell::default(),
            counts: RefCell::default(),
            spans: RefCell::default(),
            records: RefCell::default(),
            records_come: Notify::new(),
            server_first: RefCell::default(),
            next_connection: Cell::new(0),
            live: Cell::new(0),
            draining: Cell::new(Draining::No),
            drain: Notify::new(),
            drain_inbound: Notify::new(),
            emptied: Notify::new(),
        })
    }

    /// The configuration that is current now.
    pub fn config(&self) -> Config {
        self.config.borrow().clone()
    }

    /// Asks the table's source for a virtual host. Whether it is there, by the newest configuration.
    pub async fn demand(&self, table: &RouteTable, name: Arc<str>) -> bool {
        let Some(origin) = table.vhds.clone() else { return false };
        let (reply, answer) = oneshot::channel();
        let demand = Demand { origin, name, worker: self.index, reply };
        self.demands.send(demand).await.is_ok() && answer.await.unwrap_or(false)
    }

    pub fn cluster(&self, name: &str) -> Option<Rc<Cluster>> {
        self.clusters.borrow().get(name).cloned()
    }

    /// What filters counted on a request; there are no more names than the configuration has.
    pub fn count(&self, counts: &[Count]) {
        if !counts.is_empty() {
            let mut all = self.counts.borrow_mut();
            counts.iter().for_each(|count| *all.entry(count.clone()).or_default() += 1);
        }
    }

    pub fn count_by(&self, count: &Count, by: u64) {
        *self.counts.borrow_mut().entry(count.clone()).or_default() += by;
    }

    pub fn with_rng<T>(&self, draw: impl FnOnce(&mut SeededRandom) -> T) -> T {
        draw(&mut self.rng.borrow_mut())
    }

    pub fn apply(&self, upserted: &[ClusterUpdate], config: Config, removed: &[Arc<str>]) {
        let mut rng = self.rng.borrow_mut();
        let mut clusters = self.clusters.borrow_mut();
        for update in upserted {
            self.heed_neighbours(&update.target.name, Some(&update.endpoints));
            match clusters.get(&update.target.name) {
                Some(cluster) => {
                    cluster.reconfigure(update.target.clone());
                    cluster.replace_endpoints(update.endpoints.clone(), &mut *rng);
                }
                None => {
                    let (target, state, set) =
                        (update.target.clone(), update.state.clone(), update.endpoints.clone());
                    let neighbours = self.neighbours.clone();
                    clusters
                        .insert(target.name.clone(), Cluster::new(target, state, set, neighbours, &mut *rng));
                }
            }
        }
        self.config.replace(config);
        for name in removed {
            self.heed_neighbours(name, None);
            if let Some(cluster) = clusters.remove(name) {
                cluster.retire_connections();
            }
        }
    }

    fn heed_neighbours(&self, name: &str, set: Option<&Arc<upstream::EndpointSet>>) {
        if let Some(neighbours) = self.neighbours.as_ref().filter(|n| *n.cluster == *name) {
            neighbours.replace(set.cloned());
        }
    }

    pub fn replace_endpoints(&self, name: &str, set: Arc<upstream::EndpointSet>) {
        self.heed_neighbours(name, Some(&set));
        if let Some(cluster) = self.cluster(name) {
            self.with_rng(|rng| cluster.replace_endpoints(set, rng));
        }
    }

    pub fn reap(&self, cx: &mut std::task::Context<'_>) {
        let clusters: Vec<_> = self.clusters.borrow().values().cloned().collect();
        let now = Instant::now();
        for cluster in clusters {
            cluster.reap(cx, now);
        }
    }

    pub fn connection_id(&self) -> u64 {
        let id = self.next_connection.get();
        self.next_connection.set(id + 1);
        // Workers count apart: the low bits say which one.
        id << 8 | self.index as u64 & 0xff
    }

    pub fn begin(self: &Rc<Self>) -> Live {
        self.live.set(self.live.get() + 1);
        self.stats.connections.inc();
        Live(Rc::clone(self))
    }

    /// Whether connections of this direction are to end with the request that is under way.
    pub fn is_draining(&self, direction: Direction) -> bool {
        match self.draining.get() {
            Draining::No => false,
            Draining::Inbound => direction != Direction::Outbound,
            Draining::Gently | Draining::All => true,
        }
    }

    /// Whether those that wait for a request are to end as well.
    pub fn cuts_idle(&self, direction: Direction) -> bool {
        self.draining.get() != Draining::Gently && self.is_draining(direction)
    }

    /// Told when connections of this direction are to end.
    pub fn drain(&self, direction: Direction) -> &Notify {
        if direction == Direction::Outbound { &self.drain } else { &self.drain_inbound }
    }

    /// Callers are sent elsewhere, while the application beside may still call out.
    pub fn start_inbound_drain(&self) {
        if self.draining.get() == Draining::No {
            self.draining.set(Draining::Inbound);
            self.drain_inbound.notify_waiters();
        }
    }

    pub fn start_gentle_drain(&self) {
        self.draining.set(Draining::Gently);
        self.drain_inbound.notify_waiters();
        self.drain.notify_waiters();
    }

    pub fn start_drain(&self) {
        self.draining.set(Draining::All);
        self.drain_inbound.notify_waiters();
        self.drain.notify_waiters();
    }

    /// Waits until no connection is left.
    pub async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.live.get() == 0 {
                return;
            }
            emptied.await;
        }
    }

    pub fn http_stats(&self, prefix: &Arc<str>) -> Rc<HttpStats> {
        self.http.borrow_mut().entry(prefix.clone()).or_default().clone()
    }

    pub fn listener_stats(&self, name: &Arc<str>) -> Rc<ListenerStats> {
        self.listeners.borrow_mut().entry(name.clone()).or_default().clone()
    }

    pub fn tcp_stats(&self, prefix: &Arc<str>) -> Rc<TcpStats> {
        self.tcp.borrow_mut().entry(prefix.clone()).or_default().clone()
    }

    /// Keeps a finished span until the next batch.
    pub fn report(&self, collector: &Arc<Collector>, span: Span) {
        let mut spans = self.spans.borrow_mut();
        if spans.len() < MAX_SPANS {
            spans.push((collector.clone(), span));
        } else {
            self.stats.spans_dropped.inc();
        }
    }

    /// Counts whether a call that the application made while it was asked itself kept to the trace.
    pub fn heed_context(&self, kept: bool) {
        if self.serving.any() {
            self.istio.borrow_mut().heed_context(kept);
        }
    }

    pub fn snapshot(&self) -> Box<Snapshot> {
        let mut all = Box::<Snapshot>::default();
        for (count, n) in self.counts.borrow().iter() {
            all.push(Sample::counted(count, *n));
        }
        for cluster in self.clusters.borrow().values() {
            cluster.stats().collect(&cluster.target().stat_name, &mut all);
        }
        for (name, stats) in self.http.borrow().iter() {
            stats.collect(name, &mut all);
        }
        for (name, stats) in self.listeners.borrow().iter() {
            stats.collect(name, &mut all);
        }
        for (name, stats) in self.tcp.borrow().iter() {
            stats.collect(name, &mut all);
        }
        let lost = self.log.dropped() - self.stats.log_dropped.get();
        self.stats.log_dropped.add(lost);
        let folded = self.istio.borrow().dropped() - self.stats.series_dropped.get();
        self.stats.series_dropped.add(folded);
        self.stats.collect(&"".into(), &mut all);
        all.istio = self.istio.borrow().snapshot(&self.node.peer);
        all
    }

    /// Whether an action of the overload manager acts this time.
    pub fn overloaded(&self, acts: impl Fn(&Overload, &mut SeededRandom) -> bool) -> bool {
        self.overload.as_ref().is_some_and(|overload| self.with_rng(|rng| acts(overload, rng)))
    }

    /// A number in `0..bound`, for jitter.
    pub fn draw(&self, bound: u64) -> u64 {
        self.with_rng(|rng| rng.below(bound))
    }
}

impl Worker {
    /// Writes a line to each log that wants one, and keeps records for those that are sent.
    pub fn write_log(&self, logs: &[decide::AccessLog], entry: &decide::LogEntry<'_>) {
        let mut line = String::new();
        for log in logs {
            if !self.with_rng(|rng| log.wants(entry, rng)) {
                continue;
            }
            line.clear();
            let path: Arc<str> = match log.log(entry, &mut line) {
                Logged::Line(decide::LogSink::Stdout) => "/dev/stdout".into(),
                Logged::Line(decide::LogSink::Stderr) => "/dev/stderr".into(),
                Logged::Line(decide::LogSink::File(path)) => path.clone(),
                Logged::Record(to, record) => {
                    if self.records.borrow_mut().keep(to, record, Instant::now()) {
                        self.records_come.notify_one();
                    }
                    continue;
                }
            };
            self.stats.log_lines.inc();
            self.log.line(&path, &line);
        }
    }

    /// The batches of records that are to be sent, as soon as there are any.
    pub async fn due_records(&self) -> Vec<Batch> {
        loop {
            let (due, lost) = self.records.borrow_mut().take(Instant::now());
            for batch in lost {
                let (count, by) = batch.to.counts(&batch.records).lost;
                self.count_by(&count, by);
            }
            if !due.is_empty() {
                return due;
            }
            let next = self.records.borrow().due();
            tokio::select! {
                () = self.records_come.notified() => {}
                () = until(next) => {}
            }
        }
    }

    /// All batches that wait, at the end.
    pub fn last_records(&self) -> Vec<Batch> {
        self.records.borrow_mut().take_all()
    }

    pub fn records_sent(&self) {
        self.records.borrow_mut().sent();
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
