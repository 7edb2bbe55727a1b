//! AuthorizationPolicy: who may do what.

use crate::common::{LabelSelector, PolicyTargetReference};
use crate::message::{keyword, message};

/// What conditions may ask about; `[` stands for a name in brackets.
pub const CONDITION_KEYS: [&str; 14] = [
    "request.headers[",
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.serviceAccount",
    "source.trustDomain",
    "source.principal",
    "destination.ip",
    "destination.port",
    "connection.sni",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "request.auth.claims[",
];

/// The way to the claim that a condition asks about: `request.auth.claims[a][b]` is `b` in `a`.
pub fn claim_of_condition(key: &str) -> Option<Vec<&str>> {
    let inner = key.strip_prefix("request.auth.claims[")?.strip_suffix(']')?;
    let path: Vec<&str> = inner.split("][").collect();
    // As in Istio, other brackets make it one claim of that name.
    let path = if path.iter().any(|name| name.contains(['[', ']'])) { vec![inner] } else { path };
    path.iter().all(|name| !name.is_empty()).then_some(path)
}

message! {
    /// Who may do what at some workloads.
    #[schemars(extend("x-oneof" = [["selector", "targetRef", "targetRefs"]]))]
    pub struct AuthorizationPolicy {
        /// The workloads; all of the namespace when absent.
        pub selector: Option<LabelSelector>,
        /// A resource to which the policy is attached instead.
        pub target_ref: Option<PolicyTargetReference>,
        /// Resources to which the policy is attached instead.
        #[schemars(length(max = 16))]
        pub target_refs: Vec<PolicyTargetReference>,
        /// Rules, one of which must match; none means that nothing matches.
        #[schemars(length(max = 512))]
        pub rules: Vec<Rule>,
        /// What happens to requests that match.
        pub action: Action,
        /// Who decides, for CUSTOM.
        pub provider: Option<AuthorizationProvider>,
    }

    /// An external authorizer, by the name that MeshConfig gives it.
    pub struct AuthorizationProvider {
        /// Its name.
        pub name: String,
    }

    /// Callers, operations and conditions, all of which must match.
    pub struct Rule {
        /// Callers, one of which must match; any when absent.
        #[schemars(length(max = 512))]
        pub from: Vec<RuleFrom>,
        /// Operations, one of which must match; any when absent.
        pub to: Vec<RuleTo>,
        /// Further conditions, all of which must hold.
        pub when: Vec<Condition>,
    }

    /// A caller.
    pub struct RuleFrom {
        /// What is known of it.
        pub source: Option<Source>,
    }

    /// An operation.
    pub struct RuleTo {
        /// What is known of it.
        pub operation: Option<Operation>,
    }

    /// What is known of a caller; everything that is said must match. Strings may be `exact`, `prefix*`, `*suffix` or `*`.
    pub struct Source {
        /// Identities, without the scheme: cluster.local/ns/default/sa/reader.
        pub principals: Vec<String>,
        /// Identities that must not match.
        pub not_principals: Vec<String>,
        /// Identities in tokens: issuer/subject.
        pub request_principals: Vec<String>,
        /// Identities in tokens that must not match.
        pub not_request_principals: Vec<String>,
        /// Namespaces.
        pub namespaces: Vec<String>,
        /// Namespaces that must not match.
        pub not_namespaces: Vec<String>,
        /// Accounts, as [namespace/]name.
        #[schemars(length(max = 16))]
        pub service_accounts: Vec<String>,
        /// Accounts that must not match.
        #[schemars(length(max = 16))]
        pub not_service_accounts: Vec<String>,
        /// Trust domains.
        pub trust_domains: Vec<String>,
        /// Trust domains that must not match.
        pub not_trust_domains: Vec<String>,
        /// Addresses or networks of the connection.
        pub ip_blocks: Vec<String>,
        /// Addresses or networks that must not match.
        pub not_ip_blocks: Vec<String>,
        /// Addresses or networks of the first caller, by X-Forwarded-For or PROXY protocol.
        pub remote_ip_blocks: Vec<String>,
        /// Addresses or networks that must not match.
        pub not_remote_ip_blocks: Vec<String>,
    }

    /// What a request asks for; everything that is said must match.
    pub struct Operation {
        /// Hosts, without regard to case.
        pub hosts: Vec<String>,
        /// Hosts that must not match.
        pub not_hosts: Vec<String>,
        /// Ports that were called.
        pub ports: Vec<String>,
        /// Ports that must not match.
        pub not_ports: Vec<String>,
        /// Methods.
        pub methods: Vec<String>,
        /// Methods that must not match.
        pub not_methods: Vec<String>,
        /// Paths; for gRPC /package.Service/Method. `{*}` and `{**}` stand for one and for any number of segments.
        pub paths: Vec<String>,
        /// Paths that must not match.
        pub not_paths: Vec<String>,
    }

    /// A condition on an attribute.
    #[schemars(extend("required" = ["key"]))]
    pub struct Condition {
        /// The attribute, such as request.headers[x-role].
        pub key: String,
        /// Values, one of which must match.
        pub values: Vec<String>,
        /// Values, none of which may match.
        pub not_values: Vec<String>,
    }
}

keyword! {
    /// What happens to requests that match.
    pub enum Action {
        #[default]
        Allow,
        Deny,
        Audit,
        Custom,
    }
}
