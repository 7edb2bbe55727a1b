//! Weighted round robin by earliest deadline first; plain rotation when all weights are equal.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use base::Random;

#[derive(Debug)]
pub(super) enum Schedule {
    Rotate { next: usize, len: usize },
    Deadlines { heap: BinaryHeap<Entry>, now: f64, weights: Vec<f64>, ties: u64 },
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    deadline: f64,
    /// Equal deadlines go first come, first served.
    tie: u64,
    index: usize,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The earliest deadline is the greatest, for the heap.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        other.deadline.total_cmp(&self.deadline).then(other.tie.cmp(&self.tie))
    }
}

impl Schedule {
    /// Starts at a random place, so that workers and proxies do not march in step.
    pub(super) fn new<R: Random + ?Sized>(weights: &[f64], rng: &mut R) -> Self {
        let len = weights.len();
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            return Self::Rotate { next: rng.below(len as u64) as usize, len };
        }
        let heap = weights
            .iter()
            .enumerate()
            .map(|(index, weight)| {
                let start = rng.below(1 << 20) as f64 / (1u64 << 20) as f64;
                Entry { deadline: start / weight.max(1e-9), tie: index as u64, index }
            })
            .collect();
        Self::Deadlines { heap, now: 0.0, weights: weights.to_vec(), ties: len as u64 }
    }

    pub(super) fn next(&mut self) -> usize {
        match self {
            Self::Rotate { next, len } => {
                let index = *next;
                *next = if index + 1 >= *len { 0 } else { index + 1 };
                index
            }
            Self::Deadlines { heap, now, weights, ties } => {
                advance(heap, now, ties, |index| weights.get(index).copied().unwrap_or(1.0))
            }
        }
    }

    /// As [`Self::next`], with weights as they are at this moment.
    pub(super) fn next_by(&mut self, weight: impl Fn(usize) -> f64) -> usize {
        match self {
            Self::Rotate { .. } => self.next(),
            Self::Deadlines { heap, now, ties, .. } => advance(heap, now, ties, weight),
        }
    }
}

fn advance(
    heap: &mut BinaryHeap<Entry>,
    now: &mut f64,
    ties: &mut u64,
    weight: impl Fn(usize) -> f64,
) -> usize {
    let Some(entry) = heap.pop() else { return 0 };
    *now = entry.deadline;
    *ties += 1;
    let deadline = entry.deadline + 1.0 / weight(entry.index).max(1e-9);
    heap.push(Entry { deadline, tie: *ties, index: entry.index });
    entry.index
}
