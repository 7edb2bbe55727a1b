//! Encryption at rest: AES-256-GCM under one key file that only its owner may read.
//!
//! A sealed value is a version byte, a random nonce and the ciphertext; the key of the record is
//! authenticated with it, so that a value cannot be moved to another name.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

const VERSION: u8 = 1;

/// Seals and opens values.
pub struct Sealer {
    key: LessSafeKey,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// Reads the key file, or makes it (mode 0600) when there is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        let key = match std::fs::File::open(path) {
            Ok(mut file) => {
                let mode = file.metadata()?.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    let hint = format!("{}: mode is {mode:o}; run: chmod 600 {0}", path.display());
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, hint));
                }
                let mut key = Vec::new();
                file.read_to_end(&mut key)?;
                key
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => create_key(path)?,
            Err(error) => return Err(error),
        };
        Self::from_key(&key).ok_or_else(|| {
            let hint = format!("{}: a key has 32 bytes, this has {}", path.display(), key.len());
            io::Error::new(io::ErrorKind::InvalidData, hint)
        })
    }

    /// From the 32 bytes themselves.
    pub fn from_key(key: &[u8]) -> Option<Self> {
        Some(Self { key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?) })
    }

    pub fn seal(&self, name: &str, value: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        rand::Rng::fill(&mut rand::rng(), &mut nonce[..]);
        let mut sealed = value.to_vec();
        let aad = Aad::from(name.as_bytes());
        let tag = self.key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed);
        let mut out = Vec::with_capacity(1 + NONCE_LEN + sealed.len() + 16);
        out.push(VERSION);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        // Sealing fails only for values beyond 64 GiB; an empty tag would never open.
        out.extend_from_slice(tag.as_ref().map_or(&[], |tag| tag.as_ref()));
        out
    }

    /// `None` when the value was not sealed with this key under this name.
    pub fn unseal(&self, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (&version, rest) = sealed.split_first()?;
        if version != VERSION || rest.len() < NONCE_LEN {
            return None;
        }
        let (nonce, body) = rest.split_at(NONCE_LEN);
        let mut value = body.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let length = self.key.open_in_place(nonce, Aad::from(name.as_bytes()), &mut value).ok()?.len();
        value.truncate(length);
        Some(value)
    }
}

fn create_key(path: &Path) -> io::Result<Vec<u8>> {
    let mut key = vec![0; 32];
    aws_lc_rs::rand::fill(&mut key).map_err(|_| io::Error::other("no randomness from the system"))?;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&key)?;
    file.sync_all()?;
    if let Some(folder) = path.parent() {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(key)
}
