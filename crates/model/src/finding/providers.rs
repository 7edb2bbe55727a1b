//! Providers that MeshConfig does not declare, or that lead nowhere: what names them is turned off until they do.

use api::mesh::{CONFIG_MAP, ExtensionProvider, MeshConfig};
use api::security::{Action, AuthorizationPolicy};
use api::telemetry::Telemetry;
use base::NamespacedName;

use super::{Finding, Severity, about};
use crate::change::{Kind, ObjectRef};
use crate::{Config, Snapshot};

/// What providers are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Traces,
    Metrics,
    Logs,
}

impl Use {
    fn word(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "access logs",
        }
    }

    fn kinds(self) -> &'static str {
        match self {
            Self::Traces => "zipkin or opentelemetry",
            Self::Metrics => "prometheus",
            Self::Logs => "envoyFileAccessLog, envoyHttpAls, envoyTcpAls or envoyOtelAls",
        }
    }

    /// The provider that is there without being declared.
    fn built_in(self) -> Option<&'static str> {
        match self {
            Self::Traces => None,
            Self::Metrics => Some("prometheus"),
            Self::Logs => Some("envoy"),
        }
    }

    fn serves(self, provider: &ExtensionProvider) -> bool {
        match self {
            Self::Traces => provider.zipkin.is_some() || provider.opentelemetry.is_some(),
            Self::Metrics => provider.prometheus.is_some(),
            Self::Logs => {
                provider.envoy_file_access_log.is_some()
                    || provider.envoy_http_als.is_some()
                    || provider.envoy_tcp_als.is_some()
                    || provider.envoy_otel_als.is_some()
            }
        }
    }
}

/// The field of a provider's kind, its service and port.
fn collector(provider: &ExtensionProvider) -> Option<(&'static str, &str, u32)> {
    let it = provider;
    [
        it.zipkin.as_ref().map(|it| ("zipkin", it.service.as_str(), it.port)),
        it.opentelemetry.as_ref().map(|it| ("opentelemetry", it.service.as_str(), it.port)),
        it.envoy_http_als.as_ref().map(|it| ("envoyHttpAls", it.service.as_str(), it.port)),
        it.envoy_tcp_als.as_ref().map(|it| ("envoyTcpAls", it.service.as_str(), it.port)),
        it.envoy_otel_als.as_ref().map(|it| ("envoyOtelAls", it.service.as_str(), it.port)),
    ]
    .into_iter()
    .flatten()
    .next()
}

impl Snapshot {
    /// Providers that a Telemetry names.
    pub(super) fn check_telemetry(&self, config: &Config<Telemetry>, found: &mut Vec<Finding>) {
        let spec = &config.spec;
        let traces = spec.tracing.iter().map(|it| &it.providers).enumerate();
        let metrics = spec.metrics.iter().map(|it| &it.providers).enumerate();
        let logs = spec.access_logging.iter().map(|it| &it.providers).enumerate();
        let all = traces
            .map(|(i, list)| ("tracing", i, Use::Traces, list))
            .chain(metrics.map(|(i, list)| ("metrics", i, Use::Metrics, list)))
            .chain(logs.map(|(i, list)| ("accessLogging", i, Use::Logs, list)));
        for (field, i, wanted, list) in all {
            for (j, provider) in list.iter().enumerate() {
                let Some((message, hint)) = self.dangling(&provider.name, wanted) else { continue };
                found.push(Finding {
                    about: about(Kind::Telemetry, config),
                    severity: Severity::Error,
                    code: "DanglingProvider",
                    field: format!("spec.{field}[{i}].providers[{j}].name"),
                    message,
                    hint,
                });
            }
        }
    }

    /// The provider that a policy of action CUSTOM names.
    pub(super) fn check_authorizer(&self, config: &Config<AuthorizationPolicy>, found: &mut Vec<Finding>) {
        let Some(provider) = config.spec.provider.as_ref().filter(|_| config.spec.action == Action::Custom)
        else {
            return;
        };
        let name = provider.name.as_str();
        let declared = self.mesh().value.provider(name);
        let place = declared.and_then(|it| {
            let http = it.envoy_ext_authz_http.as_ref().map(|it| (it.service.as_str(), it.port));
            http.or(it.envoy_ext_authz_grpc.as_ref().map(|it| (it.service.as_str(), it.port)))
        });
        let (what, hint) = match (declared, place) {
            (None, _) => (
                format!("MeshConfig declares no provider {name:?}"),
                "declare it in extensionProviders of the ConfigMap istio",
            ),
            (Some(_), None) => (
                format!("provider {name:?} judges no requests"),
                "name a provider of kind envoyExtAuthzHttp or envoyExtAuthzGrpc",
            ),
            (Some(_), Some((service, port))) => match self.absent(service, port) {
                None => return,
                Some(absent) => (
                    format!("provider {name:?} is {absent}"),
                    "apply the Service or a ServiceEntry, or correct the provider in the ConfigMap istio",
                ),
            },
        };
        found.push(Finding {
            about: about(Kind::AuthorizationPolicy, config),
            severity: Severity::Error,
            code: "DanglingProvider",
            field: "spec.provider.name".into(),
            message: format!("{what}: all that the rules match is denied"),
            hint: hint.into(),
        });
    }

    /// Why nothing goes to a provider, and what to write.
    fn dangling(&self, name: &str, wanted: Use) -> Option<(String, String)> {
        let mesh = &self.mesh().value;
        let what = wanted.word();
        let Some(provider) = mesh.provider(name) else {
            if wanted.built_in() == Some(name) {
                return None;
            }
            let all = mesh.extension_providers.iter();
            let known: Vec<_> = all
                .filter(|it| wanted.serves(it))
                .map(|it| it.name.as_str())
                .chain(wanted.built_in())
                .collect();
            let declare = "declare it in extensionProviders of the ConfigMap istio";
            let hint = if known.is_empty() {
                declare.to_owned()
            } else {
                format!("{declare}, or write one of {known:?}")
            };
            return Some((
                format!("MeshConfig declares no provider {name:?}: there are no {what} until it does"),
                hint,
            ));
        };
        if !wanted.serves(provider) {
            let message = format!("provider {name:?} takes no {what}: there are none");
            return Some((message, format!("name a provider of kind {}", wanted.kinds())));
        }
        let (_, service, port) = collector(provider)?;
        let message = self.absent(service, port)?;
        Some((
            format!("provider {name:?} goes to {message}: there are no {what} until it is there"),
            "apply the Service or a ServiceEntry, or correct the provider in the ConfigMap istio".into(),
        ))
    }

    fn absent(&self, service: &str, port: u32) -> Option<String> {
        let host = service.split_once('/').map_or(service, |(_, host)| host);
        match self.services().with_host(host).first() {
            None => Some(format!("service {host}, which does not exist")),
            Some(known) if known.port(port).is_none() => {
                Some(format!("port {port} of service {host}, which has no such port"))
            }
            Some(_) => None,
        }
    }

    /// Where spans go without any provider: `defaultConfig.tracing.zipkin.address`, where tracing is turned on.
    fn default_collector(&self, mesh: &MeshConfig) -> Option<(String, u32)> {
        let zipkin = mesh.default_config.as_ref()?.tracing.as_ref()?.zipkin.as_ref()?;
        if !mesh.enable_tracing.unwrap_or_default() {
            return None;
        }
        zipkin.host_and_port(self.domain())
    }

    /// Collectors of MeshConfig that are not there, where it makes them the default ones, and what of it makes no sense.
    pub(super) fn check_mesh(&self, mesh: &MeshConfig, found: &mut Vec<Finding>) {
        let root = self.root_namespace();
        let at = || ObjectRef {
            kind: Kind::Mesh,
            name: NamespacedName::new(std::sync::Arc::clone(root), CONFIG_MAP),
        };
        for error in api::judge_mesh_config(mesh) {
            found.push(super::malformed(at(), &error));
        }
        if let Some((host, port)) = self.default_collector(mesh)
            && let Some(message) = self.absent(&host, port)
        {
            found.push(Finding {
                about: at(),
                severity: Severity::Warning,
                code: "DanglingProvider",
                field: "defaultConfig.tracing.zipkin.address".into(),
                message: format!("it names {message}: there are no traces until it is there"),
                hint: "apply the Service or a ServiceEntry, or write the address of one that exists".into(),
            });
        }
        let defaults =
            mesh.default_providers.iter().flat_map(|it| it.tracing.iter().chain(&it.access_logging));
        for name in defaults {
            let mut all = mesh.extension_providers.iter().enumerate();
            let Some((i, provider)) = all.find(|(_, provider)| provider.name == *name) else { continue };
            let Some((field, service, port)) = collector(provider) else { continue };
            let Some(message) = self.absent(service, port) else { continue };
            found.push(Finding {
                about: at(),
                severity: Severity::Error,
                code: "DanglingProvider",
                field: format!("extensionProviders[{i}].{field}.service"),
                message: format!("it names {message}: there are no traces until it is there"),
                hint: "apply the Service or a ServiceEntry, or write the name of one that exists".into(),
            });
        }
    }
}
