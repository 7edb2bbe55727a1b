//! Growing pauses between tries, spread so that many clients do not come back at once.

use std::time::Duration;

use base::Random;

/// Doubles from `first` to `longest`; each pause is drawn from the upper half of its step.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The pause before the next try.
    pub fn pause(&mut self, random: &mut impl Random) -> Duration {
        let step = self.next.min(self.longest);
        self.next = step.saturating_mul(2).min(self.longest);
        let half = step / 2;
        half + Duration::from_nanos(random.below(u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1)))
    }

    /// After a success, the next failure starts again from the first pause.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use base::SeededRandom;

    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_start_again() {
        let mut random = SeededRandom::new(1);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(800));
        for step in [100, 200, 400, 800, 800] {
            let pause = backoff.pause(&mut random).as_millis();
            assert!((step / 2..=step).contains(&pause), "{pause} of {step}");
        }
        backoff.reset();
        assert!(backoff.pause(&mut random).as_millis() <= 100);
    }
}
