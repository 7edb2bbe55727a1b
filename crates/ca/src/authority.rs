//! The authority: policy, the current signer, the current bundle.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use base::{Clock, TrustDomain};
use tls::{BundleSource, CertificateDer, Identity, PeerInfo, PrivateKey, TlsError, TrustBundle};

use crate::audit;
use crate::authenticate::Caller;
use crate::own_root::{OwnRoot, RootLife};
use crate::plugged::PluggedFiles;
use crate::request::CertificateRequest;
use crate::root_store::StoreError;
use crate::signer::{Leaf, LeafNames, SignError, Signer};
use crate::trust_domains::TrustDomains;

/// Clocks differ between machines: certificates begin to be valid this much back.
const BACKDATE: Duration = Duration::from_secs(120);

/// What is granted.
#[derive(Debug, Clone)]
pub struct Policy {
    pub trust_domains: TrustDomains,
    /// Where the request names no validity.
    pub default_ttl: Duration,
    pub max_ttl: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { trust_domains: TrustDomains::default(), default_ttl: day, max_ttl: 90 * day }
    }
}

/// A certificate that was made.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The leaf, then intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots to trust now, never empty.
    pub roots: Vec<CertificateDer<'static>>,
    pub not_after: SystemTime,
}

/// Why no certificate was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    #[error("the requested validity of {asked} s is more than the {most} s that are granted here")]
    Validity { asked: u64, most: u64 },
    #[error("{0} is of another trust domain than ours, {1}")]
    TrustDomain(String, TrustDomain),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error("the signer made a certificate that is not valid: {0}")]
    Made(#[from] TlsError),
}

impl IssueError {
    /// Whether the same call may succeed later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Sign(_) | Self::Made(_))
    }
}

impl Issued {
    /// As Istio's CA service answers: one certificate each, leaf first; the last entry is the root, or during an overlap
    /// all roots, which agents take as their bundle.
    pub fn entries(&self) -> Vec<String> {
        let mut entries: Vec<String> = self.chain.iter().map(|c| tls::certificates_to_pem([c])).collect();
        entries.push(tls::certificates_to_pem(&self.roots));
        entries
    }
}

/// Judges, signs, and tells which roots to trust.
pub struct Authority {
    policy: Policy,
    clock: Arc<dyn Clock>,
    signer: ArcSwap<Box<dyn Signer>>,
    bundle: BundleSource,
    keeper: Mutex<Keeper>,
}

/// Where the signer comes from, and what [`Authority::tick`] looks after.
enum Keeper {
    /// Installed by the caller, with roots that were replaced and stay trusted until their leaves have expired.
    Given {
        leaving: Vec<(CertificateDer<'static>, SystemTime)>,
    },
    Own {
        root: Box<OwnRoot>,
        life: RootLife,
    },
    Plugged {
        files: PluggedFiles,
        leaving: Vec<(CertificateDer<'static>, SystemTime)>,
    },
}

impl Authority {
    /// With a signer of the caller's.
    pub fn new(policy: Policy, clock: Arc<dyn Clock>, signer: Box<dyn Signer>) -> Result<Self, TlsError> {
        Self::assemble(policy, clock, signer, Keeper::Given { leaving: Vec::new() })
    }

    /// With a root of our own.
    pub fn with_own_root(
        policy: Policy,
        clock: Arc<dyn Clock>,
        root: OwnRoot,
        life: RootLife,
    ) -> Result<Self, StoreError> {
        let signer = Box::new(root.signer()?);
        Ok(Self::assemble(policy, clock, signer, Keeper::Own { root: Box::new(root), life })?)
    }

    /// With what is plugged in; [`Self::tick`] looks whether it was replaced.
    pub fn with_plugged(
        policy: Policy,
        clock: Arc<dyn Clock>,
        mut files: PluggedFiles,
    ) -> Result<Self, StoreError> {
        let plugged = files.poll()?.ok_or(SignError::Failed("nothing is plugged in".into()))?;
        let signer = Box::new(plugged.signer()?);
        Ok(Self::assemble(policy, clock, signer, Keeper::Plugged { files, leaving: Vec::new() })?)
    }

    fn assemble(
        policy: Policy,
        clock: Arc<dyn Clock>,
        signer: Box<dyn Signer>,
        keeper: Keeper,
    ) -> Result<Self, TlsError> {
        let bundle = BundleSource::empty();
        announce(&bundle, signer.roots())?;
        Ok(Self { policy, clock, signer: ArcSwap::from_pointee(signer), bundle, keeper: Mutex::new(keeper) })
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// The roots to trust, live.
    pub fn bundle(&self) -> BundleSource {
        self.bundle.clone()
    }

    /// Makes a certificate for a caller. `validity` of zero is the default.
    pub async fn issue(
        &self,
        request: &CertificateRequest,
        caller: &Caller,
        validity: Duration,
    ) -> Result<Issued, IssueError> {
        let made = self.make(request, caller, validity).await;
        match &made {
            Ok((_, leaf)) => audit::issued(caller, leaf, request.asked()),
            Err(reason) => audit::refused(caller, reason),
        }
        made.map(|(issued, _)| issued)
    }

    async fn make(
        &self,
        request: &CertificateRequest,
        caller: &Caller,
        validity: Duration,
    ) -> Result<(Issued, PeerInfo), IssueError> {
        let Policy { trust_domains, default_ttl, max_ttl } = &self.policy;
        let own = trust_domains.own();
        if caller.id.trust_domain != own {
            return Err(IssueError::TrustDomain(caller.id.to_string(), own));
        }
        if validity > *max_ttl {
            return Err(IssueError::Validity { asked: validity.as_secs(), most: max_ttl.as_secs() });
        }
        let ttl = if validity.is_zero() { (*default_ttl).min(*max_ttl) } else { validity };
        self.sign(request.public_key().to_vec(), LeafNames::Workload(caller.id.clone()), ttl).await
    }

    /// The control plane's own certificate, for a key born here. Renew it at half of its life.
    pub async fn issue_server(
        &self,
        dns: Vec<String>,
        addresses: Vec<IpAddr>,
    ) -> Result<Identity, IssueError> {
        let key = PrivateKey::generate()?;
        let public = key.public_key_der().ok_or(TlsError::NoKey)?;
        let names = LeafNames::Server { dns, addresses };
        let (issued, leaf) = self.sign(public, names, self.policy.default_ttl).await?;
        audit::issued_to_server(&leaf);
        Ok(Identity::new(issued.chain, key)?)
    }

    async fn sign(
        &self,
        public_key: Vec<u8>,
        names: LeafNames,
        ttl: Duration,
    ) -> Result<(Issued, PeerInfo), IssueError> {
        let signer = self.signer.load_full();
        let now = self.clock.wall();
        let not_after = (now + ttl).min(signer.not_after());
        if not_after <= now {
            return Err(SignError::Expired.into());
        }
        let leaf = Leaf { public_key, names, not_before: now - BACKDATE, not_after };
        let chain = signer.sign(&leaf).await?;
        let info = PeerInfo::from_chain(&chain)?;
        let roots = self.bundle.current().map(|b| b.certificates()).unwrap_or_default();
        Ok((Issued { chain, roots, not_after: info.not_after }, info))
    }

    /// Signs with another signer from now on. Roots that it does not announce stay trusted until leaves of the former
    /// have expired.
    pub fn install(&self, signer: Box<dyn Signer>) -> Result<(), TlsError> {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let mut leaving = match &mut *keeper {
            Keeper::Given { leaving } | Keeper::Plugged { leaving, .. } => std::mem::take(leaving),
            Keeper::Own { .. } => Vec::new(),
        };
        self.replace(signer, &mut leaving)?;
        *keeper = Keeper::Given { leaving };
        Ok(())
    }

    fn replace(
        &self,
        signer: Box<dyn Signer>,
        leaving: &mut Vec<(CertificateDer<'static>, SystemTime)>,
    ) -> Result<(), TlsError> {
        let until = self.clock.wall() + self.policy.max_ttl;
        let former = self.signer.load().roots();
        let roots = signer.roots();
        leaving.retain(|(c, _)| !roots.contains(c));
        for root in former {
            if !roots.contains(&root) && !leaving.iter().any(|(c, _)| *c == root) {
                leaving.push((root, until));
            }
        }
        let all = roots.into_iter().chain(leaving.iter().map(|(c, _)| c.clone())).collect();
        announce(&self.bundle, all)?;
        self.signer.store(Arc::new(signer));
        Ok(())
    }

    /// Begins to rotate our own root; false where a rotation is under way or the root is not ours.
    pub fn start_rotation(&self) -> Result<bool, StoreError> {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let Keeper::Own { root, life } = &mut *keeper else { return Ok(false) };
        let started = root.start_rotation(life, self.clock.wall())?;
        if started {
            self.take_over(root)?;
        }
        Ok(started)
    }

    /// What time brings: steps of a rotation, a replaced intermediate, roots that may go. Call it every few seconds; an error
    /// leaves everything as it was.
    pub fn tick(&self) -> Result<(), StoreError> {
        let now = self.clock.wall();
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *keeper {
            Keeper::Own { root, life } => {
                if root.advance(life, now)? {
                    self.take_over(root)?;
                }
            }
            Keeper::Plugged { files, leaving } => match files.poll()? {
                Some(plugged) => self.replace(Box::new(plugged.signer()?), leaving)?,
                None => self.drop_expired(leaving, now)?,
            },
            Keeper::Given { leaving } => self.drop_expired(leaving, now)?,
        }
        Ok(())
    }

    fn take_over(&self, root: &OwnRoot) -> Result<(), StoreError> {
        let signer = root.signer()?;
        announce(&self.bundle, signer.roots())?;
        self.signer.store(Arc::new(Box::new(signer)));
        Ok(())
    }

    fn drop_expired(
        &self,
        leaving: &mut Vec<(CertificateDer<'static>, SystemTime)>,
        now: SystemTime,
    ) -> Result<(), TlsError> {
        let before = leaving.len();
        leaving.retain(|(_, until)| now < *until);
        if leaving.len() == before {
            return Ok(());
        }
        let roots = self.signer.load().roots();
        announce(&self.bundle, roots.into_iter().chain(leaving.iter().map(|(c, _)| c.clone())).collect())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("policy", &self.policy).finish_non_exhaustive()
    }
}

fn announce(bundle: &BundleSource, roots: Vec<CertificateDer<'static>>) -> Result<(), TlsError> {
    let fingerprints = roots
        .iter()
        .map(|c| PeerInfo::from_chain(std::slice::from_ref(c)).map(|i| i.fingerprint))
        .collect::<Result<Vec<_>, _>>()?;
    bundle.set(TrustBundle::any(roots)?);
    audit::roots_changed(&fingerprints);
    Ok(())
}

/// The names under which agents dial the control plane.
pub fn control_plane_names(namespace: &str, revision: &str) -> Vec<String> {
    let mut names: Vec<String> = ["istiod", "istiod-remote", "istio-pilot"]
        .iter()
        .map(|service| format!("{service}.{namespace}.svc"))
        .collect();
    if !revision.is_empty() && revision != "default" {
        names.push(format!("istiod-{revision}.{namespace}.svc"));
    }
    names
}
