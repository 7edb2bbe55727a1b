//! Time as an argument: state machines ask a [`Clock`], tests hold the hand of it.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// Where a state machine's driver reads the time. The machines themselves take `now` as an argument.
pub trait Clock: Send + Sync {
    fn now(&self) -> Instant;
    fn wall(&self) -> SystemTime;
}

#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock that stands still until it is told to advance.
#[derive(Debug)]
pub struct ManualClock {
    origin: (Instant, SystemTime),
    elapsed: Mutex<Duration>,
}

impl ManualClock {
    pub fn starting_at(wall: SystemTime) -> Self {
        Self { origin: (Instant::now(), wall), elapsed: Mutex::new(Duration::ZERO) }
    }

    pub fn advance(&self, by: Duration) {
        *self.elapsed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += by;
    }

    fn elapsed(&self) -> Duration {
        *self.elapsed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.origin.0 + self.elapsed()
    }

    fn wall(&self) -> SystemTime {
        self.origin.1 + self.elapsed()
    }
}
