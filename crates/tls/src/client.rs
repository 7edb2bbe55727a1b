//! The dialling side: mesh mutual TLS, and TLS to the outside.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use base::{Clock, SystemClock};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::identity::Identity;
use crate::options::{Time, TlsVersions, provider_with};
use crate::pem::TlsError;
use crate::source::IdentitySource;
use crate::verify::{Verifier, Verify};

/// What a TLS client is made of.
#[derive(Clone)]
pub struct ClientOptions {
    /// Shown when the server asks.
    pub identity: Option<IdentitySource>,
    pub verify: Verify,
    /// Sent as SNI; `None` sends none. An address is never sent.
    pub sni: Option<String>,
    pub alpn: Vec<Vec<u8>>,
    pub versions: TlsVersions,
    /// From [`crate::cipher_suites`]; empty for all.
    pub cipher_suites: Vec<rustls::CipherSuite>,
    /// From [`crate::curves`]; empty for all.
    pub curves: Vec<rustls::NamedGroup>,
    pub clock: Arc<dyn Clock>,
}

impl ClientOptions {
    pub fn new(verify: Verify) -> Self {
        Self {
            identity: None,
            verify,
            sni: None,
            alpn: Vec::new(),
            versions: TlsVersions::default(),
            cipher_suites: Vec::new(),
            curves: Vec::new(),
            clock: Arc::new(SystemClock),
        }
    }
}

/// A compiled client configuration. Cheap to clone.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    identity: Option<IdentitySource>,
    verify: Verify,
}

impl ClientTls {
    pub fn new(options: ClientOptions) -> Result<Self, TlsError> {
        let provider = provider_with(&options.cipher_suites, &options.curves);
        let verifier = Verifier::new(options.verify.clone(), true, provider.clone());
        let builder = ClientConfig::builder_with_details(provider, Arc::new(Time(options.clock)))
            .with_protocol_versions(options.versions.protocols())
            .map_err(|e| TlsError::Config(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match options.identity.clone() {
            Some(source) => builder.with_client_cert_resolver(Arc::new(Resolver(source))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = options.alpn;
        // A resumed session would skip the judgement of the peer's certificate, against which roots may have changed.
        config.resumption = Resumption::disabled();
        config.enable_sni = options.sni.is_some();
        let name = server_name(options.sni.as_deref())?;
        Ok(Self { config: Arc::new(config), name, identity: options.identity, verify: options.verify })
    }

    /// The same, showing this certificate when the server asks.
    pub fn with_identity(&self, identity: IdentitySource) -> Self {
        let mut config = (*self.config).clone();
        config.client_auth_cert_resolver = Arc::new(Resolver(identity.clone()));
        Self { config: Arc::new(config), identity: Some(identity), ..self.clone() }
    }

    /// The certificate that is shown now where a server asks.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.as_ref().and_then(IdentitySource::current)
    }

    /// Whether protocols are offered by ALPN.
    pub fn offers_alpn(&self) -> bool {
        !self.config.alpn_protocols.is_empty()
    }

    /// Whether the certificate to show and the roots to trust are there now.
    pub fn is_ready(&self) -> bool {
        self.verify.is_ready() && self.identity.as_ref().is_none_or(|i| i.current().is_some())
    }

    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// The name that is sent as SNI, or an address that stands for none.
    pub fn server_name(&self) -> &ServerName<'static> {
        &self.name
    }

    /// Does the handshake. The caller bounds its time.
    pub async fn connect<IO>(&self, io: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.check_ready()?;
        TlsConnector::from(self.config.clone()).connect(self.name.clone(), io).await
    }

    /// The same with another SNI and other protocols on offer, chosen for this connection.
    pub async fn connect_as<IO>(
        &self,
        io: IO,
        sni: Option<&str>,
        alpn: Option<Vec<Vec<u8>>>,
    ) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.check_ready()?;
        let (name, config) = match sni {
            Some(sni) => {
                let mut config = (*self.config).clone();
                config.enable_sni = true;
                let name = server_name(Some(sni)).map_err(io::Error::other)?;
                (name, Arc::new(config))
            }
            None => (self.name.clone(), self.config.clone()),
        };
        let connector = TlsConnector::from(config);
        match alpn {
            Some(alpn) => connector.with_alpn(alpn).connect(name, io).await,
            None => connector.connect(name, io).await,
        }
    }

    fn check_ready(&self) -> io::Result<()> {
        if self.is_ready() {
            return Ok(());
        }
        let why = "TLS is configured, but its certificate or its roots have not been received yet";
        Err(io::Error::new(io::ErrorKind::NotConnected, why))
    }
}

fn server_name(sni: Option<&str>) -> Result<ServerName<'static>, TlsError> {
    match sni {
        Some(text) => {
            ServerName::try_from(text.to_owned()).map_err(|_| TlsError::ServerName(text.to_owned()))
        }
        None => Ok(ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into())),
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("name", &self.name)
            .field("verify", &self.verify)
            .finish_non_exhaustive()
    }
}

/// Shows what is current at the time of the handshake.
#[derive(Debug)]
struct Resolver(IdentitySource);

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let certified = self.0.current()?.certified_key();
        certified.key.choose_scheme(schemes).is_some().then_some(certified)
    }

    fn has_certs(&self) -> bool {
        self.0.current().is_some()
    }
}
