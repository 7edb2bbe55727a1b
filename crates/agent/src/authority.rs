//! Asking the control plane for certificates: `istio.v1.auth.IstioCertificateService` over TLS.
//!
//! Each request makes its own connection, since the certificate to show changes; there is about one in half a
//! certificate's life.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::istio::ca::{CertificateClient, CertificateRequest};
use tls::{ClientOptions, ClientTls, Expect, IdentitySource, Pins, SanMatcher, TlsError, Verify};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use xds::client::Connect;

use crate::certificates::{BoxFuture, CertificateError, CertificateIssuer, Certificates};

/// What join tokens begin with; one of them buys one certificate, the certificate the next.
const JOIN_TOKEN: &str = "mizzen-join.";
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where a bearer token is read from, at each use: kubelets replace it.
#[derive(Debug, Clone)]
pub enum Token {
    None,
    File(PathBuf),
}

/// Asks a control plane.
pub struct AuthorityClient {
    dial: Connect,
    tls: ClientTls,
    token: Token,
    identity: IdentitySource,
    cluster_id: String,
}

impl AuthorityClient {
    /// `server_names` are the DNS names of which the control plane's certificate must bear one.
    pub fn new(
        dial: Connect,
        server_names: &[String],
        token: Token,
        cluster_id: String,
        certificates: &Certificates,
    ) -> Result<Self, TlsError> {
        let sans = server_names.iter().map(SanMatcher::dns).collect();
        let mut options = ClientOptions::new(Verify::Against {
            bundle: certificates.control_plane_roots.clone(),
            expect: Expect::Chain { sans },
            pins: Pins::default(),
        });
        options.sni = server_names.first().cloned();
        options.alpn = vec![b"h2".to_vec()];
        let identity = certificates.identity.clone();
        Ok(Self { dial, tls: ClientTls::new(options)?, token, identity, cluster_id })
    }

    async fn call(&self, request: &str, validity: Duration) -> Result<Vec<String>, CertificateError> {
        let token = self.token()?;
        let mut request = Request::new(CertificateRequest {
            csr: request.to_owned(),
            validity_duration: i64::try_from(validity.as_secs()).unwrap_or(0),
            metadata: None,
        });
        let header = |text: &str| {
            text.parse()
                .map_err(|_| CertificateError::Refused("the token holds bytes that no header may".into()))
        };
        request.metadata_mut().insert("clusterid", header(&self.cluster_id)?);
        if let Some(token) = &token {
            let mut value: tonic::metadata::MetadataValue<_> = header(&format!("Bearer {token}"))?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        let channel = self.connect().await?;
        let answer = CertificateClient::new(channel).create_certificate(request).await;
        Ok(answer.map_err(|s| refused(&s))?.into_inner().cert_chain)
    }

    /// What to send besides the certificate of the connection.
    fn token(&self) -> Result<Option<String>, CertificateError> {
        let Token::File(path) = &self.token else { return Ok(None) };
        let has_certificate = self.has_certificate();
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let token = text.trim();
                let spent = token.starts_with(JOIN_TOKEN) && has_certificate;
                Ok((!token.is_empty() && !spent).then(|| token.to_owned()))
            }
            Err(_) if has_certificate => Ok(None),
            Err(e) => Err(CertificateError::Refused(format!("token file {}: {e}", path.display()))),
        }
    }

    async fn connect(&self) -> Result<Channel, CertificateError> {
        let (dial, tls) = (self.dial.clone(), self.with_certificate());
        let connector = tower::service_fn(move |_: Uri| {
            let (dial, tls) = (dial.clone(), tls.clone());
            async move {
                let tcp = dial().await?;
                tcp.set_nodelay(true)?;
                Ok::<_, io::Error>(TokioIo::new(tls.connect(tcp).await?))
            }
        });
        Endpoint::from_static("http://control-plane")
            .connect_timeout(TIMEOUT)
            .timeout(TIMEOUT)
            .connect_with_connector(connector)
            .await
            .map_err(|e| CertificateError::Unavailable(causes(&e)))
    }

    /// Shows our certificate while it counts: with one that has expired no connection comes about, and the token would
    /// not be heard.
    fn with_certificate(&self) -> ClientTls {
        if self.has_certificate() { self.tls.with_identity(self.identity.clone()) } else { self.tls.clone() }
    }

    fn has_certificate(&self) -> bool {
        self.identity.current().is_some_and(|identity| identity.not_after() > std::time::SystemTime::now())
    }
}

impl CertificateIssuer for AuthorityClient {
    fn issue<'a>(
        &'a self,
        request: &'a str,
        validity: Duration,
    ) -> BoxFuture<'a, Result<Vec<String>, CertificateError>> {
        Box::pin(async move {
            match tokio::time::timeout(TIMEOUT, self.call(request, validity)).await {
                Ok(result) => result,
                Err(_) => Err(CertificateError::Unavailable(format!("no answer in {} s", TIMEOUT.as_secs()))),
            }
        })
    }
}

fn refused(status: &Status) -> CertificateError {
    let said = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::InvalidArgument
        | Code::Unimplemented
        | Code::FailedPrecondition => CertificateError::Refused(said),
        _ => CertificateError::Unavailable(said),
    }
}

/// An error with what caused it, since the outermost says little.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}
