//! PKCS#10 requests, written by hand: the agent stays free of a certificate generator.

use rustls::SignatureScheme;

use crate::key::PrivateKey;
use crate::pem::{TlsError, armour};

/// `id-extensionRequest`, 1.2.840.113549.1.9.14.
const EXTENSION_REQUEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
/// `subjectAltName`, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// `ecdsa-with-SHA256`, 1.2.840.10045.4.3.2.
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const URI_NAME: u8 = 0x86;
const ATTRIBUTES: u8 = 0xa0;

/// A request in PEM for a certificate of this P-256 key, with an empty subject and the URI as its only name.
pub fn certificate_request(key: &PrivateKey, uri: &str) -> Result<String, TlsError> {
    let unusable = || TlsError::Key("a request needs a P-256 key".into());
    let public = key.public_key_der().ok_or_else(unusable)?;

    let names = der(SEQUENCE, &[&der(URI_NAME, &[uri.as_bytes()])]);
    let extension = der(
        SEQUENCE,
        &[&der(OID, &[SUBJECT_ALT_NAME]), &der(BOOLEAN, &[&[0xff]]), &der(OCTET_STRING, &[&names])],
    );
    let attribute =
        der(SEQUENCE, &[&der(OID, &[EXTENSION_REQUEST]), &der(SET, &[&der(SEQUENCE, &[&extension])])]);
    let info = der(
        SEQUENCE,
        &[&der(INTEGER, &[&[0]]), &der(SEQUENCE, &[]), &public, &der(ATTRIBUTES, &[&attribute])],
    );
    let signature = key.sign(SignatureScheme::ECDSA_NISTP256_SHA256, &info)?;
    let request = der(
        SEQUENCE,
        &[&info, &der(SEQUENCE, &[&der(OID, &[ECDSA_SHA256])]), &der(BIT_STRING, &[&[0], &signature])],
    );
    Ok(armour("CERTIFICATE REQUEST", &request))
}

/// One DER value: tag, length, content.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|p| p.len()).sum();
    let mut out = Vec::with_capacity(length + 4);
    out.push(tag);
    match length {
        0..=0x7f => out.push(length as u8),
        0x80..=0xff => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    parts.iter().for_each(|p| out.extend_from_slice(p));
    out
}
