//! Paths are made canonical once, before anything is matched; what stays ambiguous is refused.

use std::borrow::Cow;

/// What is done to paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PathPolicy {
    /// Resolve dot segments, turn backslashes round.
    pub(crate) normalize: bool,
    pub(crate) merge_slashes: bool,
    pub(crate) escaped_slashes: EscapedSlashes,
}

/// `%2F`, `%5C`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum EscapedSlashes {
    #[default]
    Keep,
    Reject,
    UnescapeAndRedirect,
    UnescapeAndForward,
}

/// What becomes of a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Canonical {
    Path(String),
    Unchanged,
    /// To the canonical form.
    Redirect(String),
    Reject,
}

impl PathPolicy {
    /// Of a path with its query; the query is left alone.
    pub(crate) fn apply(&self, target: &str) -> Canonical {
        if target.contains('#') || target.bytes().any(|b| b.is_ascii_control()) {
            return Canonical::Reject;
        }
        let (path, query) = match target.find('?') {
            Some(at) => target.split_at(at),
            None => (target, ""),
        };
        if !path.starts_with('/') {
            return Canonical::Reject;
        }
        let given = path;
        let mut path = Cow::Borrowed(path);
        let mut redirect = false;
        // First: what is no escape may become one by it (`%2%46`), and must be seen by all that follows.
        while self.normalize && path.contains('%') {
            let plain = unescape_unreserved(&path);
            if plain == *path {
                break;
            }
            path = Cow::Owned(plain);
        }
        if self.escaped_slashes != EscapedSlashes::Keep
            && let Some(plain) = unescape_slashes(&path)
        {
            match self.escaped_slashes {
                EscapedSlashes::Reject => return Canonical::Reject,
                EscapedSlashes::UnescapeAndRedirect => redirect = true,
                EscapedSlashes::Keep | EscapedSlashes::UnescapeAndForward => {}
            }
            path = Cow::Owned(plain);
        }
        if self.normalize && needs_normalizing(&path) {
            match normalize(&path) {
                Some(plain) => path = Cow::Owned(plain),
                None => return Canonical::Reject,
            }
        }
        if self.merge_slashes && path.contains("//") {
            path = Cow::Owned(merge_slashes(&path));
        }
        match path {
            Cow::Owned(path) if path == given => Canonical::Unchanged,
            Cow::Borrowed(_) => Canonical::Unchanged,
            Cow::Owned(path) if redirect => Canonical::Redirect(path + query),
            Cow::Owned(path) => Canonical::Path(path + query),
        }
    }
}

/// Nothing when there is nothing to unescape.
fn unescape_slashes(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    let mut found = false;
    while let Some(at) = rest.find('%') {
        let (plain, after) = match rest.as_bytes().get(at + 1..at + 3) {
            Some(b"2f" | b"2F") => ("/", at + 3),
            Some(b"5c" | b"5C") => ("\\", at + 3),
            _ => ("%", at + 1),
        };
        found |= plain != "%";
        out.push_str(&rest[..at]);
        out.push_str(plain);
        rest = &rest[after..];
    }
    out.push_str(rest);
    found.then_some(out)
}

/// A cheap look for what could need normalizing.
fn needs_normalizing(path: &str) -> bool {
    path.contains("/.") || path.contains('\\') || path.contains('%')
}

/// RFC 3986, section 5.2.4, with backslashes as slashes and escaped dots as dots. Nothing for `%00`, which nobody means.
fn normalize(path: &str) -> Option<String> {
    let path = path.replace('\\', "/");
    if path.contains("%00") {
        return None;
    }
    let mut segments: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in path.split('/').skip(1) {
        directory = false;
        match dots(segment) {
            Some(1) => directory = true,
            Some(2) => {
                segments.pop();
                directory = true;
            }
            _ => segments.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in segments {
        out.push('/');
        out.push_str(segment);
    }
    if directory || out.is_empty() {
        out.push('/');
    }
    Some(out)
}

/// RFC 3986, section 6.2.2.2: what needs no escape has none.
fn unescape_unreserved(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let code = rest.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let plain =
            code.map(char::from).filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~'));
        out.push_str(&rest[..at]);
        out.push(plain.unwrap_or('%'));
        rest = &rest[at + if plain.is_some() { 3 } else { 1 }..];
    }
    out.push_str(rest);
    out
}

/// 1 for `.`, 2 for `..`, escaped or not.
fn dots(segment: &str) -> Option<usize> {
    let mut rest = segment;
    let mut count = 0;
    while !rest.is_empty() {
        let dot =
            rest.strip_prefix('.').or_else(|| rest.strip_prefix("%2e")).or_else(|| rest.strip_prefix("%2E"));
        rest = dot?;
        count += 1;
    }
    (1..=2).contains(&count).then_some(count)
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if !(c == '/' && out.ends_with('/')) {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NORMAL: PathPolicy =
        PathPolicy { normalize: true, merge_slashes: false, escaped_slashes: EscapedSlashes::Keep };

    fn forwarded(policy: PathPolicy, path: &str) -> Option<String> {
        match policy.apply(path) {
            Canonical::Path(path) => Some(path),
            Canonical::Unchanged => Some(path.to_owned()),
            Canonical::Redirect(_) | Canonical::Reject => None,
        }
    }

    #[test]
    fn ways_round_a_rule_come_to_the_same_path() {
        for (path, expected) in [
            ("/a/../admin", "/admin"),
            ("/a/%2e%2E/admin", "/admin"),
            ("/a/.%2e/admin", "/admin"),
            ("/./admin", "/admin"),
            ("/a\\..\\admin", "/admin"),
            ("/../../admin", "/admin"),
            ("/admin/.", "/admin/"),
            ("/admin/x/..", "/admin/"),
            ("/..", "/"),
            ("/a//b", "/a//b"),
            ("/a?x=/../b", "/a?x=/../b"),
            ("/...", "/..."),
            ("/.a/b", "/.a/b"),
            ("/a%2fb", "/a%2fb"),
            ("/%41dmin/%7e%5F%2D%30", "/Admin/~_-0"),
            ("/%zz%", "/%zz%"),
            ("/%2541", "/%2541"),
            ("/a/%2%65%2%65/admin", "/admin"),
            ("/a%2eb/%2ec", "/a.b/.c"),
            ("/", "/"),
        ] {
            assert_eq!(forwarded(NORMAL, path).as_deref(), Some(expected), "{path}");
        }
        for path in ["/a#b", "a", "", "*", "/a\0", "/a\nb", "/%00"] {
            assert_eq!(forwarded(NORMAL, path), None, "{path:?}");
        }
    }

    #[test]
    fn slashes_are_merged_and_unescaped_as_asked() {
        let policy = |escaped_slashes| PathPolicy { normalize: true, merge_slashes: true, escaped_slashes };
        assert_eq!(policy(EscapedSlashes::Keep).apply("//a///b"), Canonical::Path("/a/b".into()));
        assert_eq!(policy(EscapedSlashes::Reject).apply("/a%2Fb"), Canonical::Reject);
        assert_eq!(
            policy(EscapedSlashes::UnescapeAndForward).apply("/a%2f..%5cb?c"),
            Canonical::Path("/b?c".into())
        );
        assert_eq!(
            policy(EscapedSlashes::UnescapeAndRedirect).apply("/a%2Fb"),
            Canonical::Redirect("/a/b".into())
        );
        assert_eq!(policy(EscapedSlashes::Reject).apply("/a?b=%2F"), Canonical::Unchanged);
        // An escape that is made of escapes.
        assert_eq!(policy(EscapedSlashes::Reject).apply("/a%2%46b"), Canonical::Reject);
        assert_eq!(
            policy(EscapedSlashes::UnescapeAndForward).apply("/a%%32%46b"),
            Canonical::Path("/a/b".into())
        );
    }

    proptest! {
        #[test]
        fn a_canonical_path_is_canonical(path in "(/([a-c.]{0,3}|%2[eEfF]|\\\\|%5c){0,3}){1,5}") {
            let policy = PathPolicy { normalize: true, merge_slashes: true, escaped_slashes: EscapedSlashes::UnescapeAndForward };
            if let Some(once) = forwarded(policy, &path) {
                prop_assert_eq!(forwarded(policy, &once), Some(once.clone()));
                prop_assert!(once.split('/').all(|s| s != "." && s != ".."), "{}", once);
            }
        }
    }
}
