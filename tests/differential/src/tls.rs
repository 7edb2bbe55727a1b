//! Certificates of a run, and both ends of TLS with them.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Names that the servers' certificate is good for.
const NAMES: &[&str] = &["a.example", "b.example", "unknown.test", "localhost"];

/// How a client of TLS says hello.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// Sent as SNI, too, unless `silent`.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub silent: bool,
    #[serde(default)]
    pub alpn: Vec<String>,
    /// `client` is trusted, `stranger` is not; none without.
    #[serde(default)]
    pub certificate: Option<String>,
    /// Not TLS 1.3.
    #[serde(default)]
    pub old: bool,
}

/// A key and its chain, in PEM.
#[derive(Debug, Clone)]
struct Leaf {
    chain: String,
    key: String,
}

/// A root that all trust, with leaves for servers and clients, and one that nobody trusts.
#[derive(Debug, Clone)]
pub struct Keys {
    root: String,
    server: Leaf,
    client: Leaf,
    stranger: Leaf,
}

fn issuer(name: &str) -> anyhow::Result<(String, Issuer<'static, KeyPair>)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key)?.pem();
    Ok((pem, Issuer::new(params, key)))
}

fn leaf(
    who: &str,
    id: &str,
    names: &[&str],
    serial: u64,
    issuer: &Issuer<'_, KeyPair>,
) -> anyhow::Result<Leaf> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "mizzen, \"the\" mesh");
    params.distinguished_name.push(DnType::CommonName, who);
    params.serial_number = Some(serial.into());
    params.subject_alt_names.push(SanType::URI(id.try_into()?));
    for name in names {
        params.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
    }
    Ok(Leaf { chain: params.signed_by(&key, issuer)?.pem(), key: key.serialize_pem() })
}

impl Keys {
    pub fn make() -> anyhow::Result<Self> {
        let ((root, trusted), (_, other)) = (issuer("root")?, issuer("another root")?);
        let id = |who: &str| format!("spiffe://cluster.local/ns/default/sa/{who}");
        Ok(Self {
            root,
            server: leaf("server", &id("server"), NAMES, 0x0102_0304, &trusted)?,
            client: leaf(
                "client",
                &id("client"),
                &["client.example", "second.example"],
                0x7f02_0304,
                &trusted,
            )?,
            stranger: leaf("stranger", &id("client"), &["client.example"], 3, &other)?,
        })
    }

    /// As files, for the proxies: `root.pem`, `server.pem` and `server.key`, and so on.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::write(folder.join("root.pem"), &self.root)?;
        for (name, leaf) in [("server", &self.server), ("client", &self.client), ("stranger", &self.stranger)]
        {
            std::fs::write(folder.join(format!("{name}.pem")), &leaf.chain)?;
            std::fs::write(folder.join(format!("{name}.key")), &leaf.key)?;
        }
        Ok(())
    }

    fn roots(&self) -> anyhow::Result<Arc<RootCertStore>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.root.as_bytes())?)?;
        Ok(Arc::new(roots))
    }

    fn client(&self, hello: &Hello) -> anyhow::Result<ClientConfig> {
        const OLD: &[&SupportedProtocolVersion] = &[&version::TLS12];
        const ALL: &[&SupportedProtocolVersion] = &[&version::TLS12, &version::TLS13];
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(if hello.old { OLD } else { ALL })?
            .with_root_certificates(self.roots()?);
        let mut config = match hello.certificate.as_deref() {
            None => builder.with_no_client_auth(),
            Some(who) => {
                let leaf = if who == "client" { &self.client } else { &self.stranger };
                builder.with_client_auth_cert(leaf.certificates()?, leaf.secret()?)?
            }
        };
        config.enable_sni = !hello.silent;
        config.alpn_protocols = hello.alpn.iter().map(|p| p.clone().into_bytes()).collect();
        Ok(config)
    }

    /// A client's end, with the protocol that was agreed on.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        hello: &Hello,
        stream: S,
    ) -> anyhow::Result<tokio_rustls::client::TlsStream<S>> {
        let name = ServerName::try_from(hello.name.clone().unwrap_or_else(|| NAMES[0].to_owned()))?;
        Ok(TlsConnector::from(Arc::new(self.client(hello)?)).connect(name, stream).await?)
    }

    /// For the upstream's end: asks for a certificate, and does without.
    pub fn acceptor(&self) -> anyhow::Result<TlsAcceptor> {
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(self.roots()?, provider());
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
            .with_single_cert(self.server.certificates()?, self.server.secret()?)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

impl Leaf {
    fn certificates(&self) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        Ok(CertificateDer::pem_slice_iter(self.chain.as_bytes()).collect::<Result<_, _>>()?)
    }

    fn secret(&self) -> anyhow::Result<PrivateKeyDer<'static>> {
        Ok(PrivateKeyDer::from_pem_slice(self.key.as_bytes())?)
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// What was agreed on, as the upstream noted it of its peer.
pub fn agreed(session: &rustls::ServerConnection) -> String {
    let alpn = session.alpn_protocol().map(crate::message::text);
    format!(
        "name {}, protocol {}, {}",
        session.server_name().unwrap_or("-"),
        alpn.as_deref().unwrap_or("-"),
        if session.peer_certificates().is_some() { "a certificate" } else { "no certificate" },
    )
}
