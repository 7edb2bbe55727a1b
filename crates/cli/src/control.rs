//! Asking the control plane's monitoring port (15014) how things are.

use anyhow::{Context, bail, ensure};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;

#[derive(Debug, Clone, clap::Args)]
pub struct ControlArgs {
    /// Where the control plane's monitoring port is
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:15014")]
    pub control: Uri,
}

/// How the whole mesh stands: `/debug/syncz`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MeshStatus {
    pub(crate) generation: u64,
    /// Changes were taken in that are not shown to proxies yet.
    pub(crate) pending: bool,
    pub(crate) proxies: Vec<ProxyStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProxyStatus {
    /// `name.namespace`
    pub(crate) proxy: String,
    #[serde(default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) cluster: String,
    /// The SPIFFE id that it proved.
    #[serde(default)]
    pub(crate) identity: Option<String>,
    /// It has acknowledged everything that it should have.
    pub(crate) synced: bool,
    /// The generation for which that was last found out.
    pub(crate) generation: u64,
    pub(crate) types: Vec<TypeState>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TypeState {
    pub(crate) type_url: String,
    /// `SYNCED`, `STALE` or `NACK`
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) nack: Option<String>,
    #[serde(default)]
    pub(crate) resources: usize,
}

impl ProxyStatus {
    /// Whether it has accepted everything up to that generation.
    pub(crate) fn has(&self, generation: u64) -> bool {
        self.synced && self.generation >= generation
    }

    /// `reviews-v1.default`, or `reviews-v1` in that namespace.
    pub(crate) fn is_named(&self, name: &str, namespace: &str) -> bool {
        self.proxy == name
            || self.proxy.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')) == Some(namespace)
    }
}

impl ProxyStatus {
    /// `reviews-v1-x5k2p.default` of `reviews-v1` or `reviews-v1.default`.
    pub(crate) fn is_replica_of(&self, name: &str, namespace: &str) -> bool {
        let is_of = |workload: &str, namespace: &str| {
            let own = self.proxy.strip_suffix(namespace).and_then(|own| own.strip_suffix('.'));
            own.and_then(|own| own.strip_prefix(workload)).is_some_and(|rest| rest.starts_with('-'))
        };
        is_of(name, namespace)
            || name.rsplit_once('.').is_some_and(|(name, namespace)| is_of(name, namespace))
    }
}

impl MeshStatus {
    /// Proxies that have not accepted everything; nothing can be said while changes are pending.
    pub(crate) fn lagging(&self) -> impl Iterator<Item = &ProxyStatus> {
        self.proxies.iter().filter(|proxy| !proxy.has(self.generation))
    }

    pub(crate) fn is_settled(&self) -> bool {
        !self.pending && self.lagging().next().is_none()
    }
}

/// The short name of a type: `CDS` for clusters.
pub(crate) fn short_type(type_url: &str) -> &str {
    match type_url.rsplit('.').next().unwrap_or(type_url) {
        "Cluster" => "CDS",
        "Listener" => "LDS",
        "ClusterLoadAssignment" => "EDS",
        "RouteConfiguration" => "RDS",
        "Secret" => "SDS",
        "NameTable" => "NDS",
        "ProxyConfig" => "PCDS",
        "TypedExtensionConfig" => "ECDS",
        other => other,
    }
}

impl ControlArgs {
    /// The full name of a proxy: as it is, in the namespace, or the first replica of the workload of that name.
    pub(crate) async fn proxy(&self, name: &str, namespace: &str) -> anyhow::Result<ProxyStatus> {
        let mut status = self.status().await?;
        status.proxies.sort_by(|a, b| a.proxy.cmp(&b.proxy));
        let exact = status.proxies.iter().find(|proxy| proxy.is_named(name, namespace));
        let found =
            exact.or_else(|| status.proxies.iter().find(|proxy| proxy.is_replica_of(name, namespace)));
        found.cloned().with_context(|| {
            format!("no proxy {name:?} is connected; `mizzen proxy-status` lists those that are")
        })
    }

    /// How all proxies are.
    pub(crate) async fn status(&self) -> anyhow::Result<MeshStatus> {
        self.get("/debug/syncz").await
    }

    /// A page's JSON; an answer other than 200 is an error with the server's own words.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let (status, body) = self.ask(path).await?;
        if status != StatusCode::OK {
            bail!("{}", String::from_utf8_lossy(&body).trim());
        }
        serde_json::from_slice(&body)
            .with_context(|| format!("{}{path} is not a control plane of Mizzen", self.control))
    }

    /// As [`Self::get`], but nothing where the server knows of no such thing.
    pub(crate) async fn get_opt(&self, path: &str) -> anyhow::Result<Option<Value>> {
        match self.ask(path).await? {
            (StatusCode::OK, body) => Ok(Some(serde_json::from_slice(&body).context("not JSON")?)),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (_, body) => bail!("{}", String::from_utf8_lossy(&body).trim()),
        }
    }

    async fn ask(&self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let scheme = self.control.scheme_str().unwrap_or("http");
        ensure!(scheme == "http", "--control takes http:// addresses, not {scheme}://");
        let host = self.control.host().context("--control names no host; write http://127.0.0.1:15014")?;
        let port = self.control.port_u16().unwrap_or(15014);
        let nobody = || {
            format!(
                "no control plane answers at {host}:{port}: start `mizzen up`, or say where it is with --control \
                 (of a cluster: kubectl -n istio-system port-forward deploy/istiod 15014)"
            )
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port)).await.with_context(nobody)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(nobody)?;
        tokio::spawn(connection);
        let request = Request::get(path)
            .header(header::HOST, format!("{host}:{port}"))
            .body(Empty::<Bytes>::new())
            .with_context(|| format!("{path:?} cannot be asked for"))?;
        let response = sender.send_request(request).await.with_context(nobody)?;
        let status = response.status();
        let body = response.into_body().collect().await.context("the answer broke off")?.to_bytes();
        Ok((status, body))
    }
}

/// Text as the value of a query's parameter.
pub(crate) fn escape(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => (byte as char).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(name: &str, synced: bool, generation: u64) -> ProxyStatus {
        ProxyStatus {
            proxy: name.into(),
            kind: "sidecar".into(),
            version: String::new(),
            cluster: String::new(),
            identity: None,
            synced,
            generation,
            types: vec![],
        }
    }

    #[test]
    fn a_workload_s_name_stands_for_a_replica_of_it() {
        let replica = proxy("reviews-v1-x5k2p.default", true, 1);
        assert!(
            replica.is_replica_of("reviews-v1", "default")
                && replica.is_replica_of("reviews-v1.default", "x")
        );
        for wrong in ["reviews-v", "reviews-v1-x5k2p-", "ratings"] {
            assert!(!replica.is_replica_of(wrong, "default"), "{wrong}");
        }
        assert!(!replica.is_replica_of("reviews-v1", "other"));
    }

    #[test]
    fn a_mesh_is_settled_when_nothing_is_pending_and_nobody_lags() {
        let mut mesh =
            MeshStatus { generation: 7, pending: false, proxies: vec![proxy("a.default", true, 7)] };
        assert!(mesh.is_settled());
        mesh.pending = true;
        assert!(!mesh.is_settled());
        mesh.pending = false;
        mesh.proxies.push(proxy("b.default", true, 6));
        mesh.proxies.push(proxy("c.default", false, 7));
        assert!(!mesh.is_settled());
        assert_eq!(mesh.lagging().map(|p| p.proxy.as_str()).collect::<Vec<_>>(), ["b.default", "c.default"]);
    }

    #[test]
    fn proxies_are_named_with_or_without_their_namespace() {
        let it = proxy("reviews-v1.default", true, 1);
        assert!(it.is_named("reviews-v1.default", "other") && it.is_named("reviews-v1", "default"));
        assert!(!it.is_named("reviews-v1", "other") && !it.is_named("reviews", "default"));
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(escape("a.b~c&d e"), "a.b~c%26d%20e");
    }
}
