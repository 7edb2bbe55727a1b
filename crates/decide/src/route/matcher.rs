//! A route's conditions. All of them must hold.

use std::borrow::Cow;

use proto::pb::envoy::config::route::v3 as pb;
use regex::bytes::Regex;

use super::action::Subject;
use crate::explain::Recorder;
use crate::matching::{HeaderMatcher, MetadataMatcher, StringMatcher};
use crate::refusal::{Refusal, Taken, Within, each};
use crate::wire::Chance;

/// How the path must look. Paths are without query, fragment and, when asked, parameters.
#[derive(Debug, Clone)]
pub enum PathMatch {
    Prefix(Box<str>),
    Exact(Box<str>),
    /// `/a` matches `/a` and `/a/b`, not `/ab`.
    SeparatedPrefix(Box<str>),
    /// The whole path.
    Regex(Regex),
    /// CONNECT requests, whatever their authority.
    Connect,
}

#[derive(Debug, Clone)]
pub struct RouteMatch {
    pub path: PathMatch,
    pub case_sensitive: bool,
    headers: Vec<HeaderMatcher>,
    query: Vec<(Box<str>, Option<StringMatcher>, bool)>,
    cookies: Vec<(Box<str>, StringMatcher, bool)>,
    metadata: Vec<MetadataMatcher>,
    chance: Chance,
    grpc: bool,
    /// Whether a client certificate must be presented, and validated.
    tls: (Option<bool>, Option<bool>),
}

/// Why a route does not match; a text only where somebody listens.
#[derive(Debug)]
pub(crate) struct Miss(Cow<'static, str>);

impl std::fmt::Display for Miss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl RouteMatch {
    pub(super) fn check<R: Recorder>(
        &self,
        subject: &mut Subject<'_>,
        ignore_parameters: bool,
        _: &mut R,
    ) -> Result<(), Miss> {
        let miss = |text: &'static str| Err(Miss(Cow::Borrowed(text)));
        let request = subject.request;
        if !self.matches_path(request, ignore_parameters) {
            return miss("the path");
        }
        if self.grpc && !request.is_grpc() {
            return miss("it is no gRPC request");
        }
        if !self.headers.iter().all(|h| h.matches(request)) {
            return miss("a header");
        }
        if !self.query.iter().all(|(name, matcher, wanted)| match (request.query_parameter(name), matcher) {
            (Some(value), Some(matcher)) => matcher.matches(value.as_bytes()),
            (value, None) => value.is_some() == *wanted,
            (None, Some(_)) => false,
        }) {
            return miss("a query parameter");
        }
        if !self.cookies.iter().all(|(name, matcher, invert)| {
            request.cookie(name).is_some_and(|v| matcher.matches(v.as_bytes())) != *invert
        }) {
            return miss("a cookie");
        }
        if !self.matches_tls(subject) {
            return miss("the client certificate");
        }
        if !self.metadata.iter().all(|m| m.matches(&request.metadata)) {
            return miss("dynamic metadata");
        }
        // Chance comes last: it is drawn only where everything else holds.
        if self.chance != Chance::ALWAYS && !self.chance.draw(&mut DrawFrom(subject.draw)) {
            return miss("its share of the traffic");
        }
        Ok(())
    }

    /// Where no route is chosen by it: filters have rules of the same form.
    pub(crate) fn holds(&self, subject: &mut Subject<'_>) -> bool {
        self.check(subject, false, &mut ()).is_ok()
    }

    fn matches_path(&self, request: &crate::request::Request, ignore_parameters: bool) -> bool {
        let connect = request.is_connect() && request.upgrade.is_none();
        if let PathMatch::Connect = self.path {
            return connect;
        }
        let mut path = Cow::Borrowed(request.path_only());
        if ignore_parameters && path.contains(';') {
            path = Cow::Owned(without_parameters(&path));
        }
        let path = &*path;
        match &self.path {
            PathMatch::Prefix(prefix) => self.starts(path, prefix),
            PathMatch::Exact(exact) => path.len() == exact.len() && self.starts(path, exact),
            PathMatch::SeparatedPrefix(prefix) => {
                self.starts(path, prefix) && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
            }
            PathMatch::Regex(regex) => regex.is_match(path.as_bytes()),
            PathMatch::Connect => connect,
        }
    }

    fn starts(&self, path: &str, prefix: &str) -> bool {
        let Some(head) = path.as_bytes().get(..prefix.len()) else { return false };
        if self.case_sensitive {
            head == prefix.as_bytes()
        } else {
            head.eq_ignore_ascii_case(prefix.as_bytes())
        }
    }

    fn matches_tls(&self, subject: &Subject<'_>) -> bool {
        let (presented, validated) = self.tls;
        let tls = subject.connection.tls.as_deref();
        presented.is_none_or(|wanted| tls.is_some_and(|t| t.peer_presented) == wanted)
            && validated.is_none_or(|wanted| tls.is_some_and(|t| t.peer_verified) == wanted)
    }

    /// For `explain`.
    pub fn describe(&self) -> String {
        let mut parts = vec![match &self.path {
            PathMatch::Prefix(p) => format!("path starts with {p:?}"),
            PathMatch::Exact(p) => format!("path is {p:?}"),
            PathMatch::SeparatedPrefix(p) => format!("path is {p:?} or below"),
            PathMatch::Regex(r) => format!("path matches {:?}", r.as_str()),
            PathMatch::Connect => "CONNECT".to_owned(),
        }];
        parts.extend(self.headers.iter().map(HeaderMatcher::describe));
        parts.extend(self.query.iter().map(|(name, matcher, wanted)| match matcher {
            Some(m) => format!("query parameter {name} {}", m.describe()),
            None => format!("query parameter {name} is {}", if *wanted { "present" } else { "absent" }),
        }));
        parts.extend(self.cookies.iter().map(|(name, m, _)| format!("cookie {name} {}", m.describe())));
        if self.grpc {
            parts.push("gRPC".to_owned());
        }
        if self.chance != Chance::ALWAYS {
            parts.push(format!("{} % of requests", self.chance.as_percent()));
        }
        parts.join(", ")
    }

    /// Whether another route's conditions could say more than the path does.
    pub fn is_path_only(&self) -> bool {
        self.headers.is_empty() && self.query.is_empty() && self.cookies.is_empty() && !self.grpc
    }

    pub(crate) fn compile(m: &pb::RouteMatch) -> Taken<Self> {
        use pb::query_parameter_matcher::QueryParameterMatchSpecifier as Query;
        let query = each(&m.query_parameters, "queryParameters", |q| {
            Ok(match &q.query_parameter_match_specifier {
                None => (q.name.as_str().into(), None, true),
                Some(Query::PresentMatch(wanted)) => (q.name.as_str().into(), None, *wanted),
                Some(Query::StringMatch(s)) => {
                    (q.name.as_str().into(), Some(StringMatcher::compile(s).within("stringMatch")?), true)
                }
            })
        })?;
        let cookies = each(&m.cookies, "cookies", |c| {
            let matcher =
                c.string_match.as_ref().ok_or_else(|| Refusal::new("is missing").under("stringMatch"))?;
            Ok((
                c.name.as_str().into(),
                StringMatcher::compile(matcher).within("stringMatch")?,
                c.invert_match,
            ))
        })?;
        let tls = m.tls_context.as_ref();
        Ok(Self {
            path: path(m)?,
            case_sensitive: crate::wire::flag(&m.case_sensitive, true),
            headers: each(&m.headers, "headers", HeaderMatcher::compile)?,
            query,
            cookies,
            metadata: each(&m.dynamic_metadata, "dynamicMetadata", MetadataMatcher::compile)?,
            chance: Chance::runtime(&m.runtime_fraction, Chance::ALWAYS).within("runtimeFraction")?,
            grpc: m.grpc.is_some(),
            tls: (
                tls.and_then(|t| t.presented.as_ref()).map(|v| v.value),
                tls.and_then(|t| t.validated.as_ref()).map(|v| v.value),
            ),
        })
    }
}

fn path(m: &pb::RouteMatch) -> Taken<PathMatch> {
    use pb::route_match::PathSpecifier;
    Ok(match m.path_specifier.as_ref().ok_or_else(|| Refusal::new("names no path"))? {
        PathSpecifier::Prefix(p) => PathMatch::Prefix(p.as_str().into()),
        PathSpecifier::Path(p) => PathMatch::Exact(p.as_str().into()),
        PathSpecifier::PathSeparatedPrefix(p) => PathMatch::SeparatedPrefix(p.trim_end_matches('/').into()),
        PathSpecifier::SafeRegex(r) => {
            let whole = crate::matching::whole(&r.regex).within("safeRegex")?;
            PathMatch::Regex(whole)
        }
        PathSpecifier::ConnectMatcher(_) => PathMatch::Connect,
        PathSpecifier::PathMatchPolicy(policy) => {
            PathMatch::Regex(crate::matching::uri_template(policy).within("pathMatchPolicy")?)
        }
    })
}

/// The request's own random number as a source: a fraction is stable over routes, as in Envoy.
struct DrawFrom(u64);

impl base::Random for DrawFrom {
    fn next_u64(&mut self) -> u64 {
        self.0
    }
}
/// Each segment up to its first semicolon.
fn without_parameters(path: &str) -> String {
    let segments: Vec<&str> =
        path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    segments.join("/")
}
