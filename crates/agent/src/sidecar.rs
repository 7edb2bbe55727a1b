//! The agent as a whole: what runs beside a proxy, ours in this process or a stock Envoy next to it.
//!
//! [`Agent::start`] binds every port first, so that one in use is told before anything depends on it, then asks for the
//! certificate. The proxy is started by the caller, who gets everything that it needs from here: sources of certificates, the
//! bootstrap, how to reach the control plane. What the proxy's own stream brings that is not the proxy's (the name
//! table) comes back by [`Agent::take`].

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{SpiffeId, SystemClock, TrustDomain};
use prost::Message as _;
use proto::istio::{NameInfo, NameTable, ProxyConfig};
use proto::pb::envoy::config::core::v3::Node as WireNode;
use proto::{Delta, ResourceType};
use serde_json::{Value, json};
use tls::{ClientOptions, ClientTls, Expect, Identity, Pins, SanMatcher, TlsError, TrustBundle, Verify};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::authority::{AuthorityClient, Token};
use crate::bootstrap::{BootstrapOptions, Discovery, Node, bootstrap};
use crate::certificates::{CertificateError, Certificates, Renewer};
use crate::dns::server::Listening;
use crate::dns::{Dns, DnsConfig, Names, NamesConfig, Resolvers};
use crate::egress::Egress;
use crate::relay;
use crate::sds;
use crate::status::{Action, AppMetrics, Probe, Status, StatusConfig};

/// Clients that know Istio's extensions say so; a control plane sends those to nobody else.
const EXTENSIONS: &str = "istio.extensions";

/// A stock Envoy has to be asked for what ours tells by itself.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Everything that an agent is started with.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Who the proxy is and where its ports are.
    pub bootstrap: BootstrapOptions,
    /// That of our certificate; whatever the authority says where it is absent.
    pub trust_domain: Option<TrustDomain>,
    /// The roots that the control plane is judged by at first.
    pub root: TrustBundle,
    pub token: Token,
    /// Of certificates asked for; zero leaves it to the authority.
    pub validity: Duration,
    pub egress: Egress,
    /// For a stock Envoy only.
    pub serve_sds: bool,
    /// The port to which capture sends what the proxy cannot reach by itself: see [`relay`].
    pub relay: Option<u16>,
    pub dns: Option<DnsOptions>,
    /// Who is asked for names outside the mesh.
    pub resolvers: Resolvers,
    pub app_metrics: Option<AppMetrics>,
    pub probes: std::collections::BTreeMap<String, Probe>,
    pub app_address: IpAddr,
}

#[derive(Debug, Clone)]
pub struct DnsOptions {
    pub listen: Vec<SocketAddr>,
    /// `svc.cluster.local`.
    pub service_domain: String,
    /// The search domains of the workload.
    pub search: Vec<String>,
    pub authoritative: Vec<String>,
}

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("{what} cannot listen on {address}: {source}")]
    Bind { what: &'static str, address: String, source: io::Error },
    #[error("namespace and account make no SPIFFE id: {0}")]
    Identity(#[from] base::ParseSpiffeIdError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("the node cannot be told to the control plane: {0}")]
    Node(String),
}

/// A running agent. Dropping it ends everything that it serves.
#[derive(Debug)]
pub struct Agent {
    options: AgentOptions,
    certificates: Certificates,
    names: Option<NameFeed>,
    status: Status,
    draining: watch::Sender<bool>,
    health: watch::Sender<Option<bool>>,
    tasks: JoinSet<()>,
}

/// The name table as it comes in pieces.
#[derive(Debug, Clone)]
struct NameFeed {
    dns: Dns,
    pieces: Arc<Mutex<HashMap<Arc<str>, NameTable>>>,
}

impl Agent {
    /// Binds, serves, and asks for a certificate. What port 15020 is asked to do comes by the receiver.
    pub async fn start(options: AgentOptions) -> Result<(Self, mpsc::Receiver<Action>), AgentError> {
        let node = &options.bootstrap.node;
        let domain = options.trust_domain.clone();
        let any_domain = domain.is_none();
        let id = SpiffeId::new(domain.unwrap_or_default(), node.namespace(), node.service_account())?;
        let certificates = Certificates::new(options.root.clone());
        let (draining, watched) = watch::channel(false);
        let health = watch::Sender::new(None);
        let (actions, asked) = mpsc::channel(4);
        let mut tasks = JoinSet::new();

        let names = match &options.dns {
            Some(dns) => Some(start_dns(dns, node, &options.resolvers, &mut tasks).await?),
            None => None,
        };
        let status = Status::new(
            StatusConfig {
                proxy_admin: SocketAddr::from(([127, 0, 0, 1], options.bootstrap.admin_port)),
                app_metrics: options.app_metrics.clone(),
                probes: options.probes.clone(),
                app_address: options.app_address,
            },
            certificates.clone(),
            options.egress.clone(),
            actions,
            watched,
            health.clone(),
        );
        tasks.spawn(status.clone().serve(listen("status", options.bootstrap.status).await?));
        if options.serve_sds {
            let (socket, served) = (options.bootstrap.sds_socket.clone(), certificates.clone());
            let bound = sds::bind(&socket).map_err(|source| AgentError::Bind {
                what: "SDS",
                address: socket.display().to_string(),
                source,
            })?;
            tasks.spawn(async move {
                if let Err(error) = sds::serve(bound, served).await {
                    tracing::error!(%error, "SDS ended");
                }
            });
        }
        if let Some(port) = options.relay {
            let bound = relay::bind(port).await.map_err(|source| AgentError::Bind {
                what: "the relay to other networks",
                address: port.to_string(),
                source,
            })?;
            tasks.spawn(relay::serve(bound, options.egress.clone()));
        }
        let authority = AuthorityClient::new(
            dial(&options),
            &options.bootstrap.server_names,
            options.token.clone(),
            node.cluster_id().to_owned(),
            &certificates,
        )?;
        let renewer = Renewer::new(
            id,
            options.validity,
            Arc::new(authority),
            certificates.clone(),
            Arc::new(SystemClock),
        );
        let renewer = if any_domain { renewer.of_any_domain() } else { renewer };
        tasks.spawn(renewer.run());
        Ok((Self { options, certificates, names, status, draining, health, tasks }, asked))
    }

    /// Where certificates and roots are, for the proxy.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Waits for the first certificate, or for a refusal that waiting will not change.
    pub async fn first_certificate(&self) -> Result<Arc<Identity>, CertificateError> {
        self.certificates.first().await
    }

    pub fn bootstrap(&self) -> Value {
        bootstrap(&self.options.bootstrap)
    }

    pub fn options(&self) -> &AgentOptions {
        &self.options
    }

    /// From now on port 15020 says that we are not ready.
    pub fn set_draining(&self) {
        self.draining.send_replace(true);
    }

    /// Waits until port 15020 would say that all is ready, by asking a proxy that tells nobody of itself.
    pub async fn proxy_ready(&self) {
        while self.status.readiness().await.is_err() {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Tells a stock Envoy something at its admin port.
    pub async fn tell_proxy(&self, path: &str) -> io::Result<()> {
        self.status.tell_proxy(path).await
    }

    /// Waits until a stock Envoy has no request in work, or for the time given; whether it is idle.
    pub async fn proxy_idle(&self, limit: Duration) -> bool {
        let idle = async {
            while !matches!(self.status.active_requests().await, Ok(0) | Err(_)) {
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        tokio::time::timeout(limit, idle).await.is_ok()
    }

    /// The node as our own clients tell it.
    pub fn wire_node(&self) -> Result<WireNode, AgentError> {
        let Node { id, cluster, metadata, locality } = &self.options.bootstrap.node;
        let node = json!({
            "id": id,
            "cluster": cluster,
            "metadata": metadata,
            "locality": { "region": locality.region, "zone": locality.zone, "subZone": locality.subzone },
            "userAgentName": "mizzen-proxy",
            "userAgentVersion": env!("CARGO_PKG_VERSION"),
            "clientFeatures": [EXTENSIONS],
        });
        proto::json::decode(&node).map_err(|e| AgentError::Node(e.to_string()))
    }

    /// How a client in this process speaks ADS: over TLS with our certificate.
    pub fn ads(&self, all: Vec<ResourceType>) -> Result<xds::client::Config, AgentError> {
        let names = &self.options.bootstrap.server_names;
        let mut options = ClientOptions::new(Verify::Against {
            bundle: self.certificates.control_plane_roots.clone(),
            expect: Expect::Chain { sans: names.iter().map(SanMatcher::dns).collect() },
            pins: Pins::default(),
        });
        options.identity = Some(self.certificates.identity.clone());
        options.sni = names.first().cloned();
        options.alpn = vec![b"h2".to_vec()];
        let tls = ClientTls::new(options)?;
        let (host, port) = &self.options.bootstrap.control_plane;
        Ok(xds::client::Config {
            connect: dial(&self.options).into(),
            authority: names.first().cloned().unwrap_or_else(|| format!("{host}:{port}")),
            tls: Some((tls.config(), tls.server_name().clone())),
            token: None,
            // Who polls is a stock Envoy; our own clients beside it need not.
            mode: match self.options.bootstrap.discovery {
                Discovery::Sotw => xds::Mode::Sotw,
                Discovery::Delta | Discovery::Rest => xds::Mode::Delta,
            },
            node: self.wire_node()?,
            all,
            names: Vec::new(),
            health: Some(self.health.subscribe()),
            wanted: None,
            own: None,
            source: 0,
        })
    }

    /// What a proxy's stream should ask for beside what the proxy needs.
    pub fn wanted(&self) -> Vec<ResourceType> {
        let names = self.names.as_ref().map(|_| ResourceType::NameTable);
        names.into_iter().chain([ResourceType::ProxyConfig]).collect()
    }

    /// Takes what came by the proxy's stream.
    pub fn take(&self, delta: &Delta) {
        if let Some(names) = &self.names {
            names.take(delta);
        }
        take_roots(&self.certificates, delta);
    }

    /// Beside a stock Envoy, whose stream does not tell us: a stream of our own for what is [`Self::wanted`].
    pub fn follow(&mut self) -> Result<(), AgentError> {
        let names = self.names.clone();
        let certificates = self.certificates.clone();
        let config = self.ads(self.wanted())?;
        let (sender, mut updates) = mpsc::channel(4);
        let identity = self.certificates.identity.clone();
        self.tasks.spawn(async move {
            identity.ready().await;
            xds::client::run(config, sender).await;
        });
        self.tasks.spawn(async move {
            while let Some(update) = updates.recv().await {
                for delta in &update.deltas {
                    if let Some(names) = &names {
                        names.take(delta);
                    }
                    take_roots(&certificates, delta);
                }
                let _ = update.verdict.send(Vec::new());
            }
        });
        Ok(())
    }
}

impl NameFeed {
    fn take(&self, delta: &Delta) {
        if delta.resource_type != ResourceType::NameTable {
            return;
        }
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &delta.removed {
            pieces.remove(name);
        }
        for resource in &delta.changed {
            match NameTable::decode(resource.body.clone()) {
                Ok(table) => {
                    pieces.insert(resource.name.clone(), table);
                }
                Err(error) => tracing::warn!(name = %resource.name, %error, "name table not readable"),
            }
        }
        let whole = pieces.values().flat_map(|t| t.table.iter()).map(|(host, info)| (host.as_str(), info));
        let single = pieces.iter().filter_map(|(host, t)| Some((&**host, t.name_info.as_ref()?)));
        let hosts: Vec<(&str, &NameInfo)> = whole.chain(single).collect();
        self.dns.set_names(Names::from_resources(hosts, self.dns.names_config()));
    }
}

/// Roots that the control plane announces, between two renewals. Their withdrawal is no news: a mesh without roots
/// would be no mesh.
fn take_roots(certificates: &Certificates, delta: &Delta) {
    if delta.resource_type != ResourceType::ProxyConfig {
        return;
    }
    for resource in &delta.changed {
        let taken =
            ProxyConfig::decode(resource.body.clone()).map_err(|e| e.to_string()).and_then(|config| {
                let pem = config.ca_certificates_pem.concat();
                if pem.is_empty() {
                    return Ok(());
                }
                let roots = tls::certificates_from_pem("announced roots", pem.as_bytes());
                roots.and_then(|roots| certificates.take_roots(roots)).map_err(|e| e.to_string())
            });
        if let Err(reason) = taken {
            tracing::warn!(reason, "announced roots are not usable; those known before stay");
        }
    }
}

async fn start_dns(
    options: &DnsOptions,
    node: &Node,
    resolvers: &Resolvers,
    tasks: &mut JoinSet<()>,
) -> Result<NameFeed, AgentError> {
    let names = NamesConfig {
        namespace: node.namespace().to_owned(),
        service_domain: options.service_domain.clone(),
        search: options.search.clone(),
    };
    let config = DnsConfig { names, authoritative: options.authoritative.clone() };
    let dns = Dns::new(config, resolvers.clone());
    for address in &options.listen {
        let listening = Listening::bind(*address).await.map_err(|source| AgentError::Bind {
            what: "DNS",
            address: address.to_string(),
            source,
        })?;
        tasks.spawn(dns.clone().serve(listening));
    }
    Ok(NameFeed { dns, pieces: Arc::default() })
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, AgentError> {
    TcpListener::bind(address).await.map_err(|source| AgentError::Bind {
        what,
        address: address.to_string(),
        source,
    })
}

/// Opens a connection to the control plane, whose name is looked up each time.
fn dial(options: &AgentOptions) -> xds::client::Connect {
    let (host, port) = options.bootstrap.control_plane.clone();
    let egress = options.egress.clone();
    Arc::new(move || {
        let (host, egress) = (host.clone(), egress.clone());
        Box::pin(async move { connect(&egress, &host, port).await })
    })
}

async fn connect(egress: &Egress, host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in tokio::net::lookup_host((host, port)).await? {
        match egress.connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(e) => last = io::Error::new(e.kind(), format!("{address}: {e}")),
        }
    }
    Err(last)
}

/// The socket of a stock Envoy's SDS: as told, or the usual one.
pub fn sds_socket(told: Option<PathBuf>) -> PathBuf {
    told.unwrap_or_else(|| PathBuf::from(crate::bootstrap::SDS_SOCKET))
}
