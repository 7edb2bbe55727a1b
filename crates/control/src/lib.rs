//! Assembles the control plane: the world's one writer, push, xDS, CA, status.
//!
//! ```text
//! registries ─► keys ─► writer ─► Snapshot ─► publisher ─► View per scope ─► one task per stream ─► proxies
//! ```
//!
//! Registries are not started here: their changes come through a channel. Nothing is translated here: [`Translate`] is.
//! What the mesh thinks of users' resources goes back to them by [`report`], [`webhook`] and [`judge`].

mod audit;
pub mod ca_service;
mod configz;
mod connection;
mod debug;
pub mod ephemeral;
pub mod judge;
mod keys;
mod metrics;
mod polls;
mod publish;
pub mod register;
pub mod report;
mod scrape;
mod serve;
mod status;
mod translation;
mod validate;
mod view;
pub mod webhook;
mod writer;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{Change, Settings, Snapshot, World};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use ca_service::CaService;
use judge::Judge;
pub use keys::REFRESH as KEYS_REFRESH;
use metrics::Metrics;
use publish::Publisher;
use serve::{Context, Door};
pub use status::{MeshStatus, ProxyStatus, TypeState};
pub use translation::Translate;
pub use writer::Debounce;
use writer::Writer;

/// Encoded responses that are kept for whoever needs the same.
const PAYLOADS: usize = 192 << 20;
/// First syncs under way at once.
const PACE: usize = 64;

/// Sockets, bound already; any number of each kind.
#[derive(Debug, Default)]
pub struct Listeners {
    /// xDS without TLS (15010): loopback only, since nobody proves who they are.
    pub plaintext: Vec<TcpListener>,
    /// xDS and CA over TLS (15012).
    pub tls: Vec<TcpListener>,
    /// `/metrics`, `/version`, `/prometheus/targets`, `/debug/*` (15014).
    pub monitoring: Vec<TcpListener>,
    /// Of those, what workloads may see: `/metrics` and Prometheus' list of proxies.
    pub scraped: Vec<TcpListener>,
    /// `GET /ready` (8080).
    pub ready: Vec<TcpListener>,
    /// Over TLS: `/validate` (15017).
    pub webhooks: Vec<TcpListener>,
}

/// What a control plane is made of.
pub struct Config {
    pub settings: Settings,
    pub translate: Arc<dyn Translate>,
    /// What the registries learn. The control plane ends when they hang up.
    pub changes: mpsc::Receiver<Vec<Change>>,
    /// True once everything that was there at the start has been sent as changes. Until then no proxy is answered, so
    /// that a restart never empties the mesh.
    pub synced: watch::Receiver<bool>,
    pub listeners: Listeners,
    /// For the TLS listeners. Client certificates should be asked for and not required: tokens are taken too.
    pub tls: Option<tls::ServerTls>,
    /// Who proves who they are on the TLS listeners; without it, only certificates count.
    pub authenticators: Option<ca::Authenticators>,
    /// Mounted on the TLS listeners.
    pub authority: Option<CaService>,
    /// For proxies that register themselves; without it they are refused.
    pub registrar: Option<Arc<dyn register::Registrar>>,
    pub debounce: Debounce,
    /// How often the keys of tokens are fetched: [`KEYS_REFRESH`].
    pub keys_refresh: Duration,
    pub version: Arc<str>,
    pub revision: Arc<str>,
}

/// Starts control planes.
#[derive(Debug, Clone, Copy)]
pub struct ControlPlane;

/// A running control plane. It stops when this is dropped.
pub struct Handle {
    context: Arc<Context>,
    tasks: Vec<JoinHandle<()>>,
    addresses: Addresses,
}

/// Where it listens, in the order of the listeners.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    pub plaintext: Vec<SocketAddr>,
    pub tls: Vec<SocketAddr>,
    pub monitoring: Vec<SocketAddr>,
    pub ready: Vec<SocketAddr>,
    pub webhooks: Vec<SocketAddr>,
}

impl ControlPlane {
    /// Starts it on the current runtime.
    pub fn start(config: Config) -> io::Result<Handle> {
        let secure = config.listeners.tls.len() + config.listeners.webhooks.len();
        if config.tls.is_none() && secure > 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "TLS listeners need a TLS configuration",
            ));
        }
        let home = Arc::clone(&config.settings.home);
        let world = World::new(config.settings);
        let publisher = Arc::new(Publisher::new(config.translate, world.snapshot()));
        let metrics = Arc::new(Metrics::default());
        let (serving, serving_seen) = watch::channel(false);
        let judge = Judge { published: publisher.published(), serving: serving_seen.clone() };
        let (pending, pending_seen) = watch::channel(false);
        let context = Arc::new(Context {
            publisher: Arc::clone(&publisher),
            payloads: xds::Payloads::new(PAYLOADS),
            connections: Arc::default(),
            polls: polls::Polls::default(),
            metrics: Arc::clone(&metrics),
            serving: serving_seen,
            judge,
            pending: pending_seen,
            pace: Arc::new(Semaphore::new(PACE)),
            authenticators: config.authenticators,
            authority: config.authority,
            registrar: config.registrar,
            version: config.version,
            revision: config.revision,
        });
        let (stage, changes, synced) =
            keys::Stage::new(config.changes, config.synced, Arc::clone(&metrics), home, config.keys_refresh);
        let writer = Writer {
            world,
            changes,
            synced,
            serving,
            pending,
            publisher,
            metrics,
            debounce: config.debounce,
        };
        let tasks = vec![tokio::spawn(stage.run()), tokio::spawn(writer.run())];
        let mut handle = Handle { context, tasks, addresses: Addresses::default() };
        handle.listen(config.listeners, config.tls)?;
        handle.tasks.push(tokio::spawn(forget(Arc::clone(&handle.context))));
        Ok(handle)
    }
}

impl Handle {
    /// How far every proxy is.
    pub fn status(&self) -> MeshStatus {
        debug::status(&self.context)
    }

    /// The world as it is shown to proxies.
    pub fn snapshot(&self) -> Snapshot {
        self.context.publisher.snapshot()
    }

    /// Whether proxies are answered: the registries have said everything.
    pub fn is_ready(&self) -> bool {
        *self.context.serving.borrow()
    }

    /// Completes when proxies are answered.
    pub async fn ready(&self) {
        // It ends only with the writer, and then nothing is ever ready.
        let _ = self.context.serving.clone().wait_for(|serving| *serving).await;
    }

    /// Changes whenever a proxy comes or goes.
    pub fn presence(&self) -> watch::Receiver<()> {
        self.context.connections.presence()
    }

    /// Whether a proxy of that name is connected that proved to be of the account.
    pub fn is_connected(&self, name: &base::NamespacedName, account: &str) -> bool {
        self.context.connections.is_connected(name, account, Instant::now())
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Who judges a resource beside those that are there.
    pub fn judge(&self) -> Judge {
        self.context.judge.clone()
    }

    fn listen(&mut self, listeners: Listeners, tls: Option<tls::ServerTls>) -> io::Result<()> {
        let Listeners { plaintext, tls: secure, monitoring, scraped, ready, webhooks } = listeners;
        self.addresses.plaintext = self.open(plaintext, &Door::Plaintext)?;
        if let Some(tls) = tls {
            self.addresses.tls = self.open(secure, &Door::Tls(tls.clone()))?;
            self.addresses.webhooks = self.open(webhooks, &Door::Webhooks(tls))?;
        }
        self.addresses.monitoring = self.open(monitoring, &Door::Monitoring)?;
        self.open(scraped, &Door::Scraped)?;
        self.addresses.ready = self.open(ready, &Door::Ready)?;
        Ok(())
    }

    fn open(&mut self, listeners: Vec<TcpListener>, door: &Door) -> io::Result<Vec<SocketAddr>> {
        let mut addresses = Vec::new();
        for listener in listeners {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            addresses.push(listener.local_addr()?);
            let serve = serve::listen(Arc::clone(&self.context), listener, door.clone());
            self.tasks.push(tokio::spawn(serve));
        }
        Ok(addresses)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Gives back the memory of responses that nobody needs any more.
async fn forget(context: Arc<Context>) {
    loop {
        tokio::time::sleep(Duration::from_secs(10)).await;
        context.payloads.forget(Duration::from_secs(20), Instant::now());
    }
}
