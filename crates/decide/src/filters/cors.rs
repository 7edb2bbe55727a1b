//! CORS: preflights answered here, origins allowed by policy.

use bytes::Bytes;
use proto::pb::envoy::config::route::v3 as old;
use proto::pb::envoy::extensions::filters::http::cors::v3 as pb;

use crate::headers::{Headers, Known};
use crate::matching::StringMatcher;
use crate::refusal::{Taken, Within, each};
use crate::request::{Method, Request};
use crate::wire::Chance;

#[derive(Debug, Clone)]
pub(crate) struct CorsPolicy {
    origins: Vec<StringMatcher>,
    allow_methods: Bytes,
    allow_headers: Bytes,
    expose_headers: Bytes,
    max_age: Bytes,
    credentials: Option<bool>,
    pub(crate) enabled: Chance,
    private_network: Option<bool>,
    forward_unmatched: Option<bool>,
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
        let asked = request.headers.known(Known::AccessControlRequestMethod);
        let preflight = request.method == Method::Options && asked.is_some_and(|m| !m.is_empty());
        match (preflight, allowed) {
            (true, false) if self.forward_unmatched.unwrap_or(true) => Preflight::Ignore,
            (true, _) => Preflight::Answer(self.preflight_headers(origin, allowed, request)),
            (false, true) => Preflight::Allow(origin.clone()),
            (false, false) => Preflight::Ignore,
        }
    }

    /// What this policy does not say, the next wider one does.
    pub(crate) fn or(&self, wider: &Self) -> Self {
        let text = |own: &Bytes, other: &Bytes| if own.is_empty() { other.clone() } else { own.clone() };
        Self {
            origins: if self.origins.is_empty() { &wider.origins } else { &self.origins }.clone(),
            allow_methods: text(&self.allow_methods, &wider.allow_methods),
            allow_headers: text(&self.allow_headers, &wider.allow_headers),
            expose_headers: text(&self.expose_headers, &wider.expose_headers),
            max_age: text(&self.max_age, &wider.max_age),
            credentials: self.credentials.or(wider.credentials),
            enabled: self.enabled,
            private_network: self.private_network.or(wider.private_network),
            forward_unmatched: self.forward_unmatched.or(wider.forward_unmatched),
        }
    }

    /// An asterisk is answered with what was asked for: with credentials it would mean nothing.
    fn preflight_headers(&self, origin: &Bytes, allowed: bool, request: &Request) -> Headers {
        let mut headers = Headers::new();
        if allowed {
            self.mark(origin, &mut headers);
        } else if self.credentials == Some(true) {
            headers.set(Known::AccessControlAllowCredentials, Bytes::from_static(b"true"));
        }
        let asked = |value: &Bytes, name: &str| match &value[..] {
            b"*" => request.headers.get(&name.into()).cloned().unwrap_or_default(),
            _ => value.clone(),
        };
        for (name, value) in [
            (Known::AccessControlAllowMethods, asked(&self.allow_methods, "access-control-request-method")),
            (Known::AccessControlAllowHeaders, asked(&self.allow_headers, "access-control-request-headers")),
            (Known::AccessControlMaxAge, self.max_age.clone()),
        ] {
            if !value.is_empty() {
                headers.set(name, value);
            }
        }
        let asked = request.headers.get_str("access-control-request-private-network") == Some("true");
        if allowed && self.private_network == Some(true) && asked {
            headers.append("access-control-allow-private-network", Bytes::from_static(b"true"));
        }
        headers
    }

    /// Marks a response for an origin that was allowed.
    pub(crate) fn mark(&self, origin: &Bytes, headers: &mut Headers) {
        headers.set(Known::AccessControlAllowOrigin, origin.clone());
        if self.credentials == Some(true) {
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
            credentials: c.allow_credentials.map(|v| v.value),
            enabled,
            private_network: c.allow_private_network_access.map(|v| v.value),
            forward_unmatched: c.forward_not_matching_preflights.map(|v| v.value),
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
