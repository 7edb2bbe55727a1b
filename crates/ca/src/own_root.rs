//! A root of our own: made on first start, kept by a [`RootStore`], rotated with an overlap.
//!
//! A rotation announces the next root beside the active one, switches signing to it when every workload has had time to
//! learn it, and withdraws the old one when its last leaf has expired. [`OwnRoot::advance`] is the machine; it takes the time.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose};
use tls::seal::SealKey;
use tls::{CertificateDer, Identity, PrivateKey};

use crate::root_store::{FolderStore, KeptRoot, KeptRoots, RootStore, StoreError};
use crate::signer::{Key, LocalSigner, SignError, serial};

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
    store: Box<dyn RootStore>,
    active: Identity,
    next: Option<(Identity, SystemTime)>,
    retired: Vec<(CertificateDer<'static>, SystemTime)>,
}

impl OwnRoot {
    /// Loads the root kept encrypted in that folder; makes and keeps one on first start.
    pub fn load_or_create(
        folder: &Path,
        seal: SealKey,
        organization: &str,
        life: &RootLife,
        now: SystemTime,
    ) -> Result<Self, StoreError> {
        Self::open(Box::new(FolderStore::new(folder, seal)), organization, life, now)
    }

    /// Loads the root that the store keeps; makes one on first start.
    pub fn open(
        store: Box<dyn RootStore>,
        organization: &str,
        life: &RootLife,
        now: SystemTime,
    ) -> Result<Self, StoreError> {
        if let Some(kept) = store.load()? {
            return Self::load(store, kept);
        }
        let active = make_root(organization, life.validity, now)?;
        let root = Self { store, active, next: None, retired: Vec::new() };
        if root.store.create(&root.kept())? {
            return Ok(root);
        }
        // Somebody else was faster: theirs counts.
        match root.store.load()? {
            Some(kept) => Self::load(root.store, kept),
            None => Err(StoreError::Damaged {
                path: root.store.place(),
                reason: "it was made and is gone again".into(),
            }),
        }
    }

    fn load(store: Box<dyn RootStore>, kept: KeptRoots) -> Result<Self, StoreError> {
        let damaged = |reason: String| StoreError::Damaged { path: store.place(), reason };
        let root = |r: &KeptRoot| {
            Identity::from_pem("root", r.certificate.as_bytes(), r.key.as_bytes())
                .map_err(|e| damaged(e.to_string()))
        };
        let mut retired = Vec::new();
        for (pem, until) in &kept.retired {
            let certificates = tls::certificates_from_pem("retired root", pem.as_bytes())
                .map_err(|e| damaged(e.to_string()))?;
            retired.extend(certificates.into_iter().map(|c| (c, from_seconds(*until))));
        }
        let next = match &kept.next {
            Some((r, since)) => Some((root(r)?, from_seconds(*since))),
            None => None,
        };
        let active = root(&kept.active)?;
        Ok(Self { store, active, next, retired })
    }

    fn kept(&self) -> KeptRoots {
        let kept = |i: &Identity| KeptRoot { certificate: i.chain_pem(), key: i.key().reveal_pem() };
        KeptRoots {
            active: kept(&self.active),
            next: self.next.as_ref().map(|(i, since)| (kept(i), seconds(*since))),
            retired: self
                .retired
                .iter()
                .map(|(c, until)| (tls::certificates_to_pem([c]), seconds(*until)))
                .collect(),
        }
    }

    fn store(&self) -> Result<(), StoreError> {
        self.store.save(&self.kept())
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

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn from_seconds(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}
