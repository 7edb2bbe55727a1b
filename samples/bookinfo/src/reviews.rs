//! Reviews of a book. v1 shows no stars, v2 black ones, v3 red ones; those two call ratings.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::http as web;

const TEXTS: [(&str, &str); 2] = [
    (
        "Reviewer1",
        "Mistaken for one another, and for themselves: I laughed from the storm to the last embrace.",
    ),
    ("Reviewer2", "Slight beside the later plays, and still the quickest of them on its feet."),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    listen: crate::Listen,
    /// v1, v2 or v3
    #[arg(long, env = "SERVICE_VERSION", default_value = "v1")]
    version: String,
    /// Where ratings is
    #[arg(long, env = "RATINGS_HOSTNAME", default_value = "ratings")]
    ratings_host: String,
    #[arg(long, env = "RATINGS_SERVICE_PORT", default_value_t = 9080)]
    ratings_port: u16,
}

struct Reviews {
    /// The colour of the stars, where there are any.
    stars: Option<&'static str>,
    ratings: (String, u16),
    client: web::Client,
    host: String,
}

pub(crate) async fn serve(options: Options) -> anyhow::Result<()> {
    let stars = match options.version.as_str() {
        "v1" => None,
        "v3" => Some("red"),
        _ => Some("black"),
    };
    let reviews = Arc::new(Reviews {
        stars,
        ratings: (options.ratings_host, options.ratings_port),
        client: web::Client::new(),
        host: std::env::var("HOSTNAME").unwrap_or_else(|_| format!("reviews-{}", options.version)),
    });
    web::serve(options.listen.address(), move |request| {
        let reviews = Arc::clone(&reviews);
        async move { reviews.handle(request).await }
    })
    .await
}

impl Reviews {
    async fn handle(&self, request: Request<Incoming>) -> web::Answer {
        let path = request.uri().path();
        if request.method() != Method::GET {
            return web::not_found();
        }
        if path == "/health" {
            return web::json(StatusCode::OK, &json!({"status": "Reviews is healthy"}));
        }
        match path.strip_prefix("/reviews/").map(str::to_owned) {
            Some(id) => self.reviews(&id, web::forwarded(request.headers())).await,
            None => web::not_found(),
        }
    }

    async fn reviews(&self, id: &str, headers: HeaderMap) -> web::Answer {
        let ratings = match self.stars {
            None => None,
            Some(color) => Some((color, self.ratings(id, color, headers).await)),
        };
        let reviews: Vec<Value> = TEXTS
            .iter()
            .map(|(reviewer, text)| {
                let mut review = json!({"reviewer": reviewer, "text": text});
                if let Some((color, ratings)) = &ratings {
                    review["rating"] = rating(ratings.as_ref(), reviewer, color);
                }
                review
            })
            .collect();
        web::json(
            StatusCode::OK,
            &json!({"id": id, "podname": self.host, "clustername": "null", "reviews": reviews}),
        )
    }

    /// The stars by reviewer, unless ratings fails or is late. Black stars wait for four times as long as red ones:
    /// that is the deliberate mistake that the fault-injection tutorial finds.
    async fn ratings(&self, id: &str, color: &str, headers: HeaderMap) -> Option<Value> {
        let within = if color == "black" { Duration::from_secs(10) } else { Duration::from_millis(2500) };
        let url = web::service_url(&self.ratings.0, self.ratings.1, &format!("/ratings/{id}"));
        let fetched = self.client.get(&url, headers, within).await.ok()?;
        let body: Value = serde_json::from_slice(&fetched.body).ok()?;
        (fetched.status == StatusCode::OK).then(|| body["ratings"].clone())
    }
}

fn rating(ratings: Option<&Value>, reviewer: &str, color: &str) -> Value {
    match ratings.and_then(|r| r[reviewer].as_u64()) {
        Some(stars) => json!({"stars": stars, "color": color}),
        None => json!({"error": "Ratings service is currently unavailable"}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_ratings_only_the_stars_are_missing() {
        assert_eq!(
            rating(Some(&json!({"Reviewer1": 5})), "Reviewer1", "red"),
            json!({"stars": 5, "color": "red"})
        );
        assert!(rating(None, "Reviewer1", "red")["error"].is_string());
    }
}
