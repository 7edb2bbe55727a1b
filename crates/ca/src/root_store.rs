//! Where our own roots are kept between starts: a folder, or whatever else can hold them.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tls::TlsError;
use tls::seal::{SealError, SealKey, write_private};
use zeroize::Zeroizing;

use crate::signer::SignError;

const FILE: &str = "authority.sealed";
const CONTEXT: &str = "mizzen/ca/authority";
const PUBLIC: &str = "root-cert.pem";

/// Keeps roots. Calls may block.
pub trait RootStore: Send + Sync + fmt::Debug {
    /// What is kept; nothing before the first start.
    fn load(&self) -> Result<Option<KeptRoots>, StoreError>;

    /// Keeps the first roots; false if there are some already.
    fn create(&self, roots: &KeptRoots) -> Result<bool, StoreError>;

    /// Replaces what is kept.
    fn save(&self, roots: &KeptRoots) -> Result<(), StoreError>;

    /// Where that is, for messages.
    fn place(&self) -> String;
}

/// Why roots could not be loaded, made or stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path}: {source}")]
    File { path: String, source: io::Error },
    #[error("{place}: {reason}")]
    Remote { place: String, reason: String },
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(
        "{path} is damaged: {reason}; restore it from a backup, or move it away to start with a new root"
    )]
    Damaged { path: String, reason: String },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// Our roots as they are kept: times are seconds since 1970.
#[derive(Serialize, Deserialize)]
pub struct KeptRoots {
    pub active: KeptRoot,
    /// The one to come, and since when it is announced.
    pub next: Option<(KeptRoot, u64)>,
    /// Certificates of those to go, and until when they are trusted.
    pub retired: Vec<(String, u64)>,
}

/// A root with its key, as PEM.
#[derive(Serialize, Deserialize)]
pub struct KeptRoot {
    pub certificate: String,
    pub key: Zeroizing<String>,
}

impl KeptRoots {
    /// All certificates, the active root first.
    pub fn certificates(&self) -> String {
        let next = self.next.iter().map(|(root, _)| root.certificate.as_str());
        let retired = self.retired.iter().map(|(pem, _)| pem.as_str());
        std::iter::once(self.active.certificate.as_str()).chain(next).chain(retired).collect()
    }
}

impl fmt::Debug for KeptRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeptRoots(secret)")
    }
}

/// One encrypted file in a folder, with the certificates beside it.
#[derive(Debug)]
pub(crate) struct FolderStore {
    folder: PathBuf,
    seal: SealKey,
}

impl FolderStore {
    pub(crate) fn new(folder: &Path, seal: SealKey) -> Self {
        Self { folder: folder.to_owned(), seal }
    }
}

impl RootStore for FolderStore {
    fn load(&self) -> Result<Option<KeptRoots>, StoreError> {
        let path = self.folder.join(FILE);
        let sealed = match fs::read(&path) {
            Ok(sealed) => sealed,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(file_error(&path, e)),
        };
        let plain = self.seal.open(CONTEXT, &sealed)?;
        let kept = serde_json::from_slice(&plain)
            .map_err(|_| StoreError::Damaged { path: self.place(), reason: "not what was written".into() })?;
        Ok(Some(kept))
    }

    /// The data folder is one process's own.
    fn create(&self, roots: &KeptRoots) -> Result<bool, StoreError> {
        fs::create_dir_all(&self.folder).map_err(|e| file_error(&self.folder, e))?;
        self.save(roots).map(|()| true)
    }

    fn save(&self, roots: &KeptRoots) -> Result<(), StoreError> {
        let plain = serde_json::to_vec(roots);
        let plain = plain.map_err(|e| StoreError::Damaged { path: self.place(), reason: e.to_string() })?;
        let sealed = self.seal.seal(CONTEXT, &Zeroizing::new(plain))?;
        let path = self.folder.join(FILE);
        write_private(&path, &sealed).map_err(|e| file_error(&path, e))?;
        let public = self.folder.join(PUBLIC);
        fs::write(&public, roots.certificates()).map_err(|e| file_error(&public, e))
    }

    fn place(&self) -> String {
        self.folder.join(FILE).display().to_string()
    }
}

pub(crate) fn file_error(path: &Path, source: io::Error) -> StoreError {
    StoreError::File { path: path.display().to_string(), source }
}
