//! What a handshake settled, as deciding and logs see it.

use std::sync::Arc;
use std::time::SystemTime;

use decide::TlsInfo;
use rustls::{CipherSuite, CommonState, ProtocolVersion};
use tls::{Identity, PeerInfo};

use super::io::{Io, Kind};

impl Io {
    /// The handshake's outcome; `ours` is the certificate that we show.
    pub fn tls_info(&self, ours: Option<&Identity>) -> Option<Arc<TlsInfo>> {
        let state: &CommonState = match self.kind() {
            Kind::Server(tls) => tls.get_ref().1,
            Kind::Client(tls) => tls.get_ref().1,
            Kind::Tcp(_) | Kind::Unix(_) | Kind::Taken => return None,
        };
        Some(Arc::new(info(state, ours)))
    }
}

fn info(state: &CommonState, ours: Option<&Identity>) -> TlsInfo {
    let mut info = TlsInfo {
        version: version(state.protocol_version()).into(),
        cipher: state.negotiated_cipher_suite().map(|s| openssl_name(s.suite())).unwrap_or_default().into(),
        alpn: state.alpn_protocol().map(String::from_utf8_lossy).unwrap_or_default().into(),
        ..TlsInfo::default()
    };
    if let Some(ours) = ours {
        info.local_uris = ours.info().uri_sans.iter().map(|u| u.as_str().into()).collect();
        info.local_dns = ours.info().dns_sans.iter().map(|u| u.as_str().into()).collect();
        info.local_subject = ours.info().subject.as_str().into();
    }
    info.peer_presented = state.peer_certificates().is_some();
    let Some(peer) = PeerInfo::of_connection(state) else { return info };
    // A handshake with a certificate that did not verify would have failed, but for `Verify::Nothing`, which asks nobody.
    info.peer_verified = true;
    info.peer_uris = peer.uri_sans.iter().map(|u| u.as_str().into()).collect();
    info.peer_dns = peer.dns_sans.iter().map(|u| u.as_str().into()).collect();
    info.peer_subject = peer.subject.as_str().into();
    info.peer_issuer = peer.issuer.as_str().into();
    info.peer_serial = peer.serial.as_str().into();
    info.peer_fingerprint = peer.fingerprint.as_str().into();
    info.peer_pem = peer.leaf_url_encoded_pem().into();
    info.peer_chain_pem = peer.chain_url_encoded_pem().into();
    info.peer_not_before = seconds(peer.not_before);
    info.peer_not_after = seconds(peer.not_after);
    info
}

fn seconds(time: SystemTime) -> Option<i64> {
    time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|d| d.as_secs() as i64)
}

fn version(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "",
    }
}

fn openssl_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "",
    }
}
