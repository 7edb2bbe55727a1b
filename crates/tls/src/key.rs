//! A private key that cannot be printed and does not outlive its owner in memory.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::sign::SigningKey;
use rustls::{SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

use crate::pem::{TlsError, armour, key_from_pem};

/// The algorithm of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    Ecdsa,
    Rsa,
    Other,
}

/// A private key in memory: zeroized on drop, shown by `Debug` as its kind alone.
#[derive(Clone)]
pub struct PrivateKey {
    der: Arc<Zeroizing<Vec<u8>>>,
    form: Form,
    signing: Arc<dyn SigningKey>,
}

#[derive(Clone, Copy)]
enum Form {
    Pkcs8,
    Pkcs1,
    Sec1,
}

impl PrivateKey {
    /// A new P-256 key, born in memory.
    pub fn generate() -> Result<Self, TlsError> {
        let failed = |what: &str| TlsError::Key(what.into());
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .map_err(|_| failed("the system gave no randomness"))?;
        let document = pair.to_pkcs8v1().map_err(|_| failed("a new key could not be encoded"))?;
        Self::from_der(PrivateKeyDer::Pkcs8(document.as_ref().to_vec().into()))
    }

    pub fn from_pem(pem: &[u8]) -> Result<Self, TlsError> {
        key_from_pem(pem)
    }

    /// From PKCS#8, PKCS#1 or SEC1.
    pub fn from_der(der: PrivateKeyDer<'static>) -> Result<Self, TlsError> {
        let form = match &der {
            PrivateKeyDer::Pkcs8(_) => Form::Pkcs8,
            PrivateKeyDer::Pkcs1(_) => Form::Pkcs1,
            PrivateKeyDer::Sec1(_) => Form::Sec1,
            _ => return Err(TlsError::Key("an encoding that is not known".into())),
        };
        let bytes = Zeroizing::new(der.secret_der().to_vec());
        let signing =
            crate::provider().key_provider.load_private_key(der).map_err(|e| TlsError::Key(e.to_string()))?;
        Ok(Self { der: Arc::new(bytes), form, signing })
    }

    pub fn kind(&self) -> KeyKind {
        match self.signing.algorithm() {
            SignatureAlgorithm::ECDSA => KeyKind::Ecdsa,
            SignatureAlgorithm::RSA => KeyKind::Rsa,
            _ => KeyKind::Other,
        }
    }

    pub fn signing_key(&self) -> Arc<dyn SigningKey> {
        self.signing.clone()
    }

    /// Signs with that scheme, where the key has it.
    pub fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, TlsError> {
        let signer = self
            .signing
            .choose_scheme(&[scheme])
            .ok_or_else(|| TlsError::Key(format!("it cannot sign with {scheme:?}")))?;
        signer.sign(message).map_err(|e| TlsError::Key(e.to_string()))
    }

    /// The secret itself, for whoever must hand it on (SDS to the Envoy beside us) or sign with it (the authority).
    pub fn reveal_pem(&self) -> Zeroizing<String> {
        let label = match self.form {
            Form::Pkcs8 => "PRIVATE KEY",
            Form::Pkcs1 => "RSA PRIVATE KEY",
            Form::Sec1 => "EC PRIVATE KEY",
        };
        Zeroizing::new(armour(label, &self.der))
    }

    /// The secret itself, in DER.
    pub fn reveal_der(&self) -> PrivateKeyDer<'static> {
        let bytes = self.der.to_vec();
        match self.form {
            Form::Pkcs8 => PrivateKeyDer::Pkcs8(bytes.into()),
            Form::Pkcs1 => PrivateKeyDer::Pkcs1(bytes.into()),
            Form::Sec1 => PrivateKeyDer::Sec1(bytes.into()),
        }
    }

    /// The public half as SubjectPublicKeyInfo, where the kind of key allows telling it.
    pub fn public_key_der(&self) -> Option<Vec<u8>> {
        self.signing.public_key().map(|spki| spki.as_ref().to_vec())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({:?}, secret)", self.kind())
    }
}
