//! JSON Web Key Sets (RFC 7517) and the signatures that their keys verify.

use aws_lc_rs::{hmac, signature};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::Fault;
use super::token::Token;

/// More keys than any issuer has.
const MOST_KEYS: usize = 256;

/// The keys of one issuer.
#[derive(Debug, Clone)]
pub struct Keys(Vec<Key>);

#[derive(Debug, Clone)]
struct Key {
    id: Option<String>,
    algorithm: Option<String>,
    material: Material,
}

#[derive(Clone)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point, and the one algorithm of its curve.
    Ec {
        point: Vec<u8>,
        algorithm: &'static str,
    },
    Ed25519(Vec<u8>),
    /// Shared, hence secret: never printed.
    Secret(Vec<u8>),
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rsa { .. } => "Rsa",
            Self::Ec { .. } => "Ec",
            Self::Ed25519(_) => "Ed25519",
            Self::Secret(_) => "Secret",
        })
    }
}

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
        let set: Value = serde_json::from_slice(text).map_err(|_| "is no JSON")?;
        let keys = set.get("keys").ok_or("has no field \"keys\"")?.as_array().ok_or("\"keys\" is no list")?;
        if keys.len() > MOST_KEYS {
            return Err("has more keys than any issuer needs");
        }
        let keys: Vec<Key> = keys.iter().filter_map(Key::parse).collect();
        if keys.is_empty() { Err("has no key that can be used") } else { Ok(Self(keys)) }
    }

    /// Whether one of the keys made the token's signature.
    pub(super) fn verify(&self, token: &Token) -> Result<(), Fault> {
        let mut tried = false;
        for key in &self.0 {
            let other = token.key_id.is_some() && key.id.is_some() && key.id != token.key_id;
            if other || !key.serves(&token.algorithm) {
                continue;
            }
            tried = true;
            if key.verifies(token) {
                return Ok(());
            }
        }
        Err(if tried { Fault::Signature } else { Fault::NoKey })
    }
}

impl Key {
    fn parse(key: &Value) -> Option<Self> {
        let text = |field: &str| key.get(field).and_then(Value::as_str);
        let bytes = |field: &str| URL_SAFE_NO_PAD.decode(text(field)?.trim_end_matches('=')).ok();
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let material = match text("kty")? {
            "RSA" => Material::Rsa { n: bytes("n")?, e: bytes("e")? },
            "EC" => {
                let (algorithm, length) = match text("crv")? {
                    "P-256" => ("ES256", 32),
                    "P-384" => ("ES384", 48),
                    "P-521" => ("ES512", 66),
                    _ => return None,
                };
                let mut point = vec![4];
                for coordinate in [bytes("x")?, bytes("y")?] {
                    point.resize(point.len() + length.max(coordinate.len()) - coordinate.len(), 0);
                    point.extend(coordinate);
                }
                Material::Ec { point, algorithm }
            }
            "OKP" if text("crv")? == "Ed25519" => Material::Ed25519(bytes("x")?),
            "oct" => Material::Secret(bytes("k").filter(|secret| !secret.is_empty())?),
            _ => return None,
        };
        let algorithm = text("alg").map(str::to_owned);
        Some(Self { id: text("kid").map(str::to_owned), algorithm, material })
    }

    /// Whether it is a key for that algorithm: a public key is never taken for a shared secret.
    fn serves(&self, algorithm: &str) -> bool {
        let by_kind = match &self.material {
            Material::Rsa { .. } => matches!(algorithm.get(..2), Some("RS" | "PS")),
            Material::Ec { algorithm: own, .. } => *own == algorithm,
            Material::Ed25519(_) => algorithm == "EdDSA",
            Material::Secret(_) => algorithm.starts_with("HS"),
        };
        by_kind && self.algorithm.as_deref().is_none_or(|own| own == algorithm)
    }

    fn verifies(&self, token: &Token) -> bool {
        let (message, made) = (token.signed.as_bytes(), token.signature.as_slice());
        match &self.material {
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
}
