//! Judge certificate requests, sign, rotate roots.
//!
//! [`Authority`] is the whole: it takes a request and a caller that was authenticated ([`Authenticators`]), judges the
//! request ([`CertificateRequest`]), and has its [`Signer`] make the leaf. Where a signer's key lives is the signer's affair: a root of our
//! own, made on first start and kept by a [`RootStore`] ([`OwnRoot`]), or an intermediate that somebody plugged in as Istio's
//! `cacerts` ([`Plugged`]), replaced live. The roots to trust are a [`tls::BundleSource`] that others watch.
//!
//! No gRPC here (that is `control`), no Kubernetes (a [`TokenReviewer`] is handed in), no timers: whoever drives the authority
//! calls [`Authority::tick`].
//!
//! Invariants: names in a certificate come from the authenticated caller and never from the request; every certificate
//! leaves a line under the tracing target `audit`, so does every refusal; no leaf outlives its signer.

mod audit;
mod authenticate;
mod authority;
mod join;
mod own_root;
mod plugged;
mod request;
mod root_store;
mod signer;
mod trust_domains;

pub use authenticate::{
    AuthenticateError, Authenticators, Caller, Credentials, Method, ReviewError, ReviewedAccount, Secret,
    TokenReviewer,
};
pub use authority::{Authority, IssueError, Issued, Policy, control_plane_names};
pub use join::{JoinError, JoinGrant, JoinStore, JoinTokens, Judged, Kept, Shown};
pub use own_root::{OwnRoot, RootLife};
pub use plugged::{FILES as PLUGGED_FILES, Plugged, PluggedFiles, PluggedSource};
pub use request::{CertificateRequest, RequestError};
pub use root_store::{KeptRoot, KeptRoots, RootStore, StoreError};
pub use signer::{BoxFuture, Leaf, LeafNames, LocalSigner, SignError, Signer};
pub use trust_domains::TrustDomains;

#[cfg(test)]
mod tests;
