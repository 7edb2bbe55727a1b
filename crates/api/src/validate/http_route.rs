//! HTTP routes of a VirtualService.

use std::collections::BTreeMap;

use super::note;
use super::rules;
use super::virtual_service::{destination, gateways, weights};
use crate::common::{StringMap, StringMatch};
use crate::duration::Duration;
use crate::error::{FieldError, Path, Validation};
use crate::names::GRPC_STATUS;
use crate::networking::{
    CLAIMS_AS_HEADERS, CorsPolicy, FaultAbort, HeaderOperations, Headers, HttpDirectResponse,
    HttpFaultInjection, HttpMatchRequest, HttpRedirect, HttpRetry, HttpRewrite, HttpRoute, routing_claim,
};

const RETRY_ON: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"];

/// Envoy takes no longer names of query parameters.
const LONGEST_PARAMETER: usize = 1024;

const PSEUDO_HEADERS: [&str; 4] = [":method", ":scheme", ":authority", ":path"];

/// The largest body of a fixed answer.
const LARGEST_BODY: usize = 1024 * 1024;

pub(super) fn check(it: &HttpRoute, path: &Path, out: &mut Validation) {
    answer(it, path, out);
    for (index, condition) in it.r#match.iter().enumerate() {
        request(condition, &path.field("match").index(index), out);
    }
    headers(it.headers.as_ref(), &path.field("headers"), out);
    authority_once(it, path, out);
    for (index, to) in it.route.iter().enumerate() {
        let path = path.field("route").index(index);
        destination(&to.destination, &path.field("destination"), out);
        headers(to.headers.as_ref(), &path.field("headers"), out);
    }
    weights(it.route.iter().map(|to| to.weight), &path.field("route"), out);
    mirrors(it, path, out);
    if let Some(redirect) = &it.redirect {
        check_redirect(redirect, &it.r#match, &path.field("redirect"), out);
    }
    if let Some(response) = &it.direct_response {
        direct_response(response, &path.field("directResponse"), out);
    }
    if let Some(rewrite) = &it.rewrite {
        check_rewrite(rewrite, &path.field("rewrite"), out);
    }
    retries(it.retries.as_ref(), &path.field("retries"), out);
    if let Some(fault) = &it.fault {
        check_fault(fault, &path.field("fault"), out);
    }
    if let Some(cors) = &it.cors_policy {
        check_cors(cors, &path.field("corsPolicy"), out);
    }
}

/// Exactly one of route, redirect and directResponse, and nothing that needs forwarding beside the latter two.
fn answer(it: &HttpRoute, path: &Path, out: &mut Validation) {
    let own = [("redirect", it.redirect.is_some()), ("directResponse", it.direct_response.is_some())];
    let forwarding =
        [("route", !it.route.is_empty()), ("fault", it.fault.is_some()), ("rewrite", it.rewrite.is_some())];
    let set: Vec<_> = own.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    match set.as_slice() {
        [] if it.route.is_empty() && it.delegate.is_none() => {
            out.error(FieldError::required(path, "one of route, redirect and directResponse"));
        }
        [] => {}
        [only] => {
            for (name, _) in forwarding.iter().filter(|(_, set)| *set) {
                let detail = format!("must not be set beside {only}, which answers by itself");
                out.error(FieldError::invalid(&path.field(name), "object", detail));
            }
        }
        _ => {
            let detail = "must not have both redirect and directResponse";
            out.error(FieldError::invalid(path, "object", detail));
        }
    }
}

fn request(it: &HttpMatchRequest, path: &Path, out: &mut Validation) {
    if let Some(uri) = &it.uri {
        note(out, rules::regex_match(&path.field("uri"), uri));
    }
    for (name, part) in [("scheme", &it.scheme), ("method", &it.method), ("authority", &it.authority)] {
        if let Some(part) = part {
            note(out, rules::string_match(&path.field(name), part));
        }
    }
    header_matches(&it.headers, &path.field("headers"), out);
    header_matches(&it.without_headers, &path.field("withoutHeaders"), out);
    for (name, part) in &it.query_params {
        if name.is_empty() || name.len() > LONGEST_PARAMETER {
            let detail = format!("must be a parameter's name, of at most {LONGEST_PARAMETER} bytes");
            out.error(FieldError::invalid(&path.field("queryParams"), name.as_str(), detail));
        }
        note(out, rules::string_match(&path.field("queryParams").key(name), part));
    }
    note(out, rules::optional_port(&path.field("port"), it.port));
    rules::label_map(&path.field("sourceLabels"), &it.source_labels, out);
    gateways(&it.gateways, &path.field("gateways"), out);
    if !it.source_namespace.is_empty() {
        note(out, rules::dns_label(&path.field("sourceNamespace"), &it.source_namespace, "namespace"));
    }
}

fn header_matches(headers: &BTreeMap<String, StringMatch>, path: &Path, out: &mut Validation) {
    for (name, part) in headers {
        let path = path.key(name);
        if name.to_ascii_lowercase().starts_with(CLAIMS_AS_HEADERS) {
            if routing_claim(name).is_none() {
                let error = FieldError::invalid(&path, name.as_str(), "must name a claim");
                out.error(error.hint("such as \"@request.auth.claims[group]\""));
            }
        } else if !PSEUDO_HEADERS.contains(&name.as_str()) {
            note(out, rules::header_name(&path, name));
        }
        // "*" is no regular expression, but Istio's word for presence.
        if part.regex.as_deref() != Some("*") {
            note(out, rules::string_match(&path, part));
        }
    }
}

fn headers(it: Option<&Headers>, path: &Path, out: &mut Validation) {
    let Some(it) = it else { return };
    if let Some(request) = &it.request {
        operations(request, true, &path.field("request"), out);
    }
    if let Some(response) = &it.response {
        operations(response, false, &path.field("response"), out);
    }
}

fn operations(it: &HeaderOperations, authority: bool, path: &Path, out: &mut Validation) {
    for (field, map) in [("set", &it.set), ("add", &it.add)] {
        for (name, value) in map {
            let path = path.field(field).key(name);
            note(out, changed_header(&path, name, authority));
            note(out, rules::header_value(&path, value));
        }
    }
    for (index, name) in it.remove.iter().enumerate() {
        note(out, changed_header(&path.field("remove").index(index), name, false));
    }
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name == ":authority"
}

/// The authority may be set on requests; no other pseudo header may be changed.
fn changed_header(path: &Path, name: &str, authority: bool) -> Option<FieldError> {
    if is_authority(name) {
        let detail = "must not be the authority, which can only be set on requests";
        return (!authority).then(|| FieldError::invalid(path, name, detail));
    }
    if name.starts_with(':') {
        return Some(FieldError::invalid(path, name, "must not be a pseudo header"));
    }
    rules::header_name(path, name)
}

fn authority_once(it: &HttpRoute, path: &Path, out: &mut Validation) {
    let rewritten = it.rewrite.iter().filter(|rewrite| !rewrite.authority.is_empty()).count();
    let request = it.headers.as_ref().and_then(|headers| headers.request.as_ref());
    let in_map = |map: &StringMap| map.keys().filter(|name| is_authority(name)).count();
    let set = request.map_or(0, |request| in_map(&request.set) + in_map(&request.add));
    if rewritten + set > 1 {
        out.error(FieldError::invalid(path, "object", "must not set the authority more than once"));
    }
}

fn mirrors(it: &HttpRoute, path: &Path, out: &mut Validation) {
    if let Some(mirror) = &it.mirror {
        destination(mirror, &path.field("mirror"), out);
        if !it.mirrors.is_empty() {
            let detail = "must not be set beside mirror";
            out.error(FieldError::invalid(&path.field("mirrors"), "array", detail));
        }
    }
    for (index, mirror) in it.mirrors.iter().enumerate() {
        let path = path.field("mirrors").index(index);
        destination(&mirror.destination, &path.field("destination"), out);
        note(out, rules::percent(&path.field("percentage"), mirror.percentage.as_ref()));
    }
    note(out, rules::percent(&path.field("mirrorPercentage"), it.mirror_percentage.as_ref()));
    for (name, percent) in
        [("mirrorPercent", it.mirror_percent), ("mirror_percent", it.mirror_percent_by_proto_name)]
    {
        if let Some(percent) = percent.filter(|percent| *percent > 100) {
            out.error(FieldError::invalid(&path.field(name), percent, "must be a percentage, from 0 to 100"));
        }
    }
    if it.mirror.is_none() && it.mirror_percentage.is_some() {
        out.warn(&path.field("mirrorPercentage"), "without effect: there is no mirror");
    }
}

fn check_redirect(it: &HttpRedirect, matches: &[HttpMatchRequest], path: &Path, out: &mut Validation) {
    if !it.uri.is_empty() && !it.prefix_rewrite.is_empty() {
        out.error(FieldError::invalid(path, "object", "must not have both uri and prefixRewrite"));
    }
    let prefixed = |it: &HttpMatchRequest| it.uri.as_ref().is_none_or(|uri| uri.prefix.is_some());
    if !it.prefix_rewrite.is_empty() && !matches.iter().all(prefixed) {
        let detail = "needs every match on uri to be a prefix";
        out.error(FieldError::invalid(&path.field("prefixRewrite"), it.prefix_rewrite.as_str(), detail));
    }
    let says = [&it.uri, &it.prefix_rewrite, &it.authority, &it.scheme].iter().any(|text| !text.is_empty());
    if !says && it.port.is_none() && it.derive_port.is_none() {
        out.error(FieldError::required(
            path,
            "one of uri, prefixRewrite, authority, scheme, port and derivePort",
        ));
    }
    for (field, text) in
        [("uri", &it.uri), ("prefixRewrite", &it.prefix_rewrite), ("authority", &it.authority)]
    {
        note(out, rules::visible(&path.field(field), text));
    }
    if ![301, 302, 303, 307, 308].contains(&it.code()) {
        let detail = "must be 301, 302, 303, 307 or 308";
        out.error(FieldError::invalid(&path.field("redirectCode"), it.redirect_code, detail));
    }
    if !["", "http", "https"].contains(&it.scheme.as_str()) {
        out.error(FieldError::not_supported(&path.field("scheme"), it.scheme.as_str(), &["http", "https"]));
    }
    note(out, rules::optional_port(&path.field("port"), it.port.unwrap_or(0)));
}

fn direct_response(it: &HttpDirectResponse, path: &Path, out: &mut Validation) {
    if !(200..=599).contains(&it.status) {
        let detail = "must be an HTTP status, from 200 to 599";
        out.error(FieldError::invalid(&path.field("status"), it.status, detail));
    }
    let body = it.body.iter().flat_map(|body| [&body.string, &body.bytes]).flatten().next();
    if body.is_some_and(|body| body.len() > LARGEST_BODY) {
        out.error(FieldError::too_long(&path.field("body"), LARGEST_BODY as u64));
    }
}

fn check_rewrite(it: &HttpRewrite, path: &Path, out: &mut Validation) {
    if !it.uri.is_empty() && it.uri_regex_rewrite.is_some() {
        out.error(FieldError::invalid(path, "object", "must not have both uri and uriRegexRewrite"));
    }
    if it.uri.is_empty() && it.authority.is_empty() && it.uri_regex_rewrite.is_none() {
        out.error(FieldError::required(path, "one of uri, uriRegexRewrite and authority"));
    }
    for (field, text) in [("uri", &it.uri), ("authority", &it.authority)] {
        note(out, rules::visible(&path.field(field), text));
    }
    if let Some(regex) = &it.uri_regex_rewrite {
        let path = path.field("uriRegexRewrite");
        note(out, rules::regex(&path.field("match"), &regex.pattern));
        if regex.rewrite.is_empty() {
            out.error(FieldError::required(&path.field("rewrite"), ""));
        }
        note(out, rules::substitution(&path.field("rewrite"), &regex.rewrite, &regex.pattern));
        note(out, rules::visible(&path.field("rewrite"), &regex.rewrite));
    }
}

/// Retries of a route, or the mesh's default ones.
pub(super) fn retries(it: Option<&HttpRetry>, path: &Path, out: &mut Validation) {
    let Some(it) = it else { return };
    note(out, rules::not_negative(&path.field("attempts"), it.attempts));
    if it.attempts == 0 && (it.per_try_timeout.is_some() || !it.retry_on.is_empty()) {
        let error = FieldError::required(&path.field("attempts"), "absent or 0 turns retries off");
        out.error(error.hint("write attempts: 2, or take the other fields out"));
    }
    for part in it.retry_on.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let status = part.parse::<u16>().is_ok_and(|code| (100..=599).contains(&code));
        if !status && !RETRY_ON.contains(&part) {
            out.error(FieldError::not_supported(&path.field("retryOn"), part, &RETRY_ON));
        }
    }
}

fn check_fault(it: &HttpFaultInjection, path: &Path, out: &mut Validation) {
    if it.delay.is_none() && it.abort.is_none() {
        out.error(FieldError::required(path, "one of delay and abort"));
    }
    if let Some(delay) = &it.delay {
        let path = path.field("delay");
        note(out, rules::percent(&path.field("percentage"), delay.percentage.as_ref()));
        note(out, rules::whole_percent(&path.field("percent"), delay.percent));
        if delay.fixed_delay.is_none() && delay.exponential_delay.is_none() {
            out.error(FieldError::required(&path.field("fixedDelay"), "how long to wait"));
        }
    }
    if let Some(abort) = &it.abort {
        check_abort(abort, &path.field("abort"), out);
    }
}

fn check_abort(it: &FaultAbort, path: &Path, out: &mut Validation) {
    note(out, rules::percent(&path.field("percentage"), it.percentage.as_ref()));
    if let Some(status) = it.http_status
        && !(200..=599).contains(&status)
    {
        let detail = "must be an HTTP status, from 200 to 599";
        out.error(FieldError::invalid(&path.field("httpStatus"), status, detail));
    }
    if let Some(status) = &it.grpc_status
        && !GRPC_STATUS.contains(&status.as_str())
    {
        out.error(FieldError::not_supported(&path.field("grpcStatus"), status.as_str(), &GRPC_STATUS));
    }
    if it.http_status.is_none() && it.grpc_status.is_none() && it.http2_error.is_none() {
        out.error(FieldError::required(path, "one of httpStatus and grpcStatus"));
    }
}

fn check_cors(it: &CorsPolicy, path: &Path, out: &mut Validation) {
    for (index, origin) in it.allow_origins.iter().enumerate() {
        let path = path.field("allowOrigins").index(index);
        let empty = [&origin.exact, &origin.prefix, &origin.regex]
            .iter()
            .all(|text| text.as_deref().unwrap_or_default().is_empty());
        if empty {
            out.error(FieldError::required(&path, "one of exact, prefix and regex"));
        } else {
            note(out, rules::regex_match(&path, origin));
        }
    }
    for (index, method) in it.allow_methods.iter().enumerate() {
        if !METHODS.contains(&method.as_str()) {
            let path = path.field("allowMethods").index(index);
            out.error(FieldError::not_supported(&path, method.as_str(), &METHODS));
        }
    }
    for (field, list) in [("allowHeaders", &it.allow_headers), ("exposeHeaders", &it.expose_headers)] {
        for (index, name) in list.iter().enumerate() {
            note(out, rules::header_name(&path.field(field).index(index), name));
        }
    }
    if it.max_age.is_some_and(|Duration(age)| age.subsec_nanos() > 0) {
        let age = it.max_age.unwrap_or_default().to_string();
        out.error(FieldError::invalid(&path.field("maxAge"), age, "must be whole seconds"));
    }
}
