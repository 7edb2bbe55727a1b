//! How much of the traffic each priority gets, from the health of its hosts.

use crate::EndpointSet;

/// Hosts of one priority by health.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) healthy: usize,
    pub(super) degraded: usize,
    pub(super) all: usize,
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
pub(super) struct Loads(Vec<(usize, Source, u32)>);

impl Loads {
    pub(super) fn new(counts: impl Iterator<Item = Counts>, set: &EndpointSet) -> Self {
        let counts: Vec<_> = counts.collect();
        let share = |n: usize, all: usize| {
            (set.overprovisioning as usize * n).checked_div(all).map_or(0, |percent| percent.min(100) as u32)
        };
        let healthy: Vec<_> = counts.iter().map(|c| share(c.healthy, c.all)).collect();
        let degraded: Vec<_> = counts.iter().map(|c| share(c.degraded, c.all)).collect();
        let available = healthy.iter().chain(&degraded).sum::<u32>().min(100);
        let threshold = set.policy.panic_threshold.min(100.0);
        let can_panic = threshold > 0.0;
        if available == 0 {
            let all =
                if can_panic && !set.policy.fail_on_panic { spread_by_size(&counts) } else { Vec::new() };
            return Self(all);
        }
        let panics: Vec<_> =
            counts.iter().map(|c| can_panic && available < 100 && c.is_below(threshold)).collect();
        if panics.iter().all(|p| *p) {
            return Self(if set.policy.fail_on_panic { Vec::new() } else { spread_by_size(&counts) });
        }
        Self(spread_by_health(&healthy, &degraded, available, &panics))
    }

    /// The priority that `draw` falls on.
    pub(super) fn choose(&self, draw: u64) -> Option<(usize, Source)> {
        match self.0.as_slice() {
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
