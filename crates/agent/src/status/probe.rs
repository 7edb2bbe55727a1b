//! Kubelet's probes of an application, which ask us since its port is captured.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;
use tls::{ClientOptions, ClientTls, Verify};
use tokio::time::timeout;

use super::http::{self, Call, Reply};
use crate::egress::Egress;

/// One probe, as Istio's injector writes it into `ISTIO_KUBE_APP_PROBERS`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    #[serde(default)]
    http_get: Option<HttpGet>,
    #[serde(default)]
    tcp_socket: Option<TcpSocket>,
    /// Seconds; 0 is 1.
    #[serde(default)]
    timeout_seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HttpGet {
    #[serde(default)]
    path: String,
    port: u16,
    #[serde(default)]
    host: String,
    #[serde(default)]
    scheme: String,
    #[serde(default)]
    http_headers: Vec<Header>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Header {
    name: String,
    value: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct TcpSocket {
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    #[error("probes: {0}; supported are httpGet and tcpSocket with a numbered port")]
    Json(String),
    #[error("probes: path {0:?} is not /app-health/<container>/livez, readyz or startupz")]
    Path(String),
    #[error("probes: {0} must have exactly one of httpGet and tcpSocket")]
    Kind(String),
}

/// The probes by path, from JSON.
pub fn probes_from_json(text: &str) -> Result<BTreeMap<String, Probe>, ProbeError> {
    let probes: BTreeMap<String, Probe> =
        serde_json::from_str(text).map_err(|e| ProbeError::Json(e.to_string()))?;
    for (path, probe) in &probes {
        let parts: Vec<&str> = path.split('/').collect();
        let known = matches!(parts.as_slice(), ["", "app-health", container, "livez" | "readyz" | "startupz"] if !container.is_empty());
        if !known {
            return Err(ProbeError::Path(path.clone()));
        }
        if probe.http_get.is_some() == probe.tcp_socket.is_some() {
            return Err(ProbeError::Kind(path.clone()));
        }
    }
    Ok(probes)
}

impl Probe {
    /// Asks the application; its status is the answer.
    pub(super) async fn run(&self, address: IpAddr, egress: &Egress, call: &Call) -> Reply {
        let patience = Duration::from_secs(self.timeout_seconds.max(1));
        let asked = timeout(patience, self.ask(address, egress, call)).await;
        match asked {
            Ok(Ok(reply)) => reply,
            Ok(Err(e)) => Reply::text(500, &format!("the application cannot be asked: {e}\n")),
            Err(_) => {
                Reply::text(500, &format!("the application did not answer in {} s\n", patience.as_secs()))
            }
        }
    }

    async fn ask(&self, address: IpAddr, egress: &Egress, call: &Call) -> io::Result<Reply> {
        if let Some(TcpSocket { port }) = self.tcp_socket {
            egress.connect(SocketAddr::new(address, port)).await?;
            return Ok(Reply::text(200, ""));
        }
        let Some(get) = &self.http_get else { return Err(io::ErrorKind::InvalidInput.into()) };
        let to = SocketAddr::new(address, get.port);
        let stream = egress.connect(to).await?;
        let path = if get.path.starts_with('/') { get.path.clone() } else { format!("/{}", get.path) };
        let headers = get.headers(call);
        let reply = if get.scheme.eq_ignore_ascii_case("https") {
            // As kubelets do: a probe asks whether something answers, not who.
            let tls = ClientTls::new(ClientOptions::new(Verify::Nothing)).map_err(io::Error::other)?;
            http::exchange(tls.connect(stream).await?, to, &path, &headers).await?
        } else {
            http::exchange(stream, to, &path, &headers).await?
        };
        // Kubelets only look at the status; the body stays the application's.
        Ok(Reply::text(reply.status, ""))
    }
}

impl HttpGet {
    /// The probe's own headers, over what the kubelet sent that says who asks.
    fn headers(&self, call: &Call) -> Vec<(String, String)> {
        let mut headers: Vec<(String, String)> = call
            .headers
            .iter()
            .filter(|(name, _)| matches!(name.as_str(), "user-agent" | "accept"))
            .filter(|(name, _)| !self.http_headers.iter().any(|h| h.name.eq_ignore_ascii_case(name)))
            .cloned()
            .collect();
        headers.extend(self.http_headers.iter().map(|h| (h.name.to_ascii_lowercase(), h.value.clone())));
        if !self.host.is_empty() && !headers.iter().any(|(name, _)| name == "host") {
            headers.push(("host".into(), self.host.clone()));
        }
        headers
    }
}
