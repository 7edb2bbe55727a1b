//! The TLS of a gateway's server.

use api::mesh::MeshTlsProtocol;
use api::networking as net;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use proto::pb::envoy::r#type::matcher::v3 as matcher;

use crate::build::Context;
use crate::encode::boolv;
use crate::mtls::{self, served_secret};
use crate::secret;
use crate::servers::Way;

#[allow(deprecated)]
pub(super) fn socket(context: &Context<'_>, tls: &net::ServerTlsSettings, way: Way) -> core::TransportSocket {
    let alpn: &[&str] = if way == Way::Https { &["h2", "http/1.1"] } else { &[] };
    if tls.mode == net::ServerTlsMode::IstioMutual {
        return mtls::downstream(context, alpn);
    }
    let mut common = pb::CommonTlsContext {
        alpn_protocols: alpn.iter().map(|name| (*name).to_owned()).collect(),
        tls_params: parameters(context, tls),
        ..Default::default()
    };
    let credentials = secret::credentials(tls);
    if credentials.is_empty() {
        common.tls_certificates = vec![pb::TlsCertificate {
            certificate_chain: Some(file(&tls.server_certificate)),
            private_key: Some(file(&tls.private_key)),
            ..Default::default()
        }];
    } else {
        common.tls_certificate_sds_secret_configs =
            credentials.iter().map(|name| served_secret(&secret::uri(name))).collect();
    }
    let verifies = matches!(tls.mode, net::ServerTlsMode::Mutual | net::ServerTlsMode::OptionalMutual);
    if verifies {
        common.validation_context_type = Some(validation(tls, credentials.first().map(String::as_str)));
    }
    mtls::socket(&pb::DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: Some(boolv(tls.mode == net::ServerTlsMode::Mutual)),
        ..Default::default()
    })
}

fn file(path: &str) -> core::DataSource {
    core::DataSource {
        specifier: Some(core::data_source::Specifier::Filename(path.into())),
        ..Default::default()
    }
}

fn validation(
    tls: &net::ServerTlsSettings,
    credential: Option<&str>,
) -> pb::common_tls_context::ValidationContextType {
    use pb::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
    let mut context = pb::CertificateValidationContext {
        verify_certificate_spki: tls.verify_certificate_spki.clone(),
        verify_certificate_hash: tls.verify_certificate_hash.clone(),
        ..Default::default()
    };
    #[allow(deprecated)]
    {
        context.match_subject_alt_names = tls
            .subject_alt_names
            .iter()
            .map(|name| matcher::StringMatcher {
                match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(name.clone())),
                ..Default::default()
            })
            .collect();
    }
    let roots = match tls.ca_cert_credential_name.as_str() {
        "" => credential.map(|name| format!("{}-cacert", secret::uri(name))),
        own => Some(secret::uri(own)),
    };
    match roots {
        Some(roots) => {
            ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
                default_validation_context: Some(context),
                validation_context_sds_secret_config: Some(served_secret(&roots)),
                ..Default::default()
            })
        }
        None => {
            context.trusted_ca = Some(file(&tls.ca_certificates));
            ValidationContextType::ValidationContext(context)
        }
    }
}

/// What the server says, else what the mesh says of TLS that is not its own.
fn parameters(context: &Context<'_>, tls: &net::ServerTlsSettings) -> Option<pb::TlsParameters> {
    use pb::tls_parameters::TlsProtocol;
    let version = |wanted: net::TlsProtocol| match wanted {
        net::TlsProtocol::TlsAuto => TlsProtocol::TlsAuto,
        net::TlsProtocol::Tls10 => TlsProtocol::TlSv10,
        net::TlsProtocol::Tls11 => TlsProtocol::TlSv11,
        net::TlsProtocol::Tls12 => TlsProtocol::TlSv12,
        net::TlsProtocol::Tls13 => TlsProtocol::TlSv13,
    } as i32;
    let mut parameters = pb::TlsParameters {
        tls_minimum_protocol_version: version(tls.min_protocol_version),
        tls_maximum_protocol_version: version(tls.max_protocol_version),
        cipher_suites: tls.cipher_suites.clone(),
        ..Default::default()
    };
    if let Some(defaults) = &context.mesh().value.tls_defaults {
        parameters.ecdh_curves.clone_from(&defaults.ecdh_curves);
        if parameters.cipher_suites.is_empty() {
            parameters.cipher_suites.clone_from(&defaults.cipher_suites);
        }
        let oldest = match defaults.min_protocol_version {
            MeshTlsProtocol::TlsAuto => TlsProtocol::TlsAuto,
            MeshTlsProtocol::Tls12 => TlsProtocol::TlSv12,
            MeshTlsProtocol::Tls13 => TlsProtocol::TlSv13,
        } as i32;
        let newest = parameters.tls_maximum_protocol_version;
        // A server that is told to speak nothing as new means it.
        let possible = newest == TlsProtocol::TlsAuto as i32 || oldest <= newest;
        if tls.min_protocol_version == net::TlsProtocol::TlsAuto && possible {
            parameters.tls_minimum_protocol_version = oldest;
        }
    }
    (parameters != pb::TlsParameters::default()).then_some(parameters)
}
