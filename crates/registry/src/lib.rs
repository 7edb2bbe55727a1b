//! Kubernetes API, Eureka, files: streams of `Change`s.
//!
//! A registry reads one source of facts and says what it learned; it decides nothing. [`kubernetes`] is the only one
//! so far, for the embedded API and for clusters alike. An object that cannot be read is reported as a [`Problem`] and
//! changes nothing: the last good one keeps serving.

mod istio;
pub mod kubernetes;
pub mod manifest;

use std::fmt;

use base::NamespacedName;

/// What a registry says.
#[derive(Debug)]
pub enum Event {
    /// Facts, in the order in which they were learned.
    Changes(Vec<model::Change>),
    /// Everything that was there at the start has been said.
    Synced,
    /// An object that could not be read.
    Problem(Problem),
}

/// An object that could not be read, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub kind: String,
    pub name: NamespacedName,
    pub reasons: Vec<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.kind, self.name, self.reasons.join("; "))
    }
}

fn nameless() -> Vec<String> {
    vec!["metadata.name: an object needs a name".into()]
}
