//! Rules about single values, which several kinds share. Each says what is wrong, if something is.

use std::collections::HashSet;
use std::net::IpAddr;

use base::Host;
use syntax::regular;

use super::note;
use crate::common::{LabelSelector, Percent, StringMap, StringMatch, StringMatchKind, WorkloadSelector};
use crate::error::{FieldError, Path, Validation, nearest};
use crate::{labels, names};

/// Envoy refuses longer ones by default, and so does Istio.
const LONGEST_REGEX: usize = 1024;

pub(super) const PROTOCOLS: [&str; 12] = [
    "HTTP",
    "HTTPS",
    "HTTP2",
    "GRPC",
    "GRPC-WEB",
    "TCP",
    "TLS",
    "MONGO",
    "MYSQL",
    "REDIS",
    "UDP",
    "HTTP_PROXY",
];

/// A DNS name, perhaps with `*` as its first label.
pub(super) fn host(path: &Path, text: &str) -> Option<FieldError> {
    if Host::parse(text).is_ok() && !text.contains('_') {
        return None;
    }
    let hint = if text.contains("://") {
        "leave the scheme out"
    } else if text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        "leave the port out"
    } else if text.contains('/') {
        "leave the path out"
    } else if text.contains('*') {
        "\"*\" stands for whole labels, in front: \"*.example.com\""
    } else {
        "write a name such as \"reviews\", \"reviews.default.svc.cluster.local\" or \"*.example.com\""
    };
    Some(FieldError::invalid(path, text, "must be a host name").hint(hint))
}

/// Like [`host`], without wildcards.
pub(super) fn full_host(path: &Path, text: &str) -> Option<FieldError> {
    host(path, text).or_else(|| {
        let wild = text.contains('*');
        wild.then(|| FieldError::invalid(path, text, "must be a host name without wildcard"))
    })
}

pub(super) fn ip(path: &Path, text: &str) -> Option<FieldError> {
    let bad = text.parse::<IpAddr>().is_err();
    bad.then(|| FieldError::invalid(path, text, "must be an IP address"))
}

/// An address, or a network such as `10.0.0.0/8`.
pub(super) fn subnet(path: &Path, text: &str) -> Option<FieldError> {
    let good = match text.split_once('/') {
        None => text.parse::<IpAddr>().is_ok(),
        Some((address, bits)) => address.parse::<IpAddr>().is_ok_and(|address| {
            let most = if address.is_ipv4() { 32 } else { 128 };
            bits.parse::<u8>().is_ok_and(|bits| bits <= most)
        }),
    };
    (!good).then(|| {
        FieldError::invalid(path, text, "must be an IP address or a network").hint("such as \"10.0.0.0/8\"")
    })
}

pub(super) fn port(path: &Path, number: u32) -> Option<FieldError> {
    let bad = !(1..=65535).contains(&number);
    bad.then(|| FieldError::invalid(path, number, "must be a port, from 1 to 65535"))
}

/// For fields in which 0 means absent.
pub(super) fn optional_port(path: &Path, number: u32) -> Option<FieldError> {
    if number == 0 { None } else { port(path, number) }
}

pub(super) fn protocol(path: &Path, text: &str) -> Option<FieldError> {
    let known = PROTOCOLS.iter().any(|one| one.eq_ignore_ascii_case(text));
    (!known).then(|| FieldError::not_supported(path, text, &PROTOCOLS[..10]))
}

pub(super) fn is_http(protocol: &str) -> bool {
    ["HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTP_PROXY"].iter().any(|one| one.eq_ignore_ascii_case(protocol))
}

pub(super) fn is_tls(protocol: &str) -> bool {
    ["HTTPS", "TLS"].iter().any(|one| one.eq_ignore_ascii_case(protocol))
}

/// What Kubernetes calls a DNS label: names of ports, subsets, namespaces.
pub(super) fn dns_label(path: &Path, text: &str, what: &str) -> Option<FieldError> {
    let bad = !names::is_dns_label(text);
    bad.then(|| {
        let detail =
            format!("must be a {what}: lower-case letters, digits and '-', at most 63, no '-' at the ends");
        FieldError::invalid(path, text, detail)
    })
}

/// RE2's syntax, which is Rust's as far as it goes, for the whole of a text, as `decide` compiles it.
pub(super) fn regex(path: &Path, text: &str) -> Option<FieldError> {
    if text.is_empty() {
        return Some(FieldError::invalid(path, text, "must be a regular expression, not empty"));
    }
    if text.len() > LONGEST_REGEX {
        let detail = format!("must be at most {LONGEST_REGEX} bytes long");
        return Some(FieldError::invalid(
            path,
            format!("{}…", text.chars().take(40).collect::<String>()),
            detail,
        ));
    }
    let error = regular::whole(text).err()?;
    if let regex::Error::CompiledTooBig(_) = error {
        let detail = format!("must compile to at most {} KB", regular::LARGEST >> 10);
        return Some(
            FieldError::invalid(path, text, detail)
                .hint("repeat less, or narrower: \"\\\\w\" stands for every letter of every script"),
        );
    }
    let (position, cause) = explain(&error.to_string());
    let at = position.map(|position| format!(" at character {position}")).unwrap_or_default();
    let detail = format!("must be a regular expression in RE2's syntax{at}: {cause}");
    let error = FieldError::invalid(path, text, detail);
    Some(if text.starts_with('*') { error.hint("\".*\" stands for anything, not \"*\"") } else { error })
}

/// What takes the place of a match of `pattern`: text with `\1` for its first group.
pub(super) fn substitution(path: &Path, text: &str, pattern: &str) -> Option<FieldError> {
    let groups = regular::regex(pattern).ok()?.captures_len();
    let reason = regular::substitution(text, groups).err()?;
    Some(FieldError::invalid(path, text, reason).hint("write \"\\1\" for the first group of match"))
}

/// The place, counted from 1, and the cause in the drawing that the regex crate makes of an error.
fn explain(drawing: &str) -> (Option<usize>, String) {
    const INDENT: usize = 4;
    let caret = drawing.lines().find(|line| line.trim_start().starts_with('^'));
    let column = caret.and_then(|line| line.find('^')).map(|column| column.saturating_sub(INDENT) + 1);
    let last = drawing.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    (column, last.trim().trim_start_matches("error: ").to_string())
}

/// A match on anything but the path: an empty prefix would match everything, which nobody means.
pub(super) fn string_match(path: &Path, it: &StringMatch) -> Option<FieldError> {
    match it.kind() {
        StringMatchKind::Prefix("") => {
            let detail = "must not be empty";
            Some(
                FieldError::invalid(&path.field("prefix"), "", detail)
                    .hint("take it out to ask for presence"),
            )
        }
        _ => regex_match(path, it),
    }
}

pub(super) fn regex_match(path: &Path, it: &StringMatch) -> Option<FieldError> {
    let text = it.regex.as_deref()?;
    regex(&path.field("regex"), text)
}

/// RFC 9110's token.
pub(super) fn is_header_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

pub(super) fn header_name(path: &Path, text: &str) -> Option<FieldError> {
    (!is_header_name(text)).then(|| FieldError::invalid(path, text, "must be a header's name"))
}

/// What a header may hold, or a part of a request's head.
pub(super) fn visible(path: &Path, text: &str) -> Option<FieldError> {
    let bad = text.chars().any(|c| c.is_control() && c != '\t');
    bad.then(|| FieldError::invalid(path, text, "must not contain control characters"))
}

/// No control characters, and operators that proxies know.
pub(super) fn header_value(path: &Path, text: &str) -> Option<FieldError> {
    visible(path, text).or_else(|| format(path, text))
}

/// Text with Envoy's operators.
pub(super) fn format(path: &Path, text: &str) -> Option<FieldError> {
    line(path, text).or_else(|| {
        syntax::format::is_for_logs(text).then(|| {
            let detail = "has %REQ_WITHOUT_QUERY%, which works in access logs alone";
            FieldError::invalid(path, text, detail)
                .hint("write \"%PATH(NQ)%\" for the path without its query")
        })
    })
}

/// A line of a log: text with Envoy's operators, as `decide` reads it.
pub(super) fn line(path: &Path, text: &str) -> Option<FieldError> {
    let fault = syntax::format::parse(text).err()?;
    let error = FieldError::invalid(path, text, &fault);
    let Some(unknown) = fault.unknown else { return Some(error) };
    let known: Vec<String> = syntax::format::names().collect();
    let near = nearest(&unknown, known.iter().map(String::as_str));
    Some(error.hint(match near {
        Some(near) => format!("did you mean \"%{near}%\"?"),
        None => "write an operator such as \"%REQ(x-request-id)%\", or \"%%\" for a percent sign".into(),
    }))
}

/// The part of CEL that log filters may use, as `decide` reads it.
pub(super) fn expression(path: &Path, text: &str) -> Option<FieldError> {
    const HINT: &str = "such as \"response.code >= 400\"";
    if text.trim().is_empty() {
        return Some(FieldError::required(path, "a CEL expression").hint(HINT));
    }
    let reason = syntax::cel::parse(text).err()?;
    let detail =
        format!("must be a CEL expression over Envoy's attributes, without macros and arithmetic: {reason}");
    Some(FieldError::invalid(path, text, detail).hint(HINT))
}

pub(super) fn label_map(path: &Path, map: &StringMap, out: &mut Validation) {
    for (key, value) in map {
        let path = path.key(key);
        if !labels::is_key(key) {
            out.error(FieldError::invalid(&path, key.as_str(), "must be a label's key"));
        }
        if !labels::is_value(value) {
            out.error(FieldError::invalid(&path, value.as_str(), "must be a label's value"));
        }
    }
}

pub(super) fn workload_selector(selector: Option<&WorkloadSelector>, spec: &Path, out: &mut Validation) {
    if let Some(selector) = selector {
        selected(&selector.labels, &spec.field("workloadSelector").field("labels"), out);
    }
}

pub(super) fn label_selector(selector: Option<&LabelSelector>, spec: &Path, out: &mut Validation) {
    if let Some(selector) = selector {
        selected(&selector.match_labels, &spec.field("selector").field("matchLabels"), out);
    }
}

pub(super) fn selected(map: &StringMap, path: &Path, out: &mut Validation) {
    for (key, value) in map {
        if key.is_empty() {
            out.error(FieldError::invalid(&path.key(key), key.as_str(), "must not have an empty key"));
        } else if key.contains('*') || value.contains('*') {
            let text = format!("{key}={value}");
            out.error(FieldError::invalid(&path.key(key), text, "must not contain wildcards"));
        }
    }
    if map.is_empty() {
        out.warn(path, "the selector names no labels; it selects every workload");
    }
}

pub(super) fn percent(path: &Path, percent: Option<&Percent>) -> Option<FieldError> {
    let value = percent?.value;
    let good = value == 0.0 || (0.0001..=100.0).contains(&value);
    (!good).then(|| {
        FieldError::invalid(&path.field("value"), value, "must be a percentage, from 0.0001 to 100, or 0")
    })
}

/// For integers in which 0 means absent.
pub(super) fn whole_percent(path: &Path, value: i32) -> Option<FieldError> {
    let bad = !(0..=100).contains(&value);
    bad.then(|| FieldError::invalid(path, value, "must be a percentage, from 0 to 100"))
}

pub(super) fn not_negative(path: &Path, value: i32) -> Option<FieldError> {
    (value < 0).then(|| FieldError::invalid(path, value, "must not be negative"))
}

/// `.`, `*` or namespaces; for ServiceEntry also `~`. `*` and `~` stand alone.
pub(super) fn export_to(
    spec: &Path,
    list: &[String],
    namespace: &str,
    none_allowed: bool,
    out: &mut Validation,
) {
    let path = spec.field("exportTo");
    let mut seen = HashSet::new();
    for (index, entry) in list.iter().enumerate() {
        let path = path.index(index);
        let meant = if entry == "." { namespace } else { entry };
        if !seen.insert(meant) {
            out.error(FieldError::duplicate(&path, entry.as_str()));
        }
        let named = entry == "." || entry == "*" || (entry == "~" && none_allowed);
        if !named {
            note(out, dns_label(&path, entry, "namespace, \".\" or \"*\""));
        }
    }
    for alone in ["*", "~"] {
        if list.len() > 1 && seen.contains(alone) {
            let detail = format!("{alone:?} must stand alone");
            out.error(FieldError::invalid(&path, list.to_vec(), detail));
        }
    }
}

/// The file of a Unix socket, or with `@` an abstract one.
pub(super) fn unix_address(path: &Path, text: &str) -> Option<FieldError> {
    let rest = text.strip_prefix("unix://").unwrap_or(text);
    let good = rest.starts_with('@') || rest.starts_with('/') && !rest.ends_with('/');
    (!good).then(|| FieldError::invalid(path, text, "must be \"unix://\" and an absolute path to a file"))
}

/// `namespace/host`; in a gateway the namespace may be absent.
pub(super) fn scoped_host(path: &Path, text: &str, gateway: bool) -> Option<FieldError> {
    let Some((namespace, name)) = text.split_once('/') else {
        if gateway {
            return host(path, text);
        }
        let hint = format!("write \"./{text}\" for this namespace, \"*/{text}\" for any");
        return Some(FieldError::invalid(path, text, "must be namespace/host").hint(hint));
    };
    let special: &[&str] = if gateway { &["*", "."] } else { &["*", ".", "~"] };
    if !special.contains(&namespace) && !names::is_dns_label(namespace) {
        let detail = format!("must begin with a namespace or one of {}", special.join(" "));
        return Some(FieldError::invalid(path, text, detail));
    }
    host(path, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> Path {
        Path::root("x")
    }

    #[test]
    fn regular_expressions_say_where_they_go_wrong() {
        let message = |text: &str| regex(&path(), text).unwrap().to_string();
        assert_eq!(
            message("/v[0-9+/.*"),
            "x: Invalid value: \"/v[0-9+/.*\": must be a regular expression in RE2's syntax at character 3: \
             unclosed character class"
        );
        assert!(message("a(?=b)").contains("look-around"), "{}", message("a(?=b)"));
        assert!(message("*").ends_with("\".*\" stands for anything, not \"*\""));
        assert!(message(&"a".repeat(1025)).contains("at most 1024"));
        assert!(message(&r"\w{1000}".repeat(12)).contains("must compile to at most 1024 KB"));
        assert!(regex(&path(), "^/v[0-9]+(/.*)").is_none());
    }

    #[test]
    fn hosts_hint_at_what_is_too_much() {
        for (text, hint) in [
            ("http://reviews", "scheme"),
            ("reviews:9080", "port"),
            ("reviews/a", "path"),
            ("rev*", "whole labels"),
            ("rev_iews", "write a name"),
        ] {
            let error = host(&path(), text).unwrap();
            assert!(error.hint.as_ref().unwrap().contains(hint), "{error}");
        }
        assert!(host(&path(), "*.example.com").is_none());
        assert!(full_host(&path(), "*.example.com").is_some());
    }

    #[test]
    fn header_values_escape_percent_signs() {
        for good in ["foo", "%HOSTNAME%", "100%%", "a %REQ(x)% b", "%DOWNSTREAM_REMOTE_ADDRESS%%%"] {
            assert!(header_value(&path(), good).is_none(), "{good}");
        }
        for bad in ["abc%123", "%START_TIME%%", "100%", "a\nb"] {
            assert!(header_value(&path(), bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn networks_have_as_many_bits_as_fit() {
        for good in ["10.0.0.1", "10.0.0.0/8", "fd00::/64", "::1"] {
            assert!(subnet(&path(), good).is_none(), "{good}");
        }
        for bad in ["10.0.0.0/33", "10.0.0/8", "x", "10.0.0.0/", "fd00::/129"] {
            assert!(subnet(&path(), bad).is_some(), "{bad}");
        }
    }
}
