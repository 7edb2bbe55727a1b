//! The overload manager: monitors say how much of a resource is used, triggers turn that into actions, and workers look at
//! what is active before they take something on.
//!
//! Monitors are read by the control thread at the refresh interval. What workers look at are atomics that only the control thread
//! writes; the one number that workers write is the count of connections, where a limit asks for it.

mod config;
mod monitor;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use base::Random;

use crate::stats::{Kind, Sample, Snapshot};
pub use config::compile;
use monitor::Monitor;

/// An action that is fully active.
const FULL: u32 = 10_000;

/// How far an action is active, from 0 to [`FULL`].
#[derive(Debug, Default)]
struct Level(AtomicU32);

impl Level {
    fn is_full(&self) -> bool {
        self.0.load(Relaxed) >= FULL
    }

    /// Whether it acts this time: as often as it is active.
    fn acts(&self, rng: &mut (impl Random + ?Sized)) -> bool {
        match self.0.load(Relaxed) {
            0 => false,
            level if level >= FULL => true,
            level => rng.below(u64::from(FULL)) < u64::from(level),
        }
    }
}

/// What workers look at.
#[derive(Debug, Default)]
pub struct Overload {
    stop_requests: Level,
    disable_keepalive: Level,
    stop_connections: Level,
    reject_connections: Level,
    connections: Option<Connections>,
}

#[derive(Debug)]
struct Connections {
    most: i64,
    active: AtomicI64,
    refused: AtomicI64,
}

/// A connection that counts until it is dropped.
#[derive(Debug)]
pub struct Counted(Arc<Overload>);

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(connections) = &self.0.connections {
            connections.active.fetch_sub(1, Relaxed);
        }
    }
}

impl Overload {
    pub fn refuses_request(&self, rng: &mut (impl Random + ?Sized)) -> bool {
        self.stop_requests.acts(rng)
    }

    pub fn ends_connection(&self, rng: &mut (impl Random + ?Sized)) -> bool {
        self.disable_keepalive.acts(rng)
    }

    pub fn rejects_connection(&self, rng: &mut (impl Random + ?Sized)) -> bool {
        self.reject_connections.acts(rng)
    }

    /// Connections wait to be accepted.
    pub fn stops_connections(&self) -> bool {
        self.stop_connections.is_full()
    }

    /// Counts a connection; an error where there are as many as there may be.
    pub fn count(self: &Arc<Self>) -> Result<Option<Counted>, ()> {
        let Some(connections) = &self.connections else { return Ok(None) };
        if connections.active.fetch_add(1, Relaxed) >= connections.most {
            connections.active.fetch_sub(1, Relaxed);
            connections.refused.fetch_add(1, Relaxed);
            return Err(());
        }
        Ok(Some(Counted(self.clone())))
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Trigger {
    Threshold(f64),
    Scaled { from: f64, to: f64 },
}

impl Trigger {
    /// From 0 to 1.
    fn level(self, pressure: f64) -> f64 {
        match self {
            Self::Threshold(at) => f64::from(u8::from(pressure >= at)),
            Self::Scaled { from, .. } if pressure <= from => 0.0,
            Self::Scaled { to, .. } if pressure >= to => 1.0,
            Self::Scaled { from, to } => (pressure - from) / (to - from),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    StopRequests,
    DisableKeepalive,
    StopConnections,
    RejectConnections,
}

impl Act {
    fn level(self, of: &Overload) -> &Level {
        match self {
            Self::StopRequests => &of.stop_requests,
            Self::DisableKeepalive => &of.disable_keepalive,
            Self::StopConnections => &of.stop_connections,
            Self::RejectConnections => &of.reject_connections,
        }
    }
}

#[derive(Debug)]
struct Action {
    name: Arc<str>,
    act: Act,
    /// By the name of their monitor.
    triggers: Vec<(Arc<str>, Trigger)>,
}

#[derive(Debug)]
struct Watched {
    name: Arc<str>,
    monitor: Monitor,
    pressure: Option<f64>,
    failed: i64,
}

/// The control thread's part.
#[derive(Debug)]
pub struct Manager {
    pub refresh: Duration,
    monitors: Vec<Watched>,
    actions: Vec<Action>,
    pub shared: Arc<Overload>,
    /// There is a limit of connections, of this name.
    limit: Option<Arc<str>>,
}

impl Manager {
    /// Reads every monitor, and acts.
    pub fn refresh(&mut self) {
        for watched in &mut self.monitors {
            match watched.monitor.read() {
                Ok(pressure) => watched.pressure = Some(pressure),
                Err(error) => {
                    watched.failed += 1;
                    tracing::info!(monitor = %watched.name, error, "a resource cannot be read");
                }
            }
        }
        let pressures: BTreeMap<_, _> =
            self.monitors.iter().filter_map(|w| Some((w.name.clone(), w.pressure?))).collect();
        self.act(&pressures);
    }

    fn act(&self, pressures: &BTreeMap<Arc<str>, f64>) {
        for action in &self.actions {
            let of = |(name, trigger): &(Arc<str>, Trigger)| Some(trigger.level(*pressures.get(name)?));
            let level = action.triggers.iter().filter_map(of).fold(0.0, f64::max);
            let level = (level * f64::from(FULL)) as u32;
            let before = action.act.level(&self.shared).0.swap(level, Relaxed);
            if (before >= FULL) != (level >= FULL) {
                tracing::warn!(action = %action.name, active = level >= FULL, "overload action");
            }
        }
    }

    pub fn collect(&self, into: &mut Snapshot) {
        let mut push = |owner: &Arc<str>, stat, kind, value| {
            into.push(Sample::new("overload", "", owner, stat, kind, value));
        };
        for watched in &self.monitors {
            push(&watched.name, "failed_updates", Kind::Counter, watched.failed);
            push(&watched.name, "skipped_updates", Kind::Counter, 0);
            let percent = (watched.pressure.unwrap_or_default() * 100.0) as i64;
            push(&watched.name, "pressure", Kind::Gauge, percent);
        }
        if let (Some(name), Some(connections)) = (&self.limit, &self.shared.connections) {
            push(name, "failed_updates", Kind::Counter, connections.refused.load(Relaxed));
        }
        for action in &self.actions {
            let level = action.act.level(&self.shared).0.load(Relaxed);
            push(&action.name, "active", Kind::Gauge, i64::from(level >= FULL));
            push(&action.name, "scale_percent", Kind::Gauge, i64::from(level / 100));
        }
    }
}

#[cfg(test)]
mod tests {
    use base::SeededRandom;

    use super::*;

    fn manager(actions: Vec<Action>) -> Manager {
        let shared = Arc::new(Overload {
            connections: Some(Connections { most: 2, active: AtomicI64::new(0), refused: AtomicI64::new(0) }),
            ..Overload::default()
        });
        Manager { refresh: Duration::from_secs(1), monitors: Vec::new(), actions, shared, limit: None }
    }

    fn action(act: Act, triggers: &[(&str, Trigger)]) -> Action {
        let triggers = triggers.iter().map(|(name, t)| (Arc::from(*name), *t)).collect();
        Action { name: "a".into(), act, triggers }
    }

    #[test]
    fn an_action_is_as_active_as_its_highest_trigger() {
        let both = [("heap", Trigger::Scaled { from: 0.5, to: 0.9 }), ("other", Trigger::Threshold(0.8))];
        let manager = manager(vec![action(Act::StopRequests, &both)]);
        let mut rng = SeededRandom::new(7);
        for (heap, other, least, most) in [
            (None, None, 0, 0),
            (Some(0.5), Some(0.79), 0, 0),
            (Some(0.6), None, 200, 300),
            (Some(0.7), Some(0.0), 450, 550),
            (Some(0.9), None, 1000, 1000),
            (Some(0.0), Some(0.8), 1000, 1000),
        ] {
            let pressures = [("heap", heap), ("other", other)];
            let pressures = pressures.into_iter().filter_map(|(n, p)| Some((Arc::from(n), p?))).collect();
            manager.act(&pressures);
            let acted = (0..1000).filter(|_| manager.shared.refuses_request(&mut rng)).count();
            assert!((least..=most).contains(&acted), "{heap:?} {other:?}: {acted}");
            assert!(!manager.shared.rejects_connection(&mut rng));
        }
    }

    #[test]
    fn no_more_connections_are_counted_than_allowed_whatever_the_threads() {
        let shared = manager(Vec::new()).shared;
        let (one, two) = (shared.count().unwrap(), shared.count().unwrap());
        assert!(shared.count().is_err());
        drop(one);
        let three = shared.count().unwrap();
        assert!(shared.count().is_err());
        drop((two, three));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let counted = shared.count();
                        let active = shared.connections.as_ref().unwrap().active.load(Relaxed);
                        // Others may be about to be refused.
                        assert!(active <= 2 + 4, "{active}");
                        drop(counted);
                    }
                });
            }
        });
        assert_eq!(shared.connections.as_ref().unwrap().active.load(Relaxed), 0);
    }
}
