//! Certificates, trust bundles, rustls configuration, SPIFFE verification.
