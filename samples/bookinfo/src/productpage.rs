//! The page that people look at.
//!
//! It serves with a bounded pool of workers, as many real applications do: a worker is busy from a request's first
//! byte to its answer's last, and when all are busy everybody waits, `/health` included.

mod page;
mod session;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::http as web;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    listen: crate::Listen,
    /// How many requests are worked on at once
    #[arg(long, env = "WORKERS", default_value_t = 8)]
    workers: usize,
    #[arg(long, env = "DETAILS_HOSTNAME", default_value = "details")]
    details_host: String,
    #[arg(long, env = "DETAILS_SERVICE_PORT", default_value_t = 9080)]
    details_port: u16,
    #[arg(long, env = "REVIEWS_HOSTNAME", default_value = "reviews")]
    reviews_host: String,
    #[arg(long, env = "REVIEWS_SERVICE_PORT", default_value_t = 9080)]
    reviews_port: u16,
    #[arg(long, env = "RATINGS_HOSTNAME", default_value = "ratings")]
    ratings_host: String,
    #[arg(long, env = "RATINGS_SERVICE_PORT", default_value_t = 9080)]
    ratings_port: u16,
}

struct Productpage {
    workers: Semaphore,
    client: web::Client,
    options: Options,
}

/// How long a service below may take before the page says that it is unavailable.
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) async fn serve(options: Options) -> anyhow::Result<()> {
    let address = options.listen.address();
    let page = Arc::new(Productpage {
        workers: Semaphore::new(options.workers.max(1)),
        client: web::Client::new(),
        options,
    });
    web::serve(address, move |request| {
        let page = Arc::clone(&page);
        async move {
            let _worker = page.workers.acquire().await;
            page.handle(request).await
        }
    })
    .await
}

impl Productpage {
    async fn handle(&self, request: Request<Incoming>) -> web::Answer {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (&method, parts.as_slice()) {
            (&Method::GET, ["health"]) => {
                web::answer(StatusCode::OK, "text/plain", "Product page is healthy")
            }
            (&Method::GET, ["" | "index.html"]) => web::html(page::index()),
            (&Method::GET, ["productpage"]) => self.product_page(request.headers()).await,
            (&Method::POST, ["login"]) => login(request).await,
            (&Method::GET, ["logout"]) => redirect(session::forget()),
            (&Method::GET, ["static", "style.css"]) => web::answer(StatusCode::OK, "text/css", page::STYLE),
            (&Method::GET, ["api", "v1", "products"]) => web::json(
                StatusCode::OK,
                &json!([{"id": 0, "title": page::TITLE, "descriptionHtml": page::DESCRIPTION}]),
            ),
            (&Method::GET, ["api", "v1", "products", id]) => self.details(id, request.headers()).await.into(),
            (&Method::GET, ["api", "v1", "products", id, "reviews"]) => {
                self.reviews(id, request.headers()).await.into()
            }
            (&Method::GET, ["api", "v1", "products", id, "ratings"]) => {
                self.ratings(id, request.headers()).await.into()
            }
            _ => web::not_found(),
        }
    }

    async fn product_page(&self, headers: &HeaderMap) -> web::Answer {
        let user = session::user(headers);
        let details = self.details("0", headers).await;
        let reviews = self.reviews("0", headers).await;
        web::html(page::product(user.as_deref(), &details, &reviews))
    }

    async fn details(&self, id: &str, headers: &HeaderMap) -> Part {
        let url = web::service_url(
            &self.options.details_host,
            self.options.details_port,
            &format!("/details/{id}"),
        );
        self.part(&url, headers, "details").await
    }

    /// Asks twice: the deliberate mistake that, with a timeout below it, the fault-injection tutorial finds.
    async fn reviews(&self, id: &str, headers: &HeaderMap) -> Part {
        let url = web::service_url(
            &self.options.reviews_host,
            self.options.reviews_port,
            &format!("/reviews/{id}"),
        );
        let first = self.part(&url, headers, "reviews").await;
        if first.status == StatusCode::OK { first } else { self.part(&url, headers, "reviews").await }
    }

    async fn ratings(&self, id: &str, headers: &HeaderMap) -> Part {
        let url = web::service_url(
            &self.options.ratings_host,
            self.options.ratings_port,
            &format!("/ratings/{id}"),
        );
        self.part(&url, headers, "ratings").await
    }

    async fn part(&self, url: &str, headers: &HeaderMap, what: &str) -> Part {
        let mut onward = web::forwarded(headers);
        if let Some(user) = session::user(headers).and_then(|user| HeaderValue::from_str(&user).ok()) {
            onward.insert("end-user", user);
        }
        let fetched = self.client.get(url, onward, PATIENCE).await;
        let sorry =
            || json!({"error": format!("Sorry, product {what} are currently unavailable for this book.")});
        match fetched {
            Ok(fetched) if fetched.status == StatusCode::OK => match serde_json::from_slice(&fetched.body) {
                Ok(body) => Part { status: StatusCode::OK, body },
                Err(_) => Part { status: StatusCode::BAD_GATEWAY, body: sorry() },
            },
            Ok(fetched) => Part { status: fetched.status, body: sorry() },
            Err(error) => {
                eprintln!("productpage: {what}: {error:#}");
                Part { status: StatusCode::INTERNAL_SERVER_ERROR, body: sorry() }
            }
        }
    }
}

/// What a service below contributed, or why it did not.
struct Part {
    status: StatusCode,
    body: Value,
}

impl From<Part> for web::Answer {
    fn from(part: Part) -> Self {
        web::json(part.status, &part.body)
    }
}

async fn login(request: Request<Incoming>) -> web::Answer {
    match web::body(request).await {
        Ok(form) => redirect(session::remember(&session::username(&form))),
        Err(_) => web::answer(StatusCode::BAD_REQUEST, "text/plain", "the form is too large\n"),
    }
}

fn redirect(cookie: HeaderValue) -> web::Answer {
    let mut answer = web::answer(StatusCode::FOUND, "text/plain", "");
    answer.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/productpage"));
    answer.headers_mut().insert(header::SET_COOKIE, cookie);
    answer
}
