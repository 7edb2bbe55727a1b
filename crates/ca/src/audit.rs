//! One line for every identity issued or refused, under the tracing target `audit`.

use std::time::SystemTime;

use base::TrustDomain;
use tls::PeerInfo;

use crate::authenticate::Caller;

pub(crate) fn issued(caller: &Caller, leaf: &PeerInfo, asked: &[String]) {
    tracing::info!(
        target: "audit",
        event = "certificate.issued",
        identity = %caller.id,
        method = %caller.method,
        serial = leaf.serial,
        fingerprint = leaf.fingerprint,
        not_after = unix(leaf.not_after),
        asked = ?asked,
    );
}

pub(crate) fn issued_to_server(leaf: &PeerInfo) {
    tracing::info!(
        target: "audit",
        event = "certificate.issued",
        identity = ?leaf.dns_sans,
        method = "control-plane",
        serial = leaf.serial,
        fingerprint = leaf.fingerprint,
        not_after = unix(leaf.not_after),
    );
}

pub(crate) fn refused(caller: &Caller, reason: &dyn std::fmt::Display) {
    tracing::warn!(
        target: "audit",
        event = "certificate.refused",
        identity = %caller.id,
        method = %caller.method,
        %reason,
    );
}

pub(crate) fn roots_changed(fingerprints: &[String]) {
    tracing::info!(target: "audit", event = "trust-bundle.changed", roots = ?fingerprints);
}

pub(crate) fn trust_domains_changed(own: &TrustDomain, aliases: &[TrustDomain]) {
    let aliases: Vec<&str> = aliases.iter().map(TrustDomain::as_str).collect();
    tracing::info!(target: "audit", event = "trust-domain.changed", trust_domain = %own, ?aliases);
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
