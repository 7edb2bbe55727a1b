//! Rate limits: counted here by token buckets (`envoy.filters.http.local_ratelimit`), or by a service that is asked
//! (`envoy.filters.http.ratelimit`).

mod actions;
mod bucket;
mod global;
mod local;

use proto::pb::envoy::r#type::v3::HttpStatus;

pub(crate) use actions::{Descriptor, RateLimits, Subject};
pub(crate) use bucket::Bucket;
pub(crate) use global::{GlobalPerRoute, GlobalRateLimit, METADATA, Origin, Verdict};
pub(crate) use local::LocalRateLimit;

/// Which of a virtual host's limits count beside those of its routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OfHost {
    /// Where the route has none.
    Override,
    Include,
    Ignore,
}

/// What a client that is over its limit is answered: an error, or 429.
fn status(status: &Option<HttpStatus>, default: u16) -> u16 {
    let code = status.as_ref().and_then(|status| u16::try_from(status.code).ok());
    code.filter(|code| (400..600).contains(code)).unwrap_or(default)
}
