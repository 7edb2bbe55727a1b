//! How much of the traffic each priority gets, from the health of its hosts.

use crate::LbPolicy;

/// A priority, and which of its hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub priority: usize,
    pub degraded: bool,
}

/// Hosts of one priority by health.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) healthy: usize,
    pub(super) degraded: usize,
    pub(super) all: usize,
    /// Percent.
    pub(super) overprovisioning: u32,
}

/// Which hosts of a priority to choose among.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Healthy,
    Degraded,
    /// Panic: health is ignored.
    All,
}

/// Percent of the traffic for each priority and source; they add up to 100, or nothing can be used.
#[derive(Debug, Default)]
pub(super) struct Loads {
    shares: Vec<(usize, Source, u32)>,
    /// Priorities in which health is ignored.
    panics: Vec<bool>,
}

impl Loads {
    pub(super) fn new(counts: impl Iterator<Item = Counts>, policy: &LbPolicy) -> Self {
        let counts: Vec<_> = counts.collect();
        let share = |n: usize, c: &Counts| {
            (c.overprovisioning as usize * n).checked_div(c.all).map_or(0, |percent| percent.min(100) as u32)
        };
        let healthy: Vec<_> = counts.iter().map(|c| share(c.healthy, c)).collect();
        let degraded: Vec<_> = counts.iter().map(|c| share(c.degraded, c)).collect();
        let available = healthy.iter().chain(&degraded).sum::<u32>().min(100);
        let threshold = policy.panic_threshold.min(100.0);
        let can_panic = threshold > 0.0;
        if available == 0 {
            let shares = if can_panic { spread_by_size(&counts) } else { Vec::new() };
            return Self { shares, panics: vec![can_panic; counts.len()] };
        }
        let panics: Vec<_> =
            counts.iter().map(|c| can_panic && available < 100 && c.is_below(threshold)).collect();
        if panics.iter().all(|p| *p) {
            return Self { shares: spread_by_size(&counts), panics };
        }
        Self { shares: spread_by_health(&healthy, &degraded, available, &panics), panics }
    }

    /// Whether there is nothing but panic.
    pub(super) fn panics(&self) -> bool {
        self.panics.iter().all(|panics| *panics)
    }

    /// Of a priority that somebody else has chosen.
    pub(super) fn at(&self, place: Place) -> (usize, Source) {
        let source = match (self.panics.get(place.priority), place.degraded) {
            (Some(true), _) => Source::All,
            (_, true) => Source::Degraded,
            (_, false) => Source::Healthy,
        };
        (place.priority, source)
    }

    /// The priority that `draw` falls on.
    pub(super) fn choose(&self, draw: u64) -> Option<(usize, Source)> {
        match self.shares.as_slice() {
            [] => None,
            [(priority, source, _)] => Some((*priority, *source)),
            several => {
                let mut at = (draw % 100) as u32;
                let found = several.iter().find(|(_, _, share)| {
                    let hit = at < *share;
                    at = at.saturating_sub(*share);
                    hit
                });
                found.or(several.first()).map(|(priority, source, _)| (*priority, *source))
            }
        }
    }
}

impl Counts {
    fn is_below(self, threshold: f64) -> bool {
        self.all == 0 || 100.0 * (self.healthy + self.degraded) as f64 / (self.all as f64) < threshold
    }
}

/// Everything is in panic: by the number of hosts.
fn spread_by_size(counts: &[Counts]) -> Vec<(usize, Source, u32)> {
    let total: usize = counts.iter().map(|c| c.all).sum();
    let mut loads: Vec<_> = counts
        .iter()
        .enumerate()
        .filter(|(_, c)| c.all > 0)
        .map(|(i, c)| (i, Source::All, (100 * c.all / total) as u32))
        .collect();
    give_rest_to_first(&mut loads);
    loads
}

/// Healthy hosts of the first priorities first; then, for what is left, degraded ones.
fn spread_by_health(
    healthy: &[u32],
    degraded: &[u32],
    available: u32,
    panics: &[bool],
) -> Vec<(usize, Source, u32)> {
    let mut left = 100;
    let mut loads = Vec::new();
    for (source, shares) in [(Source::Healthy, healthy), (Source::Degraded, degraded)] {
        for (i, share) in shares.iter().enumerate() {
            let load = (share * 100 / available).min(left);
            left -= load;
            if load > 0 {
                loads.push((i, if panics[i] { Source::All } else { source }, load));
            }
        }
    }
    give_rest_to_first(&mut loads);
    loads
}

fn give_rest_to_first(loads: &mut [(usize, Source, u32)]) {
    let given: u32 = loads.iter().map(|l| l.2).sum();
    if let Some(first) = loads.first_mut() {
        first.2 += 100 - given.min(100);
    }
}
