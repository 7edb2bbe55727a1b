//! Problems of users' resources that only show beside each other: said by `analyze` and in the resources' status.

mod effects;
mod keys;
mod providers;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use self::effects::{check_credentials, check_reachable};
use crate::change::{Kind, Object, ObjectRef};
use crate::service::Resolution;
use crate::{Config, Snapshot, resolve_host};
use api::networking as net;
use base::NamespacedName;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// It does nothing, or not what it says, until something else changes.
    Error,
    /// It works, but perhaps not as meant.
    Warning,
    /// Worth knowing.
    Info,
}

/// One problem, in words that say who can mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub about: ObjectRef,
    pub severity: Severity,
    /// A stable name of the rule, for scripts: `DanglingSubset`.
    pub code: &'static str,
    /// The field at fault, as a path into the resource.
    pub field: String,
    pub message: String,
    /// What to write.
    pub hint: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { about, code, field, message, hint, .. } = self;
        write!(f, "{about}: {field}: {message} [{code}]; {hint}")
    }
}

impl Snapshot {
    /// Every problem, ordered by resource and field. Costs a walk over all resources: ask for it, do not poll it.
    pub fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        self.check_mesh(&self.mesh().value, &mut found);
        for config in self.telemetries().iter() {
            self.check_telemetry(config, &mut found);
            found
                .extend(config.faults().iter().map(|error| malformed(about(Kind::Telemetry, config), error)));
        }
        for config in self.authorization_policies().iter() {
            self.check_authorizer(config, &mut found);
        }
        for config in self.virtual_services().iter() {
            self.check_virtual_service(config, &mut found);
            found.extend(
                config.faults().iter().map(|error| malformed(about(Kind::VirtualService, config), error)),
            );
        }
        self.check_duplicate_hosts(&mut found);
        for config in self.destination_rules().iter() {
            self.check_rule(config, &mut found);
        }
        for config in self.gateways().iter() {
            self.check_gateway(config, &mut found);
        }
        for config in self.request_authentications().iter() {
            self.check_keys(config, &mut found);
        }
        self.check_defaults(&mut found);
        self.check_selectors(&mut found);
        self.check_services(&mut found);
        found.sort_by(|a, b| (&a.about, &a.field, a.code).cmp(&(&b.about, &b.field, b.code)));
        found
    }

    /// What is wrong with one resource beside the others, whether it is among them yet or not: what it names and what
    /// is not there. Costs a look at that resource alone.
    pub fn judge(&self, object: &Object) -> Vec<Finding> {
        let mut found = Vec::new();
        match object {
            Object::VirtualService(config) => self.check_virtual_service(config, &mut found),
            Object::DestinationRule(config) => self.check_rule(config, &mut found),
            Object::Gateway(config) => self.check_gateway(config, &mut found),
            Object::Telemetry(config) => self.check_telemetry(config, &mut found),
            Object::AuthorizationPolicy(config) => self.check_authorizer(config, &mut found),
            Object::RequestAuthentication(config) => self.check_keys(config, &mut found),
            Object::Mesh(mesh) => self.check_mesh(mesh, &mut found),
            _ => {}
        }
        found
    }

    fn check_virtual_service(&self, config: &Config<net::VirtualService>, found: &mut Vec<Finding>) {
        for (i, gateway) in config.spec.gateways.iter().enumerate() {
            let (namespace, name) = gateway.split_once('/').unwrap_or((&config.name.namespace, gateway));
            if gateway != "mesh" && self.gateways().get(&NamespacedName::new(namespace, name)).is_none() {
                found.push(Finding {
                    about: about(Kind::VirtualService, config),
                    severity: Severity::Error,
                    code: "DanglingGateway",
                    field: format!("spec.gateways[{i}]"),
                    message: format!("there is no Gateway {namespace}/{name}"),
                    hint: "apply the Gateway, or name one that exists as [namespace/]name".into(),
                });
            }
        }
        let mut check = |field: String, to: &net::Destination| {
            self.check_destination(config, &field, to, found);
        };
        for (i, route) in config.spec.http.iter().enumerate() {
            for (j, to) in route.route.iter().enumerate() {
                check(format!("spec.http[{i}].route[{j}].destination"), &to.destination);
            }
            if let Some(mirror) = &route.mirror {
                check(format!("spec.http[{i}].mirror"), mirror);
            }
            for (j, mirror) in route.mirrors.iter().enumerate() {
                check(format!("spec.http[{i}].mirrors[{j}].destination"), &mirror.destination);
            }
        }
        for (i, route) in config.spec.tcp.iter().enumerate() {
            for (j, to) in route.route.iter().enumerate() {
                check(format!("spec.tcp[{i}].route[{j}].destination"), &to.destination);
            }
        }
        for (i, route) in config.spec.tls.iter().enumerate() {
            for (j, to) in route.route.iter().enumerate() {
                check(format!("spec.tls[{i}].route[{j}].destination"), &to.destination);
            }
        }
        check_reachable(config, found);
    }

    fn check_destination(
        &self,
        config: &Config<net::VirtualService>,
        field: &str,
        to: &net::Destination,
        found: &mut Vec<Finding>,
    ) {
        let host = resolve_host(&to.host, &config.name.namespace, self.domain());
        let Some(service) = self.services().with_host(&host).first() else {
            found.push(Finding {
                about: about(Kind::VirtualService, config),
                severity: Severity::Error,
                code: "DanglingHost",
                field: format!("{field}.host"),
                message: format!("there is no service {host}; requests are answered 503 until there is"),
                hint: "apply the Service or a ServiceEntry, or write the name of one that exists".into(),
            });
            return;
        };
        if let Some(port) = to.port.as_ref().filter(|port| service.port(port.number).is_none()) {
            found.push(Finding {
                about: about(Kind::VirtualService, config),
                severity: Severity::Error,
                code: "DanglingPort",
                field: format!("{field}.port.number"),
                message: format!("service {host} has no port {}", port.number),
                hint: format!(
                    "write one of {:?}",
                    service.ports.iter().map(|p| p.number).collect::<Vec<_>>()
                ),
            });
        }
        if to.subset.is_empty() {
            return;
        }
        let rules = self.rules(&config.name.namespace, &service.key);
        if !rules.iter().any(|rule| rule.spec.subset(&to.subset).is_some()) {
            let known: Vec<_> = rules.iter().flat_map(|rule| &rule.spec.subsets).map(|s| &s.name).collect();
            found.push(Finding {
                about: about(Kind::VirtualService, config),
                severity: Severity::Error,
                code: "DanglingSubset",
                field: format!("{field}.subset"),
                message: format!(
                    "no DestinationRule defines subset {:?} of {host}; requests are answered 503 until one does",
                    to.subset
                ),
                hint: if known.is_empty() {
                    format!("apply a DestinationRule for {host} with that subset")
                } else {
                    format!("write one of {known:?}, or add the subset to the DestinationRule")
                },
            });
        }
    }

    /// Two VirtualServices for one host at one place: the older one wins.
    fn check_duplicate_hosts(&self, found: &mut Vec<Finding>) {
        let mut owners: BTreeMap<(String, String, String), NamespacedName> = BTreeMap::new();
        for config in self.virtual_services().iter() {
            let mesh = vec!["mesh".to_owned()];
            let places = if config.spec.gateways.is_empty() { &mesh } else { &config.spec.gateways };
            let namespace = &config.name.namespace;
            for (i, host) in config.spec.hosts.iter().enumerate() {
                let host = resolve_host(host, namespace, self.domain());
                for place in places {
                    let at = if place == "mesh" || place.contains('/') {
                        place.clone()
                    } else {
                        format!("{namespace}/{place}")
                    };
                    // Sidecars of different namespaces may be meant by different resources: compare within one.
                    let scope = if at == "mesh" { namespace.to_string() } else { String::new() };
                    let key = (scope, at.clone(), host.to_string());
                    let Some(owner) = owners.get(&key) else {
                        owners.insert(key, config.name.clone());
                        continue;
                    };
                    found.push(Finding {
                        about: about(Kind::VirtualService, config),
                        severity: Severity::Warning,
                        code: "DuplicateHost",
                        field: format!("spec.hosts[{i}]"),
                        message: format!(
                            "{host} at {at} already belongs to the older VirtualService {owner}"
                        ),
                        hint: "merge the two, or give them different hosts or gateways".into(),
                    });
                }
            }
        }
    }

    fn check_rule(&self, config: &Config<net::DestinationRule>, found: &mut Vec<Finding>) {
        let host = resolve_host(&config.spec.host, &config.name.namespace, self.domain());
        check_credentials(config, found);
        let services = self.services().with_host(&host);
        if services.is_empty() && !host.starts_with('*') {
            found.push(Finding {
                about: about(Kind::DestinationRule, config),
                severity: Severity::Warning,
                code: "DanglingHost",
                field: "spec.host".into(),
                message: format!("there is no service {host}"),
                hint: "apply the Service or a ServiceEntry, or write the name of one that exists".into(),
            });
        }
        let Some(service) = services.first() else { return };
        let of_first_port: Vec<_> = self.endpoints(&service.key).map_or_else(Vec::new, |endpoints| {
            let first = service.ports.first().map(|port| &port.name);
            endpoints.all.iter().filter(|endpoint| Some(&endpoint.port_name) == first).collect()
        });
        for (field, labels, outlier, _) in policies(&config.spec) {
            let Some(outlier) = outlier else { continue };
            let count =
                of_first_port.iter().filter(|e| labels.iter().all(|(k, v)| e.labels.get(k) == Some(v)));
            let count = count.count();
            let percent = outlier.max_ejection_percent() as usize;
            if service.resolution == Resolution::Endpoints && count > 0 && count * percent < 100 {
                found.push(Finding {
                    about: about(Kind::DestinationRule, config),
                    severity: Severity::Warning,
                    code: "NothingEjected",
                    field: format!("{field}.outlierDetection.maxEjectionPercent"),
                    message: format!(
                        "{percent} % of {count} endpoints is less than one: none is ever ejected"
                    ),
                    hint: "write maxEjectionPercent: 100, or a share that one endpoint fits into".into(),
                });
            }
        }
        self.check_client_tls(config, service, found);
    }

    fn check_gateway(&self, config: &Config<net::Gateway>, found: &mut Vec<Finding>) {
        for (i, server) in config.spec.servers.iter().enumerate() {
            let Some(tls) = &server.tls else { continue };
            let name = NamespacedName::new(
                "",
                tls.credential_name.strip_prefix("kubernetes://").unwrap_or(&tls.credential_name),
            );
            // The secret is read in the namespace of the gateway's workloads, which only they know: look everywhere.
            let known = self.inner().secrets.iter().any(|(secret, _)| secret.name == name.name);
            if !name.name.is_empty() && !name.name.contains('/') && !known {
                found.push(Finding {
                    about: about(Kind::Gateway, config),
                    severity: Severity::Error,
                    code: "DanglingSecret",
                    field: format!("spec.servers[{i}].tls.credentialName"),
                    message: format!("there is no Secret {:?} in any namespace", name.name),
                    hint: "make one of type kubernetes.io/tls in the namespace of the gateway's workloads"
                        .into(),
                });
            }
        }
    }

    /// Kinds of which a namespace may have one without a selector.
    fn check_defaults(&self, found: &mut Vec<Finding>) {
        let mut seen: BTreeMap<(Kind, &str), &NamespacedName> = BTreeMap::new();
        let sidecars = self.sidecars();
        let peers = self.peer_authentications();
        let unselective = sidecars
            .iter()
            .filter(|config| config.spec.workload_selector.as_ref().is_none_or(|s| s.labels.is_empty()))
            .map(|config| (Kind::Sidecar, &config.name))
            .chain(
                peers
                    .iter()
                    .filter(|c| c.spec.selector.as_ref().is_none_or(|s| s.match_labels.is_empty()))
                    .map(|config| (Kind::PeerAuthentication, &config.name)),
            );
        for (kind, name) in unselective {
            if let Some(first) = seen.get(&(kind, &*name.namespace)) {
                found.push(Finding {
                    about: ObjectRef { kind, name: name.clone() },
                    severity: Severity::Error,
                    code: "DuplicateDefault",
                    field: "spec".into(),
                    message: format!(
                        "the older {first} is already the namespace's default; this one is ignored"
                    ),
                    hint: "delete one of them, or give this one a selector".into(),
                });
            } else {
                seen.insert((kind, &name.namespace), name);
            }
        }
    }
}

type Policy<'a> = (
    String,
    &'a BTreeMap<String, String>,
    Option<&'a net::OutlierDetection>,
    Option<&'a net::ClientTlsSettings>,
);

/// The policies of a rule: where each is written, the labels of the endpoints that it is for, and what it says.
fn policies(rule: &net::DestinationRule) -> Vec<Policy<'_>> {
    static ALL: BTreeMap<String, String> = BTreeMap::new();
    let of_rule = rule.traffic_policy.as_ref().map(|policy| ("spec.trafficPolicy".to_owned(), &ALL, policy));
    let of_subsets = rule.subsets.iter().enumerate().filter_map(|(i, subset)| {
        let policy = subset.traffic_policy.as_ref()?;
        Some((format!("spec.subsets[{i}].trafficPolicy"), &subset.labels, policy))
    });
    let mut found = Vec::new();
    for (field, labels, policy) in of_rule.into_iter().chain(of_subsets) {
        found.push((field.clone(), labels, policy.outlier_detection.as_ref(), policy.tls.as_ref()));
        for (i, port) in policy.port_level_settings.iter().enumerate() {
            let field = format!("{field}.portLevelSettings[{i}]");
            found.push((field, labels, port.outlier_detection.as_ref(), port.tls.as_ref()));
        }
    }
    found
}

/// What makes no sense: the part of the resource that says it is left out, where proxies would not take it.
fn malformed(about: ObjectRef, error: &api::FieldError) -> Finding {
    Finding {
        about,
        severity: Severity::Error,
        code: "Malformed",
        field: error.path.clone(),
        message: error.message.clone(),
        hint: error.hint.clone().unwrap_or_default(),
    }
}

fn about<T>(kind: Kind, config: &Config<T>) -> ObjectRef {
    ObjectRef { kind, name: config.name.clone() }
}
