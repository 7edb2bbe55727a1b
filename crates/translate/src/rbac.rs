//! AuthorizationPolicy: network and HTTP filters that decide who may do what.
//!
//! An HTTP-only condition cannot be judged on a TCP connection. As in Istio, a rule of an ALLOW policy that has one
//! then allows nothing, and in a DENY policy the condition is taken to hold: in doubt, refuse.

mod custom;
mod rule;

use std::sync::Arc;

use api::security::{Action, AuthorizationPolicy};
use model::{Config, Kind};
use proto::pb::envoy::config::listener::v3 as listener_pb;
use proto::pb::envoy::config::rbac::v3 as pb;
use proto::pb::envoy::extensions::filters::http::rbac::v3 as http_pb;
use proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use proto::pb::envoy::extensions::filters::network::rbac::v3 as network_pb;

use crate::build::Context;
use crate::encode::any;
use crate::listener::http::http_filter;
use crate::listener::tcp::network_filter;
use crate::mtls::trust_domains;
use crate::policies;

/// In which order actions are asked; the first that refuses, refuses.
const ORDER: [Action; 3] = [Action::Audit, Action::Deny, Action::Allow];

/// What a set of rules is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    Http,
    Tcp,
}

/// The filters of CUSTOM policies, which come before tokens are verified.
pub(crate) fn custom(context: &Context<'_>) -> Vec<HttpFilter> {
    custom::http(context)
}

pub(crate) fn http(context: &Context<'_>) -> Vec<HttpFilter> {
    let filter = |rules| {
        let config = http_pb::Rbac {
            rules: Some(rules),
            shadow_rules_stat_prefix: "istio_dry_run_allow_".into(),
            ..Default::default()
        };
        http_filter("envoy.filters.http.rbac", any(&config))
    };
    rules(context, Layer::Http).into_iter().map(filter).collect()
}

pub(crate) fn tcp(context: &Context<'_>) -> Vec<listener_pb::Filter> {
    let filter = |rules| {
        let config = network_pb::Rbac {
            rules: Some(rules),
            shadow_rules_stat_prefix: "istio_dry_run_allow_".into(),
            stat_prefix: "tcp.".into(),
            ..Default::default()
        };
        network_filter("envoy.filters.network.rbac", any(&config))
    };
    let mut all = custom::tcp(context);
    all.extend(rules(context, Layer::Tcp).into_iter().map(filter));
    all
}

fn policies(context: &Context<'_>) -> Vec<Arc<Config<AuthorizationPolicy>>> {
    policies::selecting(context, Kind::AuthorizationPolicy, |snapshot| snapshot.authorization_policies())
}

fn rules(context: &Context<'_>, layer: Layer) -> Vec<pb::Rbac> {
    let policies = policies(context);
    let domains = trust_domains(context);
    let mut all = Vec::new();
    for action in ORDER {
        let of_action: Vec<_> = policies.iter().filter(|policy| policy.spec.action == action).collect();
        if of_action.is_empty() {
            continue;
        }
        let mut rules = pb::Rbac {
            action: match action {
                Action::Deny => pb::rbac::Action::Deny,
                Action::Audit => pb::rbac::Action::Log,
                Action::Allow | Action::Custom => pb::rbac::Action::Allow,
            } as i32,
            ..Default::default()
        };
        for policy in of_action {
            for (at, rule) in policy.spec.rules.iter().enumerate() {
                let place =
                    rule::Place { layer, action, namespace: &policy.name.namespace, domains: &domains };
                if let Some(written) = rule::write(rule, &place) {
                    let name =
                        format!("ns[{}]-policy[{}]-rule[{at}]", policy.name.namespace, policy.name.name);
                    rules.policies.insert(name, written);
                }
            }
        }
        // ALLOW without a rule that can match refuses everything; the others then do nothing.
        if action == Action::Allow || !rules.policies.is_empty() {
            all.push(rules);
        }
    }
    all
}
