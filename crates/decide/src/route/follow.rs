//! Redirects that the proxy follows itself, in place of its client (`internalRedirectPolicy`). Envoy's conditions.

use std::sync::Arc;

use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::config::route::v3 as pb;
use proto::pb::envoy::extensions::internal_redirect as predicates;

use crate::headers::{HeaderName, Known};
use crate::refusal::{Refusal, Taken, Within, each};
use crate::request::{Method, Request, Response};
use crate::wire::{number, type_of, unpack};

#[derive(Debug, Clone)]
pub struct InternalRedirects {
    most: u32,
    codes: Vec<u16>,
    cross_scheme: bool,
    copied: Vec<HeaderName>,
    predicates: Vec<Predicate>,
}

/// What is asked of the route that a redirect leads to, by its name.
#[derive(Debug, Clone)]
enum Predicate {
    /// None that a redirect of the same route has led to before.
    Unseen,
    Listed(Vec<Box<str>>),
    /// To HTTPS only where the client speaks it.
    SafeScheme,
}

/// What a request has followed so far.
#[derive(Debug, Clone, Default)]
pub struct Followed {
    pub count: u32,
    /// From which route to which, by name.
    seen: Vec<(Arc<str>, Arc<str>)>,
}

/// A request that an answer asks for.
#[derive(Debug)]
pub struct Redirected {
    pub request: Request,
    pub with_body: bool,
    from_http: bool,
    to_http: bool,
}

/// Why a redirect is left to the client; each is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotFollowed {
    BadLocation,
    UnsafeScheme,
    TooMany,
    NoRoute,
    Predicate,
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
            predicates: each(&policy.predicates, "predicates", predicate)?,
        })
    }

    pub fn concerns(&self, response: &Response) -> bool {
        self.codes.contains(&response.status)
    }

    /// The request that the answer asks for, or why there is none; the location that is missing is no reason that counts.
    /// `secure` is whether the client speaks TLS.
    pub fn follow(
        &self,
        request: &Request,
        response: &Response,
        followed: &Followed,
        secure: bool,
    ) -> Result<Redirected, Option<NotFollowed>> {
        let url = response.headers.known_str(Known::Location).ok_or(None)?;
        let (scheme, authority, path) = target(url).ok_or(Some(NotFollowed::BadLocation))?;
        let from_http = request.scheme == "http" || !secure;
        let to_http = scheme.eq_ignore_ascii_case("http");
        if from_http != to_http && !self.cross_scheme {
            return Err(Some(NotFollowed::UnsafeScheme));
        }
        if !to_http && !scheme.eq_ignore_ascii_case("https") {
            return Err(Some(NotFollowed::BadLocation));
        }
        if followed.count >= self.most {
            return Err(Some(NotFollowed::TooMany));
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
        Ok(Redirected { request: next, with_body: !becomes_get, from_http, to_http })
    }

    /// Whether the route `to`, which a redirect of the route `from` leads to, may be taken.
    pub fn accepts(
        &self,
        from: &Arc<str>,
        to: &Arc<str>,
        next: &Redirected,
        followed: &mut Followed,
    ) -> bool {
        self.predicates.iter().all(|predicate| match predicate {
            Predicate::Unseen => {
                let unseen = !followed.seen.iter().any(|(f, t)| f == from && t == to);
                if unseen {
                    followed.seen.push((Arc::clone(from), Arc::clone(to)));
                }
                unseen
            }
            Predicate::Listed(names) => names.iter().any(|name| **name == **to),
            Predicate::SafeScheme => !next.from_http || next.to_http,
        })
    }
}

/// A URL's scheme, authority and path; nothing where it is not absolute.
fn target(url: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let rest = rest.split('#').next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    (!scheme.is_empty() && !authority.is_empty() && !authority.contains(['@', ' ']))
        .then_some((scheme, authority, path))
}

fn predicate(config: &core::TypedExtensionConfig) -> Taken<Predicate> {
    let any = config.typed_config.as_ref().ok_or_else(|| Refusal::new("is missing").under("typedConfig"))?;
    match type_of(any) {
        "envoy.extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig" => Ok(Predicate::Unseen),
        "envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig" => {
            Ok(Predicate::SafeScheme)
        }
        "envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig" => {
            let list: predicates::allow_listed_routes::v3::AllowListedRoutesConfig =
                unpack(any).within("typedConfig")?;
            let name = |name: &String| match name.as_str() {
                "" => Err(Refusal::new("is empty")),
                name => Ok(name.into()),
            };
            each(&list.allowed_route_names, "allowedRouteNames", name)
                .within("typedConfig")
                .map(Predicate::Listed)
        }
        other => Err(Refusal::new(format_args!(
            "{other} is not supported by this proxy; there are previous_routes, allow_listed_routes and safe_cross_scheme"
        ))
        .under("typedConfig")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> InternalRedirects {
        InternalRedirects {
            most: 2,
            codes: vec![302, 303],
            cross_scheme: false,
            copied: vec!["x-c".into()],
            predicates: Vec::new(),
        }
    }

    fn redirect(status: u16, location: &str) -> Response {
        let mut response = Response::new(status);
        response.headers.set(Known::Location, location.to_owned());
        response
    }

    #[test]
    fn only_absolute_targets_of_the_same_scheme_are_followed_and_not_for_ever() {
        use NotFollowed::{BadLocation, TooMany, UnsafeScheme};
        let mut request = Request::new(Method::Post, "a.example", "/old?q").with_header("x-c", "mine");
        request.scheme = "http".into();
        for (location, count, expected) in [
            ("http://b.example/new?x=1#f", 0, Ok(("b.example", "/new?x=1"))),
            ("http://b.example", 1, Ok(("b.example", "/"))),
            ("http://b.example?x", 1, Ok(("b.example", "/?x"))),
            ("http://b.example/", 2, Err(Some(TooMany))),
            ("https://b.example/", 0, Err(Some(UnsafeScheme))),
            ("/relative", 0, Err(Some(BadLocation))),
            ("ftp://b.example/", 0, Err(Some(UnsafeScheme))),
            ("http://", 0, Err(Some(BadLocation))),
        ] {
            let followed = Followed { count, ..Followed::default() };
            let next = policy().follow(&request, &redirect(302, location), &followed, false).map(|next| {
                assert!(next.with_body && next.request.headers.get_str("x-c").is_none());
                let original = next.request.headers.get_str("x-envoy-original-url");
                assert_eq!(original, Some("http://a.example/old?q"));
                (next.request.authority, next.request.path)
            });
            let next = next.as_ref().map(|(authority, path)| (&**authority, &**path)).map_err(|e| *e);
            assert_eq!(next, expected, "{location}");
        }
        let none = policy().follow(&request, &Response::new(302), &Followed::default(), false);
        assert_eq!(none.err(), Some(None));
        let next = policy()
            .follow(&request, &redirect(303, "http://b.example/"), &Followed::default(), false)
            .unwrap();
        assert_eq!((next.request.method, next.with_body), (Method::Get, false));
    }

    #[test]
    fn predicates_judge_the_route_that_a_redirect_leads_to() {
        let listed = || Predicate::Listed(vec!["b".into(), "c".into()]);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut followed = Followed::default();
        let mut accepts = |predicates: Vec<Predicate>, from, to, (from_http, to_http)| {
            let request = Request::new(Method::Get, "a.example", "/");
            let next = Redirected { request, with_body: true, from_http, to_http };
            InternalRedirects { predicates, ..policy() }.accepts(from, to, &next, &mut followed)
        };
        let http = (true, true);
        assert!(accepts(vec![listed()], &a, &b, http) && !accepts(vec![listed()], &b, &a, http));
        assert!(accepts(vec![Predicate::Unseen], &a, &b, http), "for the first time");
        assert!(!accepts(vec![Predicate::Unseen], &a, &b, http), "the same way again");
        assert!(accepts(vec![Predicate::Unseen], &b, &b, http), "from another route");
        for (way, safe) in [((true, false), false), ((false, false), true), ((false, true), true)] {
            assert_eq!(accepts(vec![Predicate::SafeScheme], &a, &b, way), safe, "{way:?}");
        }
        assert!(!accepts(vec![listed(), Predicate::SafeScheme], &a, &b, (true, false)), "all are asked");
    }
}
