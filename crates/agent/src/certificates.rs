//! Our own certificate: asked for with a key born here, renewed at about half of its life, never on a disk.
//!
//! [`Renewer`] drives; whom it asks is a [`CertificateIssuer`], so that tests need no network. What it obtains goes into a
//! [`tls::IdentitySource`] and a [`tls::BundleSource`], from which the proxy, SDS and the connection to the control plane
//! read.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base::{Clock, Random, SpiffeId, ThreadRandom};
use runtime::backoff::Backoff;
use tls::{BundleSource, CertificateDer, Identity, IdentitySource, PrivateKey, TlsError, TrustBundle};
use tokio::sync::watch;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// After a failure the next try comes soon, later ones not more often than this.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A certificate that is nearly over is still renewed with a pause.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LOOK_AT_CLOCK: Duration = Duration::from_secs(20);

/// Whoever turns requests into certificates.
pub trait CertificateIssuer: Send + Sync {
    /// The entries of the answer, one PEM text each: leaf first, roots last.
    fn issue<'a>(
        &'a self,
        request: &'a str,
        validity: Duration,
    ) -> BoxFuture<'a, Result<Vec<String>, CertificateError>>;
}

/// Why there is no (new) certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Trying again may help.
    #[error("the authority cannot be reached or is not able to answer: {0}")]
    Unavailable(String),
    /// Trying again with the same credentials will not help.
    #[error("the authority refuses: {0}")]
    Refused(String),
    #[error("the authority's answer is not usable: {0}")]
    Answer(String),
    #[error("{0}")]
    Own(#[from] TlsError),
}

impl CertificateError {
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// Where the current certificate and roots are, and what went wrong last.
#[derive(Debug, Clone)]
pub struct Certificates {
    pub identity: IdentitySource,
    /// The roots that peers are judged by.
    pub bundle: BundleSource,
    /// The roots that the control plane is judged by: those we were started with, and those announced last.
    pub control_plane_roots: BundleSource,
    bootstrap: Arc<TrustBundle>,
    failure: watch::Sender<Option<CertificateError>>,
}

impl Certificates {
    /// Nothing but the roots that the control plane is judged by at first.
    pub fn new(bootstrap: TrustBundle) -> Self {
        Self {
            identity: IdentitySource::empty(),
            bundle: BundleSource::empty(),
            control_plane_roots: BundleSource::new(bootstrap.clone()),
            bootstrap: Arc::new(bootstrap),
            failure: watch::Sender::new(None),
        }
    }

    /// The last failure, gone after a success.
    pub fn failure(&self) -> Option<CertificateError> {
        self.failure.borrow().clone()
    }

    /// Waits for the first certificate, or for a refusal that waiting will not change.
    pub async fn first(&self) -> Result<Arc<Identity>, CertificateError> {
        let mut failures = self.failure.subscribe();
        loop {
            tokio::select! {
                identity = self.identity.ready() => return Ok(identity),
                changed = failures.changed() => {
                    let failure = failures.borrow_and_update().clone();
                    match failure {
                        Some(failure) if !failure.is_temporary() => return Err(failure),
                        // The sender lives as long as `self`.
                        _ => { let _ = changed; }
                    }
                }
            }
        }
    }

    /// Takes roots that the control plane announced.
    pub fn take_roots(&self, roots: Vec<CertificateDer<'static>>) -> Result<(), TlsError> {
        let announced = TrustBundle::any(roots)?;
        if self.bundle.current().is_some_and(|current| *current == announced) {
            return Ok(());
        }
        let mut known = self.bootstrap.certificates();
        let new = announced.certificates();
        known.extend(new.into_iter().filter(|c| !known.contains(c)).collect::<Vec<_>>());
        self.control_plane_roots.set(TrustBundle::any(known)?);
        self.bundle.set(announced);
        Ok(())
    }
}

/// Keeps a certificate current.
pub struct Renewer {
    id: SpiffeId,
    /// Whatever the authority says; that of `id` is a guess.
    any_domain: bool,
    /// Zero leaves it to the authority.
    validity: Duration,
    issuer: Arc<dyn CertificateIssuer>,
    certificates: Certificates,
    clock: Arc<dyn Clock>,
}

impl Renewer {
    pub fn new(
        id: SpiffeId,
        validity: Duration,
        issuer: Arc<dyn CertificateIssuer>,
        certificates: Certificates,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { id, any_domain: false, validity, issuer, certificates, clock }
    }

    /// Takes certificates of whichever trust domain the authority says: its roots vouch for it.
    #[must_use]
    pub fn of_any_domain(self) -> Self {
        Self { any_domain: true, ..self }
    }

    /// Asks, waits and asks again until it is dropped. A failure keeps what is there.
    pub async fn run(self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let pause = match self.renew().await {
                Ok(not_after) => {
                    backoff.reset();
                    self.certificates.failure.send_replace(None);
                    renewal_delay(self.clock.wall(), not_after, &mut ThreadRandom)
                }
                Err(error) => {
                    tracing::warn!(identity = %self.id, %error, "no new certificate");
                    self.certificates.failure.send_replace(Some(error));
                    backoff.pause(&mut ThreadRandom)
                }
            };
            self.wait(pause).await;
        }
    }

    /// By the wall clock, which goes on while a laptop sleeps; certificates expire by it.
    async fn wait(&self, pause: Duration) {
        let due = self.clock.wall() + pause;
        while let Ok(left) = due.duration_since(self.clock.wall()) {
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK_AT_CLOCK)).await;
        }
    }

    /// One request with a new key; what comes is current when this returns.
    pub async fn renew(&self) -> Result<SystemTime, CertificateError> {
        let key = PrivateKey::generate()?;
        let request = tls::certificate_request(&key, &self.asked().to_string())?;
        let entries = self.issuer.issue(&request, self.validity).await?;
        let (chain, roots) = read_answer(&entries)?;
        let identity = Identity::new(chain, key)
            .map_err(|e| CertificateError::Answer(format!("{e} (it was asked for a new key)")))?;
        self.check(&identity)?;
        let not_after = identity.not_after();
        self.certificates.take_roots(roots).map_err(|e| CertificateError::Answer(e.to_string()))?;
        tracing::info!(
            identity = %self.id,
            serial = identity.info().serial,
            seconds_left = not_after.duration_since(self.clock.wall()).map_or(0, |d| d.as_secs()),
            "certificate received"
        );
        self.certificates.identity.set(identity);
        Ok(not_after)
    }

    /// Who we are, as far as we know.
    fn asked(&self) -> SpiffeId {
        let current = self.certificates.identity.current().filter(|_| self.any_domain);
        current.and_then(|identity| identity.spiffe_id().cloned()).unwrap_or_else(|| self.id.clone())
    }

    fn check(&self, identity: &Identity) -> Result<(), CertificateError> {
        let same = |id: &SpiffeId| {
            let domain = if self.any_domain { id.trust_domain.clone() } else { self.id.trust_domain.clone() };
            *id == SpiffeId { trust_domain: domain, ..self.id.clone() }
        };
        if !identity.spiffe_id().is_some_and(same) {
            return Err(CertificateError::Answer(format!(
                "the certificate is for {:?}, we are {}: trust domain, namespace and account must agree with the credentials",
                identity.info().uri_sans,
                self.id
            )));
        }
        if identity.not_after() <= self.clock.wall() {
            return Err(CertificateError::Answer(
                "the certificate has expired already; do the clocks agree?".into(),
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for Renewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewer").field("id", &self.id).finish_non_exhaustive()
    }
}

type Chains = (Vec<CertificateDer<'static>>, Vec<CertificateDer<'static>>);

/// The last entry holds the roots (several during a rotation); all before it are the chain.
fn read_answer(entries: &[String]) -> Result<Chains, CertificateError> {
    let [chain @ .., roots] = entries else {
        return Err(CertificateError::Answer("it is empty".into()));
    };
    if chain.is_empty() {
        return Err(CertificateError::Answer("it has one entry; a chain and a root were expected".into()));
    }
    let read = |what, pem: &str| {
        tls::certificates_from_pem(what, pem.as_bytes()).map_err(|e| CertificateError::Answer(e.to_string()))
    };
    Ok((read("chain", &chain.concat())?, read("root", roots)?))
}

/// Half of what is left, a tenth more or less, so that a mesh does not come at once.
pub fn renewal_delay(now: SystemTime, not_after: SystemTime, random: &mut impl Random) -> Duration {
    let left = not_after.duration_since(now).unwrap_or_default();
    let tenth = u64::try_from((left / 10).as_nanos()).unwrap_or(u64::MAX);
    let delay = left * 9 / 20 + Duration::from_nanos(random.below(tenth.max(1)));
    delay.max(SHORTEST_WAIT)
}

#[cfg(test)]
mod tests {
    use base::SeededRandom;

    use super::*;

    #[test]
    fn renewal_is_due_at_about_half_of_life() {
        let now = SystemTime::now();
        let mut random = SeededRandom::new(3);
        for seconds in [60, 3600, 24 * 3600, 90 * 24 * 3600] {
            let left = Duration::from_secs(seconds);
            let delays: Vec<_> = (0..50).map(|_| renewal_delay(now, now + left, &mut random)).collect();
            assert!(delays.iter().all(|d| *d >= left * 9 / 20 && *d <= left * 11 / 20), "{seconds} s");
            assert!(delays.iter().min() != delays.iter().max(), "spread");
        }
        assert_eq!(renewal_delay(now, now - Duration::from_secs(5), &mut random), SHORTEST_WAIT);
    }

    #[test]
    fn answers_without_a_chain_are_refused() {
        for entries in [vec![], vec!["x".to_owned()], vec!["x".to_owned(), "y".to_owned()]] {
            assert!(matches!(read_answer(&entries), Err(CertificateError::Answer(_))), "{entries:?}");
        }
    }
}
