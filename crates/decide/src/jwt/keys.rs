//! The signatures that the keys of a JSON Web Key Set verify.

use aws_lc_rs::{hmac, signature};
use syntax::jwks::{self, Key, Material};

use super::Fault;
use super::token::Token;

/// The keys of one issuer.
#[derive(Debug, Clone)]
pub struct Keys(Vec<Key>);

const KNOWN: [&str; 13] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256",
    "HS384", "HS512",
];

pub(super) fn is_known(algorithm: &str) -> bool {
    KNOWN.contains(&algorithm)
}

impl Keys {
    /// Reads a key set. Keys that mean nothing here are passed over, as RFC 7517 asks, unless all of them are such.
    pub fn parse(text: &[u8]) -> Result<Self, &'static str> {
        let keys = jwks::parse(text)?;
        if keys.is_empty() { Err("has no key that can be used") } else { Ok(Self(keys)) }
    }

    /// Whether one of the keys made the token's signature.
    pub(crate) fn verify(&self, token: &Token) -> Result<(), Fault> {
        let mut tried = false;
        for key in &self.0 {
            let other = token.key_id.is_some() && key.id.is_some() && key.id != token.key_id;
            if other || key.algorithm.as_ref().is_some_and(|own| *own != token.algorithm) {
                continue;
            }
            tried = true;
            if is_for(key, &token.algorithm) && verifies(key, token) {
                return Ok(());
            }
        }
        Err(if tried { Fault::Signature } else { Fault::NoKey })
    }
}

/// Whether it is a key for that algorithm: a public key is never taken for a shared secret.
fn is_for(key: &Key, algorithm: &str) -> bool {
    match &key.material {
        Material::Rsa { .. } => matches!(algorithm.get(..2), Some("RS" | "PS")),
        Material::Ec { algorithm: own, .. } => *own == algorithm,
        Material::Ed25519(_) => algorithm == "EdDSA",
        Material::Secret(_) => algorithm.starts_with("HS"),
    }
}

fn verifies(key: &Key, token: &Token) -> bool {
    let (message, made) = (token.signed.as_bytes(), token.signature.as_slice());
    match &key.material {
        Material::Rsa { n, e } => {
            let parameters = match token.algorithm.as_str() {
                "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                _ => &signature::RSA_PSS_2048_8192_SHA512,
            };
            signature::RsaPublicKeyComponents { n, e }.verify(parameters, message, made).is_ok()
        }
        Material::Ec { point, algorithm } => {
            let kind: &'static dyn signature::VerificationAlgorithm = match *algorithm {
                "ES256" => &signature::ECDSA_P256_SHA256_FIXED,
                "ES384" => &signature::ECDSA_P384_SHA384_FIXED,
                _ => &signature::ECDSA_P521_SHA512_FIXED,
            };
            signature::UnparsedPublicKey::new(kind, point).verify(message, made).is_ok()
        }
        Material::Ed25519(key) => {
            signature::UnparsedPublicKey::new(&signature::ED25519, key).verify(message, made).is_ok()
        }
        Material::Secret(secret) => {
            let kind = match token.algorithm.as_str() {
                "HS256" => hmac::HMAC_SHA256,
                "HS384" => hmac::HMAC_SHA384,
                _ => hmac::HMAC_SHA512,
            };
            hmac::verify(&hmac::Key::new(kind, secret), message, made).is_ok()
        }
    }
}
