//! The mesh's trust domain and its aliases, which its configuration may change while the authority runs.

use std::sync::Arc;

use arc_swap::ArcSwap;
use base::TrustDomain;

use crate::audit;

/// Cheap to clone; all clones see a change at once.
#[derive(Debug, Clone, Default)]
pub struct TrustDomains(Arc<ArcSwap<Names>>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    own: TrustDomain,
    aliases: Vec<TrustDomain>,
}

impl TrustDomains {
    pub fn new(own: TrustDomain, aliases: Vec<TrustDomain>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Names { own, aliases })))
    }

    /// The domain of every certificate that is made from now on.
    pub fn own(&self) -> TrustDomain {
        self.0.load().own.clone()
    }

    pub fn set(&self, own: TrustDomain, aliases: Vec<TrustDomain>) {
        let names = Names { own, aliases };
        if **self.0.load() != names {
            audit::trust_domains_changed(&names.own, &names.aliases);
            self.0.store(Arc::new(names));
        }
    }

    /// Whether somebody of that domain counts as one of us: so those who hold a certificate from before a change of
    /// the domain get the next one.
    pub fn admits(&self, domain: &TrustDomain) -> bool {
        let names = self.0.load();
        names.own == *domain || names.aliases.contains(domain)
    }
}
