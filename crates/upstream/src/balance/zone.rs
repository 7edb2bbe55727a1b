//! Zones: requests stay in ours as far as the endpoints there can take what all callers of our kind in it send. How many
//! callers there are, and where, is what the local cluster says; how much an endpoint can take is one share of all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use base::{Locality, Random};

use super::LbCounts;
use super::pool::LocalityPool;
use crate::policy::ZoneAware;
use crate::set::PrioritySet;
use crate::{EndpointSet, Health, Host};

/// Where we are, and who else of our kind is where.
#[derive(Debug, Clone, Copy)]
pub struct Home<'a> {
    pub locality: &'a Locality,
    pub cluster: &'a Arc<EndpointSet>,
}

/// Shares are of so many.
const WHOLE: u64 = 10_000;

/// What was found out of a set and of the local cluster; found out anew when either changes.
#[derive(Debug, Default)]
pub(super) struct Zones {
    seen: Option<(Arc<EndpointSet>, u64)>,
    /// Hosts that can be used, by zone: ours is the first, if there is any of ours.
    pools: Vec<LocalityPool>,
    routing: Routing,
    /// Too few callers of our kind are well to go by them.
    home_panics: bool,
}

#[derive(Debug, Default)]
enum Routing {
    /// Zones are not heeded.
    #[default]
    Off,
    /// Ours takes everything.
    Direct,
    /// Ours takes so many of [`WHOLE`]; the others the rest, by what they can take beside their own: added up.
    Residual { ours: u64, others: Vec<u64> },
}

/// Where a request is to go.
pub(super) enum Choice<'a> {
    Anywhere,
    Nowhere,
    Zone(&'a mut LocalityPool),
}

impl Zones {
    /// The set has changed, or its hosts' health.
    pub(super) fn forget(&mut self) {
        self.seen = None;
    }

    pub(super) fn choose<R: Random + ?Sized>(
        &mut self,
        set: &EndpointSet,
        config: &ZoneAware,
        home: &Home<'_>,
        counts: &mut LbCounts,
        rng: &mut R,
    ) -> Choice<'_> {
        let epoch = home.cluster.shared.epoch.load(Relaxed);
        let known =
            self.seen.as_ref().is_some_and(|(seen, at)| Arc::ptr_eq(seen, home.cluster) && *at == epoch);
        if !known {
            self.seen = Some((Arc::clone(home.cluster), epoch));
            self.find_out(set, config, home, counts, rng);
        }
        if matches!(self.routing, Routing::Off) {
            return Choice::Anywhere;
        }
        if config.enabled < 100 && rng.below(100) >= u64::from(config.enabled) {
            return Choice::Anywhere;
        }
        if self.home_panics {
            counts.zone_home_not_ok += 1;
            return if set.policy.fail_on_panic { Choice::Nowhere } else { Choice::Anywhere };
        }
        let at = match &self.routing {
            Routing::Off => return Choice::Anywhere,
            Routing::Direct => {
                counts.zone_direct += 1;
                0
            }
            Routing::Residual { ours, .. } if rng.below(WHOLE) < *ours => {
                counts.zone_sampled += 1;
                0
            }
            Routing::Residual { others, .. } => {
                counts.zone_cross += 1;
                match others.last() {
                    Some(0) | None => {
                        counts.zone_no_capacity += 1;
                        rng.below(self.pools.len() as u64) as usize
                    }
                    Some(total) => {
                        let draw = rng.below(*total);
                        others.partition_point(|sum| *sum <= draw)
                    }
                }
            }
        };
        self.pools.get_mut(at).map_or(Choice::Anywhere, Choice::Zone)
    }

    fn find_out<R: Random + ?Sized>(
        &mut self,
        set: &EndpointSet,
        config: &ZoneAware,
        home: &Home<'_>,
        counts: &mut LbCounts,
        rng: &mut R,
    ) {
        counts.zone_recalculated += 1;
        (self.routing, self.pools) = (Routing::Off, Vec::new());
        let (Some(own), Some(callers)) = (set.priorities.first(), home.cluster.priorities.first()) else {
            return;
        };
        let (theirs, homes) = (by_zone(own, home.locality), by_zone(callers, home.locality));
        if theirs.len() < 2 || config.force_at.is_none() && homes.len() < 2 {
            return;
        }
        if homes.first().is_none_or(|zone| zone.locality != home.locality) {
            counts.zone_home_not_ok += 1;
            return;
        }
        let healthy: usize = theirs.iter().map(|zone| zone.healthy.len()).sum();
        if (healthy as u64) < config.min_cluster_size {
            counts.zone_too_small += 1;
            return;
        }
        self.home_panics = panics(callers, set.policy.panic_threshold);
        let shares: Vec<(u64, u64)> = {
            let (of_homes, of_theirs) = (shares(&homes, callers, config), shares(&theirs, own, config));
            let home_of = |zone: &Zone<'_>| {
                let at = homes.iter().position(|home| home.locality == zone.locality);
                at.map_or(0, |at| of_homes[at])
            };
            // Of callers in a zone without anybody to take their requests nothing need be known.
            let of = |(zone, share): (&Zone<'_>, u64)| {
                if zone.healthy.is_empty() { (0, 0) } else { (home_of(zone), share) }
            };
            theirs.iter().zip(of_theirs).map(of).collect()
        };
        let ours = theirs.first().is_some_and(|zone| zone.locality == home.locality);
        self.routing = routing(ours, &shares, theirs.first().map_or(0, |zone| zone.healthy.len()), config);
        let weight = |i: &usize| own.hosts[*i].endpoint.weight;
        self.pools = theirs.into_iter().map(|zone| LocalityPool::new(zone.healthy, weight, rng)).collect();
    }
}

/// From what share of callers, and of those who can take requests, each zone has; `ours` is whether the first is ours.
fn routing(ours: bool, shares: &[(u64, u64)], local: usize, config: &ZoneAware) -> Routing {
    let (callers, capacity) = shares.first().copied().unwrap_or_default();
    let forced = config.force_at.is_some_and(|least| local >= least as usize);
    if ours && (forced || capacity > 0 && capacity >= callers) {
        return Routing::Direct;
    }
    let mut sum = 0;
    let others = shares
        .iter()
        .enumerate()
        .map(|(i, (callers, capacity))| {
            if i > 0 || !ours {
                sum += capacity.saturating_sub(*callers);
            }
            sum
        })
        .collect();
    let ours = if ours && callers > 0 { capacity * WHOLE / callers } else { 0 };
    Routing::Residual { ours, others }
}

/// The hosts of one zone that can be used.
struct Zone<'a> {
    locality: &'a Locality,
    healthy: Vec<usize>,
}

/// Zones that have hosts, ours first.
fn by_zone<'a>(priority: &'a PrioritySet, ours: &Locality) -> Vec<Zone<'a>> {
    let mut zones: BTreeMap<(bool, &Locality), Vec<usize>> = BTreeMap::new();
    for group in priority.groups.iter().filter(|group| !group.hosts.is_empty()) {
        let locality = &*group.locality;
        let healthy = group.hosts.clone().filter(|i| priority.hosts[*i].health() == Health::Healthy);
        zones.entry((locality != ours, locality)).or_default().extend(healthy);
    }
    zones.into_iter().map(|((_, locality), healthy)| Zone { locality, healthy }).collect()
}

/// What share of [`WHOLE`] each zone has.
fn shares(zones: &[Zone<'_>], of: &PrioritySet, config: &ZoneAware) -> Vec<u64> {
    let weight = |zone: &Zone<'_>| match config.by_weight {
        true => zone.healthy.iter().map(|i| u64::from(of.hosts[*i].endpoint.weight)).sum(),
        false => zone.healthy.len() as u64,
    };
    let total: u64 = zones.iter().map(weight).sum();
    zones.iter().map(|zone| (WHOLE * weight(zone)).checked_div(total).unwrap_or(0)).collect()
}

fn panics(priority: &PrioritySet, threshold: f64) -> bool {
    let all = priority.hosts.len();
    let usable = priority.hosts.iter().filter(|host: &&Host| host.is_available()).count();
    all == 0 || 100.0 * usable as f64 / (all as f64) < threshold.min(100.0)
}

#[cfg(test)]
mod tests;
