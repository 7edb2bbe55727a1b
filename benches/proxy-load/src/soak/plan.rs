//! What is done to the mesh while the load goes on: all of it follows from the seed, and from nothing else.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

/// Backends that are never killed, and as many of which one at a time is.
pub(crate) const STEADY: usize = 3;
pub(crate) const MORTAL: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Which steady backends are endpoints, at least two of them; and which one is told to be unhealthy, if all are.
    Endpoints {
        members: Vec<usize>,
        unhealthy: Option<usize>,
    },
    /// So many routes and virtual hosts more than those that the load takes.
    Routes {
        others: usize,
    },
    /// So many clusters more, and another connect timeout, in seconds, for one that the load takes.
    Clusters {
        others: usize,
        timeout: u64,
    },
    /// The fickle listener is another.
    Listener {
        version: usize,
    },
    /// It goes, and comes again.
    Absent,
    Present,
    /// A mortal backend is killed, and started again.
    Kill(usize),
    Start(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) at: Duration,
    pub(crate) change: Change,
}

/// The steps in their order. Whatever is broken is whole again before the end.
pub(crate) fn plan(seed: u64, length: Duration) -> Vec<Step> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut steps = Vec::new();
    let millis = |millis: u64| Duration::from_millis(millis);
    let mut at = millis(2000);
    // Until when a backend, and the fickle listener, are away.
    let (mut dead, mut gone) = (Duration::ZERO, Duration::ZERO);
    while at + millis(8000) < length {
        match rng.random_range(0..10) {
            0..=1 => steps.push(Step { at, change: endpoints(&mut rng) }),
            2..=3 => steps.push(Step { at, change: Change::Routes { others: rng.random_range(0..40) } }),
            4..=5 => {
                let (others, timeout) = (rng.random_range(0..8), rng.random_range(5..10));
                steps.push(Step { at, change: Change::Clusters { others, timeout } });
            }
            6 if gone < at => {
                steps.push(Step { at, change: Change::Listener { version: rng.random_range(1..100) } });
            }
            7 if gone < at => {
                gone = at + millis(rng.random_range(500..3000));
                steps.push(Step { at, change: Change::Absent });
                steps.push(Step { at: gone, change: Change::Present });
            }
            // A restarted one has to be found healthy before the next is killed.
            8..=9 if dead + millis(2500) < at => {
                dead = at + millis(rng.random_range(700..4000));
                let backend = STEADY + rng.random_range(0..MORTAL);
                steps.push(Step { at, change: Change::Kill(backend) });
                steps.push(Step { at: dead, change: Change::Start(backend) });
            }
            _ => {}
        }
        at += millis(rng.random_range(400..2400));
    }
    steps.sort_by_key(|step| step.at);
    steps
}

fn endpoints(rng: &mut SmallRng) -> Change {
    let left_out = rng.random_range(0..=STEADY);
    let members: Vec<usize> = (0..STEADY).filter(|&backend| backend != left_out).collect();
    let is_flapping = members.len() == STEADY && rng.random_bool(0.5);
    Change::Endpoints { unhealthy: is_flapping.then(|| rng.random_range(0..STEADY)), members }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_seed_makes_one_plan() {
        assert_eq!(plan(7, HOUR), plan(7, HOUR));
        assert_ne!(plan(7, HOUR), plan(8, HOUR));
        assert!(plan(7, HOUR).len() > 1000);
    }

    #[test]
    fn what_the_steady_load_needs_is_always_there() {
        for seed in 0..20 {
            let (mut dead, mut is_gone) = (None, false);
            for step in plan(seed, HOUR / 6) {
                match step.change {
                    Change::Endpoints { members, unhealthy } => {
                        let well = members.iter().filter(|&&backend| Some(backend) != unhealthy).count();
                        assert!(well >= 2, "{members:?} {unhealthy:?}");
                    }
                    Change::Kill(backend) => {
                        assert!((STEADY..STEADY + MORTAL).contains(&backend));
                        assert_eq!(dead.replace(backend), None, "one at a time");
                    }
                    Change::Start(backend) => assert_eq!(dead.take(), Some(backend)),
                    Change::Absent => assert!(!std::mem::replace(&mut is_gone, true)),
                    Change::Present => assert!(std::mem::replace(&mut is_gone, false)),
                    Change::Listener { .. } => assert!(!is_gone),
                    Change::Routes { .. } | Change::Clusters { .. } => {}
                }
                assert!(step.at < HOUR / 6);
            }
            assert_eq!((dead, is_gone), (None, false));
        }
    }
}
