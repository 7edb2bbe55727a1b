//! An intermediate that somebody plugged in: the four files of Istio's Secret `cacerts`.

use std::fmt;
use std::path::{Path, PathBuf};

use tls::{CertificateDer, Identity, PrivateKey, TlsError, certificates_from_pem};
use x509_parser::certificate::X509Certificate;
use zeroize::Zeroizing;

use crate::root_store::{StoreError, file_error};
use crate::signer::{LocalSigner, SignError};

/// What is plugged in, by the names that Istio gives to the parts.
pub const FILES: [&str; 4] = ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"];

/// A signing certificate, its key, the chain above it and the roots, found to belong together.
#[derive(Debug)]
pub struct Plugged {
    signing: Identity,
    /// The signing certificate and what is between it and the root.
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
}

impl Plugged {
    /// From the contents of `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem` (may be empty) and `root-cert.pem`.
    pub fn from_pem(
        ca_cert: &[u8],
        ca_key: &[u8],
        cert_chain: &[u8],
        roots: &[u8],
    ) -> Result<Self, StoreError> {
        let ca = certificates_from_pem(FILES[0], ca_cert)?;
        let signing = Identity::new(ca.into_iter().take(1).collect(), PrivateKey::from_pem(ca_key)?)?;
        let roots = certificates_from_pem(FILES[3], roots)?;
        let mut chain: Vec<CertificateDer<'static>> = signing.chain().to_vec();
        if !cert_chain.trim_ascii().is_empty() {
            let above = certificates_from_pem(FILES[2], cert_chain)?;
            chain.extend(above.into_iter().filter(|c| !signing.chain().contains(c) && !roots.contains(c)));
        }
        check_path(&chain, &roots)?;
        // The signing certificate may itself be the root; then leaves are sent alone.
        chain.retain(|c| !roots.contains(c));
        Ok(Self { signing, chain, roots })
    }

    pub fn signer(&self) -> Result<LocalSigner, SignError> {
        LocalSigner::new(&self.signing, self.chain.clone(), self.roots.clone())
    }
}

/// Each certificate is an authority's and signed by the next, the last by a root.
fn check_path(chain: &[CertificateDer<'_>], roots: &[CertificateDer<'_>]) -> Result<(), StoreError> {
    let parse = |der| parsed(der);
    for (i, certificate) in chain.iter().enumerate() {
        let child = parse(certificate)?;
        if !child.is_ca() {
            return Err(refused(format!(
                "certificate {i} of the chain, {}, may not sign: it lacks CA:TRUE",
                child.subject()
            )));
        }
        let signed = if roots.contains(certificate) {
            true
        } else if let Some(parent) = chain.get(i + 1) {
            child.verify_signature(Some(parse(parent)?.public_key())).is_ok()
        } else {
            let mut found = false;
            for root in roots {
                found |= child.verify_signature(Some(parse(root)?.public_key())).is_ok();
            }
            found
        };
        if !signed {
            return Err(refused(format!(
                "the chain of {} does not reach a certificate of root-cert.pem: each must be signed by the next",
                child.subject()
            )));
        }
    }
    Ok(())
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, StoreError> {
    x509_parser::parse_x509_certificate(der).map(|(_, c)| c).map_err(|e| refused(e.to_string()))
}

fn refused(reason: String) -> StoreError {
    StoreError::Tls(TlsError::Certificate { what: "cacerts".into(), index: 0, reason })
}

/// Where the four files are. Calls may block.
pub trait PluggedSource: Send + Sync + fmt::Debug {
    /// Their contents, in the order of [`FILES`].
    fn read(&self) -> Result<[Zeroizing<Vec<u8>>; 4], StoreError>;
}

/// The four files, looked at again and again.
#[derive(Debug)]
pub struct PluggedFiles {
    source: Box<dyn PluggedSource>,
    seen: Option<[u8; 32]>,
}

impl PluggedFiles {
    pub fn new(source: Box<dyn PluggedSource>) -> Self {
        Self { source, seen: None }
    }

    /// In a folder; `None` where there is no `ca-cert.pem`: nothing is plugged in.
    pub fn at(folder: &Path) -> Option<Self> {
        let found = folder.join(FILES[0]).is_file();
        found.then(|| Self::new(Box::new(Folder(folder.to_owned()))))
    }

    /// What is plugged in, if it is not what was seen last. A half-written set is an error once and tried again when
    /// it changes.
    pub fn poll(&mut self) -> Result<Option<Plugged>, StoreError> {
        let contents = self.source.read()?;
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for content in &contents {
            digest.update(&(content.len() as u64).to_be_bytes());
            digest.update(content);
        }
        let hash: Option<[u8; 32]> = digest.finish().as_ref().try_into().ok();
        if hash == self.seen {
            return Ok(None);
        }
        self.seen = hash;
        let [certificate, key, chain, roots] = &contents;
        Plugged::from_pem(certificate, key, chain, roots).map(Some)
    }
}

#[derive(Debug)]
struct Folder(PathBuf);

impl PluggedSource for Folder {
    fn read(&self) -> Result<[Zeroizing<Vec<u8>>; 4], StoreError> {
        let read = |name: &str| {
            let path = self.0.join(name);
            std::fs::read(&path).map(Zeroizing::new).map_err(|source| file_error(&path, source))
        };
        Ok([read(FILES[0])?, read(FILES[1])?, read(FILES[2])?, read(FILES[3])?])
    }
}
