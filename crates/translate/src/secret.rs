//! Secrets of gateways, and of sidecars that a DestinationRule chooses, served to proxies of the secret's own namespace
//! only.
//!
//! A name never reaches into another namespace: what is looked up is always looked up in the scope's own. That the
//! proxy is who it says it is, is for the server to have checked.

use std::collections::BTreeSet;

use api::networking as net;
use base::NamespacedName;
use model::{Key, Sensitive};
use proto::Resource;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use std::sync::Arc;

use crate::build::Context;
use crate::destination_rule::{Rule, policy};
use crate::scope::Facet;
use crate::servers;
use crate::translator::resource;

const ROOTS: &str = "-cacert";

/// The names in `credentialName` and `credentialNames`.
pub(crate) fn credentials(tls: &net::ServerTlsSettings) -> Vec<String> {
    match tls.credential_name.as_str() {
        "" => tls.credential_names.clone(),
        one => vec![one.to_owned()],
    }
}

/// The name of a secret's resource.
pub(crate) fn uri(credential: &str) -> String {
    if credential.contains("://") { credential.to_owned() } else { format!("kubernetes://{credential}") }
}

/// Whether the secrets that a rule names are served to the scope. A rule for all workloads is none for sidecars, as in
/// Istio: each of them would get its key.
pub(crate) fn readable(context: &Context<'_>, rule: Option<&Rule>) -> bool {
    context.is_router() || rule.is_some_and(Rule::is_selective)
}

pub(crate) fn all(context: &Context<'_>) -> Vec<Resource> {
    wanted(context).iter().filter_map(|name| build(context, name)).collect()
}

fn wanted(context: &Context<'_>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let servers = if context.is_router() { servers::all(context) } else { Vec::new() };
    for tls in servers.iter().filter_map(|served| served.server.tls.as_ref()) {
        for credential in credentials(tls) {
            names.insert(format!("{}{ROOTS}", uri(&credential)));
            names.insert(uri(&credential));
        }
        if !tls.ca_cert_credential_name.is_empty() {
            names.insert(uri(&tls.ca_cert_credential_name));
        }
    }
    for visible in context.services().iter() {
        let rule = Rule::of(context, &visible.service).filter(|rule| readable(context, Some(rule)));
        let Some(rule) = rule else { continue };
        let subsets: Vec<&str> =
            std::iter::once("").chain(rule.subsets().iter().map(|subset| subset.name.as_str())).collect();
        for (port, subset) in
            visible.ports().flat_map(|port| subsets.iter().map(move |subset| (port, subset)))
        {
            let tls = policy(context, Some(&rule), port.number, subset).tls;
            if let Some(tls) = tls.filter(|tls| !tls.credential_name.is_empty()) {
                names.insert(format!("{}{ROOTS}", uri(&tls.credential_name)));
                names.insert(uri(&tls.credential_name));
            }
        }
    }
    names
}

/// `None` for a secret that does not exist, lies in another namespace, or lacks what is asked for.
fn build(context: &Context<'_>, name: &str) -> Option<Resource> {
    let own = &context.reader.facets(Facet::Namespace).namespace;
    let path = name.strip_prefix("kubernetes://").or_else(|| name.strip_prefix("kubernetes-gateway://"))?;
    let bare = match path.split_once('/') {
        Some((namespace, bare)) if *namespace == **own => bare,
        Some(_) => return None,
        None => path,
    };
    let find = |bare: &str| {
        let key = NamespacedName::new(Arc::clone(own), bare);
        context.reader.read(Key::Secret(key.clone())).secret(&key)
    };
    let kind = match bare.strip_suffix(ROOTS) {
        Some(base) => {
            // Roots of their own secret, or beside the certificate.
            let roots = find(bare).and_then(|s| s.roots.as_ref().or(s.certificate.as_ref()));
            let revoked = find(bare).or_else(|| find(base)).and_then(|secret| secret.revoked.as_ref());
            let roots = roots.or_else(|| find(base)?.roots.as_ref())?;
            pb::secret::Type::ValidationContext(pb::CertificateValidationContext {
                trusted_ca: Some(bytes(roots)),
                crl: revoked.map(|list| bytes(list)),
                ..Default::default()
            })
        }
        None => {
            let secret = find(bare)?;
            match (&secret.certificate, &secret.private_key) {
                (Some(certificate), Some(key)) => pb::secret::Type::TlsCertificate(pb::TlsCertificate {
                    certificate_chain: Some(bytes(certificate)),
                    private_key: Some(bytes(Sensitive::reveal(key))),
                    ..Default::default()
                }),
                _ => pb::secret::Type::ValidationContext(pb::CertificateValidationContext {
                    trusted_ca: Some(bytes(secret.roots.as_ref()?)),
                    ..Default::default()
                }),
            }
        }
    };
    Some(resource(name, &pb::Secret { name: name.into(), r#type: Some(kind) }))
}

fn bytes(content: &[u8]) -> core::DataSource {
    core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineBytes(content.to_vec())),
        ..Default::default()
    }
}
