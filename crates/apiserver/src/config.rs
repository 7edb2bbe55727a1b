//! How a server is started, and the handle that a running one leaves.

use std::net::SocketAddr;
use std::path::PathBuf;

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
    Folder { path: PathBuf, error: std::io::Error },
    #[error("the store in {path} cannot be opened: {error}", path = path.display())]
    Store { path: PathBuf, error: std::io::Error },
    #[error("cannot listen on {address}: {error}")]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error("the server's certificates: {0}")]
    Certificates(String),
    #[error("preparing the store: {0}")]
    Prepare(String),
}

/// Starts servers.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Opens the store, prepares what every cluster has, and listens. Needs a tokio runtime.
    pub async fn start(_config: Config) -> Result<Handle, StartError> {
        Err(StartError::Prepare("not built yet".into()))
    }
}

/// A running server; it stops when the handle is dropped or `shutdown` is called.
#[derive(Debug)]
pub struct Handle {
    address: SocketAddr,
    ca_pem: String,
    admin_token: String,
    kubeconfig: PathBuf,
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
        &self.ca_pem
    }

    /// The administrator's bearer token: may do everything. Never log it.
    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }

    /// The administrator's kubeconfig as YAML, the CA embedded.
    pub fn kubeconfig(&self) -> String {
        String::new()
    }

    /// Where that kubeconfig was written (mode 0600).
    pub fn kubeconfig_path(&self) -> &std::path::Path {
        &self.kubeconfig
    }

    /// Ends connections and watches, and closes the store.
    pub async fn shutdown(self) {}
}
