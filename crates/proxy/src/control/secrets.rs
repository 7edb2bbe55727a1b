//! Secrets by name, and TLS contexts made of them. Names that are not there yet are sources that fail handshakes until they are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use base64::Engine;
use decide::{
    CertificateSource, DataSource, DownstreamTls, SanKind, SecretRef, TlsCommon, TlsVersion, UpstreamTls,
    Validation,
};
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use tls::{
    BundleSource, ClientCertificates, ClientOptions, ClientTls, Expect, Identity, IdentitySource, Pins,
    SanMatcher, ServerOptions, ServerTls, TextMatch, TlsError, TlsVersions, TrustBundle, Verify,
};

/// Certificates and roots by name; the control thread's own.
#[derive(Default)]
pub struct Secrets {
    /// Names that an agent in this process provides, whatever source is written.
    provided: HashSet<Arc<str>>,
    identities: HashMap<Arc<str>, IdentitySource>,
    bundles: HashMap<Arc<str>, BundleSource>,
    clients: HashMap<usize, (Arc<UpstreamTls>, Arc<ClientTls>)>,
    servers: HashMap<usize, (Arc<DownstreamTls>, Arc<ServerTls>)>,
}

/// What is wrong with a TLS context or secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{0}")]
    Field(String),
    #[error("{path}: {error}")]
    File { path: String, error: std::io::Error },
}

impl Secrets {
    /// Lets an agent in this process provide a name, such as `default`.
    pub fn provide_identity(&mut self, name: &str, source: IdentitySource) {
        self.provided.insert(name.into());
        self.identities.insert(name.into(), source);
    }

    /// The same for roots, such as `ROOTCA`.
    pub fn provide_bundle(&mut self, name: &str, source: BundleSource) {
        self.provided.insert(name.into());
        self.bundles.insert(name.into(), source);
    }

    pub fn is_provided(&self, name: &str) -> bool {
        self.provided.contains(name)
    }

    /// What a secret is kept under.
    fn key(&self, secret: &SecretRef) -> Arc<str> {
        if self.is_provided(&secret.name) { secret.name.clone() } else { secret.key() }
    }

    pub fn identity(&mut self, name: &str) -> IdentitySource {
        self.identities.entry(name.into()).or_insert_with(IdentitySource::empty).clone()
    }

    pub fn bundle(&mut self, name: &str) -> BundleSource {
        self.bundles.entry(name.into()).or_insert_with(BundleSource::empty).clone()
    }

    pub fn identities(&self) -> impl Iterator<Item = (&Arc<str>, &IdentitySource)> {
        self.identities.iter()
    }

    pub fn bundles(&self) -> impl Iterator<Item = (&Arc<str>, &BundleSource)> {
        self.bundles.iter()
    }

    /// Takes a secret that was received; connections made from now on use it.
    pub fn set(&mut self, secret: &pb::Secret) -> Result<(), SecretError> {
        use pb::secret::Type;
        match &secret.r#type {
            Some(Type::TlsCertificate(certificate)) => {
                let chain = read(data_source(&certificate.certificate_chain, "certificateChain")?)?;
                let key = read(data_source(&certificate.private_key, "privateKey")?)?;
                self.identity(&secret.name).set(Identity::from_pem(&secret.name, &chain, &key)?);
            }
            Some(Type::ValidationContext(context)) => {
                let roots = read(data_source(&context.trusted_ca, "trustedCa")?)?;
                self.bundle(&secret.name).set(TrustBundle::any_from_pem(&secret.name, &roots)?);
            }
            _ => {
                return Err(SecretError::Field(
                    "only tlsCertificate and validationContext are supported".into(),
                ));
            }
        }
        Ok(())
    }

    /// A client's TLS. The same context gives the same object, so that an unchanged cluster keeps its connections.
    /// `as_asked`: the peer is to be who the connection's server name says.
    pub fn client(
        &mut self,
        context: &Arc<UpstreamTls>,
        as_asked: bool,
    ) -> Result<Arc<ClientTls>, SecretError> {
        let id = Arc::as_ptr(context) as usize;
        if let Some((_, made)) = self.clients.get(&id) {
            return Ok(made.clone());
        }
        let verify = match &context.common.validation {
            Some(validation) => self.verify(validation, as_asked)?,
            // Envoy: without a validation context, nothing is verified.
            None => Verify::Nothing,
        };
        let made = Arc::new(ClientTls::new(ClientOptions {
            identity: self.certificates(&context.common)?.into_iter().next(),
            sni: context.sni.as_deref().map(str::to_owned),
            alpn: alpn(&context.common),
            versions: versions(&context.common)?,
            cipher_suites: suites(&context.common)?,
            curves: curves(&context.common)?,
            ..ClientOptions::new(verify)
        })?);
        self.clients.insert(id, (context.clone(), made.clone()));
        Ok(made)
    }

    pub fn server(&mut self, context: &Arc<DownstreamTls>) -> Result<Arc<ServerTls>, SecretError> {
        let id = Arc::as_ptr(context) as usize;
        if let Some((_, made)) = self.servers.get(&id) {
            return Ok(made.clone());
        }
        let identities = self.certificates(&context.common)?;
        let Some(first) = identities.first() else {
            return Err(SecretError::Field("commonTlsContext: no certificate is configured".into()));
        };
        let client_certificates = match &context.common.validation {
            Some(v) if context.require_client_certificate => {
                ClientCertificates::Required(self.verify(v, false)?)
            }
            Some(v) if v.has_roots() => ClientCertificates::Optional(self.verify(v, false)?),
            _ if context.require_client_certificate => {
                return Err(SecretError::Field("requireClientCertificate needs a validation context".into()));
            }
            _ => ClientCertificates::NotAsked,
        };
        let made = Arc::new(ServerTls::new(ServerOptions {
            client_certificates,
            alpn: alpn(&context.common),
            versions: versions(&context.common)?,
            cipher_suites: suites(&context.common)?,
            curves: curves(&context.common)?,
            identities: identities.clone(),
            ..ServerOptions::new(first.clone())
        })?);
        self.servers.insert(id, (context.clone(), made.clone()));
        Ok(made)
    }

    /// Forgets contexts that no configuration holds any more.
    pub fn collect_garbage(&mut self) {
        self.clients.retain(|_, (context, _)| Arc::strong_count(context) > 1);
        self.servers.retain(|_, (context, _)| Arc::strong_count(context) > 1);
    }

    fn certificates(&mut self, common: &TlsCommon) -> Result<Vec<IdentitySource>, SecretError> {
        common
            .certificates
            .iter()
            .map(|source| match source {
                CertificateSource::Secret(secret) => {
                    let key = self.key(secret);
                    Ok(self.identity(&key))
                }
                CertificateSource::Inline { chain, key } => {
                    let identity =
                        Identity::from_pem("tlsCertificates", &read(chain.clone())?, &read(key.clone())?)?;
                    Ok(IdentitySource::new(identity))
                }
            })
            .collect()
    }

    fn verify(&mut self, v: &Validation, as_asked: bool) -> Result<Verify, SecretError> {
        if v.crl.is_some() || v.allow_expired {
            return Err(SecretError::Field(
                "validationContext: crl and allowExpiredCertificate are not supported".into(),
            ));
        }
        if !v.has_roots() || v.accept_untrusted {
            return Ok(Verify::Nothing);
        }
        let bundle = match (&v.secret, &v.trusted_ca) {
            (Some(secret), _) => {
                let key = self.key(secret);
                self.bundle(&key)
            }
            (None, Some(ca)) => {
                BundleSource::new(TrustBundle::any_from_pem("trustedCa", &read(ca.clone())?)?)
            }
            (None, None) => BundleSource::new(tls::system_roots()?),
        };
        // Envoy: the name that is sent replaces the names in the configuration.
        let expect = match as_asked {
            true => Expect::Asked,
            false => Expect::Chain { sans: v.sans.iter().map(san).collect() },
        };
        Ok(Verify::Against { bundle, expect, pins: pins(v)? })
    }
}

fn pins(v: &Validation) -> Result<Pins, SecretError> {
    let wrong = |field: &str| SecretError::Field(format!("validationContext.{field}: not a SHA-256 hash"));
    let hex = |text: &str| -> Option<[u8; 32]> {
        let mut out = [0; 32];
        let pairs = text.as_bytes().chunks_exact(2);
        (text.len() == 64).then_some(())?;
        for (slot, pair) in out.iter_mut().zip(pairs) {
            *slot = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(out)
    };
    let base64 = |text: &str| -> Option<[u8; 32]> {
        base64::engine::general_purpose::STANDARD.decode(text).ok()?.try_into().ok()
    };
    let all = |list: &[Box<str>], read: &dyn Fn(&str) -> Option<[u8; 32]>, field: &str| {
        list.iter().map(|t| read(t).ok_or_else(|| wrong(field))).collect::<Result<Vec<_>, _>>()
    };
    Ok(Pins {
        certificates: all(&v.certificate_hashes, &hex, "verifyCertificateHash")?,
        public_keys: all(&v.spki_hashes, &base64, "verifyCertificateSpki")?,
    })
}

fn san(matcher: &decide::SanMatcher) -> SanMatcher {
    let kind = match matcher.kind {
        SanKind::Any => tls::SanKind::Any,
        SanKind::Dns => tls::SanKind::Dns,
        SanKind::Uri => tls::SanKind::Uri,
        SanKind::Email => tls::SanKind::Email,
        SanKind::IpAddress => tls::SanKind::Ip,
    };
    use decide::StringMatcher as M;
    let (text, ignore_case) = match &matcher.matcher {
        M::Exact(s) => (TextMatch::Exact(s.to_string()), false),
        M::Prefix(s) => (TextMatch::Prefix(s.to_string()), false),
        M::Suffix(s) => (TextMatch::Suffix(s.to_string()), false),
        M::Contains(s) => (TextMatch::Contains(s.to_string()), false),
        M::ExactNoCase(s) => (TextMatch::Exact(s.to_string()), true),
        M::PrefixNoCase(s) => (TextMatch::Prefix(s.to_string()), true),
        M::SuffixNoCase(s) => (TextMatch::Suffix(s.to_string()), true),
        M::ContainsNoCase(s) => (TextMatch::Contains(s.to_string()), true),
        M::Regex(_) => {
            let matcher = matcher.matcher.clone();
            (TextMatch::Other(Arc::new(move |text| matcher.matches(text.as_bytes()))), false)
        }
    };
    SanMatcher { kind, text, ignore_case }
}

fn alpn(common: &TlsCommon) -> Vec<Vec<u8>> {
    common.alpn.iter().map(|p| p.as_bytes().to_vec()).collect()
}

fn versions(common: &TlsCommon) -> Result<TlsVersions, SecretError> {
    use TlsVersion::{V10, V11, V12, V13};
    match (common.min_version, common.max_version) {
        (_, Some(V10 | V11)) => {
            Err(SecretError::Field("tlsMaximumProtocolVersion: below TLS 1.2 is not supported".into()))
        }
        (Some(V13), Some(V12)) => {
            Err(SecretError::Field("tlsParams: the minimum is above the maximum".into()))
        }
        (Some(V13), _) => Ok(TlsVersions::Only13),
        (_, Some(V12)) => Ok(TlsVersions::Only12),
        _ => Ok(TlsVersions::From12To13),
    }
}

fn suites(common: &TlsCommon) -> Result<Vec<rustls::CipherSuite>, SecretError> {
    let names: Vec<String> = common.cipher_suites.iter().map(ToString::to_string).collect();
    Ok(tls::cipher_suites(&names)?)
}

fn curves(common: &TlsCommon) -> Result<Vec<rustls::NamedGroup>, SecretError> {
    let names: Vec<String> = common.curves.iter().map(ToString::to_string).collect();
    Ok(tls::curves(&names)?)
}

fn data_source(source: &Option<core::DataSource>, field: &str) -> Result<DataSource, SecretError> {
    use core::data_source::Specifier;
    match source.as_ref().and_then(|s| s.specifier.as_ref()) {
        Some(Specifier::Filename(path)) => Ok(DataSource::File(path.as_str().into())),
        Some(Specifier::InlineBytes(bytes)) => Ok(DataSource::Inline(bytes.clone().into())),
        Some(Specifier::InlineString(text)) => Ok(DataSource::Inline(text.clone().into())),
        Some(Specifier::EnvironmentVariable(name)) => Ok(DataSource::Environment(name.as_str().into())),
        None => Err(SecretError::Field(format!("{field}: is missing"))),
    }
}

fn read(source: DataSource) -> Result<bytes::Bytes, SecretError> {
    match source {
        DataSource::Inline(bytes) => Ok(bytes),
        DataSource::File(path) => match std::fs::read(&*path) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(SecretError::File { path: path.to_string(), error }),
        },
        DataSource::Environment(name) => match std::env::var(&*name) {
            Ok(text) => Ok(text.into()),
            Err(_) => Err(SecretError::Field(format!("environment variable {name} is not set"))),
        },
    }
}
