//! An external authorizer, over HTTP and as Envoy's gRPC service on one port: lets in who says the word, and calls him by it.

use std::convert::Infallible;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use prost::Message;
use proto::pb::envoy::config::core::v3::{HeaderValue as Header, HeaderValueOption};
use proto::pb::envoy::service::auth::v3 as pb;
use proto::pb::envoy::r#type::v3::HttpStatus;
use proto::pb::google::rpc::Status;
use tokio::net::TcpListener;

/// Who sends this header is let in.
pub const WORD: &str = "x-word";
/// And the application gets this one.
pub const CALLED: &str = "x-called";
/// What others are told.
pub const REFUSAL: &str = "say the word";

#[derive(Debug, clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 9000)]
    pub port: u16,
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

pub async fn run(options: Options) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", options.port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) });
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Answer {
    let grpc = request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/grpc");
    if grpc {
        return over_grpc(request).await;
    }
    let word = request.headers().get(WORD).cloned();
    let mut response = Response::new(Full::from(if word.is_some() { "" } else { REFUSAL }).boxed());
    match word {
        Some(word) => _ = response.headers_mut().insert(CALLED, word),
        None => *response.status_mut() = StatusCode::FORBIDDEN,
    }
    response
}

async fn over_grpc(request: Request<Incoming>) -> Answer {
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let check = pb::CheckRequest::decode(body.get(5..).unwrap_or_default()).unwrap_or_default();
    let http = check.attributes.and_then(|a| a.request).and_then(|r| r.http).unwrap_or_default();
    let (code, verdict) = match http.headers.get(WORD) {
        Some(word) => (
            0,
            pb::check_response::HttpResponse::OkResponse(pb::OkHttpResponse {
                headers: vec![HeaderValueOption {
                    header: Some(Header { key: CALLED.into(), value: word.clone(), ..Default::default() }),
                    ..Default::default()
                }],
                ..Default::default()
            }),
        ),
        None => (
            7,
            pb::check_response::HttpResponse::DeniedResponse(pb::DeniedHttpResponse {
                status: Some(HttpStatus { code: 403 }),
                body: REFUSAL.into(),
                ..Default::default()
            }),
        ),
    };
    let message = pb::CheckResponse {
        status: Some(Status { code, ..Default::default() }),
        http_response: Some(verdict),
        ..Default::default()
    };
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len()).unwrap_or_default());
    framed.put_slice(&message.encode_to_vec());
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::from(framed.freeze()).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
