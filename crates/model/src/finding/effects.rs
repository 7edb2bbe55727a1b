//! Resources that do not do what they say: selectors that select nothing, TLS modes at odds, rules never reached.

use std::sync::Arc;

use api::networking as net;
use api::security::MutualTlsMode;
use base::NamespacedName;

use super::{Finding, Severity, about, policies};
use crate::change::{Kind, ObjectRef};
use crate::service::{Endpoint, Origin, Service};
use crate::source::Labels;
use crate::{Config, Protocol, Snapshot};

/// Only the first rule without a match is ever used, nothing after it.
pub(super) fn check_reachable(config: &Config<net::VirtualService>, found: &mut Vec<Finding>) {
    let catches_all = |route: &net::HttpRoute| route.r#match.is_empty();
    let Some(first) = config.spec.http.iter().position(catches_all) else { return };
    for i in first + 1..config.spec.http.len() {
        found.push(Finding {
            about: about(Kind::VirtualService, config),
            severity: Severity::Warning,
            code: "UnreachableRoute",
            field: format!("spec.http[{i}]"),
            message: format!("spec.http[{first}] takes every request, so this one is never used"),
            hint: "write the route without a match last".into(),
        });
    }
}

/// Sidecars are not given the secrets that a rule for all of them names: each would get the key.
pub(super) fn check_credentials(config: &Config<net::DestinationRule>, found: &mut Vec<Finding>) {
    let selector = config.spec.workload_selector.as_ref();
    if selector.is_some_and(|selector| !selector.match_labels.is_empty()) {
        return;
    }
    for (field, .., tls) in policies(&config.spec) {
        let Some(tls) = tls.filter(|tls| !tls.credential_name.is_empty()) else { continue };
        found.push(Finding {
            about: about(Kind::DestinationRule, config),
            severity: Severity::Warning,
            code: "CredentialUnread",
            field: format!("{field}.tls.credentialName"),
            message: format!(
                "without workloadSelector only gateways read Secret {:?}; sidecars trust the system's roots instead and \
                 show no certificate",
                tls.credential_name
            ),
            hint: "write workloadSelector with the labels of the workloads that call".into(),
        });
    }
}

impl Snapshot {
    pub(super) fn check_client_tls(
        &self,
        config: &Config<net::DestinationRule>,
        service: &Service,
        found: &mut Vec<Finding>,
    ) {
        let Some(policy) = &config.spec.traffic_policy else { return };
        let Some(endpoints) = self.endpoints(&service.key) else { return };
        let of_ports = policy.port_level_settings.iter().enumerate().filter_map(|(i, settings)| {
            let number = settings.port.as_ref()?.number;
            let port = service.port(number)?;
            let field = format!("spec.trafficPolicy.portLevelSettings[{i}].tls.mode");
            Some((field, settings.tls.as_ref()?, Some(port)))
        });
        let of_rule = policy.tls.as_ref().map(|tls| ("spec.trafficPolicy.tls.mode".to_owned(), tls, None));
        for (field, tls, port) in of_rule.into_iter().chain(of_ports) {
            let concerned = endpoints.all.iter().filter(|e| port.is_none_or(|port| e.port_name == port.name));
            let conflict = match tls.mode {
                net::ClientTlsMode::Disable => self.strict(concerned),
                net::ClientTlsMode::IstioMutual => plain(concerned),
                net::ClientTlsMode::Simple | net::ClientTlsMode::Mutual => None,
            };
            let Some((code, message, hint)) = conflict else { continue };
            found.push(Finding {
                about: about(Kind::DestinationRule, config),
                severity: Severity::Error,
                code,
                field,
                message,
                hint: hint.into(),
            });
        }
    }

    /// Endpoints that refuse plaintext.
    fn strict<'a>(&self, mut of: impl Iterator<Item = &'a Endpoint>) -> Option<Conflict> {
        let endpoint = of.find(|e| e.mutual_tls && self.peer_mode(e) == MutualTlsMode::Strict)?;
        let message = format!(
            "it turns TLS off, but {} takes nothing else (PeerAuthentication STRICT): requests fail",
            endpoint.workload
        );
        Some(("PlaintextToStrict", message, "leave tls out, so that mutual TLS is used where it can be"))
    }

    /// What a workload's PeerAuthentication says: its own, else its namespace's, else the mesh's.
    fn peer_mode(&self, of: &Endpoint) -> MutualTlsMode {
        let policies = self.peer_authentications();
        let own = policies.in_namespace(&of.namespace).iter();
        let mut default = None;
        for policy in own {
            let selector = policy.spec.selector.as_ref().map(|s| &s.match_labels).filter(|s| !s.is_empty());
            match selector {
                Some(selector) if matches(selector, &of.labels) => {
                    if let Some(mode) = policy.spec.mode(of.port) {
                        return mode;
                    }
                }
                Some(_) => {}
                None => default = default.or_else(|| policy.spec.mode(of.port)),
            }
        }
        let of_mesh = || {
            let mut root = policies.in_namespace(self.root_namespace()).iter();
            root.find_map(|p| p.spec.selector.is_none().then(|| p.spec.mode(of.port)).flatten())
        };
        default.or_else(of_mesh).unwrap_or(MutualTlsMode::Permissive)
    }

    /// Policies for workloads of which there are none.
    pub(super) fn check_selectors(&self, found: &mut Vec<Finding>) {
        let none = Labels::new();
        let mut all: Vec<(Kind, &NamespacedName, &str, &Labels)> = Vec::new();
        macro_rules! selected {
            ($list:expr, $kind:ident, $field:literal, $selector:ident, $labels:ident) => {
                for config in $list.iter() {
                    let labels = config.spec.$selector.as_ref().map_or(&none, |selector| &selector.$labels);
                    all.push((Kind::$kind, &config.name, $field, labels));
                }
            };
        }
        let (allowed, peers) = (self.authorization_policies(), self.peer_authentications());
        let (requests, telemetries, sidecars) =
            (self.request_authentications(), self.telemetries(), self.sidecars());
        selected!(allowed, AuthorizationPolicy, "spec.selector.matchLabels", selector, match_labels);
        selected!(peers, PeerAuthentication, "spec.selector.matchLabels", selector, match_labels);
        selected!(requests, RequestAuthentication, "spec.selector.matchLabels", selector, match_labels);
        selected!(telemetries, Telemetry, "spec.selector.matchLabels", selector, match_labels);
        selected!(sidecars, Sidecar, "spec.workloadSelector.labels", workload_selector, labels);
        for config in self.gateways().iter() {
            // Gateways select everywhere.
            let labels = &config.spec.selector;
            if !labels.is_empty() && !self.workloads().any(|workload| matches(labels, &workload.labels)) {
                found.push(selects_nothing(Kind::Gateway, &config.name, "spec.selector", "any namespace"));
            }
        }
        for (kind, name, field, labels) in all {
            let everywhere = name.namespace == *self.root_namespace();
            let mut workloads = self.workloads().filter(|w| everywhere || w.name.namespace == name.namespace);
            if !labels.is_empty() && !workloads.any(|workload| matches(labels, &workload.labels)) {
                let place = if everywhere {
                    "any namespace".to_owned()
                } else {
                    format!("namespace {}", name.namespace)
                };
                found.push(selects_nothing(kind, name, field, &place));
            }
        }
    }

    /// Services without workloads, and ports of which nobody said what they speak.
    pub(super) fn check_services(&self, found: &mut Vec<Finding>) {
        for service in self.services().iter().filter(|service| service.origin == Origin::Kubernetes) {
            let name = NamespacedName::new(Arc::clone(&service.key.namespace), Arc::clone(&service.name));
            let selector = &service.selector;
            let mut workloads = self.workloads().filter(|w| w.name.namespace == service.key.namespace);
            // Slices may come without the Pods that they name.
            let has_endpoints =
                self.endpoints(&service.key).is_some_and(|endpoints| !endpoints.all.is_empty());
            let selects = has_endpoints || workloads.any(|workload| matches(selector, &workload.labels));
            if !selector.is_empty() && !selects {
                let place = format!("namespace {}", service.key.namespace);
                found.push(selects_nothing(Kind::Service, &name, "spec.selector", &place));
            }
            for (i, port) in service.ports.iter().enumerate() {
                if port.protocol != Protocol::Detect || service.headless {
                    continue;
                }
                found.push(Finding {
                    about: ObjectRef { kind: Kind::Service, name: name.clone() },
                    severity: Severity::Info,
                    code: "PortWithoutProtocol",
                    field: format!("spec.ports[{i}].name"),
                    message: format!(
                        "nothing says what port {} speaks: each connection is looked at to find out",
                        port.number
                    ),
                    hint: "name the port http-…, grpc-… or tcp-…, or set appProtocol".into(),
                });
            }
        }
    }
}

/// A code, a message and a hint.
type Conflict = (&'static str, String, &'static str);

/// Endpoints that know nothing of the mesh's mutual TLS.
fn plain<'a>(mut of: impl Iterator<Item = &'a Endpoint>) -> Option<Conflict> {
    let endpoint = of.find(|endpoint| !endpoint.mutual_tls)?;
    let message = format!(
        "it insists on the mesh's mutual TLS, but {} has no sidecar to take it: requests fail",
        if endpoint.workload.is_empty() { &endpoint.address } else { &endpoint.workload }
    );
    Some(("MutualTlsToPlaintext", message, "leave tls out, so that mutual TLS is used where it can be"))
}

fn matches(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn selects_nothing(kind: Kind, name: &NamespacedName, field: &str, place: &str) -> Finding {
    Finding {
        about: ObjectRef { kind, name: name.clone() },
        severity: Severity::Warning,
        code: "SelectorMatchesNothing",
        field: field.into(),
        message: format!("no workload in {place} has these labels"),
        hint: "start the workload, or write labels that one has".into(),
    }
}
