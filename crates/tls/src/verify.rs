//! The one verifier: the chain by webpki, then the names as the configuration asks.

use std::fmt;
use std::sync::Arc;

use base::TrustDomain;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::certificate::{Names, sha256};
use crate::options::Pins;
use crate::san::SanMatcher;
use crate::source::BundleSource;

/// How a peer's certificate is judged.
#[derive(Debug, Clone)]
pub enum Verify {
    Against {
        /// Read at each handshake; without roots every peer is refused.
        bundle: BundleSource,
        expect: Expect,
        pins: Pins,
    },
    /// Whatever certificate the peer shows is taken: only where somebody wrote `insecureSkipVerify`.
    Nothing,
}

/// What the certificate must say beside having a valid chain.
#[derive(Debug, Clone)]
pub enum Expect {
    /// Exactly one URI name, a SPIFFE id, under the roots of its own trust domain; no other name is looked at. If matchers
    /// are given, one of them must accept it.
    Spiffe { sans: Vec<SanMatcher> },
    /// The certificate is for the name that was sent as SNI, whichever that is for a connection.
    Asked,
    /// One of the matchers accepts a name; with none given, the chain is enough.
    Chain { sans: Vec<SanMatcher> },
}

impl Verify {
    /// As mesh peers are judged: the roots of their trust domain, and one of these exact URIs, if any are given.
    pub fn spiffe(bundle: BundleSource, pinned: impl IntoIterator<Item = String>) -> Self {
        let sans = pinned.into_iter().map(SanMatcher::uri).collect();
        Self::Against { bundle, expect: Expect::Spiffe { sans }, pins: Pins::default() }
    }

    /// As servers on the web are judged.
    pub fn as_asked(bundle: BundleSource) -> Self {
        Self::Against { bundle, expect: Expect::Asked, pins: Pins::default() }
    }

    /// Whether there is anything to judge by now.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Against { bundle, .. } => bundle.current().is_some_and(|b| !b.is_empty()),
            Self::Nothing => true,
        }
    }
}

/// [`Verify`] in the form of rustls, for either side of a connection.
pub(crate) struct Verifier {
    verify: Verify,
    mandatory: bool,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    pub(crate) fn new(verify: Verify, mandatory: bool, provider: Arc<CryptoProvider>) -> Arc<Self> {
        Arc::new(Self { verify, mandatory, provider })
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        (usage, asked): (KeyUsage, Option<&ServerName<'_>>),
    ) -> Result<(), Error> {
        let Verify::Against { bundle, expect, pins } = &self.verify else { return Ok(()) };
        let bundle = bundle.current().ok_or_else(|| refused("no trusted roots are known yet"))?;
        let (rest, parsed) =
            x509_parser::parse_x509_certificate(leaf).map_err(|_| CertificateError::BadEncoding)?;
        if !rest.is_empty() {
            return Err(CertificateError::BadEncoding.into());
        }
        let names = Names::of(&parsed).map_err(|e| refused(e.to_string()))?;
        let end_entity = EndEntityCert::try_from(leaf).map_err(|e| pki_error(&e))?;
        let anchors = match expect {
            Expect::Spiffe { .. } => bundle.anchors_for(&trust_domain(&names)?).to_vec(),
            _ => bundle.anchors(),
        };
        self.chain(&end_entity, intermediates, &anchors, now, usage)?;
        let sans = match expect {
            Expect::Spiffe { sans } | Expect::Chain { sans } => sans.as_slice(),
            Expect::Asked => {
                let name = asked.ok_or_else(|| refused("a caller has no name to be judged by"))?;
                end_entity.verify_is_valid_for_subject_name(name).map_err(|e| pki_error(&e))?;
                &[]
            }
        };
        if !sans.is_empty() && !sans.iter().any(|m| m.matches(&names)) {
            return Err(refused(format!("the peer is {}, which is none of {sans:?}", presented(&names))));
        }
        check_pins(pins, leaf, parsed.public_key().raw)
    }

    fn chain(
        &self,
        leaf: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        anchors: &[TrustAnchor<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        leaf.verify_for_usage(
            self.provider.signature_verification_algorithms.all,
            anchors,
            intermediates,
            now,
            usage,
            None,
            None,
        )
        .map(|_| ())
        .map_err(|e| pki_error(&e))
    }
}

/// The trust domain of the only URI name. The path is left to policy: other meshes have other shapes.
fn trust_domain(names: &Names) -> Result<TrustDomain, Error> {
    let [uri] = names.uri.as_slice() else {
        return Err(refused(format!(
            "an SVID has exactly one URI name, this certificate has {}",
            names.uri.len()
        )));
    };
    let rest = uri.strip_prefix("spiffe://").ok_or_else(|| refused(format!("{uri:?} is not a SPIFFE id")))?;
    let domain = rest.split_once('/').map_or(rest, |(domain, _)| domain);
    domain.parse().map_err(|_| refused(format!("{uri:?} has no valid trust domain")))
}

fn check_pins(pins: &Pins, leaf: &[u8], public_key: &[u8]) -> Result<(), Error> {
    if pins.is_empty()
        || pins.certificates.contains(&sha256(leaf))
        || pins.public_keys.contains(&sha256(public_key))
    {
        return Ok(());
    }
    Err(refused("the certificate is none of the pinned ones"))
}

fn presented(names: &Names) -> String {
    let all: Vec<&str> = names.uri.iter().chain(&names.dns).chain(&names.email).map(String::as_str).collect();
    if all.is_empty() { "nameless".into() } else { all.join(", ") }
}

/// A refusal of ours, in words; peers see the alert "bad certificate".
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

fn refused(why: impl Into<String>) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Refused(why.into())))))
}

fn pki_error(error: &webpki::Error) -> Error {
    use webpki::Error as E;
    match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
        E::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time: *time, not_before: *not_before }
        }
        E::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time: *time, not_after: *not_after }
        }
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::CertNotValidForName(_) => CertificateError::NotValidForName,
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        E::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        E::UnsupportedCriticalExtension => CertificateError::UnhandledCriticalExtension,
        other => return refused(other.to_string()),
    }
    .into()
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates, now, (KeyUsage::server_auth(), Some(server_name)))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// No hints: peers choose their certificate without them, and a bundle may change between two handshakes.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity, intermediates, now, (KeyUsage::client_auth(), None))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("verify", &self.verify).finish_non_exhaustive()
    }
}
