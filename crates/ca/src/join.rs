//! Join tokens: how a workload proves itself where there is no Kubernetes to ask.
//!
//! A token is bound to one namespace and account, lives minutes, and serves one key: the same key may repeat its request
//! (an answer can be lost), another may not. What is kept of it ([`Kept`]) judges it and cannot be used in its place; where
//! that is kept is a [`JoinStore`]'s affair.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::signer::BoxFuture;

const PREFIX: &str = "mizzen-join.";
/// A limit on what minting without redeeming can hold.
const MAX_OUTSTANDING: usize = 100_000;
/// Of a hash in text, what names the record.
const NAME: usize = 16;

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinGrant {
    pub namespace: String,
    pub service_account: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    #[error("the join token is not known here, or has expired; make a new one with: mizzen token create")]
    Unknown,
    #[error("the join token was used already; make a new one with: mizzen token create")]
    Used,
    #[error("too many join tokens are outstanding")]
    Full,
    #[error("the join token could not be looked up: {0}")]
    Unavailable(String),
}

/// Where tokens are kept.
pub trait JoinStore: Send + Sync {
    /// What the token grants to the holder of this public key; from then on to no other.
    fn redeem<'a>(
        &'a self,
        token: &'a str,
        public_key: &'a [u8],
        now: SystemTime,
    ) -> BoxFuture<'a, Result<JoinGrant, JoinError>>;
}

pub(crate) fn is_join_token(bearer: &str) -> bool {
    bearer.starts_with(PREFIX)
}

/// A token as it is shown, with the place and name under which it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown<'a> {
    pub namespace: &'a str,
    /// Follows from the token and tells nothing of it.
    pub name: String,
    hash: String,
}

impl<'a> Shown<'a> {
    /// `None` for text that no token looks like.
    pub fn read(token: &'a str) -> Option<Self> {
        let (namespace, secret) = token.strip_prefix(PREFIX)?.split_once('.')?;
        if namespace.is_empty() || secret.is_empty() {
            return None;
        }
        let hash = hash_of(token.as_bytes());
        Some(Self { namespace, name: hash.chars().take(NAME).collect(), hash })
    }
}

/// What is kept of a token: enough to judge it, too little to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Of the whole token, in hexadecimal.
    pub hash: String,
    pub service_account: String,
    /// Seconds since 1970.
    pub expires: u64,
    /// The hash of the public key that it served.
    pub used_by: Option<String>,
}

/// What judging came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// Served this key before.
    Again,
    /// Serves once this is kept in the place of what was judged.
    First(Kept),
}

impl Kept {
    /// A new token of a namespace and account. The text is the only copy.
    pub fn mint(
        namespace: &str,
        service_account: &str,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<(Zeroizing<String>, Self), JoinError> {
        let mut secret = Zeroizing::new([0u8; 32]);
        aws_lc_rs::rand::fill(secret.as_mut_slice())
            .map_err(|_| JoinError::Unavailable("the system gave no randomness".into()))?;
        let text =
            Zeroizing::new(format!("{PREFIX}{namespace}.{}", URL_SAFE_NO_PAD.encode(secret.as_slice())));
        let kept = Self {
            hash: hash_of(text.as_bytes()),
            service_account: service_account.to_owned(),
            expires: seconds(now + ttl),
            used_by: None,
        };
        Ok((text, kept))
    }

    /// The name under which it is kept.
    pub fn name(&self) -> String {
        self.hash.chars().take(NAME).collect()
    }

    pub fn has_expired(&self, now: SystemTime) -> bool {
        seconds(now) >= self.expires
    }

    /// Hashes are compared, so timing tells nothing of the secret.
    pub fn judge(&self, shown: &Shown<'_>, public_key: &[u8], now: SystemTime) -> Result<Judged, JoinError> {
        if self.hash != shown.hash || self.has_expired(now) {
            return Err(JoinError::Unknown);
        }
        let key = hash_of(public_key);
        match &self.used_by {
            None => Ok(Judged::First(Self { used_by: Some(key), ..self.clone() })),
            Some(known) if *known == key => Ok(Judged::Again),
            Some(_) => Err(JoinError::Used),
        }
    }
}

/// Tokens in memory, that die with the process.
#[derive(Debug, Default)]
pub struct JoinTokens(Mutex<HashMap<String, Kept>>);

impl JoinTokens {
    /// Gives out a token.
    pub fn mint(
        &self,
        grant: &JoinGrant,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Zeroizing<String>, JoinError> {
        let (text, kept) = Kept::mint(&grant.namespace, &grant.service_account, ttl, now)?;
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|_, token| !token.has_expired(now));
        if tokens.len() >= MAX_OUTSTANDING {
            return Err(JoinError::Full);
        }
        tokens.insert(kept.name(), kept);
        Ok(text)
    }

    fn redeem_now(&self, token: &str, public_key: &[u8], now: SystemTime) -> Result<JoinGrant, JoinError> {
        let shown = Shown::read(token).ok_or(JoinError::Unknown)?;
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = tokens.get_mut(&shown.name).ok_or(JoinError::Unknown)?;
        if let Judged::First(kept) = known.judge(&shown, public_key, now)? {
            *known = kept;
        }
        let namespace = shown.namespace.to_owned();
        Ok(JoinGrant { namespace, service_account: known.service_account.clone() })
    }
}

impl JoinStore for JoinTokens {
    fn redeem<'a>(
        &'a self,
        token: &'a str,
        public_key: &'a [u8],
        now: SystemTime,
    ) -> BoxFuture<'a, Result<JoinGrant, JoinError>> {
        Box::pin(async move { self.redeem_now(token, public_key, now) })
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn hash_of(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_token_serves_one_key_for_a_short_time() {
        let now = SystemTime::now();
        let tokens = JoinTokens::default();
        let grant = JoinGrant { namespace: "default".into(), service_account: "bookinfo-reviews".into() };
        let token = tokens.mint(&grant, 5 * MINUTE, now).unwrap();
        assert!(is_join_token(&token));
        assert_eq!(tokens.redeem_now(&token, b"key one", now), Ok(grant.clone()));
        // An answer may be lost.
        assert_eq!(tokens.redeem_now(&token, b"key one", now + MINUTE), Ok(grant));
        assert_eq!(tokens.redeem_now(&token, b"key two", now), Err(JoinError::Used));
        assert_eq!(tokens.redeem_now(&token, b"key one", now + 6 * MINUTE), Err(JoinError::Unknown));
        for guess in
            ["mizzen-join.guess", "mizzen-join.default.guess", "mizzen-join..x", "mizzen-join.a.", ""]
        {
            assert_eq!(tokens.redeem_now(guess, b"key one", now), Err(JoinError::Unknown), "{guess}");
        }
        assert!(!format!("{tokens:?}").contains(token.rsplit('.').next().unwrap()));
    }

    #[test]
    fn a_token_is_of_its_namespace_alone() {
        let now = SystemTime::now();
        let (token, kept) = Kept::mint("shop", "cart", MINUTE, now).unwrap();
        let moved = token.replace(".shop.", ".bank.");
        let shown = Shown::read(&moved).unwrap();
        assert_eq!(kept.judge(&shown, b"key", now), Err(JoinError::Unknown));
        assert_eq!(Shown::read(&token).map(|shown| shown.name), Some(kept.name()));
    }
}
