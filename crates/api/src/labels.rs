//! Labels: whether a set contains another, and how they are written on command lines.

use crate::common::StringMap;

/// Whether `labels` contains all of `wanted`; everything contains the empty set.
pub fn contains(labels: &StringMap, wanted: &StringMap) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseLabelError {
    #[error("{0:?} is not a label; write KEY=VALUE")]
    Shape(String),
    #[error(
        "{0:?} is not a label's key; write up to 63 letters, digits, '-', '_' and '.', with a DNS name and '/' before \
         them if wanted"
    )]
    Key(String),
    #[error("{0:?} is not a label's value; write up to 63 letters, digits, '-', '_' and '.'")]
    Value(String),
}

/// One label, as `KEY=VALUE`.
pub fn parse(text: &str) -> Result<(String, String), ParseLabelError> {
    let (key, value) = text.split_once('=').ok_or_else(|| ParseLabelError::Shape(text.into()))?;
    if !is_key(key) {
        return Err(ParseLabelError::Key(key.into()));
    }
    if !is_value(value) {
        return Err(ParseLabelError::Value(value.into()));
    }
    Ok((key.into(), value.into()))
}

/// Whether Kubernetes takes the text as a label's key: `[prefix/]name`.
pub fn is_key(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    !name.is_empty() && is_value(name) && prefix.is_none_or(crate::names::is_dns_subdomain)
}

/// Whether Kubernetes takes the text as a label's value.
pub fn is_value(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && bytes.iter().copied().all(inner) && edge(bytes.first()) && edge(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_from_command_lines() {
        for good in ["app=reviews", "version=", "topology.kubernetes.io/zone=z-1", "a_b.c=v1.0"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["app", "=x", "a/b/c=x", "-a=x", "a=x y", "a=-x", "/a=x", "UPPER.io/a=x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_set_contains_its_subsets() {
        let set = |pairs: &[(&str, &str)]| -> StringMap {
            pairs.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect()
        };
        let labels = set(&[("app", "reviews"), ("version", "v1")]);
        assert!(contains(&labels, &set(&[])));
        assert!(contains(&labels, &set(&[("version", "v1")])));
        assert!(!contains(&labels, &set(&[("version", "v2")])));
        assert!(!contains(&labels, &set(&[("zone", "z1")])));
    }
}
