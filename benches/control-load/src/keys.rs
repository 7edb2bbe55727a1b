//! Keys of a run over TLS: made by the load, told to the server over its standard input, kept in no file.

use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use serde::{Deserialize, Serialize};
use tls::{
    BundleSource, ClientCertificates, Identity, IdentitySource, ServerOptions, ServerTls, TrustBundle, Verify,
};

/// Whom the sidecars dial.
const HOST: &str = "istiod.istio-system.svc";
/// Who all sidecars are.
const ID: &str = "spiffe://cluster.local/ns/default/sa/default";

/// What the server needs, in PEM.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Served {
    chain: String,
    key: String,
    root: String,
}

/// What the sidecars need.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) config: Arc<rustls::ClientConfig>,
    pub(crate) name: ServerName<'static>,
}

/// A root, and what it signed.
pub(crate) fn make() -> Result<(Served, Client)> {
    let root_key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "bench");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&root_key)?;
    let issuer = Issuer::new(params, root_key);
    let leaf = |san: SanType| -> Result<_> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![san];
        Ok((params.signed_by(&key, &issuer)?, key))
    };
    let (server, server_key) = leaf(SanType::DnsName(HOST.try_into()?))?;
    let (client, client_key) = leaf(SanType::URI(ID.try_into()?))?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.der().clone())?;
    let key = PrivateKeyDer::try_from(client_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let mut config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![client.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let served = Served { chain: server.pem(), key: server_key.serialize_pem(), root: root.pem() };
    Ok((served, Client { config: Arc::new(config), name: ServerName::try_from(HOST)? }))
}

impl Served {
    /// As `mizzen up` serves: certificates of clients are asked for, and verified where they are shown.
    pub(crate) fn server(&self) -> Result<ServerTls> {
        let identity = Identity::from_pem("the server's", self.chain.as_bytes(), self.key.as_bytes())?;
        let bundle = TrustBundle::any_from_pem("the root", self.root.as_bytes())?;
        let mut options = ServerOptions::new(IdentitySource::new(identity));
        let verify = Verify::spiffe(BundleSource::new(bundle), []);
        options.client_certificates = ClientCertificates::Optional(verify);
        options.alpn = vec![b"h2".to_vec()];
        ServerTls::new(options).context("TLS of the server")
    }
}
