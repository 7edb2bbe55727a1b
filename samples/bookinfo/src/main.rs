//! Bookinfo: the sample application, which knows nothing of the mesh.
//!
//! Four services and a database, with the names, ports, paths and headers of Istio's sample of that name, so that
//! tutorials written for it work. One program plays all of them; the first argument says which.

mod details;
mod http;
mod mysql;
mod productpage;
mod ratings;
mod reviews;

use std::net::SocketAddr;

use clap::{Parser, Subcommand};

/// The Bookinfo sample application.
#[derive(Debug, Parser)]
#[command(name = "bookinfo", version)]
struct Bookinfo {
    #[command(subcommand)]
    service: Service,
}

#[derive(Debug, Subcommand)]
enum Service {
    /// The page that people look at; calls details and reviews
    Productpage(productpage::Options),
    /// Facts about a book
    Details(details::Options),
    /// Reviews of a book; v2 and v3 call ratings
    Reviews(reviews::Options),
    /// Stars; v1 from memory, v2 from the database
    Ratings(ratings::Options),
    /// A small database that speaks MySQL's protocol, where no MariaDB is installed
    Mysqldb(mysql::server::Options),
}

/// Where a service listens.
#[derive(Debug, Clone, clap::Args)]
struct Listen {
    /// Port to listen on
    #[arg(long, env = "PORT", default_value_t = 9080)]
    port: u16,
}

impl Listen {
    fn address(&self) -> SocketAddr {
        SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], self.port))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Bookinfo::parse().service {
        Service::Productpage(options) => productpage::serve(options).await,
        Service::Details(options) => details::serve(options).await,
        Service::Reviews(options) => reviews::serve(options).await,
        Service::Ratings(options) => ratings::serve(options).await,
        Service::Mysqldb(options) => mysql::server::serve(options).await,
    }
}
