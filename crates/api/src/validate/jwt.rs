//! RequestAuthentication: which tokens are taken, and where their keys are.

use std::net::IpAddr;

use super::note;
use super::rules;
use super::security::not_empty;
use crate::error::{FieldError, Path, Validation};
use crate::security::{JwtRule, KeySource, RequestAuthentication};

pub(super) fn check(it: &RequestAuthentication, spec: &Path, out: &mut Validation) {
    rules::label_selector(it.selector.as_ref(), spec, out);
    for (index, rule) in it.jwt_rules.iter().enumerate() {
        jwt_rule(rule, &spec.field("jwtRules").index(index), out);
    }
}

fn jwt_rule(it: &JwtRule, path: &Path, out: &mut Validation) {
    not_empty(&it.audiences, &path.field("audiences"), out);
    not_empty(&it.from_params, &path.field("fromParams"), out);
    not_empty(&it.from_cookies, &path.field("fromCookies"), out);
    not_empty(&it.space_delimited_claims, &path.field("spaceDelimitedClaims"), out);
    for (index, header) in it.from_headers.iter().enumerate() {
        note(out, rules::header_name(&path.field("fromHeaders").index(index).field("name"), &header.name));
    }
    if !it.output_payload_to_header.is_empty() {
        note(out, rules::header_name(&path.field("outputPayloadToHeader"), &it.output_payload_to_header));
    }
    for (field, uri) in [("jwksUri", &it.jwks_uri), ("jwks_uri", &it.jwks_uri_by_proto_name)] {
        if !uri.is_empty() {
            let fault = address_fault(uri);
            note(out, fault.map(|detail| FieldError::invalid(&path.field(field), uri.as_str(), detail)));
        }
    }
    match it.key_source() {
        KeySource::Inline(jwks) => key_set(jwks, &path.field("jwks"), out),
        KeySource::Uri(_) => {}
        KeySource::Issuer(issuer) => {
            if let Some(fault) = address_fault(issuer).filter(|_| !issuer.is_empty()) {
                let detail = format!(
                    "no keys can be found by the issuer, which {fault}: every token is refused; write jwksUri or jwks"
                );
                out.warn(&path.field("issuer"), detail);
            }
        }
    }
}

/// Why nothing can be fetched from there; nothing for an address that makes sense.
fn address_fault(uri: &str) -> Option<&'static str> {
    let rest = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://"));
    let Some(rest) = rest else { return Some("must begin with \"https://\" or \"http://\"") };
    if !uri.bytes().all(|b| b.is_ascii_graphic()) {
        return Some("must be an address, without spaces and control characters");
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Some("must not hold credentials");
    }
    let (host, port) = match authority.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((host, port)) => (host, port),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    if !port.is_empty() && !port[1..].parse::<u16>().is_ok_and(|port| port > 0) {
        return Some("must have a port from 1 to 65535");
    }
    match host.parse::<IpAddr>() {
        Ok(address) if base::off_limits(address).is_some() => {
            Some("must not be a link-local address or a cloud's metadata service")
        }
        Ok(_) => None,
        Err(_) if host.contains('*') || base::Host::parse(host).is_err() => Some("must name a host"),
        Err(_) => None,
    }
}

fn key_set(text: &str, path: &Path, out: &mut Validation) {
    match syntax::jwks::parse(text.as_bytes()) {
        Err(fault) => {
            let error = FieldError::invalid(path, "string", format_args!("{fault}"));
            out.error(error.hint("write a JSON Web Key Set: {\"keys\": [{\"kty\": \"RSA\", …}]}"));
        }
        Ok(keys) if keys.is_empty() => {
            out.warn(path, "has no key that can be used: every token of this issuer is refused");
        }
        Ok(keys) if keys.iter().any(|key| key.private) => {
            out.warn(
                path,
                "holds a private key, and is shown to whoever reads the resource; public ones are enough",
            );
        }
        Ok(_) => {}
    }
}
