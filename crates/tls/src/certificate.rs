//! What a certificate says about its holder: for authorization, logs, `x-forwarded-client-cert` and `/certs`.
//!
//! Names with control bytes, blanks or bytes outside ASCII are refused outright (embedded NUL has fooled matchers).

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base::SpiffeId;
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

use crate::pem::{TlsError, certificates_to_pem};

/// What was read from a certificate chain. Verified only if it comes from a connection that was verified.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// The SPIFFE id, if there is exactly one URI name and it has Istio's shape.
    pub spiffe_id: Option<SpiffeId>,
    pub uri_sans: Vec<String>,
    pub dns_sans: Vec<String>,
    pub email_sans: Vec<String>,
    pub ip_sans: Vec<IpAddr>,
    /// RFC 2253, as Envoy prints it: most specific part first.
    pub subject: String,
    pub issuer: String,
    /// Lower-case hexadecimal.
    pub serial: String,
    /// SHA-256 of the certificate, lower-case hexadecimal.
    pub fingerprint: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    chain: Arc<[CertificateDer<'static>]>,
}

impl PeerInfo {
    /// Reads the leaf of a chain.
    pub fn from_chain(chain: &[CertificateDer<'_>]) -> Result<Self, TlsError> {
        let bad = |reason: String| TlsError::Certificate { what: "peer".into(), index: 0, reason };
        let leaf = chain.first().ok_or_else(|| TlsError::NoCertificate { what: "peer".into() })?;
        let (rest, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|e| bad(e.to_string()))?;
        if !rest.is_empty() {
            return Err(bad("bytes follow the certificate".into()));
        }
        let names = Names::of(&parsed)?;
        let spiffe_id = match names.uri.as_slice() {
            [only] => only.parse().ok(),
            _ => None,
        };
        Ok(Self {
            spiffe_id,
            uri_sans: names.uri,
            dns_sans: names.dns,
            email_sans: names.email,
            ip_sans: names.ip,
            subject: rfc2253(parsed.subject()),
            issuer: rfc2253(parsed.issuer()),
            serial: hex(parsed.raw_serial().strip_prefix(&[0]).unwrap_or(parsed.raw_serial())),
            fingerprint: hex(sha256(leaf).as_ref()),
            not_before: system_time(parsed.validity().not_before),
            not_after: system_time(parsed.validity().not_after),
            chain: chain.iter().map(|c| c.clone().into_owned()).collect(),
        })
    }

    /// The peer of a finished handshake; `None` if it showed no certificate.
    pub fn of_connection(connection: &rustls::CommonState) -> Option<Self> {
        // The verifier parsed the same bytes with success, or the connection would not stand.
        Self::from_chain(connection.peer_certificates()?).ok()
    }

    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The leaf in PEM, percent-encoded as `Cert=` of `x-forwarded-client-cert` wants it.
    pub fn leaf_url_encoded_pem(&self) -> String {
        percent_encode(&certificates_to_pem(self.chain.first()))
    }

    /// The whole chain likewise, for `Chain=`.
    pub fn chain_url_encoded_pem(&self) -> String {
        percent_encode(&certificates_to_pem(self.chain.iter()))
    }
}

/// The subject alternative names of a certificate by kind.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) uri: Vec<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) email: Vec<String>,
    pub(crate) ip: Vec<IpAddr>,
}

impl Names {
    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Result<Self, TlsError> {
        let mut names = Self::default();
        for extension in certificate.extensions() {
            let ParsedExtension::SubjectAlternativeName(san) = extension.parsed_extension() else { continue };
            for name in &san.general_names {
                names.add(name)?;
            }
        }
        Ok(names)
    }

    fn add(&mut self, name: &GeneralName<'_>) -> Result<(), TlsError> {
        match name {
            GeneralName::URI(text) => self.uri.push(clean(text)?),
            GeneralName::DNSName(text) => self.dns.push(clean(text)?),
            GeneralName::RFC822Name(text) => self.email.push(clean(text)?),
            GeneralName::IPAddress(bytes) => self.ip.push(address(bytes)?),
            GeneralName::Invalid(_, bytes) => {
                return Err(TlsError::BadName(String::from_utf8_lossy(bytes).into_owned()));
            }
            _ => {}
        }
        Ok(())
    }
}

fn clean(text: &str) -> Result<String, TlsError> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(TlsError::BadName(text.to_owned()))
    }
}

fn address(bytes: &[u8]) -> Result<IpAddr, TlsError> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Ok(four.into());
    }
    <[u8; 16]>::try_from(bytes).map(IpAddr::from).map_err(|_| TlsError::BadName(hex(bytes)))
}

fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    let offset = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { SystemTime::UNIX_EPOCH - offset } else { SystemTime::UNIX_EPOCH + offset }
}

/// RFC 2253: parts from the last to the first, joined by commas, special characters escaped.
fn rfc2253(name: &X509Name<'_>) -> String {
    let mut parts = Vec::new();
    for rdn in name.iter_rdn() {
        let part: Vec<String> = rdn
            .iter()
            .map(|attribute| {
                let oid = attribute.attr_type();
                let key = x509_parser::objects::oid2abbrev(oid, x509_parser::objects::oid_registry())
                    .map_or_else(|_| oid.to_id_string(), str::to_owned);
                format!("{key}={}", escape(attribute.as_str().unwrap_or("#")))
            })
            .collect();
        parts.push(part.join("+"));
    }
    parts.reverse();
    parts.join(",")
}

fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for (i, c) in value.char_indices() {
        let at_edge = i == 0 || i + c.len_utf8() == value.len();
        match c {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => out.extend(['\\', c]),
            '#' if i == 0 => out.push_str("\\#"),
            ' ' if at_edge => out.push_str("\\ "),
            c if c.is_control() => {
                let mut buffer = [0; 4];
                for byte in c.encode_utf8(&mut buffer).bytes() {
                    let _ = write!(out, "\\{byte:02X}");
                }
            }
            c => out.push(c),
        }
    }
    out
}

fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 3 / 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().unwrap_or_default()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}
