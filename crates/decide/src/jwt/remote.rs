//! Keys that the proxy fetches itself, when a token needs them first and whenever they have grown old.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as pb;

use super::Keys;
use crate::ask::{Answered, Call, CallFault};
use crate::refusal::{Refusal, Taken, Within};
use crate::request::{Method, Request};
use crate::wire::duration;

/// How long keys count where the configuration does not say.
const FRESH: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct Remote {
    cluster: Arc<str>,
    host: Box<str>,
    path: Box<str>,
    timeout: Option<Duration>,
    fresh: Duration,
    /// All workers share what one of them fetched.
    fetched: ArcSwapOption<Fetched>,
}

#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) keys: Keys,
    until: Instant,
}

impl Remote {
    pub(super) fn compile(message: &pb::RemoteJwks) -> Taken<Self> {
        let uri = message.http_uri.as_ref().ok_or_else(|| Refusal::new("is missing").under("httpUri"))?;
        let cluster = match &uri.http_upstream_type {
            Some(core::http_uri::HttpUpstreamType::Cluster(name)) if !name.is_empty() => name.as_str(),
            _ => return Err(Refusal::new("is missing").under("cluster").under("httpUri")),
        };
        let address = uri.uri.strip_prefix("https://").or_else(|| uri.uri.strip_prefix("http://"));
        let Some(address) = address.filter(|address| !address.is_empty()) else {
            return Err(Refusal::new("must begin with https:// or http://").under("uri").under("httpUri"));
        };
        let (host, path) = address.split_at(address.find('/').unwrap_or(address.len()));
        Ok(Self {
            cluster: cluster.into(),
            host: host.into(),
            path: if path.is_empty() { "/" } else { path }.into(),
            timeout: duration(&uri.timeout, "timeout").within("httpUri")?,
            fresh: duration(&message.cache_duration, "cacheDuration")?.unwrap_or(FRESH),
            fetched: ArcSwapOption::empty(),
        })
    }

    /// The keys that count now.
    pub(super) fn current(&self, now: Instant) -> Option<Arc<Fetched>> {
        self.fetched.load_full().filter(|fetched| now < fetched.until)
    }

    /// How to ask for them.
    pub(super) fn call(&self) -> Call {
        let request = Request::new(Method::Get, &*self.host, &*self.path);
        Call::get(Arc::clone(&self.cluster), request, self.timeout)
    }

    /// Takes what was answered; whether that was keys.
    pub(super) fn take(&self, called: Result<Answered, CallFault>, now: Instant) -> bool {
        let answered = called.ok().filter(|answered| answered.response.status == 200);
        let keys = answered.and_then(|answered| Keys::parse(&answered.body).ok());
        let Some(keys) = keys else { return false };
        self.fetched.store(Some(Arc::new(Fetched { keys, until: now + self.fresh })));
        true
    }
}
