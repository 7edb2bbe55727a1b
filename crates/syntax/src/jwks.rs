//! JSON Web Key Sets (RFC 7517): which keys there are, and for which algorithms. What they verify is `decide`'s.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// More keys than any issuer has.
const MOST_KEYS: usize = 256;

/// A key set for whoever has none: every token is refused by it. Proxies take no set without a key, and the private half of
/// one must not exist: this is a point of P-256 found by hashing (SHA-256 of [`NOBODY`] is its x), of which nobody can know
/// the logarithm.
pub const NOBODYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"CvyMeQSO4bzvxOe9ADyajyhk6SvUO_Bp6gPWpK5856o","y":"QzrmhMapQc1JZqd3v7IXkkcs5AEEmSeultBceJfCQyo"}]}"#;
/// What [`NOBODYS`] was made from, with the first number behind it that gives a point; of its two y, the even one.
pub const NOBODY: &str = "mizzen: nobody has this key 3";

/// One key that can be used.
#[derive(Debug, Clone)]
pub struct Key {
    pub id: Option<String>,
    /// The only algorithm that it is for, where the set says so.
    pub algorithm: Option<String>,
    pub material: Material,
    /// What was written holds the private half as well, or is a shared secret.
    pub private: bool,
}

#[derive(Clone)]
pub enum Material {
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

/// Reads a key set. Keys that mean nothing here are passed over, as RFC 7517 asks; that may leave none.
pub fn parse(text: &[u8]) -> Result<Vec<Key>, &'static str> {
    let set: Value = serde_json::from_slice(text).map_err(|_| "is no JSON")?;
    let keys = set.get("keys").ok_or("has no field \"keys\"")?.as_array().ok_or("\"keys\" is no list")?;
    if keys.len() > MOST_KEYS {
        return Err("has more keys than any issuer needs");
    }
    Ok(keys.iter().filter_map(key).collect())
}

fn key(key: &Value) -> Option<Key> {
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
    let private = matches!(material, Material::Secret(_)) || key.get("d").is_some();
    Some(Key {
        id: text("kid").map(str::to_owned),
        algorithm: text("alg").map(str::to_owned),
        material,
        private,
    })
}
