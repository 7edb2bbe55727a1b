//! Certificates for a stock Envoy beside us: SecretDiscoveryService on a Unix socket, so that its keys stay in memory.
//!
//! Two secrets are served, `default` (certificate and key) and `ROOTCA` (roots), state-of-the-world and delta, pushed when they
//! change. Nothing else is known here: gateways get their secrets over ADS.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use prost::Message as _;
use proto::ResourceType;
use proto::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use proto::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use proto::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use proto::pb::google::protobuf::Any;
use tls::{BundleSource, IdentitySource};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::certificates::Certificates;

/// The names under which our secrets go, as istiod's configuration refers to them.
const IDENTITY: &str = "default";
const ROOTS: &str = "ROOTCA";

/// A peer that asks for more names than this at once is no Envoy.
const MAX_NAMES: usize = 64;

/// Binds the socket, for our own user alone; one that a dead process left is replaced.
pub fn bind(socket: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = socket.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until it is dropped.
pub async fn serve(listener: UnixListener, certificates: Certificates) -> io::Result<()> {
    let service = Sds { identity: certificates.identity, bundle: certificates.bundle };
    tonic::transport::Server::builder()
        .add_service(SecretDiscoveryServiceServer::new(service))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await
        .map_err(io::Error::other)
}

#[derive(Clone)]
struct Sds {
    identity: IdentitySource,
    bundle: BundleSource,
}

/// The sources as one stream sees them.
struct View {
    sds: Sds,
    identity: watch::Receiver<u64>,
    bundle: watch::Receiver<u64>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl View {
    fn new(sds: &Sds) -> Self {
        Self { identity: sds.identity.watch(), bundle: sds.bundle.watch(), sds: sds.clone() }
    }

    async fn changed(&mut self) {
        // The senders live as long as the sources, which we hold.
        tokio::select! {
            _ = self.identity.changed() => {}
            _ = self.bundle.changed() => {}
        }
    }

    /// The current version of a secret, as a number that grows; 0 while there is none.
    fn version(&mut self, name: &str) -> u64 {
        match name {
            IDENTITY => *self.identity.borrow_and_update(),
            ROOTS => *self.bundle.borrow_and_update(),
            _ => 0,
        }
    }

    fn secret(&self, name: &str) -> Option<Any> {
        let kind = match name {
            IDENTITY => {
                let identity = self.sds.identity.current()?;
                secret::Type::TlsCertificate(TlsCertificate {
                    certificate_chain: Some(inline(identity.chain_pem().as_bytes())),
                    private_key: Some(inline(identity.key().reveal_pem().as_bytes())),
                    ..Default::default()
                })
            }
            ROOTS => secret::Type::ValidationContext(CertificateValidationContext {
                trusted_ca: Some(inline(self.sds.bundle.current()?.to_pem().as_bytes())),
                ..Default::default()
            }),
            _ => return None,
        };
        let secret = Secret { name: name.to_owned(), r#type: Some(kind) };
        Some(Any { type_url: ResourceType::Secret.url().to_owned(), value: secret.encode_to_vec() })
    }
}

fn inline(bytes: &[u8]) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(bytes.to_vec())), ..Default::default() }
}

fn check(type_url: &str, names: &[String]) -> Result<(), Status> {
    if !type_url.is_empty() && type_url != ResourceType::Secret.url() {
        return Err(Status::invalid_argument(format!(
            "{type_url}: this socket serves {} only",
            ResourceType::Secret
        )));
    }
    if names.len() > MAX_NAMES {
        return Err(Status::invalid_argument("too many names"));
    }
    for name in names.iter().filter(|n| !matches!(n.as_str(), IDENTITY | ROOTS)) {
        tracing::warn!(
            secret = name,
            "asked for a secret that is not served here; {IDENTITY} and {ROOTS} are"
        );
    }
    Ok(())
}

fn log_refusal(detail: Option<&proto::pb::google::rpc::Status>) {
    if let Some(detail) = detail {
        tracing::warn!(reason = detail.message, "the proxy refuses a secret");
    }
}

/// One state-of-the-world stream.
struct Sotw {
    view: View,
    names: Vec<String>,
    /// The versions that went out last, by name.
    sent: BTreeMap<String, u64>,
    nonce: u64,
}

impl Sotw {
    fn receive(&mut self, request: &DiscoveryRequest) -> Result<(), Status> {
        check(&request.type_url, &request.resource_names)?;
        log_refusal(request.error_detail.as_ref());
        if self.names != request.resource_names {
            self.names.clone_from(&request.resource_names);
            self.sent.clear();
        }
        Ok(())
    }

    /// What is due: every known secret of those asked for, if any has changed.
    fn next(&mut self) -> Option<DiscoveryResponse> {
        let versions: BTreeMap<String, u64> =
            self.names.iter().map(|n| (n.clone(), self.view.version(n))).filter(|(_, v)| *v > 0).collect();
        if versions.is_empty() || versions == self.sent {
            return None;
        }
        self.nonce += 1;
        let resources = versions.keys().filter_map(|n| self.view.secret(n)).collect();
        let version_info = versions.values().map(u64::to_string).collect::<Vec<_>>().join("-");
        self.sent = versions;
        Some(DiscoveryResponse {
            version_info,
            resources,
            type_url: ResourceType::Secret.url().to_owned(),
            nonce: self.nonce.to_string(),
            ..Default::default()
        })
    }
}

/// One delta stream.
struct Delta {
    view: View,
    /// The version that went out last, 0 for none, of each name asked for.
    names: BTreeMap<String, u64>,
    /// Names to answer with "there is none".
    absent: Vec<String>,
    nonce: u64,
}

impl Delta {
    fn receive(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), Status> {
        check(&request.type_url, &request.resource_names_subscribe)?;
        log_refusal(request.error_detail.as_ref());
        for name in &request.resource_names_unsubscribe {
            self.names.remove(name);
        }
        for name in &request.resource_names_subscribe {
            if matches!(name.as_str(), IDENTITY | ROOTS) {
                self.names.insert(name.clone(), 0);
            } else {
                self.absent.push(name.clone());
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Option<DeltaDiscoveryResponse> {
        let mut resources = Vec::new();
        for (name, sent) in &mut self.names {
            let version = self.view.version(name);
            if version > *sent
                && let Some(secret) = self.view.secret(name)
            {
                *sent = version;
                resources.push(Resource {
                    name: name.clone(),
                    version: version.to_string(),
                    resource: Some(secret),
                    ..Default::default()
                });
            }
        }
        let removed_resources = std::mem::take(&mut self.absent);
        if resources.is_empty() && removed_resources.is_empty() {
            return None;
        }
        self.nonce += 1;
        Some(DeltaDiscoveryResponse {
            resources,
            removed_resources,
            type_url: ResourceType::Secret.url().to_owned(),
            nonce: self.nonce.to_string(),
            ..Default::default()
        })
    }
}

/// A stream's side of the protocol: takes what comes, gives what is due, waits for changes.
trait Machine: Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;

    fn take(&mut self, request: &Self::Request) -> Result<(), Status>;
    fn give(&mut self) -> Option<Self::Response>;
    fn view(&mut self) -> &mut View;
}

impl Machine for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn take(&mut self, request: &DiscoveryRequest) -> Result<(), Status> {
        self.receive(request)
    }

    fn give(&mut self) -> Option<DiscoveryResponse> {
        self.next()
    }

    fn view(&mut self) -> &mut View {
        &mut self.view
    }
}

impl Machine for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn take(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), Status> {
        self.receive(request)
    }

    fn give(&mut self) -> Option<DeltaDiscoveryResponse> {
        self.next()
    }

    fn view(&mut self) -> &mut View {
        &mut self.view
    }
}

fn run<M: Machine>(mut machine: M, mut requests: Streaming<M::Request>) -> Answers<M::Response> {
    let (answers, stream) = mpsc::channel(4);
    tokio::spawn(async move {
        loop {
            let step = tokio::select! {
                request = requests.next() => match request {
                    Some(Ok(request)) => machine.take(&request),
                    Some(Err(_)) | None => return,
                },
                () = machine.view().changed() => Ok(()),
            };
            let answer = match step {
                Ok(()) => match machine.give() {
                    Some(answer) => Ok(answer),
                    None => continue,
                },
                Err(status) => Err(status),
            };
            let over = answer.is_err();
            if answers.send(answer).await.is_err() || over {
                return;
            }
        }
    });
    Box::pin(ReceiverStream::new(stream))
}

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type DeltaSecretsStream = Answers<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Answers<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let machine = Delta { view: View::new(self), names: BTreeMap::new(), absent: Vec::new(), nonce: 0 };
        Ok(Response::new(run(machine, request.into_inner())))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let machine = Sotw { view: View::new(self), names: Vec::new(), sent: BTreeMap::new(), nonce: 0 };
        Ok(Response::new(run(machine, request.into_inner())))
    }

    async fn fetch_secrets(
        &self,
        request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        let mut machine = Sotw { view: View::new(self), names: Vec::new(), sent: BTreeMap::new(), nonce: 0 };
        machine.receive(request.get_ref())?;
        machine
            .next()
            .map(Response::new)
            .ok_or_else(|| Status::unavailable("no certificate has been received yet"))
    }
}
