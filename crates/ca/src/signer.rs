//! The one interface behind which signing keys live, and the signer whose key is in this process.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::SystemTime;

use base::SpiffeId;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SubjectPublicKeyInfo,
};
use tls::{CertificateDer, Identity, PrivateKey, SignatureScheme};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a certificate is to say. Everything in it was decided by the authority.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// SubjectPublicKeyInfo of a request that was judged.
    pub public_key: Vec<u8>,
    pub names: LeafNames,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

#[derive(Debug, Clone)]
pub enum LeafNames {
    /// An X.509-SVID: the URI is the only name.
    Workload(SpiffeId),
    /// The control plane's own certificate.
    Server { dns: Vec<String>, addresses: Vec<IpAddr> },
}

/// Why nothing was signed. It is the authority's fault: the requester may try again later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    #[error("the signing certificate has expired; replace it")]
    Expired,
    #[error("signing failed: {0}")]
    Failed(String),
}

/// Whoever holds a signing key. A remote authority is one more implementation.
pub trait Signer: Send + Sync {
    /// The leaf followed by intermediates; without the root.
    fn sign<'a>(&'a self, leaf: &'a Leaf) -> BoxFuture<'a, Result<Vec<CertificateDer<'static>>, SignError>>;

    /// The roots to trust: the one that our chains end in first, then those that come or go.
    fn roots(&self) -> Vec<CertificateDer<'static>>;

    /// Leaves must end before.
    fn not_after(&self) -> SystemTime;
}

/// A signer whose key is in the memory of this process.
pub struct LocalSigner {
    issuer: Issuer<'static, Key>,
    /// The signing certificate and those above it, without the root.
    intermediates: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    not_after: SystemTime,
}

impl LocalSigner {
    /// From a signing certificate with its key. `intermediates` are what leaves are sent with; `roots` what is announced.
    pub fn new(
        signing: &Identity,
        intermediates: Vec<CertificateDer<'static>>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, SignError> {
        let failed =
            |e: rcgen::Error| SignError::Failed(format!("the signing certificate is not usable: {e}"));
        let certificate = signing.chain().first().ok_or(SignError::Expired)?;
        let issuer =
            Issuer::from_ca_cert_der(certificate, Key::new(signing.key().clone())?).map_err(failed)?;
        Ok(Self { issuer, intermediates, roots, not_after: signing.not_after() })
    }

    fn sign_now(&self, leaf: &Leaf) -> Result<Vec<CertificateDer<'static>>, SignError> {
        let failed = |e: rcgen::Error| SignError::Failed(e.to_string());
        let public = SubjectPublicKeyInfo::from_der(&leaf.public_key).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names(&leaf.names)?;
        params.serial_number = Some(serial()?);
        params.not_before = leaf.not_before.into();
        params.not_after = leaf.not_after.into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&public, &self.issuer).map_err(failed)?;
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.intermediates.iter().cloned());
        Ok(chain)
    }
}

impl Signer for LocalSigner {
    fn sign<'a>(&'a self, leaf: &'a Leaf) -> BoxFuture<'a, Result<Vec<CertificateDer<'static>>, SignError>> {
        Box::pin(async move { self.sign_now(leaf) })
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.roots.clone()
    }

    fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

impl fmt::Debug for LocalSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalSigner").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

fn names(names: &LeafNames) -> Result<Vec<SanType>, SignError> {
    let failed = |e: rcgen::Error| SignError::Failed(e.to_string());
    match names {
        LeafNames::Workload(id) => Ok(vec![SanType::URI(id.to_string().try_into().map_err(failed)?)]),
        LeafNames::Server { dns, addresses } => {
            let mut all = Vec::with_capacity(dns.len() + addresses.len());
            for name in dns {
                all.push(SanType::DnsName(name.as_str().try_into().map_err(failed)?));
            }
            all.extend(addresses.iter().copied().map(SanType::IpAddress));
            Ok(all)
        }
    }
}

/// 127 random bits: positive, and one of a kind.
pub(crate) fn serial() -> Result<SerialNumber, SignError> {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| SignError::Failed("the system gave no randomness".into()))?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Our key type in the shape that the certificate generator asks for.
pub(crate) struct Key {
    key: PrivateKey,
    public: SubjectPublicKeyInfo,
    scheme: SignatureScheme,
}

impl Key {
    pub(crate) fn new(key: PrivateKey) -> Result<Self, SignError> {
        let unusable = |why: &str| SignError::Failed(format!("the signing key is not usable: {why}"));
        let der = key.public_key_der().ok_or_else(|| unusable("its public half cannot be told"))?;
        let public = SubjectPublicKeyInfo::from_der(&der).map_err(|e| unusable(&e.to_string()))?;
        let algorithm = public.algorithm();
        let scheme = if algorithm == &rcgen::PKCS_ECDSA_P256_SHA256 {
            SignatureScheme::ECDSA_NISTP256_SHA256
        } else if algorithm == &rcgen::PKCS_ECDSA_P384_SHA384 {
            SignatureScheme::ECDSA_NISTP384_SHA384
        } else if algorithm == &rcgen::PKCS_RSA_SHA256 {
            SignatureScheme::RSA_PKCS1_SHA256
        } else {
            return Err(unusable("neither RSA nor ECDSA on P-256 or P-384"));
        };
        Ok(Self { key, public, scheme })
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.public.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.public.algorithm()
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.key.sign(self.scheme, message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}
