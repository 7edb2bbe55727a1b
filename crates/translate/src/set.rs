//! All resources of a type that a scope is to have, and what differs between two such sets.

use std::sync::Arc;

use proto::Resource;

/// Ordered by name; each name once. Shared by everybody whose set it is.
#[derive(Debug, PartialEq, Eq)]
pub struct ResourceSet {
    resources: Arc<[Resource]>,
    names: Arc<[Arc<str>]>,
}

/// What must be sent to get from one set to another.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SetChanges {
    /// New, or different from before.
    pub changed: Vec<Resource>,
    pub removed: Vec<Arc<str>>,
}

impl Default for ResourceSet {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl ResourceSet {
    pub fn new(mut resources: Vec<Resource>) -> Self {
        resources.sort_by(|a, b| a.name.cmp(&b.name));
        resources.dedup_by(|a, b| a.name == b.name);
        let names = resources.iter().map(|resource| Arc::clone(&resource.name)).collect();
        Self { resources: resources.into(), names }
    }

    pub fn get(&self, name: &str) -> Option<&Resource> {
        let at = self.resources.binary_search_by(|resource| (*resource.name).cmp(name)).ok()?;
        self.resources.get(at)
    }

    /// All of them, in order.
    pub fn resources(&self) -> &Arc<[Resource]> {
        &self.resources
    }

    pub fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.resources.iter()
    }

    pub fn names(&self) -> &Arc<[Arc<str>]> {
        &self.names
    }

    pub fn len(&self) -> usize {
        self.resources.len()
    }

    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// What a holder of this set lacks of the newer one.
    pub fn changes_to(&self, newer: &Self) -> SetChanges {
        let mut changes = SetChanges::default();
        let (mut old, mut new) = (self.resources.iter().peekable(), newer.resources.iter().peekable());
        loop {
            match (old.peek(), new.peek()) {
                (None, None) => return changes,
                (Some(gone), other) if other.is_none_or(|other| gone.name < other.name) => {
                    changes.removed.push(Arc::clone(&gone.name));
                    old.next();
                }
                (other, Some(came)) if other.is_none_or(|other| other.name > came.name) => {
                    changes.changed.push((*came).clone());
                    new.next();
                }
                (Some(before), Some(after)) => {
                    if before.version != after.version {
                        changes.changed.push((*after).clone());
                    }
                    old.next();
                    new.next();
                }
                (Some(_), None) | (None, Some(_)) => return changes,
            }
        }
    }
}

impl SetChanges {
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(of: &[(&str, u64)]) -> ResourceSet {
        let resource = |(name, version): &(&str, u64)| Resource {
            name: (*name).into(),
            version: *version,
            body: bytes::Bytes::new(),
        };
        ResourceSet::new(of.iter().map(resource).collect())
    }

    #[test]
    fn changes_name_what_came_changed_and_went() {
        let (a, b) = (set(&[("a", 1), ("b", 1), ("d", 1)]), set(&[("b", 2), ("c", 1), ("d", 1), ("e", 1)]));
        let changes = a.changes_to(&b);
        let changed: Vec<_> = changes.changed.iter().map(|resource| &*resource.name).collect();
        assert_eq!(changed, ["b", "c", "e"]);
        assert_eq!(changes.removed.iter().map(|name| &**name).collect::<Vec<_>>(), ["a"]);
        assert!(a.changes_to(&a).is_empty());
        assert_eq!(b.changes_to(&set(&[])).removed.len(), 4);
        assert_eq!(set(&[]).changes_to(&b).changed.len(), 4);
        assert_eq!(b.get("c").map(|resource| resource.version), Some(1));
    }
}
