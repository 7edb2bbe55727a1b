//! Small numbers for names: given once, kept for the life of the process, so that statistics can be arrays.

use std::sync::Arc;

use ahash::AHashMap;

use crate::route::ClusterRef;

/// A cluster name's number. Stable over plans, whether the cluster exists or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(pub(crate) u32);

/// A route table name's number. Stable over plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteTableId(pub(crate) u32);

impl ClusterId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl RouteTableId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    pub(crate) clusters: AHashMap<Arc<str>, u32>,
    pub(crate) tables: AHashMap<Arc<str>, u32>,
}

/// Names while a delta is compiled: those known, and new ones on top.
pub(crate) struct Ids {
    known: Arc<Names>,
    new: Names,
}

impl Ids {
    pub(crate) fn new(known: Arc<Names>) -> Self {
        Self { known, new: Names::default() }
    }

    pub(crate) fn cluster(&mut self, name: &str) -> ClusterId {
        ClusterId(number(&self.known.clusters, &mut self.new.clusters, name))
    }

    pub(crate) fn table(&mut self, name: &str) -> RouteTableId {
        RouteTableId(number(&self.known.tables, &mut self.new.tables, name))
    }

    pub(crate) fn cluster_ref(&mut self, name: &str) -> ClusterRef {
        let id = self.cluster(name);
        let known = self.known.clusters.get_key_value(name).or_else(|| self.new.clusters.get_key_value(name));
        ClusterRef { id, name: known.map_or_else(|| name.into(), |(name, _)| Arc::clone(name)) }
    }

    pub(crate) fn known_cluster(&self, name: &str) -> Option<ClusterId> {
        self.known.clusters.get(name).or_else(|| self.new.clusters.get(name)).copied().map(ClusterId)
    }

    pub(crate) fn known_table(&self, name: &str) -> Option<RouteTableId> {
        self.known.tables.get(name).or_else(|| self.new.tables.get(name)).copied().map(RouteTableId)
    }

    /// The known names when nothing was added.
    pub(crate) fn finish(self) -> Arc<Names> {
        if self.new.clusters.is_empty() && self.new.tables.is_empty() {
            return self.known;
        }
        let mut all = (*self.known).clone();
        all.clusters.extend(self.new.clusters);
        all.tables.extend(self.new.tables);
        Arc::new(all)
    }
}

fn number(known: &AHashMap<Arc<str>, u32>, new: &mut AHashMap<Arc<str>, u32>, name: &str) -> u32 {
    if let Some(number) = known.get(name).or_else(|| new.get(name)) {
        return *number;
    }
    let number = u32::try_from(known.len() + new.len()).unwrap_or(u32::MAX);
    new.insert(name.into(), number);
    number
}
