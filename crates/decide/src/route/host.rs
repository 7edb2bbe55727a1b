//! Virtual hosts by domain: exact, then the longest suffix (`*.a.b`), then the longest prefix (`a.*`), then `*`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use ahash::AHashMap;
use smallvec::SmallVec;

use crate::refusal::{Refusal, Taken};

#[derive(Debug, Clone, Default)]
pub(crate) struct HostIndex {
    exact: AHashMap<Box<str>, u32>,
    /// By length, the longest first; keys without the asterisk.
    suffixes: BTreeMap<Reverse<usize>, AHashMap<Box<str>, u32>>,
    prefixes: BTreeMap<Reverse<usize>, AHashMap<Box<str>, u32>>,
    any: Option<u32>,
}

impl HostIndex {
    pub(super) fn insert(&mut self, domain: &str, index: u32) -> Taken<()> {
        let lower: Box<str> = domain.to_ascii_lowercase().into();
        let taken = if domain == "*" {
            self.any.replace(index)
        } else if let Some(suffix) = lower.strip_prefix('*') {
            self.suffixes.entry(Reverse(suffix.len())).or_default().insert(suffix.into(), index)
        } else if let Some(prefix) = lower.strip_suffix('*') {
            self.prefixes.entry(Reverse(prefix.len())).or_default().insert(prefix.into(), index)
        } else if lower.is_empty() {
            return Err(Refusal::new("is empty"));
        } else {
            self.exact.insert(lower, index)
        };
        match taken {
            Some(other) if other != index => Err(Refusal::new(format_args!(
                "the domain {domain:?} is also virtualHosts[{other}]'s; a domain may be there once"
            ))),
            _ => Ok(()),
        }
    }

    /// The virtual host's index.
    pub(super) fn find(&self, host: &str, ignore_port: bool) -> Option<usize> {
        let host = if ignore_port { without_port(host) } else { host };
        let lower: SmallVec<[u8; 128]> = host.bytes().map(|b| b.to_ascii_lowercase()).collect();
        let host = std::str::from_utf8(&lower).ok()?;
        if let Some(index) = self.exact.get(host) {
            return Some(*index as usize);
        }
        let suffix = self.suffixes.iter().find_map(|(Reverse(len), hosts)| {
            (host.len() > *len)
                .then(|| host.get(host.len() - len..))
                .flatten()
                .and_then(|tail| hosts.get(tail))
        });
        let found = suffix.or_else(|| {
            self.prefixes.iter().find_map(|(Reverse(len), hosts)| {
                (host.len() > *len).then(|| host.get(..*len)).flatten().and_then(|head| hosts.get(head))
            })
        });
        found.or(self.any.as_ref()).map(|index| *index as usize)
    }

    /// The domain that matched, as written: only `explain` asks.
    pub(super) fn domain_of<'a>(host: &str, ignore_port: bool, domains: &'a [Box<str>]) -> &'a str {
        let host = if ignore_port { without_port(host) } else { host }.to_ascii_lowercase();
        let matches = |domain: &str| match (domain.strip_prefix('*'), domain.strip_suffix('*')) {
            (Some(suffix), _) => host.ends_with(&suffix.to_ascii_lowercase()),
            (_, Some(prefix)) => host.starts_with(&prefix.to_ascii_lowercase()),
            _ => host.eq_ignore_ascii_case(domain),
        };
        domains.iter().map(|d| &**d).find(|d| matches(d)).unwrap_or("*")
    }
}

/// `a:80` as `a`, `[::1]:80` as `[::1]`; what is no port stays.
pub(crate) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            // An empty one is the default's (RFC 3986, 3.2.3).
            if port.bytes().all(|b| b.is_ascii_digit()) =>
        {
            // A bare IPv6 address has more colons and no brackets.
            if name.contains(':') && !name.ends_with(']') { host } else { name }
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_match_in_envoys_order() {
        let mut index = HostIndex::default();
        for (domain, i) in [
            ("*", 0),
            ("*.com", 1),
            ("*.example.com", 2),
            ("www.example.com", 3),
            ("www.*", 4),
            ("*-x.com", 5),
        ] {
            index.insert(domain, i).unwrap();
        }
        for (host, expected) in [
            ("www.example.com", 3),
            ("WWW.Example.Com", 3),
            ("a.example.com", 2),
            ("example.com", 1),
            ("a-x.com", 5),
            ("www.org", 4),
            ("org", 0),
            (".com", 0),
            ("", 0),
        ] {
            assert_eq!(index.find(host, false), Some(expected), "{host}");
        }
        assert!(index.insert("www.example.com", 9).is_err());
        assert!(index.insert("*", 0).is_ok());
    }

    #[test]
    fn ports_are_ignored_when_asked() {
        let mut index = HostIndex::default();
        index.insert("reviews", 0).unwrap();
        assert_eq!(index.find("reviews:9080", true), Some(0));
        assert_eq!(index.find("reviews:9080", false), None);
        for (host, expected) in
            [("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("::1", "::1"), ("a:b", "a:b"), ("a:", "a")]
        {
            assert_eq!(without_port(host), expected);
        }
    }
}
