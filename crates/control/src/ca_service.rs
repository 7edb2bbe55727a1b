//! `istio.v1.auth.IstioCertificateService` over the `ca` crate: gRPC in, certificates out.
//!
//! Whoever accepts the connection puts the verified certificate of the peer, if it showed one, into the request's
//! extensions as `Arc<tls::PeerInfo>`. Nothing is decided here: `ca` authenticates, judges and signs.

use std::sync::Arc;
use std::time::Duration;

use ca::{AuthenticateError, Authenticators, Authority, CertificateRequest, Credentials, IssueError};
use proto::istio::ca as wire;
use tonic::{Request, Response, Status};

/// Serves an authority to workloads.
#[derive(Clone)]
pub struct CaService {
    authority: Arc<Authority>,
    authenticators: Authenticators,
}

impl CaService {
    pub fn new(authority: Arc<Authority>, authenticators: Authenticators) -> Self {
        Self { authority, authenticators }
    }

    /// As a service to mount on the server of port 15012.
    pub fn into_server(self) -> wire::CertificateServer<Self> {
        wire::CertificateServer::new(self)
    }
}

#[tonic::async_trait]
impl wire::CertificateService for CaService {
    async fn create_certificate(
        &self,
        request: Request<wire::CertificateRequest>,
    ) -> Result<Response<wire::CertificateResponse>, Status> {
        let credentials = credentials(&request);
        let asked = request.into_inner();
        let validity = u64::try_from(asked.validity_duration).map(Duration::from_secs).map_err(|_| {
            Status::invalid_argument("validity_duration is negative; write seconds, or 0 for the default")
        })?;
        let csr =
            CertificateRequest::from_pem(&asked.csr).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let now = self.authority.clock().wall();
        let caller = self
            .authenticators
            .authenticate(&credentials, csr.public_key(), now)
            .await
            .map_err(|e| denied(&e))?;
        let issued = self.authority.issue(&csr, &caller, validity).await.map_err(|e| not_issued(&e))?;
        Ok(Response::new(wire::CertificateResponse { cert_chain: issued.entries() }))
    }
}

/// What a request shows: its `authorization` header and the certificate of its connection.
pub fn credentials<T>(request: &Request<T>) -> Credentials {
    let header = request.metadata().get("authorization").and_then(|v| v.to_str().ok());
    Credentials::new(header, request.extensions().get::<Arc<tls::PeerInfo>>().cloned())
}

/// A refusal in gRPC's words; agents retry `Unavailable` and report the rest.
pub fn denied(error: &AuthenticateError) -> Status {
    tracing::warn!(target: "audit", event = "caller.refused", reason = %error);
    if error.is_temporary() {
        Status::unavailable(error.to_string())
    } else {
        Status::unauthenticated(error.to_string())
    }
}

fn not_issued(error: &IssueError) -> Status {
    match error {
        _ if error.is_temporary() => Status::unavailable(error.to_string()),
        IssueError::TrustDomain(..) => Status::permission_denied(error.to_string()),
        _ => Status::invalid_argument(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use base::SystemClock;
    use ca::{JoinGrant, JoinTokens, OwnRoot, Policy, RootLife, TrustDomains};
    use proto::istio::ca::CertificateService as _;
    use tls::PrivateKey;
    use tls::seal::SealKey;
    use tonic::Code;

    use super::*;

    const ID: &str = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews";

    fn service(folder: &std::path::Path) -> (CaService, Arc<JoinTokens>) {
        let life = RootLife::for_leaves(Duration::from_secs(3600));
        let seal = SealKey::from_bytes(&[1; 32]).unwrap();
        let now = std::time::SystemTime::now();
        let root = OwnRoot::load_or_create(folder, seal, "cluster.local", &life, now).unwrap();
        let authority =
            Authority::with_own_root(Policy::default(), Arc::new(SystemClock), root, life).unwrap();
        let join = Arc::new(JoinTokens::default());
        let authenticators =
            Authenticators { trust_domains: TrustDomains::default(), join: join.clone(), reviewer: None };
        (CaService::new(Arc::new(authority), authenticators), join)
    }

    fn request(csr: String, bearer: Option<&str>) -> Request<wire::CertificateRequest> {
        let mut request =
            Request::new(wire::CertificateRequest { csr, validity_duration: 0, metadata: None });
        if let Some(token) = bearer {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        request
    }

    #[tokio::test]
    async fn a_join_token_buys_a_certificate_and_the_certificate_the_next_one() {
        tls::install_provider();
        let folder = tempfile::tempdir().unwrap();
        let (service, join) = service(folder.path());
        let grant = JoinGrant { namespace: "default".into(), service_account: "bookinfo-reviews".into() };
        let token = join.mint(&grant, Duration::from_secs(60), std::time::SystemTime::now()).unwrap();
        let csr = |key: &PrivateKey| tls::certificate_request(key, ID).unwrap();
        let first = PrivateKey::generate().unwrap();
        let answer =
            service.create_certificate(request(csr(&first), Some(&token))).await.unwrap().into_inner();
        assert_eq!(answer.cert_chain.len(), 2);
        let leaf = tls::certificates_from_pem("leaf", answer.cert_chain[0].as_bytes()).unwrap();
        let peer = tls::PeerInfo::from_chain(&leaf).unwrap();
        assert_eq!(peer.spiffe_id.as_ref().unwrap().to_string(), ID);

        let second = PrivateKey::generate().unwrap();
        let again = service.create_certificate(request(csr(&second), Some(&token))).await.unwrap_err();
        assert_eq!(again.code(), Code::Unauthenticated, "{again}");
        let mut renewal = request(csr(&second), None);
        renewal.extensions_mut().insert(Arc::new(peer));
        assert!(service.create_certificate(renewal).await.is_ok());
    }

    #[tokio::test]
    async fn bad_requests_are_answered_with_whose_fault_it_is() {
        tls::install_provider();
        let folder = tempfile::tempdir().unwrap();
        let (service, _) = service(folder.path());
        let csr = tls::certificate_request(&PrivateKey::generate().unwrap(), ID).unwrap();
        let table = [
            (request("rubbish".into(), Some("x")), Code::InvalidArgument, "csr"),
            (request(csr.clone(), None), Code::Unauthenticated, "no credentials"),
            (request(csr.clone(), Some("mizzen-join.x")), Code::Unauthenticated, "join token"),
            (request(csr.clone(), Some("eyJ")), Code::Unauthenticated, "no API server"),
        ];
        for (request, code, words) in table {
            let status = service.create_certificate(request).await.unwrap_err();
            assert_eq!(status.code(), code, "{status}");
            assert!(status.message().contains(words), "{status}");
        }
        let mut negative = request(csr, Some("x"));
        negative.get_mut().validity_duration = -1;
        assert_eq!(service.create_certificate(negative).await.unwrap_err().code(), Code::InvalidArgument);
    }
}
