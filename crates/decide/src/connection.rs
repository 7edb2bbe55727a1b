//! What is known of a downstream connection when something is decided on it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::metadata::PeerMetadata;

/// How the bytes arrive, as filter chains match it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TransportProtocol {
    #[default]
    RawBuffer,
    Tls,
}

impl TransportProtocol {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RawBuffer => "raw_buffer",
            Self::Tls => "tls",
        }
    }
}

/// A downstream connection. The listener fills in addresses, the inspectors what they saw, the handshake the rest.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Counts connections of the process: `%CONNECTION_ID%`.
    pub id: u64,
    /// The client: the socket's peer, or whom the PROXY protocol names in its place.
    pub remote: SocketAddr,
    /// The socket's peer.
    pub direct_remote: SocketAddr,
    /// Where the client wanted to go: the original destination where it was restored, else the socket's own address.
    pub local: SocketAddr,
    /// Whether `local` was restored from the original destination.
    pub local_restored: bool,
    /// From the tls_inspector.
    pub transport: TransportProtocol,
    /// Server name that the client asked for, lower case; empty when none.
    pub server_name: Arc<str>,
    /// ALPN that the client offers, or what the http_inspector detected: `http/1.0`, `http/1.1`, `h2c`.
    pub application_protocols: SmallVec<[Arc<str>; 4]>,
    /// After the handshake, where there was one.
    pub tls: Option<Arc<TlsInfo>>,
    /// What the peer said of itself over TCP (istio.metadata_exchange).
    pub peer: Option<Arc<PeerMetadata>>,
}

impl Connection {
    /// A plaintext connection: a start for listeners, and for tests and `explain`.
    pub fn new(remote: SocketAddr, local: SocketAddr) -> Self {
        Self {
            id: 0,
            remote,
            direct_remote: remote,
            local,
            local_restored: false,
            transport: TransportProtocol::RawBuffer,
            server_name: Arc::from(""),
            application_protocols: SmallVec::new(),
            tls: None,
            peer: None,
        }
    }

    /// Whether the client is this machine itself.
    pub fn is_local(&self) -> bool {
        is_loopback(self.remote.ip()) || self.remote.ip() == self.local.ip()
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// What a handshake proved. Subjects are in RFC 2253 form.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TlsInfo {
    /// Whether the peer presented a certificate that was verified.
    pub peer_verified: bool,
    /// Whether the peer presented a certificate at all.
    pub peer_presented: bool,
    /// URI SANs of the peer's certificate, usually one SPIFFE id.
    pub peer_uris: SmallVec<[Arc<str>; 1]>,
    pub peer_dns: Vec<Arc<str>>,
    pub peer_subject: Arc<str>,
    pub peer_issuer: Arc<str>,
    /// Lower-case hexadecimal.
    pub peer_serial: Arc<str>,
    /// SHA-256 of the certificate's DER, lower-case hexadecimal.
    pub peer_fingerprint: Arc<str>,
    /// The certificate in PEM, percent-encoded as in XFCC.
    pub peer_pem: Arc<str>,
    /// The chain in PEM, percent-encoded.
    pub peer_chain_pem: Arc<str>,
    /// Seconds of the epoch.
    pub peer_not_before: Option<i64>,
    pub peer_not_after: Option<i64>,
    pub local_uris: SmallVec<[Arc<str>; 1]>,
    pub local_dns: Vec<Arc<str>>,
    pub local_subject: Arc<str>,
    /// `TLSv1.3`.
    pub version: Arc<str>,
    /// OpenSSL's name: `TLS_AES_256_GCM_SHA384`.
    pub cipher: Arc<str>,
    pub session_id: Arc<str>,
    /// What ALPN selected; empty when nothing.
    pub alpn: Arc<str>,
}

impl TlsInfo {
    /// Envoy's principal: the first URI SAN, else the first DNS SAN, else the subject.
    pub fn principal(&self) -> &str {
        self.peer_uris.first().or(self.peer_dns.first()).unwrap_or(&self.peer_subject)
    }
}
