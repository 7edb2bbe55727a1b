//! The accepting side: mesh mutual TLS, gateways with and without client certificates.

use std::fmt;
use std::io;
use std::sync::Arc;

use base::{Clock, SystemClock};
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::identity::Identity;
use crate::options::{ClientCertificates, Time, TlsVersions, provider_with};
use crate::pem::TlsError;
use crate::source::IdentitySource;
use crate::verify::Verifier;

/// What a TLS server is made of.
#[derive(Clone)]
pub struct ServerOptions {
    /// One or several (RSA beside ECDSA): the first whose key the client can verify is shown.
    pub identities: Vec<IdentitySource>,
    pub client_certificates: ClientCertificates,
    /// The protocols that may be selected, in our order of preference. A client that offers none of them is served
    /// without ALPN, as Envoy does: Istio's clients offer names that only filter chains match on.
    pub alpn: Vec<Vec<u8>>,
    pub versions: TlsVersions,
    /// From [`crate::cipher_suites`]; empty for all.
    pub cipher_suites: Vec<rustls::CipherSuite>,
    /// From [`crate::curves`]; empty for all.
    pub curves: Vec<rustls::NamedGroup>,
    pub clock: Arc<dyn Clock>,
}

impl ServerOptions {
    pub fn new(identity: IdentitySource) -> Self {
        Self {
            identities: vec![identity],
            client_certificates: ClientCertificates::NotAsked,
            alpn: Vec::new(),
            versions: TlsVersions::default(),
            cipher_suites: Vec::new(),
            curves: Vec::new(),
            clock: Arc::new(SystemClock),
        }
    }
}

/// A compiled server configuration. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls {
    with_alpn: Arc<ServerConfig>,
    without_alpn: Arc<ServerConfig>,
    identities: Arc<[IdentitySource]>,
}

impl ServerTls {
    pub fn new(options: ServerOptions) -> Result<Self, TlsError> {
        let provider = provider_with(&options.cipher_suites, &options.curves);
        let builder = ServerConfig::builder_with_details(provider.clone(), Arc::new(Time(options.clock)))
            .with_protocol_versions(options.versions.protocols())
            .map_err(|e| TlsError::Config(e.to_string()))?;
        let (builder, mutual) = match options.client_certificates {
            ClientCertificates::NotAsked => (builder.with_no_client_auth(), false),
            ClientCertificates::Optional(verify) => {
                (builder.with_client_cert_verifier(Verifier::new(verify, false, provider)), true)
            }
            ClientCertificates::Required(verify) => {
                (builder.with_client_cert_verifier(Verifier::new(verify, true, provider)), true)
            }
        };
        let identities: Arc<[IdentitySource]> = options.identities.into();
        let mut config = builder.with_cert_resolver(Arc::new(Resolver(identities.clone())));
        if mutual {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        let without_alpn = Arc::new(config.clone());
        config.alpn_protocols = options.alpn;
        Ok(Self { with_alpn: Arc::new(config), without_alpn, identities })
    }

    /// The certificate that is shown now: the first of them, where there are several.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.identities.iter().find_map(IdentitySource::current)
    }

    /// Whether there is a certificate to show now.
    pub fn is_ready(&self) -> bool {
        self.identities.iter().any(|source| source.current().is_some())
    }

    /// The configuration for a client that offers these protocols.
    pub fn config_for<'a>(&self, offered: impl IntoIterator<Item = &'a [u8]>) -> Arc<ServerConfig> {
        let ours = &self.with_alpn.alpn_protocols;
        let shared = offered.into_iter().any(|theirs| ours.iter().any(|o| o == theirs));
        if shared { self.with_alpn.clone() } else { self.without_alpn.clone() }
    }

    /// Does the handshake. The caller bounds its time.
    pub async fn accept<IO>(&self, io: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io).await?;
        let config = self.config_for(start.client_hello().alpn().into_iter().flatten());
        start.into_stream(config).await
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("identities", &self.identities).finish_non_exhaustive()
    }
}

/// Shows what is current at the time of the handshake.
#[derive(Debug)]
struct Resolver(Arc<[IdentitySource]>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut current = self.0.iter().filter_map(IdentitySource::current).map(|i| i.certified_key());
        let first = current.next()?;
        if first.key.choose_scheme(hello.signature_schemes()).is_some() {
            return Some(first);
        }
        current.find(|c| c.key.choose_scheme(hello.signature_schemes()).is_some()).or(Some(first))
    }
}
