//! Who asks: by join token, by a service account's token, or by the certificate that the connection was made with.

use std::sync::Arc;
use std::time::SystemTime;

use base::SpiffeId;
use tls::PeerInfo;
use zeroize::Zeroizing;

use crate::join::{JoinError, JoinStore, is_join_token};
use crate::signer::BoxFuture;
use crate::trust_domains::TrustDomains;

/// The audience that tokens for certificates carry.
const AUDIENCE: &str = "istio-ca";

/// What a caller shows. A bearer token, where there is one, is what counts.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    pub bearer: Option<Secret>,
    /// The verified certificate of the connection.
    pub certificate: Option<Arc<PeerInfo>>,
}

/// Text that cannot be printed.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Credentials {
    /// From an `authorization` header's value and the certificate of the connection.
    pub fn new(authorization: Option<&str>, certificate: Option<Arc<PeerInfo>>) -> Self {
        let token = authorization.and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| Secret::new(token.trim()))
        });
        Self { bearer: token.filter(|t| !t.0.is_empty()), certificate }
    }
}

/// Somebody who proved who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub id: SpiffeId,
    pub method: Method,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    JoinToken,
    ServiceAccount,
    Certificate,
}

/// What the API server said of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReviewedAccount {
    pub namespace: String,
    pub service_account: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    #[error("the API server does not accept the token: {0}")]
    Refused(String),
    #[error("the API server could not be asked about the token: {0}")]
    Unavailable(String),
}

/// Asks an API server about a token (a TokenReview).
pub trait TokenReviewer: Send + Sync {
    fn review<'a>(
        &'a self,
        token: &'a str,
        audiences: &'a [&'a str],
    ) -> BoxFuture<'a, Result<ReviewedAccount, ReviewError>>;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticateError {
    #[error(
        "no credentials: show a client certificate, or send \"authorization: Bearer\" with a token of audience {AUDIENCE}"
    )]
    None,
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Review(#[from] ReviewError),
    #[error("service-account tokens are not accepted here: no API server is configured to review them")]
    NoReviewer,
    #[error("the token names {0}, which makes no SPIFFE id")]
    Name(String),
    #[error("the client certificate has expired; show a token")]
    Expired,
    #[error("the client certificate is no SVID of trust domain {0}, nor of an alias of it")]
    Certificate(String),
}

impl AuthenticateError {
    /// Whether the same call may succeed later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Review(ReviewError::Unavailable(_)) | Self::Join(JoinError::Unavailable(_)))
    }
}

/// The ways of proof that are accepted here.
#[derive(Clone)]
pub struct Authenticators {
    pub trust_domains: TrustDomains,
    pub join: Arc<dyn JoinStore>,
    pub reviewer: Option<Arc<dyn TokenReviewer>>,
}

impl Authenticators {
    /// Who asks for a certificate of this public key.
    pub async fn authenticate(
        &self,
        credentials: &Credentials,
        public_key: &[u8],
        now: SystemTime,
    ) -> Result<Caller, AuthenticateError> {
        match (&credentials.bearer, &credentials.certificate) {
            (Some(Secret(token)), _) if is_join_token(token) => {
                let grant = self.join.redeem(token, public_key, now).await?;
                self.caller(&grant.namespace, &grant.service_account, Method::JoinToken)
            }
            (Some(token), _) => self.by_service_account(token).await,
            (None, Some(certificate)) => self.by_certificate(certificate, now),
            (None, None) => Err(AuthenticateError::None),
        }
    }

    /// Who opens a stream: the same, but for join tokens, which buy a certificate and nothing else.
    pub async fn authenticate_stream(
        &self,
        credentials: &Credentials,
        now: SystemTime,
    ) -> Result<Caller, AuthenticateError> {
        match (&credentials.bearer, &credentials.certificate) {
            (_, Some(certificate)) => self.by_certificate(certificate, now),
            (Some(Secret(token)), None) if is_join_token(token) => {
                Err(AuthenticateError::Join(JoinError::Used))
            }
            (Some(token), None) => self.by_service_account(token).await,
            (None, None) => Err(AuthenticateError::None),
        }
    }

    async fn by_service_account(&self, token: &Secret) -> Result<Caller, AuthenticateError> {
        let reviewer = self.reviewer.as_ref().ok_or(AuthenticateError::NoReviewer)?;
        let account = reviewer.review(&token.0, &[AUDIENCE]).await?;
        self.caller(&account.namespace, &account.service_account, Method::ServiceAccount)
    }

    fn by_certificate(&self, peer: &PeerInfo, now: SystemTime) -> Result<Caller, AuthenticateError> {
        // The handshake verified it, but a connection may outlive its certificate.
        if now >= peer.not_after {
            return Err(AuthenticateError::Expired);
        }
        match &peer.spiffe_id {
            Some(id) if self.trust_domains.admits(&id.trust_domain) => {
                self.caller(&id.namespace, &id.service_account, Method::Certificate)
            }
            _ => Err(AuthenticateError::Certificate(self.trust_domains.own().to_string())),
        }
    }

    fn caller(&self, namespace: &str, account: &str, method: Method) -> Result<Caller, AuthenticateError> {
        SpiffeId::new(self.trust_domains.own(), namespace, account)
            .map(|id| Caller { id, method })
            .map_err(|_| AuthenticateError::Name(format!("{namespace}/{account}")))
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::JoinToken => "join-token",
            Self::ServiceAccount => "service-account",
            Self::Certificate => "certificate",
        })
    }
}
