//! Stars. v1 keeps them in memory, v2 asks the database for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::{http as web, mysql};

type Stars = BTreeMap<String, u64>;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    listen: crate::Listen,
    /// v1 (in memory) or v2 (from the database)
    #[arg(long, env = "SERVICE_VERSION", default_value = "v1")]
    version: String,
    /// How long each answer takes, in milliseconds
    #[arg(long, env = "RATINGS_DELAY_MS", default_value_t = 0)]
    delay_ms: u64,
    #[command(flatten)]
    database: Database,
}

/// Where the database is, as in Istio's sample.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Database {
    #[arg(long, env = "MYSQL_DB_HOST", default_value = "mysqldb")]
    db_host: String,
    #[arg(long, env = "MYSQL_DB_PORT", default_value_t = 3306)]
    db_port: u16,
    #[arg(long, env = "MYSQL_DB_USER", default_value = "root")]
    db_user: String,
    #[arg(long, env = "MYSQL_DB_PASSWORD", default_value = "password", hide_env_values = true)]
    db_password: String,
}

struct Ratings {
    stars: Mutex<BTreeMap<u64, Stars>>,
    database: Option<Database>,
    delay: Duration,
}

pub(crate) async fn serve(options: Options) -> anyhow::Result<()> {
    let ratings = Arc::new(Ratings {
        stars: Mutex::default(),
        database: (options.version == "v2").then_some(options.database),
        delay: Duration::from_millis(options.delay_ms),
    });
    web::serve(options.listen.address(), move |request| {
        let ratings = Arc::clone(&ratings);
        async move { ratings.handle(request).await }
    })
    .await
}

impl Ratings {
    async fn handle(&self, request: Request<Incoming>) -> web::Answer {
        let path = request.uri().path();
        if path == "/health" {
            return web::json(StatusCode::OK, &json!({"status": "Ratings is healthy"}));
        }
        let Some(id) = path.strip_prefix("/ratings/") else { return web::not_found() };
        let Ok(id) = id.parse::<u64>() else {
            return web::json(
                StatusCode::BAD_REQUEST,
                &json!({"error": "please provide numeric product ID"}),
            );
        };
        tokio::time::sleep(self.delay).await;
        match (request.method(), &self.database) {
            (&Method::GET, Some(database)) => from_database(id, database).await,
            (&Method::GET, None) => shown(id, &self.stars().get(&id).cloned().unwrap_or_else(first)),
            (&Method::POST, Some(_)) => web::json(
                StatusCode::NOT_IMPLEMENTED,
                &json!({"error": "Post not implemented for database backed ratings"}),
            ),
            (&Method::POST, None) => self.post(id, request).await,
            _ => web::not_found(),
        }
    }

    async fn post(&self, id: u64, request: Request<Incoming>) -> web::Answer {
        let stars =
            web::body(request).await.ok().and_then(|body| serde_json::from_slice::<Stars>(&body).ok());
        let Some(stars) = stars else {
            return web::json(
                StatusCode::BAD_REQUEST,
                &json!({"error": "please provide valid ratings JSON"}),
            );
        };
        let mut all = self.stars();
        // A sample keeps a bounded number of products.
        if all.len() >= 1000 && !all.contains_key(&id) {
            all.pop_first();
        }
        all.insert(id, stars.clone());
        shown(id, &stars)
    }

    fn stars(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Stars>> {
        self.stars.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn from_database(id: u64, database: &Database) -> web::Answer {
    let Database { db_host, db_port, db_user, db_password } = database;
    let query = mysql::client::query(
        (db_host.as_str(), *db_port),
        mysql::client::Login { user: db_user, password: db_password, database: "test" },
        "SELECT Rating FROM ratings",
    );
    match tokio::time::timeout(Duration::from_secs(10), query).await {
        Ok(Ok(rows)) => {
            let star = |row: usize| rows.get(row).and_then(|r| r.first()?.parse().ok()).unwrap_or(0);
            shown(id, &Stars::from([("Reviewer1".into(), star(0)), ("Reviewer2".into(), star(1))]))
        }
        Ok(Err(error)) => {
            eprintln!("ratings: {error:#}");
            unavailable()
        }
        Err(_) => unavailable(),
    }
}

fn unavailable() -> web::Answer {
    web::json(StatusCode::INTERNAL_SERVER_ERROR, &json!({"error": "could not connect to ratings database"}))
}

fn first() -> Stars {
    Stars::from([("Reviewer1".into(), 5), ("Reviewer2".into(), 4)])
}

fn shown(id: u64, stars: &Stars) -> web::Answer {
    let ratings: Value = json!(stars);
    web::json(StatusCode::OK, &json!({"id": id, "ratings": ratings}))
}
