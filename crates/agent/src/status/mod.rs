//! Port 15020: readiness, the metrics of application, agent and proxy in one, kubelet's probes of the application, and
//! the end.
//!
//! What ends or drains the proxy is a POST from this machine (a GET, or somebody else's, is refused).

mod http;
mod metrics;
mod probe;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};

use self::http::Call;
pub use self::http::Reply;
pub use self::metrics::AppMetrics;
pub use self::probe::{Probe, ProbeError, probes_from_json};
use crate::certificates::Certificates;
use crate::egress::Egress;

const MOST_CONNECTIONS: usize = 64;
const PROXY_PATIENCE: Duration = Duration::from_secs(1);

/// What somebody asks of the whole program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Quit,
    Drain,
}

#[derive(Debug, Clone)]
pub struct StatusConfig {
    /// The proxy's admin port, asked for `/ready` and `/stats/prometheus`.
    pub proxy_admin: SocketAddr,
    /// What the application itself counts, where its annotations say so.
    pub app_metrics: Option<AppMetrics>,
    /// By path, such as `/app-health/reviews/readyz`.
    pub probes: BTreeMap<String, Probe>,
    /// Where the application listens.
    pub app_address: std::net::IpAddr,
}

/// Answers on port 15020. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Status {
    config: Arc<StatusConfig>,
    certificates: Certificates,
    egress: Egress,
    actions: mpsc::Sender<Action>,
    draining: watch::Receiver<bool>,
    health: watch::Sender<Option<bool>>,
}

impl Status {
    pub fn new(
        config: StatusConfig,
        certificates: Certificates,
        egress: Egress,
        actions: mpsc::Sender<Action>,
        draining: watch::Receiver<bool>,
        health: watch::Sender<Option<bool>>,
    ) -> Self {
        Self { config: Arc::new(config), certificates, egress, actions, draining, health }
    }

    /// Answers until it is dropped.
    pub async fn serve(self, listener: TcpListener) {
        let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "status port");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
            let status = self.clone();
            tokio::spawn(async move {
                http::serve_connection(stream, |call| {
                    let status = status.clone();
                    async move { status.answer(&call, peer).await }
                })
                .await;
                drop(permit);
            });
        }
    }

    async fn answer(&self, call: &Call, peer: SocketAddr) -> Reply {
        match (call.method.as_str(), call.path.as_str()) {
            ("GET", "/healthz/ready") => match self.readiness().await {
                Ok(()) => Reply::text(200, ""),
                Err(why) => Reply::text(503, &format!("not ready: {why}\n")),
            },
            ("GET", "/stats/prometheus" | "/metrics") => self.metrics().await,
            ("POST", "/quitquitquit") => self.ask(Action::Quit, peer),
            ("POST", "/drain") => self.ask(Action::Drain, peer),
            ("POST", "/traffic/start") => self.tell(true, peer),
            ("POST", "/traffic/stop") => self.tell(false, peer),
            (_, "/quitquitquit" | "/drain" | "/traffic/start" | "/traffic/stop") => {
                Reply::text(405, "use POST\n")
            }
            ("GET", path) => match self.config.probes.get(path) {
                Some(probe) => probe.run(self.config.app_address, &self.egress, call).await,
                None => Reply::text(404, "not found\n"),
            },
            _ => Reply::text(405, "use GET\n"),
        }
    }

    /// What the control plane is told of the workload, where it was registered by its proxy.
    fn tell(&self, healthy: bool, peer: SocketAddr) -> Reply {
        if !peer.ip().to_canonical().is_loopback() {
            return Reply::text(403, "only from this machine\n");
        }
        self.health.send_replace(Some(healthy));
        Reply::text(200, "ok\n")
    }

    fn ask(&self, action: Action, peer: SocketAddr) -> Reply {
        if !peer.ip().to_canonical().is_loopback() {
            return Reply::text(403, "only from this machine\n");
        }
        match self.actions.try_send(action) {
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Reply::text(200, "ok\n"),
            Err(mpsc::error::TrySendError::Closed(_)) => Reply::text(503, "ending already\n"),
        }
    }

    /// Ready: we have a certificate, the proxy has its configuration, and nobody asked us to end.
    pub async fn readiness(&self) -> Result<(), String> {
        if *self.draining.borrow() {
            return Err("draining".into());
        }
        if self.certificates.identity.current().is_none() {
            let why = self.certificates.failure().map_or_else(String::new, |e| format!(" ({e})"));
            return Err(format!("no certificate has been received yet{why}"));
        }
        match self.proxy("/ready").await {
            Ok(reply) if reply.status == 200 => Ok(()),
            Ok(reply) => Err(format!("the proxy answers {}: {}", reply.status, reply.body_text().trim())),
            Err(e) => Err(format!("the proxy cannot be asked: {e}")),
        }
    }

    /// Posts to the proxy's admin port; an answer other than 200 is an error.
    pub async fn tell_proxy(&self, path: &str) -> io::Result<()> {
        let (to, patience) = (self.config.proxy_admin, PROXY_PATIENCE);
        let reply = http::post(&self.egress, to, path, patience).await?;
        if reply.status == 200 {
            Ok(())
        } else {
            Err(io::Error::other(format!("{path}: status {}", reply.status)))
        }
    }

    /// How many requests and connections an Envoy has in work, its admin port's own left out.
    pub async fn active_requests(&self) -> io::Result<u64> {
        let reply = self.proxy("/stats?filter=downstream_(rq|cx)_active$").await?;
        let active = |line: &str| {
            let (name, value) = line.rsplit_once(": ")?;
            let counts = !name.contains("admin") && (name.starts_with("http.") || name.starts_with("tcp."));
            counts.then(|| value.trim().parse::<u64>().ok()).flatten()
        };
        Ok(reply
            .body_text()
            .lines()
            .filter(|l| l.contains("_rq_active") || l.starts_with("tcp."))
            .filter_map(active)
            .sum())
    }

    async fn proxy(&self, path: &str) -> io::Result<Reply> {
        http::get(&self.egress, self.config.proxy_admin, path, &[], PROXY_PATIENCE).await
    }

    async fn metrics(&self) -> Reply {
        let app = async {
            match &self.config.app_metrics {
                Some(app) => Some(app.scrape(self.config.app_address, &self.egress).await),
                None => None,
            }
        };
        let (proxy, app) = tokio::join!(self.proxy("/stats/prometheus"), app);
        let mut merged = metrics::own(&self.certificates);
        for (whose, scraped) in [("proxy", Some(proxy)), ("application", app)] {
            match scraped {
                Some(Ok(reply)) if reply.status == 200 => metrics::append(&mut merged, &reply.body_text()),
                Some(Ok(reply)) => tracing::debug!(whose, status = reply.status, "metrics not merged"),
                Some(Err(error)) => tracing::debug!(whose, %error, "metrics not merged"),
                None => {}
            }
        }
        Reply::metrics(merged)
    }
}

#[cfg(test)]
mod tests;
