//! A certificate chain with its private key.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use base::SpiffeId;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

use crate::certificate::PeerInfo;
use crate::key::PrivateKey;
use crate::pem::{TlsError, certificates_from_pem, certificates_to_pem};

/// Who we are: a chain, leaf first, and the key of its leaf. Cheap to share, never changed.
pub struct Identity {
    certified: Arc<CertifiedKey>,
    key: PrivateKey,
    info: PeerInfo,
}

impl Identity {
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKey) -> Result<Self, TlsError> {
        let info = PeerInfo::from_chain(&chain)?;
        let certified = CertifiedKey::new(chain, key.signing_key());
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(TlsError::KeyMismatch),
        }
        Ok(Self { certified: Arc::new(certified), key, info })
    }

    /// `what` names the certificate in errors.
    pub fn from_pem(what: &str, chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        Self::new(certificates_from_pem(what, chain)?, PrivateKey::from_pem(key)?)
    }

    /// The SPIFFE id, if the certificate is an SVID.
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        self.info.spiffe_id.as_ref()
    }

    pub fn not_before(&self) -> SystemTime {
        self.info.not_before
    }

    pub fn not_after(&self) -> SystemTime {
        self.info.not_after
    }

    /// Everything else that the certificate says.
    pub fn info(&self) -> &PeerInfo {
        &self.info
    }

    pub fn chain(&self) -> &[CertificateDer<'static>] {
        self.info.chain()
    }

    pub fn chain_pem(&self) -> String {
        certificates_to_pem(self.chain())
    }

    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// As rustls wants it.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("spiffe_id", &self.info.spiffe_id.as_ref().map(ToString::to_string))
            .field("subject", &self.info.subject)
            .field("serial", &self.info.serial)
            .field("not_after", &self.info.not_after)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
