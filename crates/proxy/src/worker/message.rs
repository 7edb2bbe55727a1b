//! What the control thread tells its workers.

use std::sync::Arc;

use ahash::AHashMap;
use decide::{Origin, Plan};
use tls::ServerTls;
use tokio::sync::oneshot;
use upstream::{ClusterState, EndpointSet};

use crate::cluster::Target;
use crate::stats::Snapshot;

/// What the contexts of TLS listeners have become, by the address of each compiled context.
pub type Servers = Arc<AHashMap<usize, Arc<ServerTls>>>;

/// A configuration to serve from now on. Live connections finish under the chain that took them.
#[derive(Clone)]
pub struct Config {
    pub plan: Arc<Plan>,
    /// Of the contexts that `plan` keeps alive.
    pub servers: Servers,
}

/// A cluster that is new or was changed.
#[derive(Clone)]
pub struct ClusterUpdate {
    pub target: Arc<Target>,
    pub state: Arc<ClusterState>,
    pub endpoints: Arc<EndpointSet>,
}

/// A virtual host that a request lacks and its table's source may have.
pub struct Demand {
    pub origin: Origin,
    /// The table's name, and the host's behind it.
    pub name: Arc<str>,
    /// Who asks.
    pub worker: usize,
    pub reply: oneshot::Sender<bool>,
}

pub enum Message {
    /// Clusters first, then the plan that refers to them, then what nobody refers to any more.
    Change {
        upserted: Arc<[ClusterUpdate]>,
        config: Box<Config>,
        removed: Arc<[Arc<str>]>,
    },
    /// The fast lane: endpoints of one cluster.
    Endpoints(Arc<str>, Arc<EndpointSet>),
    /// A socket to accept from, of the named listener.
    Listen {
        name: Arc<str>,
        key: u64,
        socket: std::net::TcpListener,
    },
    ListenUnix {
        name: Arc<str>,
        key: u64,
        socket: std::os::unix::net::UnixListener,
    },
    /// Close that socket; its connections live on.
    Unlisten {
        key: u64,
    },
    /// Whether what was asked for is there, after the change that brought it.
    Demanded {
        found: bool,
        reply: oneshot::Sender<bool>,
    },
    Stats(oneshot::Sender<Box<Snapshot>>),
    FlushLogs(oneshot::Sender<()>),
    /// Stop accepting and end connections as they fall idle; answer when none is left.
    Drain(oneshot::Sender<()>),
    /// Stop accepting and let every connection end with its next request, however long that takes.
    DrainGently(oneshot::Sender<()>),
    /// Of those, end the ones that wait without a request.
    CutIdle,
    DrainInbound,
    Stop,
}
