//! Messages that several kinds share.

use std::collections::BTreeMap;

use crate::message::{keyword, message};

/// Labels, headers and the like.
pub type StringMap = BTreeMap<String, String>;

message! {
    /// How a string is compared. With none of the three set, presence is enough.
    #[schemars(extend("x-oneof" = [["exact", "prefix", "regex"]]))]
    pub struct StringMatch {
        /// The whole string.
        pub exact: Option<String>,
        /// The beginning of the string.
        pub prefix: Option<String>,
        /// RE2 expression that the whole string must match.
        pub regex: Option<String>,
    }

    /// A share of requests.
    pub struct Percent {
        /// From 0.0 to 100.0.
        pub value: f64,
    }

    /// A port, by its number.
    pub struct PortSelector {
        /// From 1 to 65535.
        pub number: u32,
    }

    /// The workloads meant, in the networking API.
    pub struct WorkloadSelector {
        /// Labels that a workload must carry, all of them.
        pub labels: StringMap,
    }

    /// The workloads meant, in the security and telemetry APIs and in DestinationRule.
    pub struct LabelSelector {
        /// Labels that a workload must carry, all of them.
        pub match_labels: StringMap,
    }

    /// A resource to which a policy is attached.
    #[schemars(extend("required" = ["kind", "name"]))]
    pub struct PolicyTargetReference {
        /// API group of the resource.
        pub group: String,
        /// Kind of the resource.
        pub kind: String,
        /// Name of the resource.
        pub name: String,
        /// Must be empty: the namespace is the policy's own.
        pub namespace: String,
    }
}

keyword! {
    /// Which side of a call is meant.
    pub enum WorkloadMode {
        #[default]
        ClientAndServer,
        Client,
        Server,
    }
}

/// A [`StringMatch`] as what it is: one of its alternatives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StringMatchKind<'a> {
    Exact(&'a str),
    Prefix(&'a str),
    Regex(&'a str),
    /// Anything will do, if only it is there.
    Present,
}

impl StringMatch {
    pub fn exact(text: impl Into<String>) -> Self {
        Self { exact: Some(text.into()), ..Self::default() }
    }

    pub fn prefix(text: impl Into<String>) -> Self {
        Self { prefix: Some(text.into()), ..Self::default() }
    }

    pub fn regex(text: impl Into<String>) -> Self {
        Self { regex: Some(text.into()), ..Self::default() }
    }

    pub fn kind(&self) -> StringMatchKind<'_> {
        match (&self.exact, &self.prefix, &self.regex) {
            (Some(text), _, _) => StringMatchKind::Exact(text),
            (_, Some(text), _) => StringMatchKind::Prefix(text),
            (_, _, Some(text)) => StringMatchKind::Regex(text),
            _ => StringMatchKind::Present,
        }
    }
}

impl WorkloadSelector {
    /// Whether a workload with these labels is meant; an empty selector means all.
    pub fn selects(&self, labels: &StringMap) -> bool {
        crate::labels::contains(labels, &self.labels)
    }
}

impl LabelSelector {
    /// Whether a workload with these labels is meant; an empty selector means all.
    pub fn selects(&self, labels: &StringMap) -> bool {
        crate::labels::contains(labels, &self.match_labels)
    }
}
