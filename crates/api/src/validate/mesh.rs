//! MeshConfig.

use std::collections::HashSet;

use base::TrustDomain;

use super::destination_rule::{connection_pool, locality_setting, outlier_detection};
use super::http_route::retries;
use super::mesh_formats;
use super::note;
use super::rules;
use crate::error::{FieldError, Path, Validation};
use crate::mesh::{ExtensionProvider, MeshConfig};

pub(crate) fn mesh_config(it: &MeshConfig, out: &mut Validation) {
    let root = Path::root("");
    trust_domain(&root.field("trustDomain"), it.trust_domain(), out);
    for (index, alias) in it.trust_domain_aliases.iter().enumerate() {
        trust_domain(&root.field("trustDomainAliases").index(index), alias, out);
    }
    note(out, rules::dns_label(&root.field("rootNamespace"), it.root_namespace(), "namespace"));
    if let Some(setting) = &it.locality_lb_setting {
        locality_setting(setting, &root.field("localityLbSetting"), out);
    }
    retries(it.default_http_retry_policy.as_ref(), &root.field("defaultHttpRetryPolicy"), out);
    if let Some(policy) = &it.default_traffic_policy {
        let path = root.field("defaultTrafficPolicy");
        if let Some(pool) = &policy.connection_pool {
            connection_pool(pool, &path.field("connectionPool"), out);
        }
        if let Some(outlier) = &policy.outlier_detection {
            outlier_detection(outlier, &path.field("outlierDetection"), out);
        }
    }
    for (field, config) in [("meshMTLS", &it.mesh_mtls), ("tlsDefaults", &it.tls_defaults)] {
        if let Some(config) = config {
            let path = root.field(field);
            one_of(&CIPHERS, &config.cipher_suites, &path.field("cipherSuites"), out);
            one_of(&CURVES, &config.ecdh_curves, &path.field("ecdhCurves"), out);
        }
    }
    selectors(it, &root, out);
    for (index, setting) in it.service_settings.iter().enumerate() {
        let path = root.field("serviceSettings").index(index).field("hosts");
        for (index, host) in setting.hosts.iter().enumerate() {
            note(out, rules::host(&path.index(index), host));
        }
    }
    providers(it, &root, out);
    mesh_formats::check(it, &root, out);
}

/// Those of TLS 1.2 that the proxy speaks.
const CIPHERS: [&str; 6] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

const CURVES: [&str; 4] = ["X25519", "P-256", "P-384", "X25519MLKEM768"];

/// Names that the proxy passes over may stand beside one that it knows, for stock Envoys.
fn one_of(known: &[&str], list: &[String], path: &Path, out: &mut Validation) {
    if !list.is_empty() && !list.iter().any(|name| known.contains(&name.as_str())) {
        out.error(FieldError::not_supported(path, list.to_vec(), known));
    }
}

fn selectors(it: &MeshConfig, root: &Path, out: &mut Validation) {
    for (index, selector) in it.discovery_selectors.iter().enumerate() {
        let path = root.field("discoverySelectors").index(index);
        rules::label_map(&path.field("matchLabels"), &selector.match_labels, out);
        for (index, requirement) in selector.match_expressions.iter().enumerate() {
            let path = path.field("matchExpressions").index(index);
            let values = path.field("values");
            match requirement.operator.as_str() {
                "In" | "NotIn" if requirement.values.is_empty() => {
                    out.error(FieldError::required(&values, "for In and NotIn"));
                }
                "Exists" | "DoesNotExist" if !requirement.values.is_empty() => {
                    let detail = "must be empty for Exists and DoesNotExist";
                    out.error(FieldError::invalid(&values, requirement.values.clone(), detail));
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                other => {
                    let known = ["In", "NotIn", "Exists", "DoesNotExist"];
                    out.error(FieldError::not_supported(&path.field("operator"), other, &known));
                }
            }
        }
    }
}

fn trust_domain(path: &Path, text: &str, out: &mut Validation) {
    if let Err(error) = text.parse::<TrustDomain>() {
        out.error(FieldError::invalid(path, text, error));
    }
}

fn providers(it: &MeshConfig, root: &Path, out: &mut Validation) {
    let path = root.field("extensionProviders");
    let mut names = HashSet::new();
    for (index, provider) in it.extension_providers.iter().enumerate() {
        let path = path.index(index);
        if provider.name.is_empty() {
            out.error(FieldError::required(&path.field("name"), ""));
        } else if !names.insert(provider.name.as_str()) {
            out.error(FieldError::duplicate(&path.field("name"), provider.name.as_str()));
        }
        one_kind(provider, &path, out);
    }
    let Some(defaults) = &it.default_providers else { return };
    let lists = [
        ("tracing", &defaults.tracing),
        ("metrics", &defaults.metrics),
        ("accessLogging", &defaults.access_logging),
    ];
    for (field, list) in lists {
        for (index, name) in list.iter().enumerate() {
            // Istio knows these two without their being declared.
            let known = names.contains(name.as_str()) || ["prometheus", "envoy"].contains(&name.as_str());
            if !known {
                let path = root.field("defaultProviders").field(field).index(index);
                let known: Vec<_> = names.iter().copied().collect();
                out.error(FieldError::not_supported(&path, name.as_str(), &known));
            }
        }
    }
}

fn one_kind(it: &ExtensionProvider, path: &Path, out: &mut Validation) {
    let kinds = [
        it.zipkin.is_some(),
        it.opentelemetry.is_some(),
        it.prometheus.is_some(),
        it.envoy_file_access_log.is_some(),
        it.envoy_http_als.is_some(),
        it.envoy_tcp_als.is_some(),
        it.envoy_otel_als.is_some(),
        it.envoy_ext_authz_http.is_some(),
        it.envoy_ext_authz_grpc.is_some(),
    ];
    if kinds.iter().filter(|set| **set).count() != 1 {
        let what = "exactly one of zipkin, opentelemetry, prometheus, envoyFileAccessLog, envoyHttpAls, envoyTcpAls, \
                    envoyOtelAls, envoyExtAuthzHttp and envoyExtAuthzGrpc";
        out.error(FieldError::required(path, what));
    }
    let ports = [
        ("zipkin", it.zipkin.as_ref().map(|it| it.port)),
        ("opentelemetry", it.opentelemetry.as_ref().map(|it| it.port)),
        ("envoyHttpAls", it.envoy_http_als.as_ref().map(|it| it.port)),
        ("envoyTcpAls", it.envoy_tcp_als.as_ref().map(|it| it.port)),
        ("envoyOtelAls", it.envoy_otel_als.as_ref().map(|it| it.port)),
        ("envoyExtAuthzHttp", it.envoy_ext_authz_http.as_ref().map(|it| it.port)),
        ("envoyExtAuthzGrpc", it.envoy_ext_authz_grpc.as_ref().map(|it| it.port)),
    ];
    for (field, port) in ports {
        if let Some(port) = port {
            note(out, rules::port(&path.field(field).field("port"), port));
        }
    }
}
