//! Gateway.

use std::collections::HashSet;

use super::rules;
use super::{Meta, note};
use crate::error::{FieldError, Path, Validation};
use crate::networking::{Gateway, Server, ServerTlsMode, ServerTlsSettings};

pub(super) fn check(it: &Gateway, meta: &Meta<'_>, spec: &Path, out: &mut Validation) {
    if !meta.name.is_empty() {
        note(out, rules::dns_label(&Path::root("metadata").field("name"), meta.name, "gateway's name"));
    }
    if it.servers.is_empty() {
        out.error(FieldError::required(&spec.field("servers"), "at least one server"));
    }
    let mut names = HashSet::new();
    for (index, server) in it.servers.iter().enumerate() {
        let path = spec.field("servers").index(index);
        check_server(server, &path, out);
        let name = &server.port.name;
        if !name.is_empty() && !names.insert(name.as_str()) {
            out.error(FieldError::duplicate(&path.field("port").field("name"), name.as_str()));
        }
    }
    rules::label_map(&spec.field("selector"), &it.selector, out);
}

fn check_server(it: &Server, path: &Path, out: &mut Validation) {
    if it.hosts.is_empty() {
        let error = FieldError::required(&path.field("hosts"), "at least one host");
        out.error(error.hint("\"*\" stands for every host"));
    }
    for (index, host) in it.hosts.iter().enumerate() {
        note(out, rules::scoped_host(&path.field("hosts").index(index), host, true));
    }
    let port = path.field("port");
    note(out, rules::port(&port.field("number"), it.port.number));
    let unknown = rules::protocol(&port.field("protocol"), &it.port.protocol);
    let known = unknown.is_none();
    note(out, unknown);
    if it.port.name.is_empty() {
        out.error(FieldError::required(&port.field("name"), ""));
    }
    if !it.bind.is_empty() {
        note(out, rules::ip(&path.field("bind"), &it.bind));
    }
    if known {
        tls_fits(it, path, out);
    }
    if let Some(tls) = &it.tls {
        settings(tls, &path.field("tls"), out);
    }
}

/// TLS settings exactly where the protocol has TLS; for HTTP at most the redirect.
fn tls_fits(it: &Server, path: &Path, out: &mut Validation) {
    let protocol = it.port.protocol.as_str();
    let tls_path = path.field("tls");
    match &it.tls {
        None if rules::is_tls(protocol) => {
            let error = FieldError::required(&tls_path, "HTTPS and TLS need TLS settings");
            out.error(error.hint("such as {mode: SIMPLE, credentialName: my-certificate}"));
        }
        Some(tls) if rules::is_http(protocol) => {
            let passthrough = tls.mode == ServerTlsMode::Passthrough;
            if !passthrough || !tls.credential_name.is_empty() || !tls.server_certificate.is_empty() {
                let detail = format!("must have nothing but httpsRedirect for {protocol}");
                let error = FieldError::invalid(&tls_path, "object", detail);
                out.error(error.hint("write protocol: HTTPS to serve TLS"));
            }
        }
        Some(tls) if !rules::is_tls(protocol) => {
            let detail = format!("must not be set for {protocol}");
            let error = FieldError::invalid(&tls_path, "object", detail);
            out.error(error.hint("write protocol: TLS to serve TCP inside TLS"));
            if tls.https_redirect {
                out.warn(&tls_path.field("httpsRedirect"), "only HTTP can be redirected");
            }
        }
        Some(tls) if tls.https_redirect => {
            out.warn(&tls_path.field("httpsRedirect"), "without effect: the server has TLS already");
        }
        _ => {}
    }
}

fn settings(it: &ServerTlsSettings, path: &Path, out: &mut Validation) {
    let files = [
        ("serverCertificate", it.server_certificate.as_str()),
        ("privateKey", it.private_key.as_str()),
        ("caCertificates", it.ca_certificates.as_str()),
    ];
    let secret = !it.credential_name.is_empty();
    match it.mode {
        ServerTlsMode::IstioMutual => {
            for (field, value) in files.into_iter().chain([("credentialName", it.credential_name.as_str())]) {
                if !value.is_empty() {
                    let detail = "must not be set for ISTIO_MUTUAL, which uses the mesh's certificates";
                    out.error(FieldError::invalid(&path.field(field), value, detail));
                }
            }
        }
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
            if secret || files.iter().any(|(_, file)| !file.is_empty()) {
                out.warn(path, "certificates are not used: TLS is passed through");
            }
        }
        ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {
            certificates(it, &files, secret, path, out);
        }
    }
    versions(it, path, out);
}

fn certificates(
    it: &ServerTlsSettings,
    files: &[(&str, &str); 3],
    secret: bool,
    path: &Path,
    out: &mut Validation,
) {
    let pair = &files[..2];
    if secret && pair.iter().all(|(_, file)| !file.is_empty()) {
        let detail = "must not be set beside serverCertificate and privateKey";
        out.error(FieldError::invalid(&path.field("credentialName"), it.credential_name.as_str(), detail));
    }
    if secret {
        return;
    }
    for (field, _) in pair.iter().filter(|(_, file)| file.is_empty()) {
        let error = FieldError::required(&path.field(field), "or credentialName");
        out.error(error.hint("write credentialName: the name of a Secret with certificate and key"));
    }
    let roots = !it.ca_certificates.is_empty() || !it.ca_cert_credential_name.is_empty();
    if it.mode != ServerTlsMode::Simple && !roots {
        out.error(FieldError::required(
            &path.field("caCertificates"),
            "or credentialName, for clients' certificates",
        ));
    }
}

fn versions(it: &ServerTlsSettings, path: &Path, out: &mut Validation) {
    let (min, max) = (it.min_protocol_version as u8, it.max_protocol_version as u8);
    if max != 0 && min > max {
        let detail = "must not be older than minProtocolVersion";
        let value = serde_json::to_value(it.max_protocol_version).unwrap_or_default();
        out.error(FieldError::invalid(&path.field("maxProtocolVersion"), value, detail));
    }
}
