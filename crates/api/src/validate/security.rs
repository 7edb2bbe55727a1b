//! AuthorizationPolicy and PeerAuthentication.

use super::note;
use super::rules;
use crate::error::{FieldError, Path, Validation};
use crate::security::{
    Action, AuthorizationPolicy, CONDITION_KEYS, Condition, Operation, PeerAuthentication, Rule, Source,
    claim_of_condition,
};

pub(super) fn authorization(it: &AuthorizationPolicy, spec: &Path, out: &mut Validation) {
    rules::label_selector(it.selector.as_ref(), spec, out);
    match (it.action, &it.provider) {
        (Action::Custom, None) => {
            let error = FieldError::required(&spec.field("provider").field("name"), "who decides");
            out.error(error.hint("a provider of MeshConfig: envoyExtAuthzHttp or envoyExtAuthzGrpc"));
        }
        (Action::Custom, Some(provider)) if provider.name.is_empty() => {
            out.error(FieldError::required(&spec.field("provider").field("name"), "who decides"));
        }
        (Action::Custom, Some(_)) | (_, None) => {}
        (_, Some(_)) => {
            let error = FieldError::forbidden(&spec.field("provider"), "only CUSTOM asks anybody");
            out.error(error.hint("write action: CUSTOM"));
        }
    }
    let path = spec.field("rules");
    if it.rules.is_empty() && matches!(it.action, Action::Deny | Action::Custom) {
        let action = if it.action == Action::Deny { "DENY" } else { "CUSTOM" };
        let error = FieldError::required(&path, &format!("{action} without rules does nothing"));
        out.error(error.hint("write rules: [{}] to match every request"));
    }
    for (index, rule) in it.rules.iter().enumerate() {
        let path = path.index(index);
        check_rule(rule, &path, out);
        if it.action == Action::Custom && asks_of_tokens(rule) {
            out.warn(
                &path,
                "asks about tokens, which are verified after CUSTOM: nobody has one here, as in Istio",
            );
        }
        if it.action == Action::Deny && only_http(rule) {
            out.warn(&path, "asks about HTTP alone; it denies everything on TCP ports: name ports as well");
        }
    }
}

fn asks_of_tokens(it: &Rule) -> bool {
    let of =
        |source: &Source| !source.request_principals.is_empty() || !source.not_request_principals.is_empty();
    it.from.iter().filter_map(|from| from.source.as_ref()).any(of)
        || it.when.iter().any(|when| when.key.starts_with("request.auth."))
}

fn check_rule(it: &Rule, path: &Path, out: &mut Validation) {
    for (index, from) in it.from.iter().enumerate() {
        let path = path.field("from").index(index).field("source");
        match &from.source {
            Some(it) if *it != Source::default() => source(it, &path, out),
            _ => out.error(FieldError::required(&path, "at least one field")),
        }
    }
    for (index, to) in it.to.iter().enumerate() {
        let path = path.field("to").index(index).field("operation");
        match &to.operation {
            Some(it) if *it != Operation::default() => operation(it, &path, out),
            _ => out.error(FieldError::required(&path, "at least one field")),
        }
    }
    for (index, when) in it.when.iter().enumerate() {
        condition(when, &path.field("when").index(index), out);
    }
}

/// Whether a rule asks about nothing that a TCP connection has.
fn only_http(it: &Rule) -> bool {
    let tcp_source = |it: &Source| {
        let http = Source {
            request_principals: it.request_principals.clone(),
            not_request_principals: it.not_request_principals.clone(),
            ..Source::default()
        };
        *it != http
    };
    let tcp_from = it.from.iter().filter_map(|from| from.source.as_ref()).any(tcp_source);
    let ports = |it: &Operation| !it.ports.is_empty() || !it.not_ports.is_empty();
    let tcp_to = it.to.iter().filter_map(|to| to.operation.as_ref()).any(ports);
    !it.to.is_empty() && !tcp_to || !it.from.is_empty() && it.to.is_empty() && !tcp_from
}

fn source(it: &Source, path: &Path, out: &mut Validation) {
    for (field, list) in [("principals", &it.principals), ("notPrincipals", &it.not_principals)] {
        for (index, text) in list.iter().enumerate() {
            note(out, principal(&path.field(field).index(index), text));
        }
    }
    for (field, list) in
        [("requestPrincipals", &it.request_principals), ("notRequestPrincipals", &it.not_request_principals)]
    {
        not_empty(list, &path.field(field), out);
        wildcards(list, &path.field(field), out);
        for (index, text) in list.iter().enumerate() {
            request_principal(&path.field(field).index(index), text, out);
        }
    }
    for (field, list) in [("namespaces", &it.namespaces), ("notNamespaces", &it.not_namespaces)] {
        not_empty(list, &path.field(field), out);
        wildcards(list, &path.field(field), out);
    }
    for (field, list) in [("trustDomains", &it.trust_domains), ("notTrustDomains", &it.not_trust_domains)] {
        let path = path.field(field);
        not_empty(list, &path, out);
        wildcards(list, &path, out);
        for (index, text) in list.iter().enumerate().filter(|(_, text)| text.contains('/')) {
            out.error(FieldError::invalid(
                &path.index(index),
                text.as_str(),
                "must be a trust domain, without '/'",
            ));
        }
    }
    for (field, list) in
        [("serviceAccounts", &it.service_accounts), ("notServiceAccounts", &it.not_service_accounts)]
    {
        for (index, text) in list.iter().enumerate() {
            note(out, account(&path.field(field).index(index), text));
        }
    }
    for (field, list) in [
        ("ipBlocks", &it.ip_blocks),
        ("notIpBlocks", &it.not_ip_blocks),
        ("remoteIpBlocks", &it.remote_ip_blocks),
        ("notRemoteIpBlocks", &it.not_remote_ip_blocks),
    ] {
        for (index, text) in list.iter().enumerate() {
            note(out, rules::subnet(&path.field(field).index(index), text));
        }
    }
    let accounts = !it.service_accounts.is_empty() || !it.not_service_accounts.is_empty();
    let others = [&it.principals, &it.not_principals, &it.namespaces, &it.not_namespaces];
    if accounts && others.iter().any(|list| !list.is_empty()) {
        out.error(FieldError::invalid(
            path,
            "object",
            "must not have serviceAccounts beside principals or namespaces",
        ));
    }
}

/// Without scheme: one written with `spiffe://` would never match.
fn principal(path: &Path, text: &str) -> Option<FieldError> {
    if let Some(rest) = text.strip_prefix("spiffe://") {
        let error = FieldError::invalid(path, text, "must not begin with \"spiffe://\", or it never matches");
        return Some(error.hint(format!("write {rest:?}")));
    }
    pattern(path, text)
}

/// The issuer and the subject of a token.
fn request_principal(path: &Path, text: &str, out: &mut Validation) {
    if !text.is_empty() && !text.contains(['/', '*']) {
        out.warn(path, format!("{text:?} never matches: write issuer/subject, or {text}/* for any subject"));
    }
}

/// Longer ones name nothing, and would make expressions that proxies refuse.
const LONGEST_PATTERN: usize = 1024;

fn too_long(path: &Path, text: &str) -> Option<FieldError> {
    (text.len() > LONGEST_PATTERN).then(|| FieldError::too_long(path, LONGEST_PATTERN as u64))
}

/// `exact`, `prefix*`, `*suffix` or `*`.
fn pattern(path: &Path, text: &str) -> Option<FieldError> {
    if text.is_empty() {
        return Some(FieldError::invalid(path, text, "must not be empty"));
    }
    if let Some(error) = too_long(path, text) {
        return Some(error);
    }
    let stars = text.matches('*').count();
    let edge = text.starts_with('*') || text.ends_with('*');
    (stars > 1 || stars == 1 && !edge).then(|| {
        FieldError::invalid(path, text, "must have \"*\" at the beginning or at the end only, and once")
    })
}

fn wildcards(list: &[String], path: &Path, out: &mut Validation) {
    for (index, text) in list.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        note(out, pattern(&path.index(index), text));
    }
}

pub(super) fn not_empty(list: &[String], path: &Path, out: &mut Validation) {
    for (index, _) in list.iter().enumerate().filter(|(_, text)| text.is_empty()) {
        out.error(FieldError::invalid(&path.index(index), "", "must not be empty"));
    }
}

fn account(path: &Path, text: &str) -> Option<FieldError> {
    let parts: Vec<_> = text.split('/').collect();
    let bad = parts.len() > 2 || parts.iter().any(|part| part.is_empty()) || text.contains('*');
    let error =
        bad.then(|| FieldError::invalid(path, text, "must be [namespace/]account, without wildcards"));
    error.or_else(|| too_long(path, text))
}

fn operation(it: &Operation, path: &Path, out: &mut Validation) {
    for (field, list) in [("hosts", &it.hosts), ("notHosts", &it.not_hosts)] {
        not_empty(list, &path.field(field), out);
        wildcards(list, &path.field(field), out);
    }
    for (field, list) in [("methods", &it.methods), ("notMethods", &it.not_methods)] {
        let path = path.field(field);
        not_empty(list, &path, out);
        wildcards(list, &path, out);
        for (index, text) in
            list.iter().enumerate().filter(|(_, text)| text.chars().any(|c| c.is_ascii_lowercase()))
        {
            out.warn(&path.index(index), format!("methods are in upper case; {text:?} never matches"));
        }
    }
    for (field, list) in [("ports", &it.ports), ("notPorts", &it.not_ports)] {
        for (index, text) in list.iter().enumerate() {
            note(out, port_text(&path.field(field).index(index), text));
        }
    }
    for (field, list) in [("paths", &it.paths), ("notPaths", &it.not_paths)] {
        for (index, text) in list.iter().enumerate() {
            note(out, request_path(&path.field(field).index(index), text));
        }
    }
}

fn port_text(path: &Path, text: &str) -> Option<FieldError> {
    let good = text.parse::<u16>().is_ok_and(|port| port > 0);
    (!good).then(|| FieldError::invalid(path, text, "must be a port, from 1 to 65535"))
}

/// A pattern, or a template whose segments are literals, `{*}`, or last `{**}`.
fn request_path(path: &Path, text: &str) -> Option<FieldError> {
    if !text.contains(['{', '}']) {
        return pattern(path, text);
    }
    let detail = template_fault(text).map(str::to_owned).or_else(|| {
        // As `translate` writes it for proxies.
        let template = text.replace("{**}", "**").replace("{*}", "*");
        syntax::regular::template(&template).err()
    })?;
    Some(FieldError::invalid(path, text, detail).hint("such as \"/reviews/{*}/votes\" or \"/static/{**}\""))
}

fn template_fault(text: &str) -> Option<&'static str> {
    if !text.starts_with('/') {
        return Some("must begin with a slash");
    }
    if text.len() > LONGEST_PATTERN {
        return Some("must be at most 1024 bytes long");
    }
    let segments: Vec<_> = text.trim_matches('/').split('/').collect();
    let operators = segments.iter().position(|segment| *segment == "{**}");
    if operators.is_some_and(|at| segments[at + 1..].iter().any(|s| ["{*}", "{**}"].contains(s))) {
        return Some("must have \"{**}\" as its last operator");
    }
    segments.iter().filter(|segment| !["{*}", "{**}"].contains(segment)).find_map(|literal| {
        if literal.contains(['{', '}']) {
            Some("must have no braces but those of \"{*}\" and \"{**}\"")
        } else if literal.is_empty() || !literal.bytes().all(is_segment_byte) {
            Some("must have literal segments beside \"{*}\" and \"{**}\"")
        } else {
            None
        }
    })
}

fn is_segment_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&b)
}

fn condition(it: &Condition, path: &Path, out: &mut Validation) {
    let key = it.key.as_str();
    let refused = key.starts_with("experimental.");
    if key.is_empty() {
        out.error(FieldError::required(&path.field("key"), ""));
    } else if !refused {
        note(out, condition_key(&path.field("key"), key));
    }
    if it.values.is_empty() && it.not_values.is_empty() {
        out.error(FieldError::required(path, "one of values and notValues"));
    }
    for (field, list) in [("values", &it.values), ("notValues", &it.not_values)] {
        for (index, text) in list.iter().enumerate() {
            let path = path.field(field).index(index);
            note(out, condition_value(&path, key, text));
            if key == "request.auth.principal" {
                request_principal(&path, text, out);
            }
        }
    }
}

fn condition_key(path: &Path, key: &str) -> Option<FieldError> {
    if let Some(name) = key.strip_prefix("request.headers") {
        let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        return match name {
            Some(name) if rules::is_header_name(name) => None,
            _ => Some(FieldError::invalid(path, key, "must be request.headers[NAME]")),
        };
    }
    if key.starts_with("request.auth.claims") {
        let detail = "must be request.auth.claims[NAME], or request.auth.claims[NAME][NAME] for one inside";
        return claim_of_condition(key).is_none().then(|| FieldError::invalid(path, key, detail));
    }
    if CONDITION_KEYS.contains(&key) {
        return None;
    }
    let shown = CONDITION_KEYS.map(|key| match key {
        "request.headers[" => "request.headers[NAME]",
        "request.auth.claims[" => "request.auth.claims[NAME]",
        key => key,
    });
    Some(FieldError::not_supported(path, key, &shown))
}

fn condition_value(path: &Path, key: &str, text: &str) -> Option<FieldError> {
    match key {
        "source.ip" | "remote.ip" | "destination.ip" => rules::subnet(path, text),
        "destination.port" => port_text(path, text),
        "source.principal" => principal(path, text),
        "source.serviceAccount" => account(path, text),
        "source.trustDomain" if text.contains('/') => {
            Some(FieldError::invalid(path, text, "must be a trust domain, without '/'"))
        }
        _ => pattern(path, text),
    }
}

pub(super) fn peer_authentication(it: &PeerAuthentication, spec: &Path, out: &mut Validation) {
    rules::label_selector(it.selector.as_ref(), spec, out);
    let path = spec.field("portLevelMtls");
    for port in it.port_level_mtls.keys() {
        note(out, rules::port(&path.key(&port.to_string()), *port));
    }
    let selects = it.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty());
    if !it.port_level_mtls.is_empty() && !selects {
        let error =
            FieldError::required(&spec.field("selector"), "portLevelMtls needs workloads to be named");
        out.error(error.hint("write selector: {matchLabels: {app: …}}"));
    }
}
