//! A token bucket that all workers take from.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proto::pb::envoy::r#type::v3::TokenBucket as Message;

use crate::refusal::{Refusal, Taken};
use crate::wire::{duration, number};

/// Tokens come back all the time, at an even rate. One number is all its state: the moment at which the bucket would have
/// been empty. Like an Envoy's it lives with the configuration that it is written in, and is full when that is new.
#[derive(Debug)]
pub(crate) struct Bucket {
    max: f64,
    /// Tokens a second.
    rate: f64,
    /// What moments are counted from: that of the first request.
    origin: OnceLock<Instant>,
    /// Seconds, as the bits of a float.
    empty_at: AtomicU64,
}

/// What is left after a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Left {
    pub(crate) allowed: bool,
    pub(crate) tokens: f64,
}

impl Bucket {
    pub(crate) fn new(max: u32, per_fill: u32, interval: Duration) -> Self {
        Self {
            max: f64::from(max),
            rate: f64::from(per_fill) / interval.as_secs_f64(),
            origin: OnceLock::new(),
            empty_at: AtomicU64::new(f64::NEG_INFINITY.to_bits()),
        }
    }

    pub(crate) fn compile(message: &Message) -> Taken<Self> {
        let interval = duration(&message.fill_interval, "fillInterval")?
            .ok_or_else(|| Refusal::new("is missing").under("fillInterval"))?;
        if interval < Duration::from_millis(50) {
            return Err(Refusal::new("must be 50ms or more").under("fillInterval"));
        }
        let per_fill = number(&message.tokens_per_fill).unwrap_or(1);
        if per_fill == 0 {
            return Err(Refusal::new("must be more than 0").under("tokensPerFill"));
        }
        Ok(Self::new(message.max_tokens, per_fill, interval))
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&self, now: Instant) -> Left {
        let now = now.saturating_duration_since(*self.origin.get_or_init(|| now)).as_secs_f64();
        let mut seen = self.empty_at.load(Ordering::Relaxed);
        loop {
            let tokens = ((now - f64::from_bits(seen)) * self.rate).min(self.max);
            if tokens < 1.0 {
                return Left { allowed: false, tokens: tokens.max(0.0) };
            }
            let left = tokens - 1.0;
            let empty_at = (now - left / self.rate).to_bits();
            let order = Ordering::Relaxed;
            match self.empty_at.compare_exchange_weak(seen, empty_at, order, order) {
                Ok(_) => return Left { allowed: true, tokens: left },
                Err(newer) => seen = newer,
            }
        }
    }

    pub(crate) fn max(&self) -> u64 {
        self.max as u64
    }

    pub(crate) fn rate(&self) -> f64 {
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn tokens_come_back_evenly_and_never_beyond_the_most() {
        let bucket = Bucket::new(2, 1, Duration::from_secs(10));
        let begun = Instant::now();
        let at = |seconds: u64| bucket.take(begun + Duration::from_secs(seconds)).allowed;
        let taken = [0, 0, 0, 9, 10, 10, 19, 20, 100, 100, 100].map(at);
        assert_eq!(taken, [true, true, false, false, true, false, false, true, true, true, false]);
    }

    #[test]
    fn several_threads_take_no_more_than_there_is() {
        let (bucket, taken) =
            (Arc::new(Bucket::new(1000, 1, Duration::from_secs(3600))), AtomicUsize::new(0));
        let now = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        taken.fetch_add(usize::from(bucket.take(now).allowed), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(taken.into_inner(), 1000);
    }
}
