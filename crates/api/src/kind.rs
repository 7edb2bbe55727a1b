//! The kinds of resources, and how Kubernetes' clients know them.

use crate::message::message;

/// A kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    VirtualService,
    DestinationRule,
    Gateway,
    ServiceEntry,
    Sidecar,
    WorkloadEntry,
    WorkloadGroup,
    ProxyConfig,
    AuthorizationPolicy,
    PeerAuthentication,
    RequestAuthentication,
    Telemetry,
}

/// What discovery, CRDs and command lines say of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindInfo {
    pub kind: Kind,
    pub group: &'static str,
    /// The versions served, the preferred one first.
    pub versions: &'static [&'static str],
    /// The version that is stored.
    pub storage: &'static str,
    pub name: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub scope: Scope,
    /// Columns of `kubectl get`, besides the name.
    pub columns: &'static [Column],
    /// Whether an object without a spec is refused.
    pub spec_required: bool,
    /// Whether there is a status subresource.
    pub status: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// A column of `kubectl get`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `date` or another of the types of CRDs.
    pub kind: &'static str,
    pub json_path: &'static str,
    pub description: &'static str,
}

message! {
    /// What the control plane says about a resource.
    pub struct Status {
        /// What holds and what does not.
        pub conditions: Vec<Condition>,
        /// Findings of the analyzers.
        pub validation_messages: Vec<ValidationMessage>,
        /// The generation to which the status refers.
        pub observed_generation: Option<i64>,
    }

    /// Something that holds or does not.
    pub struct Condition {
        /// What.
        #[serde(rename = "type")]
        pub kind: String,
        /// True, False or Unknown.
        pub status: String,
        /// Why, in one word.
        pub reason: String,
        /// Why, for people.
        pub message: String,
        /// When that was last checked.
        pub last_probe_time: Option<String>,
        /// When the status last changed.
        pub last_transition_time: Option<String>,
        /// The generation to which the condition refers.
        pub observed_generation: Option<i64>,
    }

    /// A finding of an analyzer.
    pub struct ValidationMessage {
        /// What was found.
        #[serde(rename = "type")]
        pub kind: Option<ValidationMessageType>,
        /// UNKNOWN, ERROR, WARNING or INFO.
        pub level: String,
        /// Where to read more.
        pub documentation_url: String,
    }

    /// What an analyzer found.
    pub struct ValidationMessageType {
        /// Name of the finding.
        pub name: String,
        /// Its code.
        pub code: String,
    }
}

const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";
const TELEMETRY: &str = "telemetry.istio.io";
const NETWORKING_VERSIONS: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const SECURITY_VERSIONS: &[&str] = &["v1", "v1beta1"];

const AGE: Column = Column {
    name: "Age",
    kind: "date",
    json_path: ".metadata.creationTimestamp",
    description: "When the object was made.",
};

const fn column(name: &'static str, json_path: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", json_path, description }
}

const fn networking(
    kind: Kind,
    name: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
    columns: &'static [Column],
) -> KindInfo {
    KindInfo {
        kind,
        group: NETWORKING,
        versions: NETWORKING_VERSIONS,
        storage: "v1",
        name,
        plural,
        singular,
        short_names,
        categories: &["istio-io", "networking-istio-io"],
        scope: Scope::Namespaced,
        columns,
        spec_required: false,
        status: true,
    }
}

const fn security(
    kind: Kind,
    name: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
    columns: &'static [Column],
) -> KindInfo {
    KindInfo {
        group: SECURITY,
        versions: SECURITY_VERSIONS,
        categories: &["istio-io", "security-istio-io"],
        ..networking(kind, name, plural, singular, short_names, columns)
    }
}

/// In the order of [`Kind`].
static TABLE: [KindInfo; 12] = [
    networking(
        Kind::VirtualService,
        "VirtualService",
        "virtualservices",
        "virtualservice",
        &["vs"],
        &[
            column("Gateways", ".spec.gateways", "Gateways and sidecars that apply the routes."),
            column("Hosts", ".spec.hosts", "Hosts to which the routes apply."),
            AGE,
        ],
    ),
    networking(
        Kind::DestinationRule,
        "DestinationRule",
        "destinationrules",
        "destinationrule",
        &["dr"],
        &[column("Host", ".spec.host", "The service."), AGE],
    ),
    networking(Kind::Gateway, "Gateway", "gateways", "gateway", &["gw"], &[AGE]),
    KindInfo {
        spec_required: true,
        ..networking(
            Kind::ServiceEntry,
            "ServiceEntry",
            "serviceentries",
            "serviceentry",
            &["se"],
            &[
                column("Hosts", ".spec.hosts", "Hosts of the service."),
                column("Location", ".spec.location", "Whether the service is part of the mesh."),
                column("Resolution", ".spec.resolution", "How endpoints are found."),
                AGE,
            ],
        )
    },
    networking(Kind::Sidecar, "Sidecar", "sidecars", "sidecar", &[], &[AGE]),
    KindInfo {
        spec_required: true,
        ..networking(
            Kind::WorkloadEntry,
            "WorkloadEntry",
            "workloadentries",
            "workloadentry",
            &["we"],
            &[AGE, column("Address", ".spec.address", "Address of the workload.")],
        )
    },
    KindInfo {
        spec_required: true,
        ..networking(Kind::WorkloadGroup, "WorkloadGroup", "workloadgroups", "workloadgroup", &["wg"], &[AGE])
    },
    KindInfo {
        versions: &["v1beta1"],
        storage: "v1beta1",
        ..networking(Kind::ProxyConfig, "ProxyConfig", "proxyconfigs", "proxyconfig", &[], &[AGE])
    },
    security(
        Kind::AuthorizationPolicy,
        "AuthorizationPolicy",
        "authorizationpolicies",
        "authorizationpolicy",
        &["ap"],
        &[column("Action", ".spec.action", "What happens to requests that match."), AGE],
    ),
    security(
        Kind::PeerAuthentication,
        "PeerAuthentication",
        "peerauthentications",
        "peerauthentication",
        &["pa"],
        &[column("Mode", ".spec.mtls.mode", "Whether mutual TLS is used."), AGE],
    ),
    security(
        Kind::RequestAuthentication,
        "RequestAuthentication",
        "requestauthentications",
        "requestauthentication",
        &["ra"],
        &[AGE],
    ),
    KindInfo {
        group: TELEMETRY,
        versions: &["v1", "v1alpha1"],
        storage: "v1alpha1",
        categories: &["istio-io", "telemetry-istio-io"],
        ..networking(Kind::Telemetry, "Telemetry", "telemetries", "telemetry", &["telemetry"], &[AGE])
    },
];

impl Kind {
    /// All kinds.
    pub fn all() -> impl Iterator<Item = Kind> {
        TABLE.iter().map(|info| info.kind)
    }

    pub fn info(self) -> &'static KindInfo {
        &TABLE[self as usize]
    }

    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// The kind of an object, if its version is one that is served.
    pub fn of(api_version: &str, kind: &str) -> Option<Kind> {
        let (group, version) = api_version.split_once('/')?;
        let info = TABLE.iter().find(|info| info.group == group && info.name == kind)?;
        info.versions.contains(&version).then_some(info.kind)
    }

    /// The kind that a command line means: a name, plural, singular or short name, with `.group` if wanted.
    pub fn by_alias(text: &str) -> Option<Kind> {
        let lower = text.to_ascii_lowercase();
        let (word, group) = lower.split_once('.').map_or((lower.as_str(), None), |(w, g)| (w, Some(g)));
        let named = |info: &&KindInfo| {
            [info.plural, info.singular].contains(&word) || info.short_names.contains(&word)
        };
        let fits = |info: &&KindInfo| group.is_none_or(|group| info.group.starts_with(group));
        TABLE.iter().filter(fits).find(named).map(|info| info.kind)
    }
}

impl KindInfo {
    /// `group/version` of the preferred version.
    pub fn api_version(&self) -> String {
        format!("{}/{}", self.group, self.versions[0])
    }

    /// The CRD's name.
    pub fn crd_name(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_kinds() {
        for (index, kind) in Kind::all().enumerate() {
            assert_eq!(kind as usize, index);
            let info = kind.info();
            assert!(info.versions.contains(&info.storage), "{kind}");
            assert_eq!(info.name.to_lowercase(), info.singular);
        }
    }

    #[test]
    fn kinds_are_found_by_every_name() {
        assert_eq!(Kind::of("networking.istio.io/v1alpha3", "Gateway"), Some(Kind::Gateway));
        assert_eq!(Kind::of("gateway.networking.k8s.io/v1", "Gateway"), None);
        assert_eq!(Kind::of("networking.istio.io/v2", "Gateway"), None);
        assert_eq!(Kind::of("networking.istio.io/v1", "ProxyConfig"), None);
        for alias in ["vs", "virtualservices", "VirtualService", "virtualservices.networking.istio.io"] {
            assert_eq!(Kind::by_alias(alias), Some(Kind::VirtualService), "{alias}");
        }
    }
}
