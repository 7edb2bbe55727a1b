//! Judging a certificate request: is it sound, does the requester hold the key, is the key one we sign.
//!
//! What the request asks to be named is read for the audit line only.

use rustls_pki_types::pem::{PemObject, SectionKind};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Longer requests are refused unread: RSA-4096 with names stays below a fifth of it.
const MAX_REQUEST: usize = 16 * 1024;

const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";

/// A request whose signature was verified, so the requester holds the key.
#[derive(Debug, Clone)]
pub struct CertificateRequest {
    public_key: Vec<u8>,
    /// The URI and DNS names that were asked for; never granted because they were asked for.
    asked: Vec<String>,
}

/// Why a request is refused. It is the requester's fault and a retry will not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("the csr is longer than {MAX_REQUEST} bytes")]
    TooLong,
    #[error("the csr is not one PEM block \"CERTIFICATE REQUEST\" with PKCS#10 inside")]
    Malformed,
    #[error(
        "the csr's signature is wrong or of an algorithm that is not supported: the requester must hold the key"
    )]
    Signature,
    #[error("the csr's key is {0}; keys that are signed: RSA of 2048 to 8192 bits, ECDSA P-256 and P-384")]
    Key(String),
}

impl CertificateRequest {
    pub fn from_pem(pem: &str) -> Result<Self, RequestError> {
        if pem.len() > MAX_REQUEST {
            return Err(RequestError::TooLong);
        }
        let mut blocks = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes());
        match (blocks.next(), blocks.next()) {
            (Some(Ok((SectionKind::Csr, der))), None) => Self::from_der(&der),
            _ => Err(RequestError::Malformed),
        }
    }

    pub fn from_der(der: &[u8]) -> Result<Self, RequestError> {
        if der.len() > MAX_REQUEST {
            return Err(RequestError::TooLong);
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| RequestError::Malformed)?;
        if !rest.is_empty() {
            return Err(RequestError::Malformed);
        }
        let public_key = &request.certification_request_info.subject_pki;
        check_key(public_key)?;
        request.verify_signature().map_err(|_| RequestError::Signature)?;
        Ok(Self { public_key: public_key.raw.to_vec(), asked: asked_names(&request) })
    }

    /// The SubjectPublicKeyInfo.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    pub fn asked(&self) -> &[String] {
        &self.asked
    }
}

fn check_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), RequestError> {
    let refused = |what: String| Err(RequestError::Key(what));
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => match rsa.key_size() {
            2048..=8192 => Ok(()),
            bits => refused(format!("RSA of {bits} bits")),
        },
        Ok(PublicKey::EC(_)) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
            match curve.map(|oid| oid.to_id_string()).as_deref() {
                Some(P256 | P384) => Ok(()),
                other => refused(format!("ECDSA on curve {}", other.unwrap_or("unnamed"))),
            }
        }
        Ok(_) => refused(format!("of algorithm {}", key.algorithm.algorithm.to_id_string())),
        Err(_) => refused("malformed".into()),
    }
}

fn asked_names(request: &X509CertificationRequest<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(san) = extension else { continue };
        for name in &san.general_names {
            match name {
                GeneralName::URI(text) | GeneralName::DNSName(text) => names.push((*text).to_owned()),
                _ => {}
            }
        }
    }
    names
}
