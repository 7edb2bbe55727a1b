//! Matching of subject alternative names, as Envoy's `match_typed_subject_alt_names` asks for it.

use std::fmt;
use std::sync::Arc;

use crate::certificate::Names;

/// Which names a matcher looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanKind {
    /// Envoy's untyped `match_subject_alt_names`.
    Any,
    Uri,
    Dns,
    Email,
    Ip,
}

/// How a text is compared.
#[derive(Clone)]
pub enum TextMatch {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    /// A compiled expression of the caller's; it must match the whole text.
    Other(Arc<dyn Fn(&str) -> bool + Send + Sync>),
}

/// One accepted name. URIs are compared byte by byte; DNS names without regard to case, and a certificate's `*.suffix`
/// stands for exactly one label.
#[derive(Clone, Debug)]
pub struct SanMatcher {
    pub kind: SanKind,
    pub text: TextMatch,
    pub ignore_case: bool,
}

impl SanMatcher {
    /// The exact URI, as mesh clients pin it.
    pub fn uri(uri: impl Into<String>) -> Self {
        Self { kind: SanKind::Uri, text: TextMatch::Exact(uri.into()), ignore_case: false }
    }

    pub fn dns(name: impl Into<String>) -> Self {
        Self { kind: SanKind::Dns, text: TextMatch::Exact(name.into()), ignore_case: true }
    }

    pub fn any(text: TextMatch) -> Self {
        Self { kind: SanKind::Any, text, ignore_case: false }
    }

    pub(crate) fn matches(&self, names: &Names) -> bool {
        let wanted = |kind| self.kind == SanKind::Any || self.kind == kind;
        (wanted(SanKind::Uri) && names.uri.iter().any(|n| self.text_matches(n)))
            || (wanted(SanKind::Dns) && names.dns.iter().any(|n| self.dns_matches(n)))
            || (wanted(SanKind::Email) && names.email.iter().any(|n| self.text_matches(n)))
            || (wanted(SanKind::Ip) && names.ip.iter().any(|n| self.text_matches(&n.to_string())))
    }

    fn text_matches(&self, presented: &str) -> bool {
        if !self.ignore_case {
            return self.text.matches(presented);
        }
        match &self.text {
            TextMatch::Other(_) => self.text.matches(presented),
            text => text.lower().matches(&presented.to_ascii_lowercase()),
        }
    }

    fn dns_matches(&self, presented: &str) -> bool {
        let presented = presented.to_ascii_lowercase();
        match &self.text {
            TextMatch::Exact(wanted) => dns_name_covers(&presented, &wanted.to_ascii_lowercase()),
            TextMatch::Other(_) => self.text.matches(&presented),
            text => text.lower().matches(&presented),
        }
    }
}

impl TextMatch {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(wanted) => text == wanted,
            Self::Prefix(wanted) => text.starts_with(wanted.as_str()),
            Self::Suffix(wanted) => text.ends_with(wanted.as_str()),
            Self::Contains(wanted) => text.contains(wanted.as_str()),
            Self::Other(accepts) => accepts(text),
        }
    }

    fn lower(&self) -> Self {
        match self {
            Self::Exact(t) => Self::Exact(t.to_ascii_lowercase()),
            Self::Prefix(t) => Self::Prefix(t.to_ascii_lowercase()),
            Self::Suffix(t) => Self::Suffix(t.to_ascii_lowercase()),
            Self::Contains(t) => Self::Contains(t.to_ascii_lowercase()),
            Self::Other(f) => Self::Other(f.clone()),
        }
    }
}

/// Whether the name in a certificate stands for `wanted`. The wildcard is the whole first label, covers one label, and
/// needs two labels below it (RFC 6125, section 6.4.3).
pub(crate) fn dns_name_covers(presented: &str, wanted: &str) -> bool {
    let Some(parent) = presented.strip_prefix("*.") else { return presented == wanted && !wanted.is_empty() };
    let Some((label, rest)) = wanted.split_once('.') else { return false };
    !label.is_empty()
        && !label.contains('*')
        && rest == parent
        && parent.contains('.')
        && !parent.contains('*')
}

impl fmt::Debug for TextMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(t) => write!(f, "exact {t:?}"),
            Self::Prefix(t) => write!(f, "prefix {t:?}"),
            Self::Suffix(t) => write!(f, "suffix {t:?}"),
            Self::Contains(t) => write!(f, "contains {t:?}"),
            Self::Other(_) => f.write_str("expression"),
        }
    }
}
