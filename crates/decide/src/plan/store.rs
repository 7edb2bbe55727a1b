//! Tables of which a changed copy shares all but the part that changed.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use ahash::AHashMap;

const CHUNK: usize = 64;

/// By small number.
#[derive(Debug, Clone)]
pub(super) struct Slab<T>(Vec<Arc<Vec<Option<T>>>>);

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone> Slab<T> {
    pub(super) fn get(&self, index: usize) -> Option<&T> {
        self.0.get(index / CHUNK)?.get(index % CHUNK)?.as_ref()
    }

    pub(super) fn set(&mut self, index: usize, value: Option<T>) {
        if self.0.len() <= index / CHUNK {
            if value.is_none() {
                return;
            }
            self.0.resize_with(index / CHUNK + 1, || Arc::new(vec![None; CHUNK]));
        }
        Arc::make_mut(&mut self.0[index / CHUNK])[index % CHUNK] = value;
    }

    /// Those that are wanted, with their numbers.
    pub(super) fn indexed(&self, wanted: impl Fn(&T) -> bool) -> Vec<(usize, T)> {
        let all = self.0.iter().flat_map(|chunk| chunk.iter()).enumerate();
        all.filter_map(|(index, value)| Some((index, value.as_ref().filter(|v| wanted(v))?.clone())))
            .collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(|chunk| chunk.iter().flatten())
    }
}

type Shard<T> = Arc<AHashMap<Arc<str>, T>>;

/// By name.
#[derive(Debug, Clone)]
pub(super) struct Shards<T> {
    shards: Vec<Shard<T>>,
    hasher: RandomState,
}

impl<T> Default for Shards<T> {
    fn default() -> Self {
        Self { shards: (0..CHUNK).map(|_| Arc::default()).collect(), hasher: RandomState::new() }
    }
}

impl<T: Clone> Shards<T> {
    pub(super) fn get(&self, name: &str) -> Option<&T> {
        self.shards[self.place(name)].get(name)
    }

    pub(super) fn set(&mut self, name: &str, value: Option<T>) {
        let place = self.place(name);
        match value {
            Some(value) => _ = Arc::make_mut(&mut self.shards[place]).insert(name.into(), value),
            None if self.shards[place].contains_key(name) => {
                Arc::make_mut(&mut self.shards[place]).remove(name);
            }
            None => {}
        }
    }

    fn place(&self, name: &str) -> usize {
        self.hasher.hash_one(name) as usize % CHUNK
    }
}
