//! Whether the application beside us is at work on a request that belongs to a trace.
//!
//! A call that it makes meanwhile without the trace's headers splits the trace. Each worker writes its own count alone
//! and reads the others'.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// One worker's count, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Count(AtomicU32);

/// The requests that are at the application, of all workers.
#[derive(Debug, Clone)]
pub struct Serving(Arc<[Count]>);

/// A request at the application, until it is dropped.
#[derive(Debug)]
pub struct InService {
    all: Serving,
    worker: usize,
}

impl Serving {
    pub fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Count::default()).collect())
    }

    /// Counts one more. Only the worker of that index may call it.
    pub fn begin(&self, worker: usize) -> InService {
        let worker = worker % self.0.len();
        self.0[worker].0.fetch_add(1, Ordering::Relaxed);
        InService { all: self.clone(), worker }
    }

    pub fn any(&self) -> bool {
        self.0.iter().any(|count| count.0.load(Ordering::Relaxed) > 0)
    }
}

impl Drop for InService {
    fn drop(&mut self) {
        self.all.0[self.worker].0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_until_it_is_dropped_and_for_every_worker() {
        let serving = Serving::new(2);
        let (one, other) = (serving.begin(0), serving.begin(1));
        drop(one);
        assert!(serving.any());
        drop(other);
        assert!(!serving.any());
    }
}
