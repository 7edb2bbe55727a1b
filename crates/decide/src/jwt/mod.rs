//! JSON Web Tokens: who may call with which token, and what is learned from it (`envoy.filters.http.jwt_authn`).
//!
//! Keys are at hand, or are asked for by the machine.

mod compile;
mod extract;
mod keys;
mod remote;
mod token;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::ask::{Answered, Call, CallFault};
use crate::headers::{HeaderName, Known};
use crate::matching::StringMatcher;
use crate::request::{Method, Request};
use crate::route::{MatchSubject, RouteMatch};

pub use keys::Keys;
use remote::Remote;
pub(crate) use token::Token;

/// The filter's configuration.
#[derive(Debug, Clone)]
pub(crate) struct JwtAuthn {
    providers: Vec<Provider>,
    rules: Vec<(RouteMatch, Option<Requirement>)>,
    named: Vec<(Box<str>, Requirement)>,
    bypass_preflights: bool,
    strip_reply: bool,
}

/// What a route says instead.
#[derive(Debug, Clone)]
pub(crate) enum PerRoute {
    Disabled,
    Named(Box<str>),
}

#[derive(Debug, Clone)]
struct Provider {
    /// Its place among the providers.
    number: usize,
    name: Box<str>,
    issuer: Box<str>,
    audiences: Vec<Box<str>>,
    subjects: Option<StringMatcher>,
    require_expiration: bool,
    max_lifetime: Option<Duration>,
    source: Source,
    forward: bool,
    places: Vec<extract::Place>,
    payload_header: Option<(HeaderName, bool)>,
    payload_key: Box<str>,
    /// Claims that are lists in words: `scope`.
    spaced_claims: Vec<Box<str>>,
    header_key: Box<str>,
    failure_key: Box<str>,
    /// Routes may depend on what a token says: the route is chosen again.
    reroute: bool,
    skew: Duration,
    claim_headers: Vec<(HeaderName, Box<str>)>,
}

#[derive(Debug, Clone)]
enum Source {
    /// Nothing: the configured keys are of no use, and no token is taken.
    Here(Option<Keys>),
    There(Arc<Remote>),
}

#[derive(Debug, Clone)]
enum Requirement {
    Provider {
        provider: usize,
        audiences: Option<Vec<Box<str>>>,
    },
    Any(Vec<Requirement>),
    All(Vec<Requirement>),
    /// No token, or a good one, of these providers.
    AllowMissing(Vec<usize>),
    /// Whatever token, or none.
    AllowMissingOrFailed(Vec<usize>),
}

/// Why a token is not taken, in the words of Envoy's library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Missing = 1,
    NotYetValid,
    Expired,
    BadFormat,
    HeaderBase64,
    HeaderJson,
    HeaderAlgorithm,
    UnknownAlgorithm,
    HeaderKeyId,
    ClaimsBase64,
    ClaimsJson,
    Issuer,
    Subject,
    IssuedAt,
    NotBefore,
    Expiration,
    Id,
    Audience,
    SignatureBase64,
    UnknownIssuer,
    AudienceNotAllowed,
    SubjectNotAllowed,
    NoExpiration,
    LivesTooLong,
    Signature,
    NoKeys,
    NoKey,
    NotFetched,
}

impl Fault {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Missing => "Jwt is missing",
            Self::NotYetValid => "Jwt not yet valid",
            Self::Expired => "Jwt is expired",
            Self::BadFormat => {
                "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
            }
            Self::HeaderBase64 => "Jwt header is an invalid Base64url encoded",
            Self::HeaderJson => "Jwt header is an invalid JSON",
            Self::HeaderAlgorithm => "Jwt header [alg] field is required and must be a string",
            Self::UnknownAlgorithm => "Jwt header [alg] is not supported",
            Self::HeaderKeyId => "Jwt header [kid] field is not a string",
            Self::ClaimsBase64 => "Jwt payload is an invalid Base64url encoded",
            Self::ClaimsJson => "Jwt payload is an invalid JSON",
            Self::Issuer => "Jwt payload [iss] field is not a string",
            Self::Subject => "Jwt payload [sub] field is not a string",
            Self::IssuedAt => "Jwt payload [iat] field is not an integer",
            Self::NotBefore => "Jwt payload [nbf] field is not an integer",
            Self::Expiration => "Jwt payload [exp] field is not an integer",
            Self::Id => "Jwt payload [jti] field is not a string",
            Self::Audience => "Jwt payload [aud] field is not a string or string list",
            Self::SignatureBase64 => "Jwt signature is an invalid Base64url encoded",
            Self::UnknownIssuer => "Jwt issuer is not configured",
            Self::AudienceNotAllowed => "Audiences in Jwt are not allowed",
            Self::SubjectNotAllowed => "Jwt verification fails",
            Self::NoExpiration => "Jwt is expired",
            Self::LivesTooLong => "Jwt is expired",
            Self::Signature => "Jwt verification fails",
            Self::NoKeys => "Jwks doesn't have any valid public key",
            Self::NoKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::NotFetched => "Jwks remote fetch is failed",
        }
    }

    pub(crate) fn status(self) -> u16 {
        if self == Self::AudienceNotAllowed { 403 } else { 401 }
    }
}

/// What the filter makes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    Deny {
        fault: Fault,
        strip: bool,
    },
    /// The keys of that provider are needed first.
    Fetch(usize),
    /// A route names a requirement that there is not.
    Unknown(Box<str>),
}

/// What tokens that were taken leave behind.
#[derive(Default)]
struct Learned {
    metadata: Vec<(Box<str>, Value)>,
    /// Why tokens were refused, for metadata as well.
    failures: Vec<(Box<str>, Value)>,
    headers: Vec<(HeaderName, String)>,
    removed: Vec<extract::Place>,
    reroute: bool,
    /// Tokens that were judged for one provider: none of them was known from before.
    judged: u32,
    /// The first provider whose keys were not there.
    unfetched: Option<usize>,
}

/// When a request is judged, and whose keys could not be fetched for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment<'a> {
    pub(crate) time: SystemTime,
    pub(crate) now: Instant,
    pub(crate) failed: &'a [usize],
}

/// For the filter's statistics: what became of a request, and what it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub allowed: u32,
    pub denied: u32,
    pub preflights: u32,
    pub judged: u32,
    pub fetched: u32,
    pub not_fetched: u32,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.allowed += other.allowed;
        self.denied += other.denied;
        self.preflights += other.preflights;
        self.judged += other.judged;
        self.fetched += other.fetched;
        self.not_fetched += other.not_fetched;
    }
}

/// The filter's name in dynamic metadata, whatever it is called in the chain.
const METADATA: &str = "envoy.filters.http.jwt_authn";

impl JwtAuthn {
    /// Judges a request, and says what was learned from its tokens. Of a refused one nothing else is changed.
    pub(crate) fn judge(
        &self,
        subject: &mut MatchSubject<'_>,
        own: Option<&PerRoute>,
        now: Moment<'_>,
    ) -> (Verdict, Outcome) {
        let request = subject.request;
        if self.bypass_preflights && is_preflight(request) {
            return (Verdict::Pass, Outcome { preflight: true, ..Outcome::default() });
        }
        let requirement = match own {
            Some(PerRoute::Disabled) => None,
            Some(PerRoute::Named(name)) => match self.named.iter().find(|(known, _)| known == name) {
                Some((_, requirement)) => Some(requirement),
                None => return (Verdict::Unknown(name.clone()), Outcome::default()),
            },
            None => {
                let rule = self.rules.iter().find(|(matcher, _)| matcher.holds(subject));
                rule.and_then(|(_, requirement)| requirement.as_ref())
            }
        };
        let Some(requirement) = requirement else { return (Verdict::Pass, Outcome::default()) };
        let mut learned = Learned::default();
        let met = self.meets(requirement, request, now, &mut learned);
        if let Some(provider) = learned.unfetched {
            return (Verdict::Fetch(provider), Outcome::default());
        }
        let verdict = match met {
            Ok(()) => Verdict::Pass,
            Err(fault) => {
                let Learned { failures, judged, .. } = learned;
                learned = Learned { failures, judged, ..Learned::default() };
                Verdict::Deny { fault, strip: self.strip_reply }
            }
        };
        // A header that tells of a token is never the client's own.
        let told = self.providers.iter().flat_map(Provider::told_headers).cloned().collect();
        (verdict, Outcome { told, learned, preflight: false })
    }

    /// How to ask for the keys of a provider.
    pub(crate) fn call(&self, provider: usize) -> Option<Call> {
        match &self.providers.get(provider)?.source {
            Source::There(remote) => Some(remote.call()),
            Source::Here(_) => None,
        }
    }

    /// Takes what was answered; whether that was keys.
    pub(crate) fn fetched(&self, provider: usize, called: Result<Answered, CallFault>, now: Instant) -> bool {
        match self.providers.get(provider).map(|provider| &provider.source) {
            Some(Source::There(remote)) => remote.take(called, now),
            _ => false,
        }
    }

    fn meets(
        &self,
        requirement: &Requirement,
        request: &Request,
        now: Moment<'_>,
        learned: &mut Learned,
    ) -> Result<(), Fault> {
        match requirement {
            Requirement::Provider { provider, audiences } => {
                let provider = &self.providers[*provider];
                let found = extract::from(request, &provider.places);
                if found.is_empty() {
                    return provider.refused(Fault::Missing, learned);
                }
                // All must be good: who comes later might take the bad one for the one that was verified. As in Envoy, the
                // last one is looked at first.
                for (text, place) in found.into_iter().rev() {
                    learned.judged += 1;
                    let taken = Token::parse(&text)
                        .and_then(|token| provider.takes(token, place, audiences.as_deref(), now, learned));
                    if let Err(fault) = taken {
                        return provider.refused(fault, learned);
                    }
                }
                Ok(())
            }
            Requirement::Any(any) => {
                let mut last = Ok(());
                for one in any {
                    last = self.meets(one, request, now, learned);
                    if last.is_ok() {
                        break;
                    }
                }
                last
            }
            Requirement::All(all) => all.iter().try_for_each(|one| self.meets(one, request, now, learned)),
            Requirement::AllowMissing(providers) => {
                for (place, found) in self.tokens_of(providers, request) {
                    let (token, provider) = found?;
                    provider.takes(token, place, None, now, learned)?;
                }
                Ok(())
            }
            Requirement::AllowMissingOrFailed(providers) => {
                for (place, found) in self.tokens_of(providers, request) {
                    if let Ok((token, provider)) = found {
                        let _ = provider.takes(token, place, None, now, learned);
                    }
                }
                Ok(())
            }
        }
    }

    /// The tokens of several providers, each with the one that its issuer belongs to.
    fn tokens_of<'a>(
        &'a self,
        providers: &'a [usize],
        request: &Request,
    ) -> Vec<(&'a extract::Place, Result<(Token, &'a Provider), Fault>)> {
        let candidates: Vec<&Provider> = providers.iter().map(|p| &self.providers[*p]).collect();
        let of_issuer = |text: &str| {
            let token = Token::parse(text)?;
            let by = |wanted: &str| candidates.iter().find(|p| &*p.issuer == wanted).copied();
            let provider = by(&token.issuer).or_else(|| by("")).ok_or(Fault::UnknownIssuer)?;
            Ok((token, provider))
        };
        let mut all: Vec<(String, &extract::Place)> = Vec::new();
        for found in candidates.iter().flat_map(|provider| extract::from(request, &provider.places)) {
            if !all.contains(&found) {
                all.push(found);
            }
        }
        all.into_iter().map(|(text, place)| (place, of_issuer(&text))).collect()
    }
}

/// What is to be done to a request that passes.
#[derive(Default)]
pub(crate) struct Outcome {
    told: Vec<HeaderName>,
    learned: Learned,
    preflight: bool,
}

impl Outcome {
    /// Whether the route is to be chosen again.
    pub(crate) fn reroutes(&self) -> bool {
        self.learned.reroute
    }

    pub(crate) fn counts(&self, verdict: &Verdict) -> Counts {
        let passed = *verdict == Verdict::Pass;
        Counts {
            allowed: u32::from(passed),
            denied: u32::from(!passed),
            preflights: u32::from(self.preflight),
            judged: self.learned.judged,
            ..Counts::default()
        }
    }

    pub(crate) fn apply(self, request: &mut Request) {
        for name in &self.told {
            request.headers.remove(name);
        }
        for place in &self.learned.removed {
            place.remove(request);
        }
        for (name, value) in self.learned.headers {
            request.headers.append(name, Bytes::from(value));
        }
        for (key, value) in self.learned.metadata.into_iter().chain(self.learned.failures) {
            request.metadata.set(METADATA, &key, value);
        }
    }
}

impl Provider {
    fn told_headers(&self) -> impl Iterator<Item = &HeaderName> {
        let payload = self.payload_header.iter().map(|(name, _)| name);
        payload.chain(self.claim_headers.iter().map(|(name, _)| name))
    }

    fn refused(&self, fault: Fault, learned: &mut Learned) -> Result<(), Fault> {
        if !self.failure_key.is_empty() {
            let value = json!({"code": (fault as u8).to_string(), "message": fault.text()});
            learned.failures.push((self.failure_key.clone(), value));
        }
        Err(fault)
    }

    fn takes(
        &self,
        token: Token,
        place: &extract::Place,
        audiences: Option<&[Box<str>]>,
        now: Moment<'_>,
        learned: &mut Learned,
    ) -> Result<(), Fault> {
        if !self.issuer.is_empty() && *self.issuer != *token.issuer {
            return Err(Fault::UnknownIssuer);
        }
        if let Some(subjects) = &self.subjects {
            let subject = token.claims.get("sub").and_then(Value::as_str).unwrap_or_default();
            if !subjects.matches(subject.as_bytes()) {
                return Err(Fault::SubjectNotAllowed);
            }
        }
        token.check_time(now.time, self.skew)?;
        if self.require_expiration && !token.expires() {
            return Err(Fault::NoExpiration);
        }
        if self.max_lifetime.is_some_and(|most| token.lifetime().is_none_or(|lives| lives > most)) {
            return Err(Fault::LivesTooLong);
        }
        let audiences = audiences.unwrap_or(&self.audiences);
        let is_meant = |wanted: &str| token.audiences.iter().any(|a| bare(a) == bare(wanted));
        if !audiences.is_empty() && !audiences.iter().any(|wanted| is_meant(wanted)) {
            return Err(Fault::AudienceNotAllowed);
        }
        match &self.source {
            Source::Here(keys) => keys.as_ref().ok_or(Fault::NoKeys)?.verify(&token)?,
            Source::There(remote) => match remote.current(now.now) {
                Some(fetched) => fetched.keys.verify(&token)?,
                None => {
                    if !now.failed.contains(&self.number) {
                        learned.unfetched.get_or_insert(self.number);
                    }
                    return Err(Fault::NotFetched);
                }
            },
        }
        self.learn(token, place, learned);
        Ok(())
    }

    fn learn(&self, token: Token, place: &extract::Place, learned: &mut Learned) {
        if let Some((name, padded)) = &self.payload_header {
            let mut value = token.encoded_claims.clone();
            if *padded {
                value.extend(std::iter::repeat_n('=', (4 - value.len() % 4) % 4));
            }
            learned.headers.push((name.clone(), value));
        }
        for (name, claim) in &self.claim_headers {
            let value = match token.claim(claim) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Number(number)) => number.to_string(),
                Some(Value::Bool(truth)) => truth.to_string(),
                Some(value @ (Value::Object(_) | Value::Array(_))) => STANDARD.encode(value.to_string()),
                Some(Value::Null) | None => continue,
            };
            // What cannot stand in a header is not put there.
            if !value.is_empty() && value.bytes().all(|b| b >= b' ' && b != 0x7f) {
                learned.headers.push((name.clone(), value));
            }
        }
        if !self.forward {
            learned.removed.push(place.clone());
        }
        // As in Envoy, only if the token leaves anything that a route could ask about.
        learned.reroute |= self.reroute && (!self.payload_key.is_empty() || !self.claim_headers.is_empty());
        if !self.header_key.is_empty() {
            learned.metadata.push((self.header_key.clone(), Value::Object(token.header)));
        }
        if !self.payload_key.is_empty() {
            let mut claims = token.claims;
            self.spread(&mut claims);
            learned.metadata.push((self.payload_key.clone(), Value::Object(claims)));
        }
    }

    /// Claims of words become lists.
    fn spread(&self, claims: &mut Map<String, Value>) {
        for claim in &self.spaced_claims {
            if let Some(Value::String(words)) = claims.get(&**claim) {
                let words: Vec<&str> = words.split_ascii_whitespace().collect();
                let words = json!(words);
                claims.insert(claim.to_string(), words);
            }
        }
    }
}

/// An audience without its scheme and last slash, which issuers write or leave out as they like.
fn bare(audience: &str) -> &str {
    let audience =
        audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://")).unwrap_or(audience);
    audience.strip_suffix('/').unwrap_or(audience)
}

fn is_preflight(request: &Request) -> bool {
    let says = |name| request.headers.known(name).is_some_and(|value| !value.is_empty());
    request.method == Method::Options && says(Known::Origin) && says(Known::AccessControlRequestMethod)
}

/// The address that a refused client asked for, for `www-authenticate`.
pub(crate) fn realm(request: &Request) -> String {
    const LONGEST: usize = 256;
    let mut path = request.path.as_str();
    if path.len() > LONGEST {
        path = &path[..(0..=LONGEST).rev().find(|at| path.is_char_boundary(*at)).unwrap_or(0)];
    }
    format!("{}://{}{path}", request.scheme, request.authority)
}
