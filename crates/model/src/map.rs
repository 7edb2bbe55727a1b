//! A map that is cheap to clone and cheap to change: shards behind `Arc`s, copied when written while shared.
//!
//! One change to ten thousand entries copies one shard of some forty; a clone copies one pointer. Iteration has no
//! order: whoever needs one sorts.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::{Arc, LazyLock};

use ahash::{AHashMap, RandomState};

const SHARDS: usize = 256;

/// Keys must meet the same shard in every clone, so that all maps of a process share one hasher.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

#[derive(Debug, Clone)]
pub struct Map<K, V> {
    shards: Arc<[Arc<AHashMap<K, V>>]>,
    len: usize,
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        let empty = Arc::new(AHashMap::new());
        Self { shards: (0..SHARDS).map(|_| Arc::clone(&empty)).collect(), len: 0 }
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Map<K, V> {
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.shards[shard(key)].get(key)
    }

    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let old = self.shard_mut(shard(&key)).insert(key, value);
        self.len += usize::from(old.is_none());
        old
    }

    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.get(key)?;
        self.len -= 1;
        self.shard_mut(shard(key)).remove(key)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// Calls `each` for every key whose value differs between the two, skipping shards that they share.
    pub fn differences(&self, newer: &Self, same: impl Fn(&V, &V) -> bool, mut each: impl FnMut(&K)) {
        for (old, new) in self.shards.iter().zip(newer.shards.iter()) {
            if Arc::ptr_eq(old, new) {
                continue;
            }
            for (key, value) in new.iter() {
                if !old.get(key).is_some_and(|before| same(before, value)) {
                    each(key);
                }
            }
            old.keys().filter(|key| !new.contains_key(*key)).for_each(&mut each);
        }
    }

    fn shard_mut(&mut self, index: usize) -> &mut AHashMap<K, V> {
        if Arc::get_mut(&mut self.shards).is_none() {
            self.shards = self.shards.iter().cloned().collect();
        }
        let shards = Arc::get_mut(&mut self.shards).expect("just made unique");
        Arc::make_mut(&mut shards[index])
    }
}

fn shard<Q: Hash + ?Sized>(key: &Q) -> usize {
    (HASHER.hash_one(key) >> 56) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_keeps_what_it_had() {
        let mut map = Map::default();
        (0..1000).for_each(|n| assert_eq!(map.insert(n, n), None));
        let before = map.clone();
        map.insert(7, 70);
        map.remove(&8);
        map.insert(1000, 1);
        assert_eq!((before.get(&7), before.get(&8), before.get(&1000)), (Some(&7), Some(&8), None));
        assert_eq!((map.get(&7), map.get(&8), map.len()), (Some(&70), None, 1000));
        let mut differ = Vec::new();
        before.differences(&map, |a, b| a == b, |key| differ.push(*key));
        differ.sort_unstable();
        assert_eq!(differ, [7, 8, 1000]);
    }
}
