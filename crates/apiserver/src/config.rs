//! How a server is started, and the handle that a running one leaves.

use crate::controllers::Controllers;
use crate::engine::Engine;
use crate::http::{Api, serve};
use crate::keys::{self, Keys};
use crate::kinds::{Kinds, sealed};
use crate::store::{DiskOptions, DiskStore, Sealer, Store};
use base::SystemClock;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the store, its key file (mode 0600) and the administrator's kubeconfig live; made if absent.
    pub data_dir: PathBuf,
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Further names and addresses for the server's certificate, beside `localhost`, the loopback
    /// addresses, the listening address and `kubernetes.default.svc`.
    pub names: Vec<String>,
    /// The largest request body, in bytes.
    pub max_body: usize,
    /// How many events are kept for watches; older ones are answered with `410 Gone`.
    pub history: usize,
}

impl Config {
    /// The usual settings: loopback, port 6443.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 6443)),
            names: Vec::new(),
            max_body: 3 << 20,
            history: 16 << 10,
        }
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{path}: {error}", path = path.display())]
    Folder { path: PathBuf, error: io::Error },
    #[error("the store in {path} cannot be opened: {error}", path = path.display())]
    Store { path: PathBuf, error: io::Error },
    #[error("cannot listen on {address}: {error}")]
    Listen { address: SocketAddr, error: io::Error },
    #[error("the server's certificates: {0}")]
    Certificates(String),
    #[error("preparing the store: {0}")]
    Prepare(String),
}

/// How many bytes of events are kept for watches, whatever their number.
const HISTORY_BYTES: usize = 32 << 20;

/// How long the last tasks may take to end when the server is shut down.
const LAST_TASKS: Duration = Duration::from_secs(2);

/// Starts servers.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Opens the store, prepares what every cluster has, and listens. Needs a tokio runtime.
    pub async fn start(config: Config) -> Result<Handle, StartError> {
        let folder = config.data_dir.clone();
        make_folder(&folder).map_err(|error| StartError::Folder { path: folder.clone(), error })?;
        let store = open_store(&config)?;
        let keys = Keys::open(&*store).await?;
        let engine = Arc::new(Engine::new(Kinds::standard(), store, Arc::new(SystemClock)));
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|error| StartError::Listen { address: config.listen, error })?;
        let address =
            listener.local_addr().map_err(|error| StartError::Listen { address: config.listen, error })?;
        let names = keys::names_of(address.ip(), &config.names);
        let tls = Arc::new(keys.server_config(&names, std::time::SystemTime::now())?);
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        Controllers::start(&engine, &mut tasks)
            .await
            .map_err(|status| StartError::Prepare(status.message))?;
        let api = Arc::new(Api {
            engine,
            keys,
            max_body: config.max_body,
            shutdown: stopping.clone(),
            documents: OnceLock::new(),
            advisor: OnceLock::new(),
        });
        let mut listeners = JoinSet::new();
        listeners.spawn(serve(api.clone(), listener, tls.clone(), stopping));
        let handle =
            Handle { address, api, tls, stop, tasks, listeners, kubeconfig_path: folder.join("kubeconfig") };
        write_private(&handle.kubeconfig_path, handle.kubeconfig().as_bytes())
            .map_err(|error| StartError::Folder { path: handle.kubeconfig_path.clone(), error })?;
        Ok(handle)
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn open_store(config: &Config) -> Result<Arc<dyn Store>, StartError> {
    let folder = &config.data_dir;
    let key = folder.join("store.key");
    let failed = |path: PathBuf| move |error| StartError::Store { path, error };
    let sealer = Sealer::open(&key).map_err(failed(key.clone()))?;
    let path = folder.join("store.redb");
    let options = DiskOptions {
        path: path.clone(),
        sealer,
        sealed,
        window_events: config.history,
        window_bytes: HISTORY_BYTES,
    };
    Ok(Arc::new(DiskStore::open(options).map_err(failed(path))?))
}

/// Writes a file that only its owner may read, in one step. One that is so already is left: a restart needs no room on
/// the disk.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let is_private = |file: &std::fs::Metadata| file.permissions().mode() & 0o777 == 0o600;
    if std::fs::symlink_metadata(path).is_ok_and(|file| file.is_file() && is_private(&file))
        && std::fs::read(path).is_ok_and(|there| there == bytes)
    {
        return Ok(());
    }
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    std::fs::rename(new, path)
}

/// A running server; it stops when the handle is dropped or `shutdown` is called.
pub struct Handle {
    address: SocketAddr,
    api: Arc<Api>,
    tls: Arc<rustls::ServerConfig>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    /// They end when their last connection has.
    listeners: JoinSet<()>,
    kubeconfig_path: PathBuf,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Handle {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://ADDRESS`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The authority that signed the server's certificate.
    pub fn ca_certificate(&self) -> &str {
        &self.api.keys.ca_pem
    }

    /// The administrator's bearer token: may do everything. Never log it.
    pub fn admin_token(&self) -> &str {
        &self.api.keys.admin_token
    }

    /// The administrator's kubeconfig as YAML, the CA embedded.
    pub fn kubeconfig(&self) -> String {
        use base64::Engine as _;
        let ca = base64::engine::general_purpose::STANDARD.encode(self.ca_certificate());
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: mizzen\n  cluster:\n    server: {}\n    \
             certificate-authority-data: {ca}\nusers:\n- name: admin\n  user:\n    token: {}\ncontexts:\n- name: \
             mizzen\n  context:\n    cluster: mizzen\n    user: admin\n    namespace: default\ncurrent-context: \
             mizzen\n",
            self.url(),
            self.admin_token()
        )
    }

    /// Where that kubeconfig was written (mode 0600).
    pub fn kubeconfig_path(&self) -> &Path {
        &self.kubeconfig_path
    }

    /// The API without its wire, for those who live in the same process.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.api.engine
    }

    /// From now on this one warns about what is stored; the first one stays.
    pub fn advise_with(&self, advisor: Arc<dyn crate::Advisor>) {
        let _ = self.api.advisor.set(advisor);
    }

    /// Serves another listener too, such as one inside a network namespace. Its address must be among
    /// `Config::names` for clients to accept the certificate.
    pub fn add_listener(&mut self, listener: TcpListener) {
        self.listeners.spawn(serve(self.api.clone(), listener, self.tls.clone(), self.stop.subscribe()));
    }

    /// Ends connections and watches, and closes the store.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
        while self.listeners.join_next().await.is_some() {}
        // Streams of HTTP/2 and what controllers started are tasks of their own; they end a moment later, and the
        // store closes with the last of them.
        let deadline = tokio::time::Instant::now() + LAST_TASKS;
        let others = || Arc::strong_count(&self.api) > 1 || Arc::strong_count(&self.api.engine) > 1;
        while others() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}
