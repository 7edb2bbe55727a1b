//! `istio.v1.auth.IstioCertificateService`: client and server, as a workload and an authority speak it.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Bytes, GrpcMethod, Service, StdError, http};
use tonic::{Request, Response, Status};

/// The service's name, the first part of its paths.
pub const SERVICE: &str = "istio.v1.auth.IstioCertificateService";

/// Where `CreateCertificate` is called.
pub const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// `istio.v1.auth.IstioCertificateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateRequest {
    /// The request in PEM.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// In seconds; 0 leaves it to the authority.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<crate::pb::google::protobuf::Struct>,
}

/// `istio.v1.auth.IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateResponse {
    /// One certificate in PEM each: leaf first, root last.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

/// Calls an authority over a channel.
#[derive(Debug, Clone)]
pub struct CertificateClient<T> {
    inner: tonic::client::Grpc<T>,
}

impl<T> CertificateClient<T>
where
    T: tonic::client::GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    pub fn new(channel: T) -> Self {
        Self { inner: tonic::client::Grpc::new(channel) }
    }

    pub async fn create_certificate(
        &mut self,
        request: impl tonic::IntoRequest<CertificateRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        let ready = self.inner.ready().await;
        ready.map_err(|e| Status::unknown(format!("the authority's channel failed: {}", e.into())))?;
        let codec = tonic_prost::ProstCodec::default();
        let mut request = request.into_request();
        request.extensions_mut().insert(GrpcMethod::new(SERVICE, "CreateCertificate"));
        self.inner.unary(request, PathAndQuery::from_static(CREATE_CERTIFICATE), codec).await
    }
}

/// What an authority does.
#[tonic::async_trait]
pub trait CertificateService: Send + Sync + 'static {
    async fn create_certificate(
        &self,
        request: Request<CertificateRequest>,
    ) -> Result<Response<CertificateResponse>, Status>;
}

/// Serves an authority by gRPC.
#[derive(Debug)]
pub struct CertificateServer<T> {
    inner: Arc<T>,
}

impl<T> CertificateServer<T> {
    pub fn new(service: T) -> Self {
        Self { inner: Arc::new(service) }
    }
}

impl<T> Clone for CertificateServer<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T, B> Service<http::Request<B>> for CertificateServer<T>
where
    T: CertificateService,
    B: http_body::Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let service = Create(self.inner.clone());
        Box::pin(async move {
            if request.uri().path() != CREATE_CERTIFICATE {
                return Ok(Status::unimplemented("the service has CreateCertificate only").into_http());
            }
            let codec = tonic_prost::ProstCodec::default();
            Ok(tonic::server::Grpc::new(codec).unary(service, request).await)
        })
    }
}

impl<T: CertificateService> tonic::server::NamedService for CertificateServer<T> {
    const NAME: &'static str = SERVICE;
}

struct Create<T>(Arc<T>);

impl<T: CertificateService> tonic::server::UnaryService<CertificateRequest> for Create<T> {
    type Response = CertificateResponse;
    type Future = BoxFuture<Response<CertificateResponse>, Status>;

    fn call(&mut self, request: Request<CertificateRequest>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { service.create_certificate(request).await })
    }
}
