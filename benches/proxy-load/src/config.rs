//! What each contestant is told to do, in its own words.

pub(crate) mod chain;
pub(crate) mod envoy;
pub(crate) mod haproxy;
pub(crate) mod nginx;
pub(crate) mod traefik;
