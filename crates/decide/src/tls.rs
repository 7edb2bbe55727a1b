//! TLS contexts as plain data: which secrets, which peers, which protocols. The proxy turns them into rustls'.

use std::sync::Arc;

use prost::{Message, Name};
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;

use crate::matching::StringMatcher;
use crate::origin::Origin;
use crate::refusal::{Refusal, Taken, Within, each};
use crate::support::check;
use crate::wire::{DataSource, flag, type_of, unpack};

/// A secret that is fetched by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SecretRef {
    /// `default`, `ROOTCA`, `kubernetes://…`.
    pub name: Arc<str>,
    /// None: a secret of the bootstrap's `staticResources.secrets`.
    pub source: Option<Origin>,
}

impl SecretRef {
    /// What it is kept under: two sources may give secrets of one name.
    pub fn key(&self) -> Arc<str> {
        self.source.as_ref().map_or_else(|| self.name.clone(), |origin| origin.key(&self.name))
    }
}

/// A certificate chain and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    Secret(SecretRef),
    Inline { chain: DataSource, key: DataSource },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    V10,
    V11,
    V12,
    V13,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanKind {
    /// `matchSubjectAltNames`: any kind.
    Any,
    Dns,
    Uri,
    Email,
    IpAddress,
}

#[derive(Debug, Clone)]
pub struct SanMatcher {
    pub kind: SanKind,
    pub matcher: StringMatcher,
}

/// How the peer's certificate is judged.
#[derive(Debug, Clone, Default)]
pub struct Validation {
    /// Trusted roots; both may be set, the secret then wins.
    pub trusted_ca: Option<DataSource>,
    pub secret: Option<SecretRef>,
    pub system_roots: bool,
    /// One of them must match; empty is any.
    pub sans: Vec<SanMatcher>,
    /// Lower-case hexadecimal SHA-256 of the leaf's DER.
    pub certificate_hashes: Vec<Box<str>>,
    /// Base64 SHA-256 of the leaf's SubjectPublicKeyInfo.
    pub spki_hashes: Vec<Box<str>>,
    pub crl: Option<DataSource>,
    pub allow_expired: bool,
    /// ACCEPT_UNTRUSTED: take certificates that no root vouches for.
    pub accept_untrusted: bool,
}

impl Validation {
    /// Whether anything is there to verify a peer with.
    pub fn has_roots(&self) -> bool {
        self.trusted_ca.is_some() || self.secret.is_some() || self.system_roots
    }

    /// Whether one of the SANs, each with its kind, is accepted.
    pub fn accepts_san<'a>(&self, mut sans: impl Iterator<Item = (SanKind, &'a str)>) -> bool {
        self.sans.is_empty()
            || sans.any(|(kind, text)| {
                self.sans
                    .iter()
                    .any(|m| (m.kind == SanKind::Any || m.kind == kind) && m.matcher.matches(text.as_bytes()))
            })
    }
}

/// What both ends configure.
#[derive(Debug, Clone)]
pub struct TlsCommon {
    pub certificates: Vec<CertificateSource>,
    pub validation: Option<Validation>,
    /// In order of preference.
    pub alpn: Vec<Arc<str>>,
    /// Nothing is the library's own default.
    pub min_version: Option<TlsVersion>,
    pub max_version: Option<TlsVersion>,
    /// OpenSSL's names, TLS 1.2 only; empty is the default.
    pub cipher_suites: Vec<Arc<str>>,
    /// Groups of key exchange by OpenSSL's names, in order of preference; empty is the default.
    pub curves: Vec<Arc<str>>,
}

#[derive(Debug, Clone)]
pub struct DownstreamTls {
    pub common: TlsCommon,
    pub require_client_certificate: bool,
    pub require_sni: bool,
}

#[derive(Debug, Clone)]
pub struct UpstreamTls {
    pub common: TlsCommon,
    pub sni: Option<Arc<str>>,
    /// The SNI is the request's authority (`autoHostSni`: the endpoint's host name).
    pub auto_host_sni: bool,
    /// The certificate must be for the SNI that was sent.
    pub auto_sni_san: bool,
}

impl DownstreamTls {
    pub(crate) fn compile(context: &pb::DownstreamTlsContext) -> Taken<Self> {
        Ok(Self {
            common: common(&context.common_tls_context)?,
            require_client_certificate: flag(&context.require_client_certificate, false),
            require_sni: flag(&context.require_sni, false),
        })
    }
}

impl UpstreamTls {
    pub(crate) fn compile(context: &pb::UpstreamTlsContext) -> Taken<Self> {
        Ok(Self {
            common: common(&context.common_tls_context)?,
            sni: (!context.sni.is_empty()).then(|| context.sni.as_str().into()),
            auto_host_sni: context.auto_host_sni,
            auto_sni_san: context.auto_sni_san_validation,
        })
    }
}

fn common(context: &Option<pb::CommonTlsContext>) -> Taken<TlsCommon> {
    let empty = pb::CommonTlsContext::default();
    compile_common(context.as_ref().unwrap_or(&empty)).within("commonTlsContext")
}

fn compile_common(context: &pb::CommonTlsContext) -> Taken<TlsCommon> {
    let mut certificates = each(&context.tls_certificates, "tlsCertificates", certificate)?;
    certificates.extend(each(
        &context.tls_certificate_sds_secret_configs,
        "tlsCertificateSdsSecretConfigs",
        |s| secret(s).map(CertificateSource::Secret),
    )?);
    let default = pb::TlsParameters::default();
    let params = context.tls_params.as_ref().unwrap_or(&default);
    Ok(TlsCommon {
        certificates,
        validation: validation_of(context)?,
        alpn: context.alpn_protocols.iter().map(|p| p.as_str().into()).collect(),
        min_version: version(params.tls_minimum_protocol_version).within("tlsParams")?,
        max_version: version(params.tls_maximum_protocol_version).within("tlsParams")?,
        cipher_suites: params.cipher_suites.iter().map(|c| c.as_str().into()).collect(),
        curves: params.ecdh_curves.iter().map(|c| c.as_str().into()).collect(),
    })
}

fn version(version: i32) -> Taken<Option<TlsVersion>> {
    use pb::tls_parameters::TlsProtocol;
    Ok(match TlsProtocol::try_from(version) {
        Ok(TlsProtocol::TlsAuto) => None,
        Ok(TlsProtocol::TlSv10) => Some(TlsVersion::V10),
        Ok(TlsProtocol::TlSv11) => Some(TlsVersion::V11),
        Ok(TlsProtocol::TlSv12) => Some(TlsVersion::V12),
        Ok(TlsProtocol::TlSv13) => Some(TlsVersion::V13),
        Err(_) => return Err(Refusal::new("unknown TLS version")),
    })
}

fn certificate(certificate: &pb::TlsCertificate) -> Taken<CertificateSource> {
    let part = |source: &Option<core::DataSource>, field: &str| {
        let source = source.as_ref().ok_or_else(|| Refusal::new("is missing").under(field))?;
        DataSource::compile(source).within(field)
    };
    Ok(CertificateSource::Inline {
        chain: part(&certificate.certificate_chain, "certificateChain")?,
        key: part(&certificate.private_key, "privateKey")?,
    })
}

fn secret(config: &pb::SdsSecretConfig) -> Taken<SecretRef> {
    let source = config.sds_config.as_ref().map(Origin::compile).transpose().within("sdsConfig")?;
    Ok(SecretRef { name: config.name.as_str().into(), source })
}

fn validation_of(context: &pb::CommonTlsContext) -> Taken<Option<Validation>> {
    use pb::common_tls_context::ValidationContextType;
    Ok(match &context.validation_context_type {
        None => None,
        Some(ValidationContextType::ValidationContext(v)) => Some(validation(v).within("validationContext")?),
        Some(ValidationContextType::ValidationContextSdsSecretConfig(s)) => Some(Validation {
            secret: Some(secret(s).within("validationContextSdsSecretConfig")?),
            ..Validation::default()
        }),
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            Some(combined_validation(combined).within("combinedValidationContext")?)
        }
        Some(_) => return Err(Refusal::unsupported("validationContextCertificateProvider")),
    })
}

fn combined_validation(
    combined: &pb::common_tls_context::CombinedCertificateValidationContext,
) -> Taken<Validation> {
    let mut result = match &combined.default_validation_context {
        Some(v) => validation(v).within("defaultValidationContext")?,
        None => Validation::default(),
    };
    if let Some(s) = &combined.validation_context_sds_secret_config {
        result.secret = Some(secret(s).within("validationContextSdsSecretConfig")?);
    }
    Ok(result)
}

/// Also for secrets of this kind, which arrive on their own.
pub fn compile_validation(context: &pb::CertificateValidationContext) -> Result<Validation, String> {
    let checked = check(&pb::CertificateValidationContext::full_name(), &context.encode_to_vec());
    checked.and_then(|()| validation(context)).map_err(|r| format!("{}: {}", r.field(), r.reason))
}

fn validation(context: &pb::CertificateValidationContext) -> Taken<Validation> {
    use pb::subject_alt_name_matcher::SanType;
    if flag(&context.require_signed_certificate_timestamp, false) {
        return Err(Refusal::unsupported("requireSignedCertificateTimestamp"));
    }
    let mut sans = each(&context.match_subject_alt_names, "matchSubjectAltNames", |m| {
        Ok(SanMatcher { kind: SanKind::Any, matcher: StringMatcher::compile(m)? })
    })?;
    sans.extend(each(&context.match_typed_subject_alt_names, "matchTypedSubjectAltNames", |m| {
        let kind = match SanType::try_from(m.san_type) {
            Ok(SanType::Dns) => SanKind::Dns,
            Ok(SanType::Uri) => SanKind::Uri,
            Ok(SanType::Email) => SanKind::Email,
            Ok(SanType::IpAddress) => SanKind::IpAddress,
            _ => return Err(Refusal::new("must be DNS, URI, EMAIL or IP_ADDRESS").under("sanType")),
        };
        let matcher = m.matcher.as_ref().ok_or_else(|| Refusal::new("is missing").under("matcher"))?;
        Ok(SanMatcher { kind, matcher: StringMatcher::compile(matcher).within("matcher")? })
    })?);
    let source = |source: &Option<core::DataSource>, field: &str| {
        source.as_ref().map(|s| DataSource::compile(s).within(field)).transpose()
    };
    Ok(Validation {
        trusted_ca: source(&context.trusted_ca, "trustedCa")?,
        secret: None,
        system_roots: context.system_root_certs.is_some(),
        sans,
        certificate_hashes: context
            .verify_certificate_hash
            .iter()
            .map(|h| h.replace(':', "").to_ascii_lowercase().into())
            .collect(),
        spki_hashes: context.verify_certificate_spki.iter().map(|h| h.as_str().into()).collect(),
        crl: source(&context.crl, "crl")?,
        allow_expired: context.allow_expired_certificate,
        accept_untrusted: context.trust_chain_verification != 0,
    })
}

/// What a connection to an endpoint, or from a client, is wrapped in.
#[derive(Debug, Clone)]
pub enum Transport<T> {
    Plain,
    Tls(Arc<T>),
}

pub type DownstreamTransport = Transport<DownstreamTls>;
pub type UpstreamTransport = Transport<UpstreamTls>;

pub(crate) fn downstream(socket: &Option<core::TransportSocket>) -> Taken<DownstreamTransport> {
    transport(socket, |any| DownstreamTls::compile(&unpack(any)?))
}

pub(crate) fn upstream(socket: &Option<core::TransportSocket>) -> Taken<UpstreamTransport> {
    transport(socket, |any| UpstreamTls::compile(&unpack(any)?))
}

fn transport<T>(
    socket: &Option<core::TransportSocket>,
    tls: impl Fn(&proto::pb::google::protobuf::Any) -> Taken<T>,
) -> Taken<Transport<T>> {
    use core::transport_socket::ConfigType;
    let Some(socket) = socket else { return Ok(Transport::Plain) };
    match &socket.config_type {
        None if socket.name == "envoy.transport_sockets.raw_buffer" => Ok(Transport::Plain),
        None => Err(Refusal::new("has no typedConfig").under("typedConfig")),
        Some(ConfigType::TypedConfig(any)) => match type_of(any) {
            "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => {
                unpack::<RawBuffer>(any).map(|_| Transport::Plain)
            }
            "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
            | "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext" => {
                tls(any).map(|t| Transport::Tls(Arc::new(t)))
            }
            other => Err(Refusal::new(format_args!("transport socket {other} is not supported"))),
        }
        .within("typedConfig"),
    }
}
