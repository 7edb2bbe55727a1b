//! The roots that a peer's chain must reach, by trust domain.

use std::collections::BTreeMap;
use std::path::Path;

use base::TrustDomain;
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::pem::{TlsError, certificates_from_pem, certificates_to_pem, check_certificate};

/// Roots that vouch for one trust domain each, and roots that vouch for any domain that has none of its own.
///
/// Istio's `ROOTCA` says nothing about domains and is therefore [`TrustBundle::any`].
#[derive(Debug, Clone, Default)]
pub struct TrustBundle {
    any: Roots,
    domains: BTreeMap<TrustDomain, Roots>,
}

#[derive(Debug, Clone, Default)]
struct Roots {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Roots, b: &Roots| a.certificates == b.certificates;
        same(&self.any, &other.any)
            && self.domains.len() == other.domains.len()
            && self.domains.iter().zip(&other.domains).all(|((ad, ar), (bd, br))| ad == bd && same(ar, br))
    }
}

impl TrustBundle {
    /// Roots for every trust domain, and for peers that have none.
    pub fn any(roots: Vec<CertificateDer<'static>>) -> Result<Self, TlsError> {
        Ok(Self { any: Roots::new("trust bundle", roots)?, domains: BTreeMap::new() })
    }

    /// Roots for every trust domain, from PEM. `what` names the text in errors.
    pub fn any_from_pem(what: &str, pem: &[u8]) -> Result<Self, TlsError> {
        Ok(Self { any: Roots::new(what, certificates_from_pem(what, pem)?)?, domains: BTreeMap::new() })
    }

    /// Roots for one trust domain; peers of other domains are refused until their roots are added.
    pub fn of_domain(domain: TrustDomain, roots: Vec<CertificateDer<'static>>) -> Result<Self, TlsError> {
        Self::default().with_domain(domain, roots)
    }

    /// The same bundle with these roots for that trust domain.
    pub fn with_domain(
        mut self,
        domain: TrustDomain,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, TlsError> {
        let roots = Roots::new(domain.as_str(), roots)?;
        self.domains.insert(domain, roots);
        Ok(self)
    }

    pub fn is_empty(&self) -> bool {
        self.any.anchors.is_empty() && self.domains.values().all(|r| r.anchors.is_empty())
    }

    /// Every root once, in a stable order.
    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        let mut all: Vec<CertificateDer<'static>> = Vec::new();
        for root in self.any.certificates.iter().chain(self.domains.values().flat_map(|r| &r.certificates)) {
            if !all.contains(root) {
                all.push(root.clone());
            }
        }
        all
    }

    pub fn to_pem(&self) -> String {
        certificates_to_pem(&self.certificates())
    }

    pub fn domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.domains.keys()
    }

    /// The roots that may vouch for a peer of that trust domain.
    pub(crate) fn anchors_for(&self, domain: &TrustDomain) -> &[TrustAnchor<'static>] {
        self.domains.get(domain).map_or(&self.any.anchors, |r| &r.anchors)
    }

    /// The roots that may vouch for a peer whose trust domain is not asked for.
    pub(crate) fn anchors(&self) -> Vec<TrustAnchor<'static>> {
        self.any.anchors.iter().chain(self.domains.values().flat_map(|r| &r.anchors)).cloned().collect()
    }
}

impl Roots {
    fn new(what: &str, certificates: Vec<CertificateDer<'static>>) -> Result<Self, TlsError> {
        let mut anchors = Vec::with_capacity(certificates.len());
        for (index, certificate) in certificates.iter().enumerate() {
            check_certificate(what, index, certificate)?;
            let anchor = webpki::anchor_from_trusted_cert(certificate)
                .map_err(|e| TlsError::Certificate { what: what.into(), index, reason: e.to_string() })?;
            anchors.push(anchor.to_owned());
        }
        Ok(Self { certificates, anchors })
    }
}

/// The roots that this machine trusts: `$SSL_CERT_FILE`, else the usual places. Unreadable certificates are passed over.
pub fn system_roots() -> Result<TrustBundle, TlsError> {
    const PLACES: [&str; 5] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "/etc/ssl/cert.pem",
        "/etc/ssl/ca-bundle.pem",
    ];
    let named = std::env::var_os("SSL_CERT_FILE");
    let mut places = named.iter().map(Path::new).chain(PLACES.iter().map(Path::new));
    let Some(text) = places.find_map(|place| std::fs::read(place).ok()) else {
        return Err(TlsError::NoCertificate {
            what: "system roots (set SSL_CERT_FILE, or install ca-certificates)".into(),
        });
    };
    let usable = certificates_from_pem("system roots", &text)?
        .into_iter()
        .filter(|c| webpki::anchor_from_trusted_cert(c).is_ok())
        .collect();
    TrustBundle::any(usable)
}
