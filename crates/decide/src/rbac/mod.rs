//! Role-based access control: Envoy's RBAC filters, network and HTTP, with their dry runs.

mod compile;
mod rule;

use std::sync::Arc;

use serde_json::Value;

use crate::connection::Connection;
use crate::decision::PolicyHit;
use crate::explain::{Note, Recorder};
use crate::metadata::DynamicMetadata;
use crate::request::Request;
use rule::{Permission, Principal};

/// One RBAC filter.
#[derive(Debug, Clone)]
pub struct Rbac {
    pub(crate) rules: Option<Engine>,
    pub(crate) shadow: Option<Engine>,
    pub(crate) shadow_prefix: Box<str>,
    /// Network only: for statistics.
    pub stat_prefix: Arc<str>,
}

#[derive(Debug, Clone)]
pub(crate) struct Engine {
    action: Action,
    /// By name, as Envoy looks at them.
    policies: Vec<Policy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Allow,
    Deny,
    /// Let through, and remember whether a policy matched.
    Log,
}

#[derive(Debug, Clone)]
struct Policy {
    name: Arc<str>,
    permissions: Vec<Permission>,
    principals: Vec<Principal>,
}

/// What rules are judged on.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) connection: &'a Connection,
    /// Nothing at the network filter: what asks for HTTP then matches nothing.
    pub(crate) request: Option<&'a Request>,
    /// By `x-forwarded-for` where that is trusted.
    pub(crate) remote: std::net::SocketAddr,
}

/// What an engine comes to.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    pub(crate) allowed: bool,
    pub(crate) policy: Option<Arc<str>>,
}

impl Engine {
    fn judge<R: Recorder>(&self, subject: &Subject<'_>, what: &'static str, recorder: &mut R) -> Verdict {
        let matched = self.policies.iter().find(|policy| {
            let hit = policy.matches(subject);
            recorder.note(|| {
                let verb = match (hit, self.action) {
                    (false, _) => "does not match",
                    (true, Action::Allow) => "matches: allowed",
                    (true, Action::Deny) => "matches: denied",
                    (true, Action::Log) => "matches: logged",
                };
                Note::new(what, &*policy.name, verb)
            });
            hit
        });
        let allowed = match self.action {
            Action::Allow => matched.is_some(),
            Action::Deny => matched.is_none(),
            Action::Log => true,
        };
        if matched.is_none() && self.action == Action::Allow {
            recorder.note(|| Note::new(what, "", "no ALLOW policy matches: denied"));
        }
        Verdict { allowed, policy: matched.map(|p| Arc::clone(&p.name)) }
    }
}

impl Policy {
    fn matches(&self, subject: &Subject<'_>) -> bool {
        self.permissions.iter().any(|p| p.matches(subject))
            && self.principals.iter().any(|p| p.matches(subject))
    }
}

impl Rbac {
    /// The real verdict; dry runs leave theirs in `hits` and in the metadata.
    pub(crate) fn judge<R: Recorder>(
        &self,
        subject: &Subject<'_>,
        hits: &mut Vec<PolicyHit>,
        metadata: &mut Vec<(String, Value)>,
        recorder: &mut R,
    ) -> Verdict {
        if let Some(shadow) = &self.shadow {
            let verdict = shadow.judge(subject, "rbac (dry run)", recorder);
            let result = if verdict.allowed { "allowed" } else { "denied" };
            metadata.push((format!("{}shadow_engine_result", self.shadow_prefix), result.into()));
            if let Some(policy) = verdict.policy {
                let key = format!("{}shadow_effective_policy_id", self.shadow_prefix);
                metadata.push((key, Value::String(policy.to_string())));
                hits.push(PolicyHit { policy, allowed: verdict.allowed, shadow: true });
            }
        }
        let Some(rules) = &self.rules else { return Verdict { allowed: true, policy: None } };
        let verdict = rules.judge(subject, "rbac", recorder);
        if rules.action == Action::Log {
            metadata.push(("access_log_hint".to_owned(), verdict.policy.is_some().into()));
        }
        if let Some(policy) = &verdict.policy {
            let shadow = rules.action == Action::Log;
            hits.push(PolicyHit { policy: Arc::clone(policy), allowed: verdict.allowed, shadow });
        }
        verdict
    }

    /// Whether it has rules that decide.
    pub(crate) fn enforces(&self) -> bool {
        self.rules.is_some()
    }

    /// Whether nothing could ever be denied or noted.
    pub(crate) fn is_idle(&self) -> bool {
        self.rules.is_none() && self.shadow.is_none()
    }
}

/// Puts what a filter learned where logs and later filters find it.
pub(crate) fn store(metadata: &mut DynamicMetadata, filter: &str, learned: Vec<(String, Value)>) {
    for (key, value) in learned {
        metadata.set(filter, &key, value);
    }
}
