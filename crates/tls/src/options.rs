//! The knobs that servers and clients share: versions, cipher suites, pins.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use base::Clock;
use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, NamedGroup, SupportedProtocolVersion};
use rustls_pki_types::UnixTime;

use crate::pem::TlsError;
use crate::verify::Verify;

/// Whether a server asks its clients for a certificate.
#[derive(Debug, Clone, Default)]
pub enum ClientCertificates {
    #[default]
    NotAsked,
    /// Taken when shown, and then it must verify.
    Optional(Verify),
    Required(Verify),
}

/// The versions of TLS to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersions {
    #[default]
    From12To13,
    Only12,
    Only13,
}

/// SHA-256 hashes of which the peer's certificate or public key must be one; not asked for where both are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pins {
    pub certificates: Vec<[u8; 32]>,
    /// Of the SubjectPublicKeyInfo.
    pub public_keys: Vec<[u8; 32]>,
}

impl TlsVersions {
    pub(crate) fn protocols(self) -> &'static [&'static SupportedProtocolVersion] {
        static TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
        static TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
        match self {
            Self::From12To13 => rustls::ALL_VERSIONS,
            Self::Only12 => TLS12,
            Self::Only13 => TLS13,
        }
    }
}

impl Pins {
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty() && self.public_keys.is_empty()
    }
}

/// The cipher suites of these OpenSSL or IANA names; an empty list is all that are supported. Like Envoy's field it
/// governs TLS 1.2; suites of 1.3 are always on. Names that are not supported (Istio's default list has RSA key exchange) are
/// passed over as long as one is left.
pub fn cipher_suites(names: &[String]) -> Result<Vec<CipherSuite>, TlsError> {
    let known: Vec<CipherSuite> = names.iter().filter_map(|name| suite(name)).collect();
    if known.is_empty() && !names.is_empty() {
        return Err(TlsError::CipherSuites(names.to_vec()));
    }
    Ok(known)
}

fn suite(name: &str) -> Option<CipherSuite> {
    Some(match name {
        "ECDHE-ECDSA-AES128-GCM-SHA256" | "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => {
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        }
        "ECDHE-ECDSA-AES256-GCM-SHA384" | "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => {
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        }
        "ECDHE-ECDSA-CHACHA20-POLY1305" | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" => {
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        }
        "ECDHE-RSA-AES128-GCM-SHA256" | "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => {
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        }
        "ECDHE-RSA-AES256-GCM-SHA384" | "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => {
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
        }
        "ECDHE-RSA-CHACHA20-POLY1305" | "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" => {
            CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
        }
        _ => return None,
    })
}

/// The groups of key exchange of these names, in that order of preference; an empty list is all that are supported.
/// Names that are not supported are passed over as long as one is left.
pub fn curves(names: &[String]) -> Result<Vec<NamedGroup>, TlsError> {
    let known: Vec<NamedGroup> = names.iter().filter_map(|name| curve(name)).collect();
    if known.is_empty() && !names.is_empty() {
        return Err(TlsError::Curves(names.to_vec()));
    }
    Ok(known)
}

fn curve(name: &str) -> Option<NamedGroup> {
    Some(match name {
        "X25519" => NamedGroup::X25519,
        "P-256" => NamedGroup::secp256r1,
        "P-384" => NamedGroup::secp384r1,
        "X25519MLKEM768" => NamedGroup::X25519MLKEM768,
        _ => return None,
    })
}

/// The installed provider, with nothing but these suites of TLS 1.2 and these groups; all where none are named.
pub(crate) fn provider_with(suites: &[CipherSuite], curves: &[NamedGroup]) -> Arc<CryptoProvider> {
    let provider = crate::provider();
    if suites.is_empty() && curves.is_empty() {
        return provider;
    }
    let mut narrowed = (*provider).clone();
    if !suites.is_empty() {
        narrowed.cipher_suites.retain(|s| s.tls13().is_some() || suites.contains(&s.suite()));
    }
    if !curves.is_empty() {
        let known = |curve: &NamedGroup| provider.kx_groups.iter().find(|group| group.name() == *curve);
        narrowed.kx_groups = curves.iter().filter_map(known).copied().collect();
    }
    Arc::new(narrowed)
}

/// rustls reads the time from the clock that tests can hold.
pub(crate) struct Time(pub(crate) Arc<dyn Clock>);

impl rustls::time_provider::TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        self.0.wall().duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}
