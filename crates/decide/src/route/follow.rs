//! Redirects that the proxy follows itself, in place of its client (`internalRedirectPolicy`). Envoy's conditions.

use proto::pb::envoy::config::route::v3 as pb;

use crate::headers::{HeaderName, Known};
use crate::refusal::{Refusal, Taken, each};
use crate::request::{Method, Request, Response};
use crate::wire::number;

#[derive(Debug, Clone)]
pub struct InternalRedirects {
    most: u32,
    codes: Vec<u16>,
    cross_scheme: bool,
    copied: Vec<HeaderName>,
}

const MAY_BE_FOLLOWED: [u32; 5] = [301, 302, 303, 307, 308];

impl InternalRedirects {
    pub(crate) fn compile(policy: &pb::InternalRedirectPolicy) -> Taken<Self> {
        let code = |code: &u32| match u16::try_from(*code) {
            Ok(short) if MAY_BE_FOLLOWED.contains(code) => Ok(short),
            _ => Err(Refusal::new("must be 301, 302, 303, 307 or 308")),
        };
        let mut codes = each(&policy.redirect_response_codes, "redirectResponseCodes", code)?;
        if codes.is_empty() {
            codes.push(302);
        }
        let copied = |name: &String| {
            if name.is_empty() || name.starts_with(':') || name.eq_ignore_ascii_case("host") {
                return Err(Refusal::new("must be the name of a header, and not Host"));
            }
            Ok(HeaderName::from(name.as_str()))
        };
        Ok(Self {
            most: number(&policy.max_internal_redirects).unwrap_or(1),
            codes,
            cross_scheme: policy.allow_cross_scheme_redirect,
            copied: each(&policy.response_headers_to_copy, "responseHeadersToCopy", copied)?,
        })
    }

    pub fn concerns(&self, response: &Response) -> bool {
        self.codes.contains(&response.status)
    }

    /// The request that the answer asks for, and whether its body goes along; nothing where it is not followed. `followed`
    /// is how many were before it, `secure` whether the client speaks TLS.
    pub fn follow(
        &self,
        request: &Request,
        response: &Response,
        followed: u32,
        secure: bool,
    ) -> Option<(Request, bool)> {
        let url = response.headers.known_str(Known::Location)?;
        let (scheme, rest) = url.split_once("://")?;
        let to_http = match scheme.to_ascii_lowercase().as_str() {
            "http" => true,
            "https" => false,
            _ => return None,
        };
        let from_http = request.headers.known_str(Known::XForwardedProto) == Some("http") || !secure;
        if followed >= self.most || from_http != to_http && !self.cross_scheme {
            return None;
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.is_empty() || authority.contains(['@', ' ']) {
            return None;
        }
        let mut next = request.clone();
        for name in &self.copied {
            next.headers.remove(name);
            if let Some(value) = response.headers.get(name) {
                next.headers.append(name.clone(), value.clone());
            }
        }
        let original =
            format!("{}://{}{}", if from_http { "http" } else { "https" }, request.authority, request.path);
        next.scheme = if to_http { "http" } else { "https" }.into();
        next.authority = authority.to_owned();
        next.path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        next.headers.set("x-envoy-original-url", original);
        let becomes_get = response.status == 303 && !matches!(request.method, Method::Get | Method::Head);
        if becomes_get {
            next.method = Method::Get;
            next.headers.remove_known(Known::ContentLength);
        }
        Some((next, !becomes_get))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_targets_of_the_same_scheme_are_followed_and_not_for_ever() {
        let policy = InternalRedirects {
            most: 2,
            codes: vec![302, 303],
            cross_scheme: false,
            copied: vec!["x-c".into()],
        };
        let request = Request::new(Method::Post, "a.example", "/old?q").with_header("x-c", "mine");
        for (location, followed, expected) in [
            ("http://b.example/new?x=1#f", 0, Some(("b.example", "/new?x=1"))),
            ("http://b.example", 1, Some(("b.example", "/"))),
            ("http://b.example?x", 1, Some(("b.example", "/?x"))),
            ("http://b.example/", 2, None),
            ("https://b.example/", 0, None),
            ("/relative", 0, None),
            ("ftp://b.example/", 0, None),
            ("http://", 0, None),
        ] {
            let mut response = Response::new(302);
            response.headers.set(Known::Location, location.to_owned());
            let next = policy.follow(&request, &response, followed, false).map(|(next, body)| {
                assert!(body && next.headers.get_str("x-c").is_none());
                assert_eq!(next.headers.get_str("x-envoy-original-url"), Some("http://a.example/old?q"));
                (next.authority, next.path)
            });
            let next = next.as_ref().map(|(authority, path)| (&**authority, &**path));
            assert_eq!(next, expected, "{location}");
        }
        let mut response = Response::new(303);
        response.headers.set(Known::Location, "http://b.example/");
        let (next, body) = policy.follow(&request, &response, 0, false).unwrap();
        assert_eq!((next.method, body), (Method::Get, false));
    }
}
