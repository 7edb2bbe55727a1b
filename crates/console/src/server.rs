//! The console's web server: the page, the graph, and a door to the API server that the user's own token opens.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use axum::response::{IntoResponse, Json};
use axum::routing::{any, get};
use futures::future::BoxFuture;

use crate::collector::{Collector, Span, Window};
use crate::traces::Splitter;
use crate::traffic::{Edge, Workload};

/// The API server, called with the headers that it is given and no rights of our own.
pub trait ApiServer: Send + Sync {
    fn call(
        &self,
        request: axum::http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<axum::http::Response<Bytes>, String>>;
}

/// The page, built from `console/web`.
#[derive(rust_embed::RustEmbed)]
#[folder = "../../console/web/dist"]
struct Page;

/// How far every proxy is, as the control plane says.
pub type MeshStatus = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

#[derive(Clone)]
struct Console {
    collector: Collector,
    api: Arc<dyn ApiServer>,
    status: MeshStatus,
}

const LARGEST_BODY: usize = 1 << 20;

/// All routes of the console.
pub fn router(collector: Collector, api: Arc<dyn ApiServer>, status: MeshStatus) -> Router {
    Router::new()
        .route("/api/graph", get(graph))
        .route("/api/series", get(series))
        .route("/api/proxies", get(proxies))
        .route("/api/traces", get(traces))
        .route("/api/k8s/{*path}", any(forward))
        .fallback(page)
        .with_state(Console { collector, api, status })
}

#[derive(serde::Deserialize)]
struct GraphQuery {
    /// Seconds; without it, all that the proxies ever counted.
    window: Option<u64>,
}

async fn graph(
    State(console): State<Console>,
    Query(GraphQuery { window }): Query<GraphQuery>,
    headers: HeaderMap,
) -> Result<Json<Span>, Failure> {
    console.admit(&headers).await?;
    let window =
        window.map_or(Window::All, |seconds| Window::Last(Duration::from_secs(seconds.clamp(2, 600))));
    Ok(Json(console.collector.edges(window)))
}

/// Which edges: those that match all that is said. Workloads are written `namespace/name`.
#[derive(serde::Deserialize)]
struct SeriesQuery {
    service: Option<String>,
    source: Option<String>,
    destination: Option<String>,
}

impl SeriesQuery {
    fn wants(&self, edge: &Edge) -> bool {
        let is = |wanted: &Option<String>, workload: &Workload| {
            wanted.as_ref().is_none_or(|wanted| {
                wanted.split_once('/') == Some((workload.namespace.as_str(), workload.name.as_str()))
            })
        };
        self.service.as_ref().is_none_or(|service| *service == edge.key.service)
            && is(&self.source, &edge.key.source)
            && is(&self.destination, &edge.key.destination)
    }
}

async fn series(
    State(console): State<Console>,
    Query(query): Query<SeriesQuery>,
    headers: HeaderMap,
) -> Result<Json<Vec<Span>>, Failure> {
    console.admit(&headers).await?;
    Ok(Json(console.collector.series(|edge| query.wants(edge))))
}

async fn proxies(
    State(console): State<Console>,
    headers: HeaderMap,
) -> Result<Json<serde_json::Value>, Failure> {
    console.admit(&headers).await?;
    Ok(Json((console.status)()))
}

#[derive(serde::Deserialize)]
struct TracesQuery {
    /// Seconds.
    #[serde(default = "one_minute")]
    window: u64,
}

fn one_minute() -> u64 {
    60
}

/// What is wrong with the mesh's traces.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Traces {
    /// Workloads that do not hand trace headers on.
    split_by: Vec<Splitter>,
}

async fn traces(
    State(console): State<Console>,
    Query(TracesQuery { window }): Query<TracesQuery>,
    headers: HeaderMap,
) -> Result<Json<Traces>, Failure> {
    console.admit(&headers).await?;
    let split_by = console.collector.splitters(Duration::from_secs(window.clamp(2, 600)));
    Ok(Json(Traces { split_by }))
}

/// Passes a call on to the API server, which judges the token.
async fn forward(
    State(console): State<Console>,
    Path(path): Path<String>,
    request: Request,
) -> Result<Response<Body>, Failure> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, LARGEST_BODY)
        .await
        .map_err(|_| Failure(StatusCode::PAYLOAD_TOO_LARGE, "body too large"))?;
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let answer = console.call(parts.method, &format!("/{path}{query}"), &parts.headers, body).await?;
    Ok(answer.map(Body::from))
}

impl Console {
    /// Whoever the API server lets list namespaces may see the mesh.
    async fn admit(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let answer = self.call(Method::GET, "/api/v1/namespaces?limit=1", headers, Bytes::new()).await?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            StatusCode::FORBIDDEN => {
                Err(Failure(StatusCode::FORBIDDEN, "this token may not list namespaces"))
            }
            _ => Err(Failure(StatusCode::UNAUTHORIZED, "the API server does not know this token")),
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<axum::http::Response<Bytes>, Failure> {
        let bearer = headers
            .get(header::AUTHORIZATION)
            .ok_or(Failure(StatusCode::UNAUTHORIZED, "a token is needed"))?;
        let mut request =
            axum::http::Request::builder().method(method).uri(path).header(header::AUTHORIZATION, bearer);
        for name in [header::CONTENT_TYPE, header::ACCEPT] {
            if let Some(value) = headers.get(&name) {
                request = request.header(name, value);
            }
        }
        let request = request.body(body).map_err(|_| Failure(StatusCode::BAD_REQUEST, "not a path"))?;
        self.api.call(request).await.map_err(|error| {
            tracing::warn!(%error, "the API server does not answer");
            Failure(StatusCode::BAD_GATEWAY, "the API server does not answer")
        })
    }
}

/// An error as JSON, with its reason.
struct Failure(StatusCode, &'static str);

impl IntoResponse for Failure {
    fn into_response(self) -> Response<Body> {
        (self.0, Json(serde_json::json!({"message": self.1}))).into_response()
    }
}

/// A file of the page; paths without an ending are views of the one page.
async fn page(uri: Uri) -> Response<Body> {
    let path = uri.path().trim_start_matches('/');
    let is_view = !path.rsplit('/').next().unwrap_or_default().contains('.');
    let path = if is_view { "index.html" } else { path };
    let Some(file) = Page::get(path) else { return StatusCode::NOT_FOUND.into_response() };
    let caching =
        if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    let headers = [
        (header::CONTENT_TYPE, content_type(path)),
        (header::CACHE_CONTROL, caching),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, file.data.into_owned()).into_response()
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript",
        Some("css") => "text/css",
        Some("svg") => "image/svg+xml",
        Some("json" | "map") => "application/json",
        _ => "application/octet-stream",
    }
}
