//! Certificates, trust bundles, rustls configuration, SPIFFE verification.
//!
//! [`Identity`] is a certificate chain with its key, [`TrustBundle`] the roots that a peer's chain must reach. Both live in
//! sources ([`IdentitySource`], [`BundleSource`]) that are swapped while connections run: every handshake takes what is
//! current, and no connection notices a swap. [`ServerTls`] and [`ClientTls`] turn them into rustls configurations.
//!
//! There is one verifier ([`Verify`]): a chain is judged by webpki, then the names are judged as [`Expect`] says. Nothing
//! here asks for certificates, signs them or stores them: that is `ca` and `agent`. [`seal`] keeps what the control plane
//! must remember unreadable at rest.
//!
//! Invariants: a private key is zeroized when dropped and has no readable `Debug`; a handshake without a current
//! certificate or without roots fails, it never falls back to plaintext or to no verification; mutual TLS is never
//! resumed, so that each connection judges a live certificate against the live roots.

mod bundle;
mod certificate;
mod client;
mod hello;
mod identity;
mod key;
mod options;
mod pem;
mod request;
mod san;
pub mod seal;
mod server;
mod source;
mod verify;

use std::sync::Arc;

pub use bundle::{TrustBundle, system_roots};
pub use certificate::PeerInfo;
pub use client::{ClientOptions, ClientTls};
pub use hello::{ClientHello, HelloError, Peek, peek_client_hello};
pub use identity::Identity;
pub use key::{KeyKind, PrivateKey};
pub use options::{ClientCertificates, Pins, TlsVersions, cipher_suites, curves};
pub use pem::{TlsError, certificates_from_pem, certificates_to_pem};
pub use request::certificate_request;
pub use rustls::SignatureScheme;
pub use rustls_pki_types::{CertificateDer, ServerName};
pub use san::{SanKind, SanMatcher, TextMatch};
pub use server::{ServerOptions, ServerTls};
pub use source::{BundleSource, IdentitySource};
pub use verify::{Expect, Verify};

/// Makes aws-lc-rs the provider of this process. First thing in each `main`, and in tests that use rustls.
///
/// Calling it again does nothing.
pub fn install_provider() {
    // An error means that a provider is installed already, which is what is wanted.
    let _ = ours().install_default();
}

/// AES-128 comes first in what clients offer, and so is what two of ours speak, as two Envoys do: AES-256 costs more and
/// nothing that is known breaks the other.
fn ours() -> rustls::crypto::CryptoProvider {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    rustls::crypto::CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(ours()))
}

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
