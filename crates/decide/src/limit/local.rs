//! Limits that the proxy counts by itself, for all of its workers.

use std::sync::Arc;
use std::time::Instant;

use proto::pb::envoy::extensions::common::ratelimit::v3 as common;
use proto::pb::envoy::extensions::filters::http::local_ratelimit::v3 as pb;

use super::{Bucket, Descriptor, OfHost, RateLimits, status};
use crate::ext_authz::HeaderChange;
use crate::refusal::{Refusal, Taken, Within, each};
use crate::route::Mutations;
use crate::wire::{Chance, flag};

#[derive(Debug)]
pub(crate) struct LocalRateLimit {
    /// Nothing: only descriptors limit anything.
    bucket: Option<Bucket>,
    descriptors: Vec<(Descriptor, Bucket)>,
    /// Requests that a descriptor matched count for the bucket of all as well.
    always_default: bool,
    pub(crate) enabled: Chance,
    pub(crate) enforced: Chance,
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u32>,
    pub(crate) stage: u32,
    pub(crate) of_host: OfHost,
    /// In place of those of routes.
    pub(crate) own: RateLimits,
    /// What the upstream is told of a request over the limit that goes on.
    pub(crate) unenforced: Mutations,
    pub(crate) answer: Mutations,
    tells: bool,
    pub(crate) stats: Stats,
}

/// Below their owner, the configuration's prefix.
#[derive(Debug)]
pub(crate) struct Stats {
    pub(crate) owner: Arc<str>,
    pub(crate) enabled: Arc<str>,
    pub(crate) ok: Arc<str>,
    pub(crate) rate_limited: Arc<str>,
    pub(crate) enforced: Arc<str>,
}

/// What became of a request, and what its answer tells of the bucket that decided.
pub(crate) struct Counted {
    pub(crate) allowed: bool,
    pub(crate) headers: Vec<HeaderChange>,
}

impl LocalRateLimit {
    pub(crate) fn has_descriptors(&self) -> bool {
        !self.descriptors.is_empty()
    }

    /// Takes from the buckets of all descriptors that match, the slowest first, and from that of all.
    pub(crate) fn take(&self, described: &[Descriptor], now: Instant) -> Counted {
        let mut matched: Vec<&Bucket> = described
            .iter()
            .filter_map(|described| self.descriptors.iter().find(|(own, _)| own == described))
            .map(|(_, bucket)| bucket)
            .collect();
        matched.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
        let mut first = None;
        let of_all = self.bucket.as_ref().filter(|_| matched.is_empty() || self.always_default);
        for bucket in matched.into_iter().chain(of_all) {
            let left = bucket.take(now);
            if !left.allowed {
                return Counted { allowed: false, headers: self.headers(bucket, left.tokens) };
            }
            first.get_or_insert((bucket, left.tokens));
        }
        let headers = first.map(|(bucket, left)| self.headers(bucket, left)).unwrap_or_default();
        Counted { allowed: true, headers }
    }

    fn headers(&self, bucket: &Bucket, left: f64) -> Vec<HeaderChange> {
        if !self.tells {
            return Vec::new();
        }
        // Until the next one is there.
        let reset = ((1.0 - left).max(0.0) / bucket.rate()).ceil();
        let values = [
            ("x-ratelimit-limit", bucket.max()),
            ("x-ratelimit-remaining", left.floor() as u64),
            ("x-ratelimit-reset", reset as u64),
        ];
        values.into_iter().map(|(name, value)| HeaderChange::add(name, value.to_string())).collect()
    }

    pub(crate) fn compile(m: &pb::LocalRateLimit, of_route: bool) -> Taken<Self> {
        if m.stat_prefix.is_empty() {
            return Err(Refusal::new("is missing").under("statPrefix"));
        }
        if of_route && m.token_bucket.is_none() {
            return Err(Refusal::new("is missing").under("tokenBucket"));
        }
        let mut descriptors: Vec<(Descriptor, Bucket)> = Vec::new();
        for (descriptor, i) in m.descriptors.iter().zip(0..) {
            let compiled = self::descriptor(descriptor).at("descriptors", i)?;
            if descriptors.iter().any(|(known, _)| *known == compiled.0) {
                return Err(Refusal::new("is there twice").under(format_args!("descriptors[{i}]")));
            }
            descriptors.push(compiled);
        }
        let stats = |what: &str| Arc::from(format!("http_local_rate_limit.{what}"));
        Ok(Self {
            bucket: m.token_bucket.as_ref().map(Bucket::compile).transpose().within("tokenBucket")?,
            descriptors,
            always_default: flag(&m.always_consume_default_token_bucket, true),
            enabled: Chance::runtime(&m.filter_enabled, Chance::NEVER).within("filterEnabled")?,
            enforced: Chance::runtime(&m.filter_enforced, Chance::NEVER).within("filterEnforced")?,
            status: status(&m.status, 429),
            grpc_status: m.rate_limited_as_resource_exhausted.then_some(8),
            stage: m.stage,
            of_host: match common::VhRateLimitsOptions::try_from(m.vh_rate_limits) {
                Ok(common::VhRateLimitsOptions::Include) => OfHost::Include,
                Ok(common::VhRateLimitsOptions::Ignore) => OfHost::Ignore,
                _ => OfHost::Override,
            },
            own: RateLimits::compile(&m.rate_limits, "rateLimits")?,
            unenforced: Mutations::compile(
                &m.request_headers_to_add_when_not_enforced,
                &[],
                ("requestHeadersToAddWhenNotEnforced", ""),
            )?,
            answer: Mutations::compile(&m.response_headers_to_add, &[], ("responseHeadersToAdd", ""))?,
            tells: m.enable_x_ratelimit_headers == common::XRateLimitHeadersRfcVersion::DraftVersion03 as i32,
            stats: Stats {
                owner: m.stat_prefix.as_str().into(),
                enabled: stats("enabled"),
                ok: stats("ok"),
                rate_limited: stats("rate_limited"),
                enforced: stats("enforced"),
            },
        })
    }
}

fn descriptor(m: &common::LocalRateLimitDescriptor) -> Taken<(Descriptor, Bucket)> {
    let entries = each(&m.entries, "entries", |entry| {
        if entry.value.is_empty() {
            let fault = "must not be empty: a bucket for each value that comes is not supported";
            return Err(Refusal::new(fault).under("value"));
        }
        Ok((entry.key.as_str().into(), entry.value.clone()))
    })?;
    let bucket = m.token_bucket.as_ref().ok_or_else(|| Refusal::new("is missing").under("tokenBucket"))?;
    Ok((entries, Bucket::compile(bucket).within("tokenBucket")?))
}
