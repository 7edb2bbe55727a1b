//! Filters that shed load by what became of the requests before: their state is shared by all workers, in atomics, and lives as
//! long as the filter that is written with it.

mod admission;
mod gradient;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use base::Random;

pub(crate) use admission::Admission;
pub(crate) use gradient::Gradient;

use crate::machine::{Count, CountScope};

/// What became of a request that a filter let through.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ended {
    /// The status of the answer; 0 without one.
    pub status: u16,
    /// Of an answer of gRPC: `None` within for one without a status.
    pub grpc: Option<Option<u32>>,
    /// The client had all of it.
    pub complete: bool,
}

/// A request under way that a filter counts, until it has ended; one that is dropped has ended without an answer.
#[derive(Debug)]
pub(crate) struct Permit {
    of: Of,
    owner: Arc<str>,
    ended: AtomicBool,
}

#[derive(Debug)]
enum Of {
    Admission(Arc<Admission>, Instant),
    Gradient(Arc<Gradient>, Instant),
}

impl Permit {
    pub(crate) fn admitted(by: &Arc<Admission>, now: Instant, owner: &Arc<str>) -> Arc<Self> {
        let of = Of::Admission(by.clone(), now);
        Arc::new(Self { of, owner: owner.clone(), ended: AtomicBool::new(false) })
    }

    pub(crate) fn within(limit: &Arc<Gradient>, now: Instant, owner: &Arc<str>) -> Arc<Self> {
        let of = Of::Gradient(limit.clone(), now);
        Arc::new(Self { of, owner: owner.clone(), ended: AtomicBool::new(false) })
    }

    pub(crate) fn end<R: Random + ?Sized>(&self, ended: &Ended, now: Instant, rng: &mut R) -> Option<Count> {
        if self.ended.swap(true, Relaxed) {
            return None;
        }
        match &self.of {
            Of::Admission(admission, _) => {
                let success = admission.succeeded(ended);
                admission.record(success, now);
                let stat = if success { &admission.stats.success } else { &admission.stats.failure };
                Some(Count { scope: CountScope::Http, owner: self.owner.clone(), stat: stat.clone() })
            }
            Of::Gradient(gradient, began) => {
                match ended.complete {
                    true => gradient.complete(*began, now, rng),
                    false => gradient.cancel(),
                }
                None
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.ended.swap(true, Relaxed) {
            return;
        }
        match &self.of {
            Of::Admission(admission, began) => admission.record(false, *began),
            Of::Gradient(gradient, _) => gradient.cancel(),
        }
    }
}
