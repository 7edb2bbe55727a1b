//! CORS: preflights answered here, origins allowed by policy.

use bytes::Bytes;
use proto::pb::envoy::config::route::v3 as old;
use proto::pb::envoy::extensions::filters::http::cors::v3 as pb;

use crate::headers::{Headers, Known};
use crate::matching::StringMatcher;
use crate::refusal::{Taken, Within, each};
use crate::request::{Method, Request};
use crate::wire::{Chance, flag};

#[derive(Debug, Clone)]
pub(crate) struct CorsPolicy {
    origins: Vec<StringMatcher>,
    allow_methods: Bytes,
    allow_headers: Bytes,
    expose_headers: Bytes,
    max_age: Bytes,
    credentials: bool,
    pub(crate) enabled: Chance,
    private_network: bool,
    forward_unmatched: bool,
}

/// What to do with a request that has an origin.
pub(crate) enum Preflight {
    /// Answer it.
    Answer(Headers),
    /// Let it through, and mark the response as allowed for this origin.
    Allow(Bytes),
    /// Let it through and say nothing.
    Ignore,
}

impl CorsPolicy {
    pub(crate) fn judge(&self, request: &Request) -> Preflight {
        let Some(origin) = request.headers.known(Known::Origin).filter(|o| !o.is_empty()) else {
            return Preflight::Ignore;
        };
        let allowed = self.origins.iter().any(|m| m.matches(origin));
        let preflight =
            request.method == Method::Options && request.headers.contains(Known::AccessControlRequestMethod);
        match (preflight, allowed) {
            (true, true) => Preflight::Answer(self.preflight_headers(origin, request)),
            (true, false) if self.forward_unmatched => Preflight::Ignore,
            (true, false) => Preflight::Answer(Headers::new()),
            (false, true) => Preflight::Allow(origin.clone()),
            (false, false) => Preflight::Ignore,
        }
    }

    fn preflight_headers(&self, origin: &Bytes, request: &Request) -> Headers {
        let mut headers = Headers::new();
        headers.set(Known::AccessControlAllowOrigin, origin.clone());
        if self.credentials {
            headers.set(Known::AccessControlAllowCredentials, Bytes::from_static(b"true"));
        }
        for (name, value) in [
            (Known::AccessControlAllowMethods, &self.allow_methods),
            (Known::AccessControlAllowHeaders, &self.allow_headers),
            (Known::AccessControlMaxAge, &self.max_age),
        ] {
            if !value.is_empty() {
                headers.set(name, value.clone());
            }
        }
        let asked = request.headers.get_str("access-control-request-private-network") == Some("true");
        if self.private_network && asked {
            headers.append("access-control-allow-private-network", Bytes::from_static(b"true"));
        }
        headers
    }

    /// Marks a response for an origin that was allowed.
    pub(crate) fn mark(&self, origin: &Bytes, headers: &mut Headers) {
        headers.set(Known::AccessControlAllowOrigin, origin.clone());
        if self.credentials {
            headers.set(Known::AccessControlAllowCredentials, Bytes::from_static(b"true"));
        }
        if !self.expose_headers.is_empty() {
            headers.set(Known::AccessControlExposeHeaders, self.expose_headers.clone());
        }
    }

    pub(crate) fn compile(c: &pb::CorsPolicy) -> Taken<Self> {
        let enabled = Chance::runtime(&c.filter_enabled, Chance::ALWAYS).within("filterEnabled")?;
        Ok(Self {
            origins: each(&c.allow_origin_string_match, "allowOriginStringMatch", StringMatcher::compile)?,
            allow_methods: c.allow_methods.clone().into(),
            allow_headers: c.allow_headers.clone().into(),
            expose_headers: c.expose_headers.clone().into(),
            max_age: c.max_age.clone().into(),
            credentials: flag(&c.allow_credentials, false),
            enabled,
            private_network: flag(&c.allow_private_network_access, false),
            forward_unmatched: flag(&c.forward_not_matching_preflights, true),
        })
    }

    /// The policy as routes carried it before filters had their own.
    pub(crate) fn compile_old(c: &old::CorsPolicy) -> Taken<Self> {
        let filter_enabled = c
            .enabled_specifier
            .as_ref()
            .map(|old::cors_policy::EnabledSpecifier::FilterEnabled(f)| f.clone());
        Self::compile(&pb::CorsPolicy {
            allow_origin_string_match: c.allow_origin_string_match.clone(),
            allow_methods: c.allow_methods.clone(),
            allow_headers: c.allow_headers.clone(),
            expose_headers: c.expose_headers.clone(),
            max_age: c.max_age.clone(),
            allow_credentials: c.allow_credentials,
            filter_enabled,
            shadow_enabled: c.shadow_enabled.clone(),
            allow_private_network_access: c.allow_private_network_access,
            forward_not_matching_preflights: c.forward_not_matching_preflights,
        })
    }
}
