//! What `fuzz/` calls of this crate beside its public face: each function reads bytes as they may come from a peer, and
//! panics where something does not hold that must hold of all bytes. Nothing else calls it.

use std::time::{Duration, SystemTime};

use crate::hcm::{Canonical, EscapedSlashes, PathPolicy};
use crate::jwt::{Keys, Token};
use crate::{Method, Request};

/// A path with its query under the policies that the first byte says: what is canonical stays so, and leads nowhere else.
pub fn path(data: &[u8]) {
    let Some((&how, rest)) = data.split_first() else { return };
    let Ok(target) = std::str::from_utf8(rest) else { return };
    let escaped_slashes = [
        EscapedSlashes::Keep,
        EscapedSlashes::Reject,
        EscapedSlashes::UnescapeAndRedirect,
        EscapedSlashes::UnescapeAndForward,
    ][usize::from(how & 3)];
    let policy = PathPolicy { normalize: how & 4 != 0, merge_slashes: how & 8 != 0, escaped_slashes };
    let (Canonical::Path(path) | Canonical::Redirect(path)) = policy.apply(target) else { return };
    assert!(path.starts_with('/'), "{path:?}");
    assert_eq!(policy.apply(&path), Canonical::Unchanged, "{target:?} became {path:?}");
    let only = path.split('?').next().unwrap_or_default();
    if policy.normalize {
        assert!(!only.split('/').any(|s| matches!(s, "." | "..")), "{target:?} became {path:?}");
        assert!(!only.contains('\\'), "{target:?} became {path:?}");
    }
    if policy.merge_slashes {
        assert!(!only.contains("//"), "{target:?} became {path:?}");
    }
    let query = |text: &str| text.split_once('?').map(|(_, query)| query.to_owned());
    assert_eq!(query(target), query(&path));
}

/// A token, and a line before it a key set.
pub fn token(data: &[u8]) {
    let at = data.iter().position(|b| *b == b'\n').unwrap_or(data.len());
    let keys = Keys::parse(&data[..at]);
    let text = String::from_utf8_lossy(data.get(at + 1..).unwrap_or_default());
    let Ok(token) = Token::parse(&text) else { return };
    let _ = token
        .check_time(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000), Duration::from_secs(60));
    let _ = (token.lifetime(), token.expires(), token.claim("a.b.c"));
    if let Ok(keys) = keys {
        let _ = keys.verify(&token);
    }
}

/// Cookies and queries: what is found is part of what was said.
pub fn parts_of_requests(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.splitn(3, '\n');
    let (name, path) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let cookies = lines.next().unwrap_or_default();
    let request = Request::new(Method::Get, "host", path).with_header("cookie", cookies);
    assert!(request.cookie(name).is_none_or(|value| cookies.contains(value)));
    assert!(request.query_parameter(name).is_none_or(|value| path.contains(value)));
    assert!(path.starts_with(request.path_only()));
}
