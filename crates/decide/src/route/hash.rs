//! Hash policies: from a request to the number that consistent hashing goes by.

use std::time::Duration;

use base::Random;
use proto::pb::envoy::config::route::v3::route_action as pb;
use proto::pb::envoy::r#type::v3 as types;
use upstream::xxh64;

use crate::connection::Connection;
use crate::headers::HeaderName;
use crate::matching::RegexRewrite;
use crate::refusal::{Refusal, Taken, Within};
use crate::request::Request;
use crate::wire::duration;

#[derive(Debug, Clone)]
pub struct HashPolicy {
    kind: Kind,
    /// Stop here when there is a hash.
    terminal: bool,
}

#[derive(Debug, Clone)]
enum Kind {
    Header(HeaderName, Option<RegexRewrite>),
    Cookie(Cookie),
    SourceIp,
    Query(Box<str>),
}

#[derive(Debug, Clone)]
pub struct Cookie {
    name: Box<str>,
    /// Make one where the client has none.
    ttl: Option<Duration>,
    path: Box<str>,
    attributes: Vec<(Box<str>, Box<str>)>,
}

/// For TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkHash {
    SourceIp,
}

impl NetworkHash {
    pub(crate) fn compile(policy: &types::HashPolicy) -> Taken<Self> {
        match policy.policy_specifier {
            Some(types::hash_policy::PolicySpecifier::SourceIp(_)) => Ok(Self::SourceIp),
            _ => Err(Refusal::new("only sourceIp is supported")),
        }
    }

    pub fn hash(self, connection: &Connection) -> u64 {
        xxh64(connection.remote.ip().to_string().as_bytes(), 0)
    }
}

/// The hash of a request, and cookies to set for it.
pub(crate) fn hash<R: Random + ?Sized>(
    policies: &[HashPolicy],
    request: &Request,
    remote: std::net::SocketAddr,
    rng: &mut R,
) -> (Option<u64>, Vec<String>) {
    let mut total: Option<u64> = None;
    let mut cookies = Vec::new();
    for policy in policies {
        let new = match &policy.kind {
            Kind::Header(name, rewrite) => request.value(name).map(|value| match rewrite {
                None => xxh64(&value, 0),
                Some(rewrite) => xxh64(rewrite.apply(&String::from_utf8_lossy(&value)).as_bytes(), 0),
            }),
            Kind::SourceIp => Some(xxh64(remote.ip().to_string().as_bytes(), 0)),
            Kind::Query(name) => request.query_parameter(name).map(|v| xxh64(v.as_bytes(), 0)),
            Kind::Cookie(cookie) => match (request.cookie(&cookie.name), cookie.ttl) {
                (Some(value), _) => Some(xxh64(value.as_bytes(), 0)),
                (None, None) => None,
                (None, Some(ttl)) => {
                    let value = format!("{:016x}", rng.next_u64());
                    cookies.push(cookie.set(&value, ttl));
                    Some(xxh64(value.as_bytes(), 0))
                }
            },
        };
        if let Some(new) = new {
            total = Some(total.map_or(new, |old| old.rotate_left(1) ^ new));
        }
        if policy.terminal && total.is_some() {
            break;
        }
    }
    (total, cookies)
}

impl Cookie {
    /// The value of `set-cookie`.
    fn set(&self, value: &str, ttl: Duration) -> String {
        let mut text = format!("{}=\"{value}\"", self.name);
        if !ttl.is_zero() {
            text.push_str(&format!("; Max-Age={}", ttl.as_secs()));
        }
        if !self.path.is_empty() {
            text.push_str(&format!("; Path={}", self.path));
        }
        for (name, value) in &self.attributes {
            text.push_str(&format!("; {name}"));
            if !value.is_empty() {
                text.push_str(&format!("={value}"));
            }
        }
        text.push_str("; HttpOnly");
        text
    }
}

impl HashPolicy {
    pub(super) fn compile(policy: &pb::HashPolicy) -> Taken<Self> {
        use pb::hash_policy::PolicySpecifier;
        let kind = match policy.policy_specifier.as_ref().ok_or_else(|| Refusal::new("is empty"))? {
            PolicySpecifier::Header(h) => Kind::Header(
                HeaderName::from(h.header_name.as_str()),
                h.regex_rewrite
                    .as_ref()
                    .map(RegexRewrite::compile)
                    .transpose()
                    .within("regexRewrite")
                    .within("header")?,
            ),
            PolicySpecifier::Cookie(c) => Kind::Cookie(Cookie {
                name: c.name.as_str().into(),
                ttl: duration(&c.ttl, "ttl").within("cookie")?,
                path: c.path.as_str().into(),
                attributes: c
                    .attributes
                    .iter()
                    .map(|a| (a.name.as_str().into(), a.value.as_str().into()))
                    .collect(),
            }),
            PolicySpecifier::ConnectionProperties(c) if c.source_ip => Kind::SourceIp,
            PolicySpecifier::ConnectionProperties(_) => {
                return Err(Refusal::new("only sourceIp: true is supported").under("connectionProperties"));
            }
            PolicySpecifier::QueryParameter(q) => Kind::Query(q.name.as_str().into()),
            PolicySpecifier::FilterState(_) => return Err(Refusal::unsupported("filterState")),
        };
        Ok(Self { kind, terminal: policy.terminal })
    }
}

#[cfg(test)]
mod tests {
    use base::SeededRandom;

    use super::*;
    use crate::request::Method;

    fn policy(kind: Kind, terminal: bool) -> HashPolicy {
        HashPolicy { kind, terminal }
    }

    #[test]
    fn a_missing_cookie_is_made_and_hashed_as_it_comes_back() {
        let cookie = Cookie {
            name: "user".into(),
            ttl: Some(Duration::from_secs(60)),
            path: "/".into(),
            attributes: vec![],
        };
        let policies = [policy(Kind::Cookie(cookie), false)];
        let remote = "10.0.0.1:1".parse().unwrap();
        let mut rng = SeededRandom::new(1);
        let (first, set) = hash(&policies, &Request::new(Method::Get, "a", "/"), remote, &mut rng);
        assert!(set[0].ends_with("; Max-Age=60; Path=/; HttpOnly"), "{set:?}");
        let value = set[0].split('"').nth(1).unwrap();
        let back = Request::new(Method::Get, "a", "/").with_header("cookie", &format!("user=\"{value}\""));
        let (second, set) = hash(&policies, &back, remote, &mut rng);
        assert_eq!(first, second);
        assert!(set.is_empty());
    }

    #[test]
    fn policies_add_up_until_a_terminal_one() {
        let by = |name: &str| Kind::Header(name.into(), None);
        let request = Request::new(Method::Get, "a", "/").with_header("a", "1").with_header("b", "2");
        let of = |policies: &[HashPolicy]| {
            hash(policies, &request, "10.0.0.1:1".parse().unwrap(), &mut SeededRandom::new(1)).0
        };
        let both = of(&[policy(by("a"), false), policy(by("b"), false)]);
        assert_eq!(both, Some(xxh64(b"1", 0).rotate_left(1) ^ xxh64(b"2", 0)));
        assert_eq!(of(&[policy(by("a"), true), policy(by("b"), false)]), Some(xxh64(b"1", 0)));
        assert_eq!(of(&[policy(by("c"), true), policy(by("b"), false)]), Some(xxh64(b"2", 0)));
        assert_eq!(of(&[policy(by("c"), false)]), None);
    }
}
