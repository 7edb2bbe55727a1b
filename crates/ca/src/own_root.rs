//! A root of our own: made on first start, kept encrypted in one file, rotated with an overlap.
//!
//! A rotation announces the next root beside the active one, switches signing to it when every workload has had time to
//! learn it, and withdraws the old one when its last leaf has expired. [`OwnRoot::advance`] is the machine; it takes the time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose};
use serde::{Deserialize, Serialize};
use tls::seal::{SealError, SealKey, write_private};
use tls::{CertificateDer, Identity, PrivateKey, TlsError};
use zeroize::Zeroizing;

use crate::signer::{Key, LocalSigner, SignError, serial};

const FILE: &str = "authority.sealed";
const CONTEXT: &str = "mizzen/ca/authority";
const PUBLIC: &str = "root-cert.pem";

/// How long roots live and overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootLife {
    pub validity: Duration,
    /// A rotation starts by itself when less than this is left.
    pub renew_before: Duration,
    /// From announcing a root to signing with it: everybody must have learnt it, at the latest with a renewed leaf.
    pub announce: Duration,
    /// From signing with the new root to withdrawing the old: as long as leaves live.
    pub withdraw: Duration,
}

impl RootLife {
    /// Ten years, renewed in the last two, for leaves that live at most `max_ttl`.
    pub fn for_leaves(max_ttl: Duration) -> Self {
        let year = Duration::from_secs(365 * 24 * 3600);
        Self { validity: 10 * year, renew_before: 2 * year, announce: max_ttl, withdraw: max_ttl }
    }
}

/// Our own roots: the one that signs, perhaps one to come, perhaps some to go.
#[derive(Debug)]
pub struct OwnRoot {
    folder: PathBuf,
    seal: SealKey,
    active: Identity,
    next: Option<(Identity, SystemTime)>,
    retired: Vec<(CertificateDer<'static>, SystemTime)>,
}

/// Why the root could not be loaded, made or stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path}: {source}")]
    File { path: String, source: io::Error },
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

/// What the file holds, before sealing.
#[derive(Serialize, Deserialize)]
struct Stored {
    active: StoredRoot,
    next: Option<(StoredRoot, u64)>,
    retired: Vec<(String, u64)>,
}

#[derive(Serialize, Deserialize)]
struct StoredRoot {
    certificate: String,
    key: Zeroizing<String>,
}

impl OwnRoot {
    /// Loads the root kept in that folder; makes and keeps one on first start.
    pub fn load_or_create(
        folder: &Path,
        seal: SealKey,
        organization: &str,
        life: &RootLife,
        now: SystemTime,
    ) -> Result<Self, StoreError> {
        let path = folder.join(FILE);
        match fs::read(&path) {
            Ok(sealed) => Self::load(folder, seal, &sealed),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(folder).map_err(|e| file_error(folder, e))?;
                let active = make_root(organization, life.validity, now)?;
                let root = Self { folder: folder.into(), seal, active, next: None, retired: Vec::new() };
                root.store()?;
                Ok(root)
            }
            Err(e) => Err(file_error(&path, e)),
        }
    }

    fn load(folder: &Path, seal: SealKey, sealed: &[u8]) -> Result<Self, StoreError> {
        let path = folder.join(FILE).display().to_string();
        let damaged = |reason: String| StoreError::Damaged { path: path.clone(), reason };
        let plain = seal.open(CONTEXT, sealed)?;
        let stored: Stored =
            serde_json::from_slice(&plain).map_err(|_| damaged("not what was written".into()))?;
        let root = |r: &StoredRoot| {
            Identity::from_pem("root", r.certificate.as_bytes(), r.key.as_bytes())
                .map_err(|e| damaged(e.to_string()))
        };
        let mut retired = Vec::new();
        for (pem, until) in &stored.retired {
            let certificates = tls::certificates_from_pem("retired root", pem.as_bytes())
                .map_err(|e| damaged(e.to_string()))?;
            retired.extend(certificates.into_iter().map(|c| (c, from_seconds(*until))));
        }
        let next = match &stored.next {
            Some((r, since)) => Some((root(r)?, from_seconds(*since))),
            None => None,
        };
        Ok(Self { folder: folder.into(), active: root(&stored.active)?, next, retired, seal })
    }

    fn store(&self) -> Result<(), StoreError> {
        let stored_root = |i: &Identity| StoredRoot { certificate: i.chain_pem(), key: i.key().reveal_pem() };
        let stored = Stored {
            active: stored_root(&self.active),
            next: self.next.as_ref().map(|(i, since)| (stored_root(i), seconds(*since))),
            retired: self
                .retired
                .iter()
                .map(|(c, until)| (tls::certificates_to_pem([c]), seconds(*until)))
                .collect(),
        };
        let path = self.folder.join(FILE);
        let plain =
            Zeroizing::new(serde_json::to_vec(&stored).map_err(|e| StoreError::Damaged {
                path: path.display().to_string(),
                reason: e.to_string(),
            })?);
        let sealed = self.seal.seal(CONTEXT, &plain)?;
        write_private(&path, &sealed).map_err(|e| file_error(&path, e))?;
        let public = self.folder.join(PUBLIC);
        fs::write(&public, tls::certificates_to_pem(&self.roots())).map_err(|e| file_error(&public, e))
    }

    /// Makes the next root and announces it. Does nothing while a rotation is under way.
    pub fn start_rotation(&mut self, life: &RootLife, now: SystemTime) -> Result<bool, StoreError> {
        if self.next.is_some() {
            return Ok(false);
        }
        let organization = organization(&self.active);
        self.next = Some((make_root(&organization, life.validity, now)?, now));
        self.store()?;
        Ok(true)
    }

    /// Takes the steps that are due; true if what is trusted or who signs has changed.
    pub fn advance(&mut self, life: &RootLife, now: SystemTime) -> Result<bool, StoreError> {
        let mut changed = false;
        let due = |since: SystemTime, wait: Duration| now >= since + wait;
        if self.next.as_ref().is_some_and(|(_, since)| due(*since, life.announce))
            && let Some((next, _)) = self.next.take()
        {
            let old = std::mem::replace(&mut self.active, next);
            self.retired.extend(old.chain().first().map(|c| (c.clone(), now + life.withdraw)));
            changed = true;
        }
        let before = self.retired.len();
        self.retired.retain(|(_, until)| now < *until);
        changed |= self.retired.len() != before;
        if changed {
            self.store()?;
        }
        if self.next.is_none() && now + life.renew_before >= self.active.not_after() {
            changed |= self.start_rotation(life, now)?;
        }
        Ok(changed)
    }

    /// The active root, then the one to come, then those to go.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        let next = self.next.iter().flat_map(|(i, _)| i.chain());
        let retired = self.retired.iter().map(|(c, _)| c);
        self.active.chain().iter().chain(next).chain(retired).cloned().collect()
    }

    pub fn signer(&self) -> Result<LocalSigner, SignError> {
        LocalSigner::new(&self.active, Vec::new(), self.roots())
    }
}

fn make_root(organization: &str, validity: Duration, now: SystemTime) -> Result<Identity, StoreError> {
    let key = PrivateKey::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.serial_number = Some(serial()?);
    params.not_before = (now - Duration::from_secs(120)).into();
    params.not_after = (now + validity).into();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate =
        params.self_signed(&Key::new(key.clone())?).map_err(|e| SignError::Failed(e.to_string()))?;
    Ok(Identity::new(vec![certificate.der().clone()], key)?)
}

fn organization(root: &Identity) -> String {
    root.info().subject.strip_prefix("O=").unwrap_or("cluster.local").to_owned()
}

fn file_error(path: &Path, source: io::Error) -> StoreError {
    StoreError::File { path: path.display().to_string(), source }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn from_seconds(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}
