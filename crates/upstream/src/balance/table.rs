//! Consistent hashing: Envoy's ring (ketama) and Maglev tables.
//!
//! Tables are built over all hosts, whatever their health; a host that may not be used is stepped over. A host's
//! ejection therefore moves only its own keys, and nothing is rebuilt for it.

use crate::policy::{HashKey, LbKind, MaglevConfig, RingHashConfig};
use crate::{Host, xxh64};

#[derive(Debug)]
pub(crate) enum Table {
    /// Sorted by hash.
    Ring(Vec<(u64, u32)>),
    Maglev(Vec<u32>),
}

impl Table {
    /// Nothing unless `kind` hashes and there are hosts.
    pub(crate) fn build(kind: &LbKind, hosts: &[(&Host, f64)]) -> Option<Self> {
        let total: f64 = hosts.iter().map(|(_, w)| w).sum();
        if total <= 0.0 {
            return None;
        }
        match kind {
            LbKind::RingHash(config) => Some(Self::Ring(ring(config, hosts, total))),
            LbKind::Maglev(config) => Some(Self::Maglev(maglev(config, hosts))),
            _ => None,
        }
    }

    /// The host of a hash; `attempt` steps on from there.
    pub(super) fn pick(&self, hash: u64, attempt: u32, accept: impl Fn(usize) -> bool) -> Option<usize> {
        let (len, start) = match self {
            Self::Ring(ring) => (ring.len(), ring.partition_point(|(h, _)| *h < hash)),
            Self::Maglev(table) => (table.len(), (hash % table.len().max(1) as u64) as usize),
        };
        let mut skip = attempt;
        (0..len).map(|step| self.at((start + step) % len)).find(|host| {
            let good = accept(*host);
            if good && skip > 0 {
                skip -= 1;
                return false;
            }
            good
        })
    }

    fn at(&self, index: usize) -> usize {
        match self {
            Self::Ring(ring) => ring[index].1 as usize,
            Self::Maglev(table) => table[index] as usize,
        }
    }
}

fn key_of(host: &Host, key: HashKey) -> String {
    match key {
        HashKey::Hostname if !host.endpoint.hostname.is_empty() => host.endpoint.hostname.to_string(),
        _ => host.endpoint.address.to_string(),
    }
}

/// Each host gets points in proportion to its weight, so many that the lightest host and the ring have enough.
fn ring(config: &RingHashConfig, hosts: &[(&Host, f64)], total: f64) -> Vec<(u64, u32)> {
    let lightest = hosts.iter().map(|(_, w)| w / total).filter(|w| *w > 0.0).fold(1.0, f64::min);
    let least = config.minimum_size as f64;
    let scale = ((lightest * least).ceil() / lightest).min(config.maximum_size as f64);
    let mut ring = Vec::with_capacity(scale.ceil() as usize + hosts.len());
    let (mut target, mut current) = (0.0, 0.0);
    for ((host, weight), index) in hosts.iter().zip(0u32..) {
        let mut text = key_of(host, config.key);
        text.push('_');
        let stem = text.len();
        target += scale * weight / total;
        let mut number = 0u64;
        while current < target {
            text.truncate(stem);
            text.push_str(&number.to_string());
            ring.push((xxh64(text.as_bytes(), 0), index));
            number += 1;
            current += 1.0;
        }
    }
    ring.sort_unstable();
    ring
}

struct Row {
    offset: u64,
    skip: u64,
    weight: f64,
    /// What the row is due before its next turn.
    target: f64,
    next: u64,
}

/// Eisenbud et al., "Maglev", section 3.4, with weights.
fn maglev(config: &MaglevConfig, hosts: &[(&Host, f64)]) -> Vec<u32> {
    const EMPTY: u32 = u32::MAX;
    let size = u64::from(config.table_size.max(2));
    let heaviest = hosts.iter().map(|(_, w)| *w).fold(0.0, f64::max);
    let mut rows: Vec<_> = hosts
        .iter()
        .map(|(host, weight)| {
            let key = key_of(host, config.key);
            Row {
                offset: xxh64(key.as_bytes(), 0) % size,
                skip: xxh64(key.as_bytes(), 1) % (size - 1) + 1,
                weight: weight / heaviest,
                target: 0.0,
                next: 0,
            }
        })
        .collect();
    let mut table = vec![EMPTY; size as usize];
    let (mut filled, mut round) = (0, 0u64);
    // With a prime size every row reaches every place; with another the leftovers go to the first host.
    while filled < size && rows.iter().any(|row| row.next < size) {
        round += 1;
        for (row, index) in rows.iter_mut().zip(0u32..) {
            if filled == size {
                break;
            }
            // A lighter host takes a turn only when the rounds so far entitle it to one.
            if (round as f64) * row.weight < row.target {
                continue;
            }
            row.target += 1.0;
            while row.next < size {
                let at = ((row.offset + row.skip * row.next) % size) as usize;
                row.next += 1;
                if table[at] == EMPTY {
                    table[at] = index;
                    filled += 1;
                    break;
                }
            }
        }
    }
    table.iter_mut().filter(|host| **host == EMPTY).for_each(|host| *host = 0);
    table
}
