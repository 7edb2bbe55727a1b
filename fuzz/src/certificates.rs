//! Certificates and requests for them, as peers present them.

use rustls_pki_types::CertificateDer;

/// A certificate in DER, and the same bytes as PEM.
pub fn certificates(data: &[u8]) {
    let der = CertificateDer::from(data);
    if let Ok(peer) = tls::PeerInfo::from_chain(std::slice::from_ref(&der)) {
        // What goes into a header must not end it.
        for text in
            [peer.leaf_url_encoded_pem(), peer.chain_url_encoded_pem(), format!("{:?}", peer.spiffe_id)]
        {
            assert!(!text.bytes().any(|b| b.is_ascii_control()), "{text:?}");
        }
    }
    if let Ok(chain) = tls::certificates_from_pem("fuzz", data) {
        let text = tls::certificates_to_pem(&chain);
        assert_eq!(tls::certificates_from_pem("fuzz", text.as_bytes()).ok(), Some(chain));
    }
}

/// A certificate request in DER or PEM, and join tokens.
pub fn requests(data: &[u8]) {
    let _ = ca::CertificateRequest::from_der(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = ca::CertificateRequest::from_pem(text);
        if let Some(shown) = ca::Shown::read(text) {
            assert!(!shown.namespace.is_empty());
        }
    }
}
