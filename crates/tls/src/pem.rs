//! PEM and DER in and out, and the errors of everything that is parsed here.

use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::key::PrivateKey;

/// Why a certificate, key or configuration was not taken. Says what to write instead; never quotes key material.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    #[error(
        "{what}: no PEM block \"BEGIN CERTIFICATE\" found; give the certificate chain in PEM, leaf first"
    )]
    NoCertificate { what: String },
    #[error("{what}: not valid PEM ({reason})")]
    Pem { what: String, reason: String },
    #[error("{what}: certificate {index} is not a valid X.509 certificate ({reason})")]
    Certificate { what: String, index: usize, reason: String },
    #[error(
        "no private key found; give one PEM block \"BEGIN PRIVATE KEY\", \"BEGIN EC PRIVATE KEY\" or \"BEGIN RSA PRIVATE KEY\""
    )]
    NoKey,
    #[error("the private key is encrypted; give it decrypted, for nobody is here to type the passphrase")]
    EncryptedKey,
    #[error("the private key is not usable ({0}); RSA of 2048 bits or more, P-256 and P-384 are")]
    Key(String),
    #[error("the private key does not belong to the certificate: they must be made as one pair")]
    KeyMismatch,
    #[error("the certificate's subject alternative name {0:?} holds bytes that no name may hold")]
    BadName(String),
    #[error("{0:?} is not a server name that can be sent as SNI: write a DNS name or an IP address")]
    ServerName(String),
    #[error(
        "cipher suites {0:?}: none of them is supported; leave the list empty or name an ECDHE suite with AES-GCM or ChaCha20"
    )]
    CipherSuites(Vec<String>),
    #[error(
        "curves {0:?}: none of them is supported; leave the list empty or name X25519, P-256, P-384 or X25519MLKEM768"
    )]
    Curves(Vec<String>),
    #[error("TLS versions {0}: only 1.2 and 1.3 are supported")]
    Versions(String),
    #[error("TLS configuration: {0}")]
    Config(String),
}

/// All certificates of a PEM text, in order; other blocks are passed over. `what` names the text in errors.
pub fn certificates_from_pem(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let mut certificates = Vec::new();
    for block in CertificateDer::pem_slice_iter(pem) {
        let certificate = block.map_err(|e| TlsError::Pem { what: what.into(), reason: e.to_string() })?;
        check_certificate(what, certificates.len(), &certificate)?;
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { what: what.into() });
    }
    Ok(certificates)
}

pub fn certificates_to_pem<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> String {
    certificates.into_iter().map(|c| armour("CERTIFICATE", c)).collect()
}

pub(crate) fn check_certificate(what: &str, index: usize, der: &[u8]) -> Result<(), TlsError> {
    let bad = |reason: String| TlsError::Certificate { what: what.into(), index, reason };
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], _)) => Ok(()),
        Ok(_) => Err(bad("bytes follow the certificate".into())),
        Err(e) => Err(bad(e.to_string())),
    }
}

/// The only private key of a PEM text.
pub(crate) fn key_from_pem(pem: &[u8]) -> Result<PrivateKey, TlsError> {
    let mut key = None;
    for block in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, der) = block.map_err(|_| TlsError::Key("not valid PEM".into()))?;
        let found = match kind {
            SectionKind::PrivateKey => PrivateKeyDer::Pkcs8(der.into()),
            SectionKind::RsaPrivateKey => PrivateKeyDer::Pkcs1(der.into()),
            SectionKind::EcPrivateKey => PrivateKeyDer::Sec1(der.into()),
            _ => continue,
        };
        if key.replace(found).is_some() {
            return Err(TlsError::Key("more than one key given".into()));
        }
    }
    match key {
        Some(key) => PrivateKey::from_der(key),
        None if pem.windows(21).any(|w| w == b"ENCRYPTED PRIVATE KEY") => Err(TlsError::EncryptedKey),
        None => Err(TlsError::NoKey),
    }
}

/// RFC 7468: base64 in lines of 64.
pub(crate) fn armour(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut body = String::with_capacity(der.len() * 3 / 2 + 64);
    let mut column = 0;
    for chunk in der.chunks(3) {
        let word = chunk.iter().fold(0u32, |w, b| (w << 8) | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            if i <= chunk.len() {
                body.push(char::from(ALPHABET[(word >> (18 - 6 * i)) as usize & 63]));
            } else {
                body.push('=');
            }
        }
        column += 4;
        if column == 64 {
            body.push('\n');
            column = 0;
        }
    }
    if column > 0 {
        body.push('\n');
    }
    format!("-----BEGIN {label}-----\n{body}-----END {label}-----\n")
}
