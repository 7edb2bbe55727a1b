//! Requests and responses as they are decided upon: heads only, of no particular codec.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use crate::headers::{HeaderName, Headers, Known};
use crate::metadata::DynamicMetadata;

/// The protocol that a message travels by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    Http10,
    Http11,
    Http2,
}

impl Version {
    /// As `%PROTOCOL%` writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    Other(Box<str>),
}

impl Method {
    pub fn new(text: &str) -> Self {
        match text {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "CONNECT" => Self::Connect,
            "OPTIONS" => Self::Options,
            "TRACE" => Self::Trace,
            "PATCH" => Self::Patch,
            other => Self::Other(other.into()),
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Other(text) => text,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A request's head. Deciding changes it into what goes upstream.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: Method,
    /// `http` or `https`: empty when the codec was not told, which deciding then fills in.
    pub scheme: Cow<'static, str>,
    /// Whether the client said it in the request's target.
    pub scheme_is_told: bool,
    /// `Host` or `:authority`; empty when there was none.
    pub authority: String,
    /// Path with query; `*` for `OPTIONS *`; empty for CONNECT.
    pub path: String,
    /// What the client speaks.
    pub version: Version,
    /// All other headers. Connection headers of HTTP/1.1 are still in it, except framing that the codec consumed.
    pub headers: Headers,
    /// `:protocol` of an extended CONNECT, or the `Upgrade` header of an HTTP/1.1 upgrade.
    pub upgrade: Option<Box<str>>,
    /// What filters learned (JWT claims, dry-run results), by filter.
    pub metadata: DynamicMetadata,
}

impl Request {
    pub fn new(method: Method, authority: impl Into<String>, path: impl Into<String>) -> Self {
        Self {
            method,
            scheme: Cow::Borrowed(""),
            scheme_is_told: false,
            authority: authority.into(),
            path: path.into(),
            version: Version::Http11,
            headers: Headers::new(),
            upgrade: None,
            metadata: DynamicMetadata::default(),
        }
    }

    /// Adds a header: for tests and `explain`.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.append(name, value.to_owned());
        self
    }

    /// The path without query and fragment.
    pub fn path_only(&self) -> &str {
        let end = self.path.find(['?', '#']).unwrap_or(self.path.len());
        &self.path[..end]
    }

    /// The query without its question mark; empty when there is none.
    pub fn query(&self) -> &str {
        let path = self.path.split('#').next().unwrap_or_default();
        path.split_once('?').map_or("", |(_, query)| query)
    }

    /// The value of a header or pseudo header, repeated ones joined by commas.
    pub fn value<'a>(&'a self, name: &'a HeaderName) -> Option<Cow<'a, [u8]>> {
        let pseudo = |text: &'a str| (!text.is_empty()).then_some(Cow::Borrowed(text.as_bytes()));
        match name.known() {
            Some(Known::PseudoMethod) => pseudo(self.method.as_str()),
            Some(Known::PseudoPath) => pseudo(&self.path),
            Some(Known::PseudoAuthority | Known::Host) => pseudo(&self.authority),
            Some(Known::PseudoScheme) => pseudo(&self.scheme),
            Some(Known::PseudoProtocol) => self.upgrade.as_deref().map(|u| Cow::Borrowed(u.as_bytes())),
            _ => self.headers.joined(name),
        }
    }

    /// Sets a header or pseudo header.
    pub fn set(&mut self, name: &HeaderName, value: Bytes) {
        let text = || String::from_utf8_lossy(&value).into_owned();
        match name.known() {
            Some(Known::PseudoMethod) => self.method = Method::new(&text()),
            Some(Known::PseudoPath) => self.path = text(),
            Some(Known::PseudoAuthority | Known::Host) => self.authority = text(),
            Some(Known::PseudoScheme) => self.scheme = Cow::Owned(text()),
            _ => self.headers.set(name.clone(), value),
        }
    }

    /// A gRPC request by its content type.
    pub fn is_grpc(&self) -> bool {
        self.headers.known(Known::ContentType).is_some_and(|t| is_grpc_type(t))
    }

    pub fn is_connect(&self) -> bool {
        self.method == Method::Connect
    }

    /// A WebSocket handshake over HTTP/1.1 or HTTP/2.
    pub fn is_websocket(&self) -> bool {
        self.upgrade.as_deref().is_some_and(|u| u.eq_ignore_ascii_case("websocket"))
    }

    /// The value of a cookie.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        let name_of_list = HeaderName::from(Known::Cookie);
        self.headers
            .iter()
            .filter(|(n, _)| *n == name_of_list)
            .filter_map(|(_, v)| std::str::from_utf8(v).ok())
            .flat_map(|list| list.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value))
    }

    /// The value of a query parameter, as written.
    pub fn query_parameter(&self, name: &str) -> Option<&str> {
        self.query()
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }
}

/// `application/grpc`, with a suffix (`+proto`) or parameters or without.
pub fn is_grpc_type(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}

/// A response's head.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Headers,
}

impl Response {
    pub fn new(status: u16) -> Self {
        Self { status, headers: Headers::new() }
    }

    /// `grpc-status` of a trailers-only response.
    pub fn grpc_status(&self) -> Option<u32> {
        self.headers.known_str(Known::GrpcStatus).and_then(|s| s.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_target_are_told_apart() {
        let request = Request::new(Method::Get, "a", "/b?c=1&d=&e#f?g=2");
        assert_eq!((request.path_only(), request.query()), ("/b", "c=1&d=&e"));
        assert_eq!(request.query_parameter("c"), Some("1"));
        assert_eq!(request.query_parameter("e"), Some(""));
        assert_eq!(request.query_parameter("g"), None);
        assert_eq!(Request::new(Method::Get, "a", "/b#f?g=2").query(), "");
    }

    #[test]
    fn cookies_are_found_in_every_cookie_header() {
        let request = Request::new(Method::Get, "a", "/")
            .with_header("Cookie", "x=1; user=\"jo\"")
            .with_header("cookie", "y=2");
        assert_eq!(request.cookie("user"), Some("jo"));
        assert_eq!(request.cookie("y"), Some("2"));
        assert_eq!(request.cookie("z"), None);
    }

    #[test]
    fn grpc_is_a_content_type() {
        for (text, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; x", false),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc_type(text.as_bytes()), expected, "{text}");
        }
    }
}
