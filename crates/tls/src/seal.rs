//! Encryption at rest, for what the control plane must remember over a restart: its root key, Secrets.
//!
//! AES-256-GCM with a random nonce, under one key file of mode 0600. The context (say, a file's or object's name) is
//! authenticated with it, so that sealed values cannot be exchanged for one another. Workloads' keys are never stored at
//! all.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

const FORMAT: &[u8; 4] = b"MZS1";

/// The key under which values are sealed. Never printed.
pub struct SealKey(RandomizedNonceKey);

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("key file {path}: {source}")]
    File { path: String, source: io::Error },
    #[error("key file {path} can be read by others (mode {mode:o}); run: chmod 600 {path}")]
    Mode { path: String, mode: u32 },
    #[error("key file {path} is damaged: it must hold 32 bytes and holds {len}")]
    Length { path: String, len: usize },
    #[error("{what} cannot be decrypted: it was sealed under another key file, or was changed")]
    Open { what: String },
    #[error("encryption failed")]
    Seal,
}

impl SealKey {
    /// The key of that file; makes one on first start.
    pub fn load_or_create(path: &Path) -> Result<Self, SealError> {
        let shown = || path.display().to_string();
        let failed = |source| SealError::File { path: shown(), source };
        match fs::metadata(path) {
            Ok(meta) if meta.mode() & 0o077 != 0 => {
                return Err(SealError::Mode { path: shown(), mode: meta.mode() & 0o777 });
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => create(path).map_err(failed)?,
            Err(e) => return Err(failed(e)),
        }
        let bytes = Zeroizing::new(fs::read(path).map_err(failed)?);
        Self::from_bytes(&bytes).ok_or_else(|| SealError::Length { path: shown(), len: bytes.len() })
    }

    /// From exactly 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        RandomizedNonceKey::new(&AES_256_GCM, bytes).ok().map(Self)
    }

    pub fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut body = plain.to_vec();
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(context.as_bytes()), &mut body)
            .map_err(|_| SealError::Seal)?;
        let mut out = Vec::with_capacity(FORMAT.len() + NONCE_LEN + body.len());
        out.extend_from_slice(FORMAT);
        out.extend_from_slice(nonce.as_ref());
        out.extend_from_slice(&body);
        Ok(out)
    }

    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let wrong = || SealError::Open { what: context.to_owned() };
        let rest = sealed.strip_prefix(FORMAT).ok_or_else(wrong)?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(wrong)?;
        let mut buffer = Zeroizing::new(body.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain =
            self.0.open_in_place(nonce, Aad::from(context.as_bytes()), &mut buffer).map_err(|_| wrong())?;
        Ok(Zeroizing::new(plain.to_vec()))
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(secret)")
    }
}

fn create(path: &Path) -> io::Result<()> {
    let mut key = Zeroizing::new([0u8; 32]);
    aws_lc_rs::rand::fill(key.as_mut_slice())
        .map_err(|_| io::Error::other("the system gave no randomness"))?;
    write_private(path, key.as_slice())
}

/// Replaces a file by one that only its owner can read: written beside, synced, renamed.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = Path::new(&beside);
    let _ = fs::remove_file(beside);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(beside, path)?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_sealed_opens_only_as_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let key = SealKey::load_or_create(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        let sealed = key.seal("secret/a", b"hush").unwrap();
        assert!(!sealed.windows(4).any(|w| w == b"hush"));
        let again = SealKey::load_or_create(&file).unwrap();
        assert_eq!(&**again.open("secret/a", &sealed).unwrap(), b"hush");
        assert!(again.open("secret/b", &sealed).is_err());
        for i in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[i] ^= 1;
            assert!(again.open("secret/a", &bent).is_err(), "byte {i}");
            assert!(again.open("secret/a", &sealed[..i]).is_err(), "cut at {i}");
        }
        assert_eq!(format!("{key:?}"), "SealKey(secret)");
    }

    #[test]
    fn a_key_file_that_others_read_or_that_is_damaged_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        SealKey::load_or_create(&file).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let error = SealKey::load_or_create(&file).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        fs::remove_file(&file).unwrap();
        write_private(&file, b"short").unwrap();
        assert!(matches!(SealKey::load_or_create(&file), Err(SealError::Length { len: 5, .. })));
    }
}
