//! Chance as an argument: deciding and balancing draw from a [`Random`], tests seed it.

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

/// A source of randomness for decisions. Never for keys.
pub trait Random {
    fn next_u64(&mut self) -> u64;

    /// A number in `0..bound`; 0 when `bound` is 0.
    fn below(&mut self, bound: u64) -> u64 {
        // Lemire's multiply-and-shift; the bias is below 2^-32 for every bound that is used here.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// True in `numerator` of `denominator` draws.
    fn chance(&mut self, numerator: u32, denominator: u32) -> bool {
        numerator >= denominator || self.below(u64::from(denominator)) < u64::from(numerator)
    }
}

/// The same numbers for the same seed.
#[derive(Debug, Clone)]
pub struct SeededRandom(SmallRng);

impl SeededRandom {
    pub fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// Seeded once from the operating system; cheap afterwards.
    pub fn from_os() -> Self {
        Self(SmallRng::from_os_rng())
    }
}

impl Random for SeededRandom {
    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
}

/// The calling thread's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThreadRandom;

impl Random for ThreadRandom {
    fn next_u64(&mut self) -> u64 {
        rand::rng().random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself_and_bounds_hold() {
        let (mut a, mut b) = (SeededRandom::new(7), SeededRandom::new(7));
        for bound in [0, 1, 2, 3, 1000, u64::MAX] {
            let drawn = a.below(bound);
            assert_eq!(drawn, b.below(bound));
            assert!(drawn < bound.max(1));
        }
        assert!(a.chance(100, 100));
        assert!(!a.chance(0, 100));
    }
}
