//! Join tokens: how a workload proves itself where there is no Kubernetes to ask.
//!
//! A token is bound to one namespace and account, lives minutes, and serves one key: the same key may repeat its request
//! (an answer can be lost), another may not. Tokens are kept in memory as hashes and die with the process.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

const PREFIX: &str = "mizzen-join.";
/// A limit on what minting without redeeming can hold.
const MAX_OUTSTANDING: usize = 100_000;

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinGrant {
    pub namespace: String,
    pub service_account: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    #[error("the join token is not known here, or has expired; make a new one with: mizzen token create")]
    Unknown,
    #[error("the join token was used already; make a new one with: mizzen token create")]
    Used,
    #[error("too many join tokens are outstanding")]
    Full,
}

/// The tokens that were given out.
#[derive(Debug, Default)]
pub struct JoinTokens(Mutex<HashMap<[u8; 32], Token>>);

#[derive(Debug)]
struct Token {
    grant: JoinGrant,
    expires: SystemTime,
    key: Option<[u8; 32]>,
}

impl JoinTokens {
    pub fn is_join_token(bearer: &str) -> bool {
        bearer.starts_with(PREFIX)
    }

    /// Gives out a token. The text is the only copy.
    pub fn mint(
        &self,
        grant: JoinGrant,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Zeroizing<String>, JoinError> {
        let mut secret = Zeroizing::new([0u8; 32]);
        aws_lc_rs::rand::fill(secret.as_mut_slice()).map_err(|_| JoinError::Full)?;
        let text = Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret.as_slice())));
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|_, token| now < token.expires);
        if tokens.len() >= MAX_OUTSTANDING {
            return Err(JoinError::Full);
        }
        tracing::info!(
            target: "audit",
            event = "join-token.minted",
            namespace = grant.namespace,
            service_account = grant.service_account,
            ttl_seconds = ttl.as_secs(),
        );
        tokens.insert(sha256(text.as_bytes()), Token { grant, expires: now + ttl, key: None });
        Ok(text)
    }

    /// What the token grants to the holder of this public key. Looked up by hash, so timing tells nothing of the secret.
    pub fn redeem(&self, token: &str, public_key: &[u8], now: SystemTime) -> Result<JoinGrant, JoinError> {
        let key = sha256(public_key);
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = tokens.get_mut(&sha256(token.as_bytes())).ok_or(JoinError::Unknown)?;
        if now >= known.expires {
            return Err(JoinError::Unknown);
        }
        if *known.key.get_or_insert(key) == key { Ok(known.grant.clone()) } else { Err(JoinError::Used) }
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().try_into().unwrap_or_default()
}
