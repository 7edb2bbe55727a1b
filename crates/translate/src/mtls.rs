//! TLS contexts: towards services, and of the mesh.

use std::collections::BTreeSet;

use api::mesh::MeshTlsProtocol;
use api::networking as net;
use model::{Key, Service};
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use proto::pb::envoy::r#type::matcher::v3 as matcher;

use crate::build::Context;
use crate::encode::{ads, any, boolv, grpc_service, seconds};
use crate::secret::uri;

pub(crate) const TLS: &str = "envoy.transport_sockets.tls";
pub(crate) const CIPHERS: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
];

/// A secret from the agent beside the proxy.
fn agent_secret(name: &str) -> tls::SdsSecretConfig {
    use core::config_source::ConfigSourceSpecifier;
    let source = core::ApiConfigSource {
        api_type: core::api_config_source::ApiType::Grpc as i32,
        transport_api_version: core::ApiVersion::V3 as i32,
        grpc_services: vec![grpc_service("sds-grpc".into(), String::new())],
        set_node_on_first_message_only: true,
        ..Default::default()
    };
    tls::SdsSecretConfig {
        name: name.into(),
        sds_config: Some(core::ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(source)),
            initial_fetch_timeout: Some(seconds(0)),
            resource_api_version: core::ApiVersion::V3 as i32,
            ..Default::default()
        }),
    }
}

/// A secret that the control plane serves: `kubernetes://name`.
pub(crate) fn served_secret(name: &str) -> tls::SdsSecretConfig {
    let mut source = ads();
    source.initial_fetch_timeout = None;
    tls::SdsSecretConfig { name: name.into(), sds_config: Some(source) }
}

fn exact(text: impl Into<String>) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(text.into())),
        ..Default::default()
    }
}

fn prefix(text: String) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Prefix(text)),
        ..Default::default()
    }
}

/// TLS 1.2 and 1.3; Envoy's own default is less on the calling side.
fn parameters(ciphers: Vec<String>) -> tls::TlsParameters {
    use tls::tls_parameters::TlsProtocol;
    tls::TlsParameters {
        tls_minimum_protocol_version: TlsProtocol::TlSv12 as i32,
        tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
        cipher_suites: ciphers,
        ..Default::default()
    }
}

/// The mesh's certificate and roots, and who may be at the other end.
#[allow(deprecated)]
fn mesh_context(
    peers: Vec<matcher::StringMatcher>,
    alpn: &[&str],
    parameters: tls::TlsParameters,
) -> tls::CommonTlsContext {
    let validation = tls::common_tls_context::CombinedCertificateValidationContext {
        default_validation_context: Some(tls::CertificateValidationContext {
            match_subject_alt_names: peers,
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(agent_secret("ROOTCA")),
        ..Default::default()
    };
    tls::CommonTlsContext {
        tls_params: Some(parameters),
        tls_certificate_sds_secret_configs: vec![agent_secret("default")],
        validation_context_type: Some(
            tls::common_tls_context::ValidationContextType::CombinedValidationContext(validation),
        ),
        alpn_protocols: alpn.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

pub(crate) fn socket(context: &impl prost::Name) -> core::TransportSocket {
    core::TransportSocket {
        name: TLS.into(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(context))),
    }
}

pub(crate) fn raw_buffer() -> core::TransportSocket {
    core::TransportSocket {
        name: "envoy.transport_sockets.raw_buffer".into(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(&RawBuffer {}))),
    }
}

/// Every trust domain of the mesh, its own first.
pub(crate) fn trust_domains(context: &Context<'_>) -> Vec<String> {
    let mesh = &context.mesh().value;
    let mut domains = vec![mesh.trust_domain().to_owned()];
    for alias in &mesh.trust_domain_aliases {
        if !domains.contains(alias) {
            domains.push(alias.clone());
        }
    }
    domains
}

/// The receiving side of the mesh's mutual TLS, which decides about versions and ciphers. Callers of any trust domain of
/// the mesh may knock; who of them may enter is for authorization to say.
pub(crate) fn downstream(context: &Context<'_>, alpn: &[&str]) -> core::TransportSocket {
    let peers = trust_domains(context).into_iter().map(|domain| prefix(format!("spiffe://{domain}/")));
    let wanted = context.mesh().value.mesh_mtls.clone().unwrap_or_default();
    let mut parameters = parameters(wanted.cipher_suites);
    if parameters.cipher_suites.is_empty() {
        parameters.cipher_suites = CIPHERS.map(str::to_owned).into();
    }
    if wanted.min_protocol_version == MeshTlsProtocol::Tls13 {
        parameters.tls_minimum_protocol_version = parameters.tls_maximum_protocol_version;
    }
    socket(&tls::DownstreamTlsContext {
        common_tls_context: Some(mesh_context(peers.collect(), alpn, parameters)),
        require_client_certificate: Some(boolv(true)),
        ..Default::default()
    })
}

/// The identities that may answer for a service.
pub(crate) fn identities(context: &Context<'_>, service: &Service) -> BTreeSet<String> {
    let accounts = context.reader.read(Key::Accounts(service.key.clone())).accounts(&service.key);
    let domains = trust_domains(context);
    let mut names: BTreeSet<String> = accounts
        .iter()
        .flat_map(|accounts| &accounts.all)
        .flat_map(|account| {
            domains
                .iter()
                .map(move |domain| format!("spiffe://{domain}/ns/{}/sa/{}", account.namespace, account.name))
        })
        .collect();
    names.extend(service.subject_alt_names.iter().cloned());
    names
}

pub(crate) fn sni(service: &Service, port: u32, subset: &str) -> String {
    format!("outbound_.{port}_.{subset}_.{}", service.key.host)
}

/// The calling side of the mesh's mutual TLS.
pub(crate) fn upstream(
    context: &Context<'_>,
    service: &Service,
    (port, subset): (u32, &str),
    settings: Option<&net::ClientTlsSettings>,
    alpn: &[&str],
) -> core::TransportSocket {
    let sans: BTreeSet<String> = match settings.filter(|tls| !tls.subject_alt_names.is_empty()) {
        Some(tls) => tls.subject_alt_names.iter().cloned().collect(),
        None => identities(context, service),
    };
    let sni = settings.map(|tls| tls.sni.clone()).filter(|sni| !sni.is_empty());
    socket(&tls::UpstreamTlsContext {
        common_tls_context: Some(mesh_context(
            sans.into_iter().map(exact).collect(),
            alpn,
            parameters(Vec::new()),
        )),
        sni: sni.unwrap_or_else(|| self::sni(service, port, subset)),
        ..Default::default()
    })
}

/// TLS to a server outside of the mesh, by a DestinationRule of mode SIMPLE or MUTUAL; `reads_secrets` as in
/// [`secret::readable`](crate::secret::readable).
#[allow(deprecated)]
pub(crate) fn originate(
    context: &Context<'_>,
    service: &Service,
    settings: &net::ClientTlsSettings,
    reads_secrets: bool,
    http2: bool,
) -> core::TransportSocket {
    let skip = settings.insecure_skip_verify.unwrap_or_default();
    let sans = if settings.subject_alt_names.is_empty() {
        service.subject_alt_names.clone()
    } else {
        settings.subject_alt_names.clone()
    };
    // Without names to expect, the certificate must be for the name that is sent.
    let as_asked = sans.is_empty() && !skip;
    let mut validation = tls::CertificateValidationContext {
        match_subject_alt_names: sans.into_iter().map(exact).collect(),
        ..Default::default()
    };
    let file = |path: &str| core::DataSource {
        specifier: Some(core::data_source::Specifier::Filename(path.into())),
        ..Default::default()
    };
    if !settings.ca_crl.is_empty() {
        validation.crl = Some(file(&settings.ca_crl));
    }
    let defaults = context.mesh().value.tls_defaults.clone().unwrap_or_default();
    let parameters =
        tls::TlsParameters { ecdh_curves: defaults.ecdh_curves, ..parameters(defaults.cipher_suites) };
    let mut common = tls::CommonTlsContext { tls_params: Some(parameters), ..Default::default() };
    use tls::common_tls_context::ValidationContextType;
    if !settings.credential_name.is_empty() && reads_secrets {
        let name = uri(&settings.credential_name);
        if settings.mode == net::ClientTlsMode::Mutual {
            common.tls_certificate_sds_secret_configs = vec![served_secret(&name)];
        }
        let combined = tls::common_tls_context::CombinedCertificateValidationContext {
            default_validation_context: Some(validation),
            validation_context_sds_secret_config: Some(served_secret(&format!("{name}-cacert"))),
            ..Default::default()
        };
        common.validation_context_type = Some(ValidationContextType::CombinedValidationContext(combined));
    } else {
        let roots =
            if settings.ca_certificates.is_empty() { SYSTEM_ROOTS } else { &settings.ca_certificates };
        if !skip {
            validation.trusted_ca = Some(file(roots));
        }
        // Who may not read the secret has no certificate to show: the server will refuse it.
        if settings.mode == net::ClientTlsMode::Mutual && settings.credential_name.is_empty() {
            common.tls_certificates = vec![tls::TlsCertificate {
                certificate_chain: Some(file(&settings.client_certificate)),
                private_key: Some(file(&settings.private_key)),
                ..Default::default()
            }];
        }
        common.validation_context_type = Some(ValidationContextType::ValidationContext(validation));
    }
    if http2 {
        common.alpn_protocols = vec!["h2".into()];
    }
    socket(&tls::UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: server_name(service, settings).unwrap_or_default().to_owned(),
        auto_sni_san_validation: as_asked,
        ..Default::default()
    })
}

/// The name that is sent to a server outside of the mesh. A wildcard is none: the host of each request is sent then.
pub(crate) fn server_name<'a>(service: &'a Service, settings: &'a net::ClientTlsSettings) -> Option<&'a str> {
    let name = if settings.sni.is_empty() { &*service.key.host } else { settings.sni.as_str() };
    (!name.starts_with('*')).then_some(name)
}

/// Where the roots are on the systems that the proxy is made for.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Choice by an endpoint's metadata: mutual TLS where the other end takes it, else plaintext.
pub(crate) fn automatic(
    istio: core::TransportSocket,
) -> Vec<proto::pb::envoy::config::cluster::v3::cluster::TransportSocketMatch> {
    use proto::pb::envoy::config::cluster::v3::cluster::TransportSocketMatch;
    let wanted = crate::encode::fields([("tlsMode", crate::encode::text("istio"))]);
    vec![
        TransportSocketMatch {
            name: "tlsMode-istio".into(),
            r#match: Some(wanted),
            transport_socket: Some(istio),
        },
        TransportSocketMatch {
            name: "tlsMode-disabled".into(),
            r#match: Some(Default::default()),
            transport_socket: Some(raw_buffer()),
        },
    ]
}

/// Names that mark who calls: offered by callers that speak HTTP, matched by the receiver's filter chains.
pub(crate) const ALPN_TCP: [&str; 2] = ["istio-peer-exchange", "istio"];

pub(crate) fn istio_alpn(extensions: bool) -> &'static [&'static str] {
    // `istio-peer-exchange` promises a preamble that only proxies with Istio's extensions send.
    if extensions { &ALPN_TCP } else { &ALPN_TCP[1..] }
}
