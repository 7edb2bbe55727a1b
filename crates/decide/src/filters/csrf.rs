//! CSRF: requests that change something must come from a page of the same origin, or of one that is allowed.

use proto::pb::envoy::extensions::filters::http::csrf::v3 as pb;

use crate::headers::Known;
use crate::matching::StringMatcher;
use crate::refusal::{Refusal, Taken, Within, each};
use crate::request::{Method, Request};
use crate::wire::Chance;

#[derive(Debug, Clone)]
pub(crate) struct Csrf {
    pub(crate) enabled: Chance,
    pub(crate) shadow: Chance,
    additional: Vec<StringMatcher>,
}

/// What the filter found of requests that change something, for its counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CsrfCounts {
    pub valid: u32,
    pub invalid: u32,
    pub missing: u32,
}

impl Csrf {
    pub(crate) fn compile(message: &pb::CsrfPolicy) -> Taken<Self> {
        if message.filter_enabled.is_none() {
            return Err(Refusal::new("is missing").under("filterEnabled"));
        }
        Ok(Self {
            enabled: Chance::runtime(&message.filter_enabled, Chance::ALWAYS).within("filterEnabled")?,
            shadow: Chance::runtime(&message.shadow_enabled, Chance::NEVER).within("shadowEnabled")?,
            additional: each(&message.additional_origins, "additionalOrigins", StringMatcher::compile)?,
        })
    }

    /// Whether the request may pass.
    pub(crate) fn allows(&self, request: &Request, counts: &mut CsrfCounts) -> bool {
        let changes = matches!(request.method, Method::Post | Method::Put | Method::Delete | Method::Patch);
        if !changes {
            return true;
        }
        let header = |name| request.headers.known_str(name).unwrap_or_default();
        let source = match host_and_port(header(Known::Origin)) {
            "" => host_and_port(request.headers.get_str("referer").unwrap_or_default()),
            origin => origin,
        };
        let same = source == request.authority;
        let valid =
            !source.is_empty() && (same || self.additional.iter().any(|m| m.matches(source.as_bytes())));
        counts.missing += u32::from(source.is_empty());
        counts.valid += u32::from(valid);
        counts.invalid += u32::from(!valid && !source.is_empty());
        valid
    }
}

/// Of an absolute URL; the text itself where it is none.
fn host_and_port(url: &str) -> &str {
    let Some((scheme, rest)) = url.split_once("://") else { return url };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return url;
    }
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_something_must_come_from_the_same_origin() {
        let csrf = Csrf {
            enabled: Chance::ALWAYS,
            shadow: Chance::NEVER,
            additional: vec![StringMatcher::Suffix(".friend.example".into())],
        };
        for (method, headers, allowed) in [
            (Method::Get, &[][..], true),
            (Method::Post, &[], false),
            (Method::Post, &[("origin", "https://shop.example")], true),
            (Method::Post, &[("origin", "https://evil.example")], false),
            (Method::Put, &[("referer", "https://shop.example/cart?x=1")], true),
            (Method::Delete, &[("origin", "http://a.friend.example")], true),
            (Method::Patch, &[("origin", "null")], false),
            (Method::Post, &[("origin", "https://evil.example@shop.example")], true),
            (Method::Post, &[("origin", "https://shop.example:8443")], false),
        ] {
            let request = headers
                .iter()
                .fold(Request::new(method.clone(), "shop.example", "/"), |r, (n, v)| r.with_header(n, v));
            let mut counts = CsrfCounts::default();
            assert_eq!(csrf.allows(&request, &mut counts), allowed, "{method} {headers:?}");
        }
    }
}
