//! Names of things in namespaces, and host names with Istio's wildcards.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A resource's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamespacedName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl NamespacedName {
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A host as people write it in a resource: a DNS name, `*`, or `*.suffix`. Lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host name; write a DNS name, \"*\" or \"*.suffix\"")]
pub struct ParseHostError(String);

impl Host {
    pub fn parse(text: &str) -> Result<Self, ParseHostError> {
        let lower = text.to_ascii_lowercase();
        let rest = lower.strip_prefix("*.").unwrap_or(&lower);
        if lower == "*" || is_dns_name(rest) {
            Ok(Self(lower.into()))
        } else {
            Err(ParseHostError(text.into()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// Whether every name that `other` stands for is one that `self` stands for.
    pub fn covers(&self, other: &Host) -> bool {
        match self.0.strip_prefix('*') {
            Some(suffix) => other.0.strip_prefix('*').map_or_else(
                || other.0.len() > suffix.len() && other.0.ends_with(suffix),
                |theirs| theirs.ends_with(suffix),
            ),
            None => self == other,
        }
    }

    /// Whether some name is one that both stand for.
    pub fn overlaps(&self, other: &Host) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Host {
    type Error = ParseHostError;

    fn try_from(text: String) -> Result<Self, ParseHostError> {
        Self::parse(&text)
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.0.as_ref().into()
    }
}

/// RFC 1123, plus the underscore that resource names in the wild carry.
fn is_dns_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_dns_names_or_whole_label_wildcards() {
        for good in ["reviews", "Reviews.default.svc.cluster.local", "*", "*.example.com", "10.0.0.1"] {
            assert!(Host::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a..b", "*foo.com", "a.*.b", "-a", "a b", "http://a", "a:80"] {
            assert!(Host::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn wildcards_cover_what_lies_below_them() {
        let host = |text| Host::parse(text).unwrap();
        assert!(host("*").covers(&host("a.b")));
        assert!(host("*.b").covers(&host("a.b")));
        assert!(host("*.b").covers(&host("*.a.b")));
        assert!(!host("*.b").covers(&host("b")));
        assert!(!host("*.a.b").covers(&host("*.b")));
        assert!(host("*.a.b").overlaps(&host("*.b")));
    }
}
