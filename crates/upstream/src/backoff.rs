//! Fully jittered exponential back-off, as Envoy's: before retry n wait a random part of `base * 2^(n-1)`, capped.

use std::time::Duration;

use base::Random;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub base: Duration,
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::from_base(Duration::from_millis(25))
    }
}

impl Backoff {
    /// The cap is ten times the base.
    pub fn from_base(base: Duration) -> Self {
        Self { base, max: base.saturating_mul(10) }
    }

    /// How long to wait before the retry `number`, from 1.
    pub fn delay<R: Random + ?Sized>(&self, number: u32, rng: &mut R) -> Duration {
        let factor = 1u32.checked_shl(number.saturating_sub(1).min(16)).unwrap_or(u32::MAX);
        let ceiling = self.base.saturating_mul(factor).min(self.max);
        let micros = u64::try_from(ceiling.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(rng.below(micros))
    }
}

#[cfg(test)]
mod tests {
    use base::SeededRandom;

    use super::*;

    #[test]
    fn waits_grow_to_ten_times_the_base_and_are_jittered() {
        let mut rng = SeededRandom::new(1);
        let backoff = Backoff::default();
        for (number, ceiling) in [(1, 25), (2, 50), (3, 100), (4, 200), (5, 250), (60, 250)] {
            let waits: Vec<_> = (0..1000).map(|_| backoff.delay(number, &mut rng)).collect();
            let longest = waits.iter().max().unwrap().as_millis();
            assert!(longest < ceiling && longest > ceiling * 9 / 10, "{number}: {longest}");
            assert!(waits.iter().min().unwrap().as_millis() < ceiling / 10);
        }
    }
}
