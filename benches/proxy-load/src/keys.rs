//! Certificates of a run: made at its start, kept in its folder, gone with it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};

/// The host that clients of TLS ask for.
pub(crate) const HOST: &str = "answer.default.svc.cluster.local";

/// A root and the leaves that it signed, all of P-256, as files in PEM.
pub(crate) struct Keys {
    pub(crate) root: PathBuf,
    pub(crate) caller: Leaf,
    pub(crate) answer: Leaf,
}

pub(crate) struct Leaf {
    pub(crate) id: &'static str,
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    /// Both in one file, as HAProxy wants it.
    pub(crate) both: PathBuf,
}

impl Keys {
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "bench");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = folder.join("root.pem");
        std::fs::write(&root, params.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(params, key);
        let leaf = |name: &str, id: &'static str| Leaf::make(folder, name, id, &issuer);
        Ok(Self {
            root,
            caller: leaf("caller", "spiffe://cluster.local/ns/default/sa/caller")?,
            answer: leaf("answer", "spiffe://cluster.local/ns/default/sa/answer")?,
        })
    }
}

impl Leaf {
    fn make(folder: &Path, name: &str, id: &'static str, issuer: &Issuer<'_, KeyPair>) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.try_into()?), SanType::DnsName(HOST.try_into()?)];
        let chain = params.signed_by(&key, issuer)?.pem();
        let file = |what: &str, text: &str| -> Result<PathBuf> {
            let path = folder.join(format!("{name}-{what}.pem"));
            std::fs::write(&path, text)?;
            Ok(path)
        };
        let secret = key.serialize_pem();
        Ok(Self {
            id,
            both: file("both", &format!("{chain}{secret}"))?,
            chain: file("chain", &chain)?,
            key: file("key", &secret)?,
        })
    }
}
