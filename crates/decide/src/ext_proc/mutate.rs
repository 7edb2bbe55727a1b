//! Changes to headers, and the rules for them.

use bytes::Bytes;
use proto::pb::envoy::config::common::mutation_rules::v3::HeaderMutationRules;
use proto::pb::envoy::service::ext_proc::v3::HeaderMutation;
use proto::pb::envoy::r#type::matcher::v3::RegexMatcher;

use crate::headers::{HeaderName, Headers, Known};
use crate::matching::StringMatcher;
use crate::refusal::{Taken, Within};
use crate::request::{Request, Response};

/// Whose headers are changed.
#[derive(Debug)]
pub enum Subject<'a> {
    Request(&'a mut Request),
    Response(&'a mut Response),
    Trailers(&'a mut Headers),
}

/// `mutationRules`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    all_routing: bool,
    envoy: bool,
    no_system: bool,
    nothing: bool,
    allowed: Option<StringMatcher>,
    disallowed: Option<StringMatcher>,
    is_error: bool,
}

/// More headers than that nobody changes at once.
const MOST: usize = 100;

impl Rules {
    pub(crate) fn compile(m: Option<&HeaderMutationRules>) -> Taken<Self> {
        use proto::pb::envoy::r#type::matcher::v3::{StringMatcher as Pb, string_matcher::MatchPattern};
        let Some(m) = m else { return Ok(Self::default()) };
        let expression = |of: &Option<RegexMatcher>, field: &str| match of {
            None => Ok(None),
            Some(regex) => StringMatcher::compile(&Pb {
                match_pattern: Some(MatchPattern::SafeRegex(regex.clone())),
                ..Default::default()
            })
            .map(Some)
            .within(field),
        };
        let flag = |of: &Option<_>| crate::wire::flag(of, false);
        Ok(Self {
            all_routing: flag(&m.allow_all_routing),
            envoy: flag(&m.allow_envoy),
            no_system: flag(&m.disallow_system),
            nothing: flag(&m.disallow_all),
            allowed: expression(&m.allow_expression, "allowExpression")?,
            disallowed: expression(&m.disallow_expression, "disallowExpression")?,
            is_error: flag(&m.disallow_is_error),
        })
    }

    fn allow(&self, name: &HeaderName, sets: bool) -> bool {
        let text = name.as_str().to_ascii_lowercase();
        let pseudo = name.is_pseudo();
        if !sets && (pseudo || name.known() == Some(Known::Host)) {
            return false;
        }
        // What would change how messages are told apart.
        let of_hop = matches!(
            name.known(),
            Some(Known::Connection | Known::TransferEncoding | Known::Upgrade | Known::KeepAlive)
        );
        let matches = |m: &Option<StringMatcher>| m.as_ref().is_some_and(|m| m.matches(text.as_bytes()));
        if of_hop || matches(&self.disallowed) {
            return false;
        }
        if matches(&self.allowed) {
            return true;
        }
        let routing = matches!(
            name.known(),
            Some(Known::Host | Known::PseudoAuthority | Known::PseudoScheme | Known::PseudoMethod)
        );
        !(self.nothing
            || self.no_system && pseudo
            || routing && !self.all_routing
            || text.starts_with("x-envoy") && !self.envoy)
    }
}

impl Subject<'_> {
    fn headers(&mut self) -> &mut Headers {
        match self {
            Self::Request(request) => &mut request.headers,
            Self::Response(response) => &mut response.headers,
            Self::Trailers(headers) => headers,
        }
    }

    fn has(&mut self, name: &HeaderName) -> bool {
        match self {
            Self::Request(request) => request.value(name).is_some(),
            Self::Response(_) if name.is_pseudo() => true,
            _ => self.headers().get(name).is_some(),
        }
    }

    fn set(&mut self, name: HeaderName, value: Bytes) {
        match self {
            Self::Request(request) => request.set(&name, value),
            Self::Response(response) if name.known() == Some(Known::PseudoStatus) => {
                let status = std::str::from_utf8(&value).ok().and_then(|s| s.parse().ok());
                if let Some(status) = status.filter(|s| (200..600).contains(s)) {
                    response.status = status;
                }
            }
            _ if name.is_pseudo() => {}
            _ => self.headers().set(name, value),
        }
    }
}

/// Makes the changes that the rules allow and counts the others; `length` says whether the length may be changed.
pub(super) fn apply(
    rules: &Rules,
    mutation: &HeaderMutation,
    mut subject: Subject<'_>,
    length: bool,
    rejected: &mut u32,
) -> Result<(), &'static str> {
    if mutation.set_headers.len() > MOST || mutation.remove_headers.len() > MOST {
        *rejected += 1;
        return Err("header_mutation_exceeds_the_count_limit");
    }
    for name in &mutation.remove_headers {
        if !is_name(name) {
            *rejected += 1;
            return Err("header_mutation_remove_contains_invalid_character");
        }
        let header = HeaderName::from(name.as_str());
        if rules.allow(&header, false) {
            if length || header.known() != Some(Known::ContentLength) {
                subject.headers().remove(&header);
            }
            continue;
        }
        *rejected += 1;
        if rules.is_error {
            return Err("header_mutation_remove_headers_failed");
        }
    }
    for option in &mutation.set_headers {
        let Some(header) = &option.header else { continue };
        // As with Envoy, what stands elsewhere than in `rawValue` is none.
        let value = &header.raw_value;
        let fits = value.iter().all(|b| *b >= 0x20 && *b != 0x7f || *b == b'\t');
        if !is_name(&header.key) || !fits {
            *rejected += 1;
            return Err("header_mutation_set_contains_invalid_character");
        }
        let name = HeaderName::from(header.key.as_str());
        if name.known() == Some(Known::ContentLength) && !length {
            continue;
        }
        let present = subject.has(&name);
        // The old field is the one that Envoy heeds here.
        let adds = option.append.as_ref().is_some_and(|append| append.value);
        let appends = adds && present;
        let system = name.is_pseudo() || name.known() == Some(Known::Host);
        if !rules.allow(&name, true) || appends && system {
            *rejected += 1;
            if rules.is_error {
                return Err("header_mutation_set_headers_failed");
            }
            continue;
        }
        let value = Bytes::copy_from_slice(value);
        match adds && !system {
            true => subject.headers().append(name, value),
            false => subject.set(name, value),
        }
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let bare = name.strip_prefix(':').unwrap_or(name);
    !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
