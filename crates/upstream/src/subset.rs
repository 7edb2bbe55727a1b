//! Subsets of a cluster's hosts, by what their metadata says: Envoy's subset load balancing.
//!
//! A selector names keys; the hosts that agree on the values of all of them are a subset. A request says which values it
//! wants, of exactly the keys of one selector; where no host has them, a fallback says what happens.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::assignment::LbLabel;
use crate::{Assignment, Endpoint, EndpointSet, LocalityGroup};

/// Values by key, sorted by key. Values are JSON, so that `1` and `"1"` are told apart.
pub type Labels = [(Box<str>, Box<str>)];

#[derive(Debug, Clone, PartialEq)]
pub struct SubsetConfig {
    pub fallback: Fallback,
    /// Of [`Fallback::Default`].
    pub default: Box<Labels>,
    pub selectors: Vec<SubsetSelector>,
    /// Weights of localities count within subsets, too.
    pub locality_weight_aware: bool,
    /// Then they count by the share of the locality's hosts that are in the subset.
    pub scale_locality_weight: bool,
    /// Any host, where the fallback has none.
    pub panic_mode_any: bool,
    /// A list among the metadata of an endpoint stands for each of its values.
    pub list_as_any: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SubsetSelector {
    /// Sorted.
    pub keys: Vec<Box<str>>,
    /// The first host alone of those that agree.
    pub single_host: bool,
    /// In place of the cluster's.
    pub fallback: Option<SelectorFallback>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    None,
    Any,
    Default,
}

impl Fallback {
    pub(crate) fn chosen(self) -> Option<Chosen<'static>> {
        match self {
            Self::None => None,
            Self::Any => Some(Chosen::Any),
            Self::Default => Some(Chosen::Default),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum SelectorFallback {
    Of(Fallback),
    /// Once more with these keys alone.
    Keys(Vec<Box<str>>),
}

/// Which hosts a request gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Chosen<'a> {
    /// Those that it asked for.
    Labels(&'a Labels),
    Any,
    Default,
}

/// The subsets of a set, built with it.
#[derive(Debug)]
pub(crate) struct Subsets {
    pub(crate) config: Arc<SubsetConfig>,
    by_labels: HashMap<Box<Labels>, Arc<EndpointSet>>,
    any: Arc<EndpointSet>,
    default: Arc<EndpointSet>,
}

impl Subsets {
    /// `build` makes a set of an assignment.
    pub(crate) fn new(
        config: &Arc<SubsetConfig>,
        assignment: &Assignment,
        mut build: impl FnMut(&Assignment) -> EndpointSet,
    ) -> Self {
        let mut members: BTreeMap<Box<Labels>, Members> = BTreeMap::new();
        for selector in &config.selectors {
            for (group, endpoint) in placed(assignment) {
                for labels in labels_of(endpoint, &selector.keys, config.list_as_any) {
                    let taken = members.entry(labels).or_default();
                    if !(selector.single_host && !taken.is_empty()) {
                        taken.push((group, Arc::clone(endpoint)));
                    }
                }
            }
        }
        let default = placed(assignment)
            .filter(|(_, endpoint)| has(endpoint, &config.default, config.list_as_any))
            .map(|(group, endpoint)| (group, Arc::clone(endpoint)));
        let mut set = |members: Members| Arc::new(build(&part(assignment, members, config)));
        Self {
            default: set(default.collect()),
            any: set(placed(assignment).map(|(group, e)| (group, Arc::clone(e))).collect()),
            by_labels: members.into_iter().map(|(labels, members)| (labels, set(members))).collect(),
            config: Arc::clone(config),
        }
    }

    pub(crate) fn set(&self, chosen: Chosen<'_>) -> Option<&Arc<EndpointSet>> {
        match chosen {
            Chosen::Labels(labels) => self.by_labels.get(labels),
            Chosen::Any => Some(&self.any),
            Chosen::Default => Some(&self.default),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_labels.len()
    }
}

impl SubsetConfig {
    /// What is said of requests that want these values and find no host.
    pub(crate) fn fallback_of(&self, wanted: &Labels) -> Option<&SelectorFallback> {
        let asks = |selector: &&SubsetSelector| selector.keys.iter().eq(wanted.iter().map(|(key, _)| key));
        self.selectors.iter().find(asks).and_then(|selector| selector.fallback.as_ref())
    }
}

/// Endpoints by the place of their group.
type Members = Vec<(usize, Arc<Endpoint>)>;

fn placed(assignment: &Assignment) -> impl Iterator<Item = (usize, &Arc<Endpoint>)> {
    assignment.groups.iter().enumerate().flat_map(|(i, group)| group.endpoints.iter().map(move |e| (i, e)))
}

/// Every combination of values that the endpoint has for the keys; nothing where it lacks one of them.
fn labels_of(endpoint: &Endpoint, keys: &[Box<str>], list_as_any: bool) -> Vec<Box<Labels>> {
    let mut all: Vec<Vec<(Box<str>, Box<str>)>> = vec![Vec::with_capacity(keys.len())];
    for key in keys {
        let Some(label) = endpoint.lb_labels.iter().find(|label| label.key == *key) else {
            return Vec::new();
        };
        let values = values(label, list_as_any);
        all = all
            .into_iter()
            .flat_map(|labels| {
                values.iter().map(move |value| {
                    let mut labels = labels.clone();
                    labels.push((key.clone(), value.clone()));
                    labels
                })
            })
            .collect();
    }
    if keys.is_empty() { Vec::new() } else { all.into_iter().map(Vec::into_boxed_slice).collect() }
}

fn values(label: &LbLabel, list_as_any: bool) -> &[Box<str>] {
    if list_as_any && !label.items.is_empty() { &label.items } else { std::slice::from_ref(&label.value) }
}

fn has(endpoint: &Endpoint, wanted: &Labels, list_as_any: bool) -> bool {
    wanted.iter().all(|(key, value)| {
        endpoint.lb_labels.iter().any(|label| label.key == *key && values(label, list_as_any).contains(value))
    })
}

/// The assignment with these members alone: priorities and localities stay what they are.
fn part(assignment: &Assignment, members: Members, config: &SubsetConfig) -> Assignment {
    let mut groups: Vec<LocalityGroup> = assignment
        .groups
        .iter()
        .map(|group| LocalityGroup {
            locality: Arc::clone(&group.locality),
            priority: group.priority,
            weight: group.weight,
            endpoints: Vec::new(),
        })
        .collect();
    for (group, endpoint) in members {
        groups[group].endpoints.push(endpoint);
    }
    if config.scale_locality_weight {
        for (part, whole) in groups.iter_mut().zip(&assignment.groups) {
            let (own, all) = (part.endpoints.len() as u64, whole.endpoints.len().max(1) as u64);
            let scaled = u64::from(part.weight) * own / all;
            let least = u64::from(part.weight > 0 && own > 0);
            part.weight = u32::try_from(scaled.max(least)).unwrap_or(u32::MAX);
        }
    }
    Assignment { groups, ..*assignment }
}

#[cfg(test)]
#[path = "subset_tests.rs"]
mod tests;
