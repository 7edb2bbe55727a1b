//! Names into addresses: by this network's own resolver, or by whoever knows better.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A name, and the address families that are of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub host: Arc<str>,
    pub v4: bool,
    pub v6: bool,
}

/// What a name stands for now, and how long that may be kept if anybody said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    pub addresses: Vec<IpAddr>,
    pub ttl: Option<Duration>,
}

/// A look-up in the making.
pub type Looking = Pin<Box<dyn Future<Output = io::Result<Found>> + Send>>;

/// Looks names up where this network's own resolver would not know them, or know them otherwise.
pub type LookUp = Arc<dyn Fn(Question) -> Looking + Send + Sync>;

/// By the system's resolver library, which tells of no times.
pub fn look_up_here() -> LookUp {
    Arc::new(|question| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((&*question.host, 0)).await?.map(|address| address.ip());
            let wanted = |ip: &IpAddr| if ip.is_ipv4() { question.v4 } else { question.v6 };
            Ok(Found { addresses: found.filter(wanted).collect(), ttl: None })
        })
    })
}
