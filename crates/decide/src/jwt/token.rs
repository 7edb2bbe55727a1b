//! A JSON Web Token (RFC 7519) in its compact form: taken apart and judged by everything but its signature.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::Fault;

/// Longer ones are no tokens: nobody is to spend our time on them.
const LONGEST: usize = 64 * 1024;

#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) algorithm: String,
    pub(crate) key_id: Option<String>,
    pub(crate) header: Map<String, Value>,
    pub(crate) claims: Map<String, Value>,
    /// The claims as they were written, which is how they are forwarded.
    pub(crate) encoded_claims: String,
    /// What the signature is of.
    pub(crate) signed: String,
    pub(crate) signature: Vec<u8>,
    pub(crate) issuer: String,
    pub(crate) audiences: Vec<String>,
}

impl Token {
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        let parts: Vec<&str> = text.split('.').collect();
        let &[header, claims, signature] = parts.as_slice() else { return Err(Fault::BadFormat) };
        if text.len() > LONGEST || parts.contains(&"") {
            return Err(Fault::BadFormat);
        }
        let signed = text[..header.len() + 1 + claims.len()].to_owned();
        let encoded_claims = claims.to_owned();
        let header = object(header, Fault::HeaderBase64, Fault::HeaderJson)?;
        let algorithm = match header.get("alg") {
            Some(Value::String(algorithm)) => algorithm.clone(),
            _ => return Err(Fault::HeaderAlgorithm),
        };
        if !super::keys::is_known(&algorithm) {
            return Err(Fault::UnknownAlgorithm);
        }
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(Fault::HeaderKeyId),
        };
        let claims = object(claims, Fault::ClaimsBase64, Fault::ClaimsJson)?;
        let issuer = text_of(&claims, "iss", Fault::Issuer)?;
        text_of(&claims, "sub", Fault::Subject)?;
        text_of(&claims, "jti", Fault::Id)?;
        for (claim, fault) in
            [("iat", Fault::IssuedAt), ("nbf", Fault::NotBefore), ("exp", Fault::Expiration)]
        {
            if claims.contains_key(claim) && seconds(&claims, claim).is_none() {
                return Err(fault);
            }
        }
        let audiences = match claims.get("aud") {
            None => Vec::new(),
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(all)) => {
                let texts: Option<Vec<String>> = all.iter().map(|a| a.as_str().map(str::to_owned)).collect();
                texts.ok_or(Fault::Audience)?
            }
            Some(_) => return Err(Fault::Audience),
        };
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Fault::SignatureBase64)?;
        Ok(Self { algorithm, key_id, header, claims, encoded_claims, signed, signature, issuer, audiences })
    }

    /// Whether it is its time, give or take `skew`.
    pub(crate) fn check_time(&self, now: SystemTime, skew: Duration) -> Result<(), Fault> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        match seconds(&self.claims, "nbf") {
            Some(from) if now + skew < Duration::from_secs(from) => return Err(Fault::NotYetValid),
            _ => {}
        }
        match seconds(&self.claims, "exp") {
            Some(until) if now.saturating_sub(skew) > Duration::from_secs(until) => Err(Fault::Expired),
            _ => Ok(()),
        }
    }

    pub(crate) fn lifetime(&self) -> Option<Duration> {
        let until = seconds(&self.claims, "exp")?;
        let from = seconds(&self.claims, "nbf").or_else(|| seconds(&self.claims, "iat"));
        Some(Duration::from_secs(until.saturating_sub(from.unwrap_or_default())))
    }

    pub(crate) fn expires(&self) -> bool {
        self.claims.contains_key("exp")
    }

    /// A claim by its name, or by the way to it: `realm.roles`.
    pub(crate) fn claim(&self, path: &str) -> Option<&Value> {
        if let Some(value) = self.claims.get(path) {
            return Some(value);
        }
        let mut parts = path.split('.');
        let first = self.claims.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.as_object()?.get(part))
    }
}

fn object(encoded: &str, base64: Fault, json: Fault) -> Result<Map<String, Value>, Fault> {
    let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| base64)?;
    serde_json::from_slice(&bytes).map_err(|_| json)
}

fn text_of(claims: &Map<String, Value>, name: &str, fault: Fault) -> Result<String, Fault> {
    match claims.get(name) {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(fault),
    }
}

/// A time, in whole seconds; fractions are cut off.
fn seconds(claims: &Map<String, Value>, name: &str) -> Option<u64> {
    let value = claims.get(name)?;
    value.as_u64().or_else(|| value.as_f64().filter(|s| (0.0..9e15).contains(s)).map(|s| s as u64))
}
