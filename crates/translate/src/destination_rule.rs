//! The traffic policy for a service, as a scope sees it.

use std::sync::Arc;

use api::networking as net;
use model::{Config, Key, Service};

use crate::build::Context;
use crate::scope::Facet;

/// The rules that speak for a service, merged: the first policy counts, subsets add up.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// The resource that gave the policy, for metadata.
    pub(crate) config: Arc<Config<net::DestinationRule>>,
    merged: Arc<net::DestinationRule>,
}

impl Rule {
    pub(crate) fn of(context: &Context<'_>, service: &Service) -> Option<Self> {
        let client = &context.reader.facets(Facet::Namespace).namespace;
        let snapshot = context.reader.read(Key::Rules(Arc::clone(client), service.key.clone()));
        let rules = snapshot.rules(client, &service.key);
        let (selective, general): (Vec<_>, Vec<_>) = rules.into_iter().partition(|rule| is_selective(rule));
        let meant = selective.into_iter().filter(|rule| {
            let selector = rule.spec.workload_selector.as_ref();
            rule.name.namespace == *client
                && selector.is_some_and(|s| s.selects(&context.reader.facets(Facet::Labels).labels))
        });
        let rules: Vec<_> = meant.chain(general).collect();
        let first = Arc::clone(rules.first()?);
        if rules.len() == 1 {
            return Some(Self { merged: Arc::new(first.spec.clone()), config: first });
        }
        let mut merged = first.spec.clone();
        for rule in &rules[1..] {
            if merged.traffic_policy.is_none() {
                merged.traffic_policy.clone_from(&rule.spec.traffic_policy);
            }
            for subset in &rule.spec.subsets {
                if merged.subset(&subset.name).is_none() {
                    merged.subsets.push(subset.clone());
                }
            }
        }
        Some(Self { config: first, merged: Arc::new(merged) })
    }

    /// Whether it is for chosen workloads of its own namespace, which may then have that namespace's secrets.
    pub(crate) fn is_selective(&self) -> bool {
        is_selective(&self.config)
    }

    pub(crate) fn subsets(&self) -> &[net::Subset] {
        &self.merged.subsets
    }

    pub(crate) fn subset(&self, name: &str) -> Option<&net::Subset> {
        self.merged.subset(name)
    }

    /// As Istio names a resource in metadata.
    pub(crate) fn path(&self) -> String {
        config_path("destination-rule", &self.config.name)
    }
}

fn is_selective(rule: &Config<net::DestinationRule>) -> bool {
    rule.spec.workload_selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty())
}

pub(crate) fn config_path(kind: &str, name: &base::NamespacedName) -> String {
    format!("/apis/networking.istio.io/v1/namespaces/{}/{kind}/{}", name.namespace, name.name)
}

/// The policy for a port and subset; what no rule says is the mesh's default.
pub(crate) fn policy(
    context: &Context<'_>,
    rule: Option<&Rule>,
    port: u32,
    subset: &str,
) -> net::TrafficPolicy {
    let subset = Some(subset).filter(|subset| !subset.is_empty());
    let mut policy = rule.map(|rule| rule.merged.policy(port, subset)).unwrap_or_default();
    if let Some(default) = &context.mesh().value.default_traffic_policy {
        policy.connection_pool = policy.connection_pool.or_else(|| default.connection_pool.clone());
        policy.outlier_detection = policy.outlier_detection.or_else(|| default.outlier_detection.clone());
    }
    policy
}

/// The consistent hash that a service's callers are to use, if any.
pub(crate) fn consistent_hash(
    context: &Context<'_>,
    service: &Service,
    port: u32,
    subset: &str,
) -> Option<net::ConsistentHashLb> {
    let rule = Rule::of(context, service)?;
    policy(context, Some(&rule), port, subset).load_balancer?.consistent_hash
}

/// The locality settings in force, and whether somebody asks for them: the rule itself, or a mesh that says who stands
/// in for whom.
pub(crate) fn locality(
    context: &Context<'_>,
    policy: &net::TrafficPolicy,
) -> (Option<net::LocalityLoadBalancerSetting>, bool) {
    let own = policy.load_balancer.as_ref().and_then(|lb| lb.locality_lb_setting.clone());
    let asked = own.is_some();
    let setting = own.or_else(|| context.mesh().value.locality_lb_setting.clone()).unwrap_or_default();
    let asked = asked || !setting.failover.is_empty() || !setting.failover_priority.is_empty();
    (Some(setting).filter(|setting| setting.enabled.unwrap_or(true)), asked)
}
