//! Facts about a book.

use http::{Method, StatusCode};
use serde_json::json;

use crate::http as web;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    listen: crate::Listen,
}

pub(crate) async fn serve(options: Options) -> anyhow::Result<()> {
    web::serve(options.listen.address(), |request| {
        std::future::ready(handle(request.method(), request.uri().path()))
    })
    .await
}

fn handle(method: &Method, path: &str) -> web::Answer {
    if method != Method::GET {
        return web::not_found();
    }
    if path == "/health" {
        return web::json(StatusCode::OK, &json!({"status": "Details is healthy"}));
    }
    let Some(id) = path.strip_prefix("/details/") else { return web::not_found() };
    let Ok(id) = id.parse::<u64>() else {
        return web::json(StatusCode::BAD_REQUEST, &json!({"error": "please provide numeric product id"}));
    };
    web::json(
        StatusCode::OK,
        &json!({
            "id": id,
            "author": "William Shakespeare",
            "year": 1595,
            "type": "paperback",
            "pages": 200,
            "publisher": "PublisherA",
            "language": "English",
            "ISBN-10": "1234567890",
            "ISBN-13": "123-1234567890",
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_needs_a_number() {
        assert_eq!(handle(&Method::GET, "/details/0").status(), 200);
        assert_eq!(handle(&Method::GET, "/details/x").status(), 400);
        assert_eq!(handle(&Method::POST, "/details/0").status(), 404);
    }
}
