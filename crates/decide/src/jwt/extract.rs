//! Where in a request tokens are.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::headers::{HeaderName, Known};
use crate::request::Request;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A header, and what stands before the token in its value.
    Header(HeaderName, Box<str>),
    Parameter(Box<str>),
    Cookie(Box<str>),
}

impl Place {
    /// Takes what is there out of the request. A cookie stays, as in Envoy.
    pub(super) fn remove(&self, request: &mut Request) {
        match self {
            Self::Header(name, _) => _ = request.headers.remove(name),
            Self::Parameter(name) => {
                let Some((path, query)) = request.path.split_once('?') else { return };
                let kept: Vec<&str> =
                    query.split('&').filter(|pair| pair.split('=').next() != Some(&**name)).collect();
                request.path =
                    if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) };
            }
            Self::Cookie(_) => {}
        }
    }
}

/// All tokens that stand in these places.
pub(super) fn from<'a>(request: &Request, places: &'a [Place]) -> Vec<(String, &'a Place)> {
    let mut found = Vec::new();
    for place in places {
        match place {
            Place::Header(name, prefix) => {
                for value in values(request, name) {
                    let value = String::from_utf8_lossy(&value);
                    let token = match value.find(&**prefix) {
                        Some(at) => after(&value, at + prefix.len()),
                        None => continue,
                    };
                    found.push((token.to_owned(), place));
                }
            }
            Place::Parameter(name) => {
                if let Some(value) = request.query_parameter(name) {
                    found.push((percent_decode_str(value).decode_utf8_lossy().into_owned(), place));
                }
            }
            Place::Cookie(name) => {
                if let Some(value) = request.cookie(name) {
                    found.push((value.to_owned(), place));
                }
            }
        }
    }
    found
}

/// A header's lines; those of `authorization` are one, in which there is no token then.
fn values<'a>(request: &'a Request, name: &'a HeaderName) -> Vec<Cow<'a, [u8]>> {
    if name.known() == Some(Known::Authorization) {
        return request.headers.joined(name).into_iter().collect();
    }
    request.headers.iter().filter(|(n, _)| *n == *name).map(|(_, v)| Cow::Borrowed(&v[..])).collect()
}

/// What follows the prefix, without what cannot begin a token; the whole value where nothing can.
fn after(value: &str, at: usize) -> &str {
    let begins = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match value[at..].find(begins) {
        Some(_) if at == 0 => value,
        Some(skipped) => &value[at + skipped..],
        None => value,
    }
}
