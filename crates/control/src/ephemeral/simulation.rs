//! Workloads, their store and the control plane from a seed: starts, clean ends, kills, lost streams, restarts of the
//! control plane, late news and failing writes in any order. Nobody who lives is removed, nobody who is dead stays, the
//! owner's word stands, and a quiet mesh writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use base::{NamespacedName, Random, SeededRandom};

use super::{Action, Entry, Ephemeral, Health, Order};

const GRACE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(500);
/// A proxy that lives is back after this many steps at most: well within the grace.
const RECONNECT: u64 = 40;

/// A process as it really is.
#[derive(Debug)]
struct Workload {
    ready: bool,
    /// Steps until its proxy is connected; none if it is.
    away: Option<u64>,
}

#[derive(Debug, Clone)]
struct Stored {
    version: u64,
    health: Health,
}

struct World {
    random: SeededRandom,
    now: Instant,
    started: Instant,
    next: u64,
    alive: BTreeMap<NamespacedName, Workload>,
    store: BTreeMap<NamespacedName, Stored>,
    /// What the control plane has not heard of yet.
    news: BTreeSet<NamespacedName>,
    machine: Ephemeral,
    writes: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self {
            random: SeededRandom::new(seed),
            now,
            started: now,
            next: 0,
            alive: BTreeMap::new(),
            store: BTreeMap::new(),
            news: BTreeSet::new(),
            machine: Ephemeral::new(GRACE),
            writes: 0,
        }
    }

    fn put(&mut self, name: &NamespacedName, health: Health) {
        self.next += 1;
        self.store.insert(name.clone(), Stored { version: self.next, health });
        self.news.insert(name.clone());
    }

    fn any(&mut self) -> Option<NamespacedName> {
        let at = self.random.below(self.alive.len() as u64) as usize;
        self.alive.keys().nth(at).cloned()
    }

    /// What people, crashes and networks do.
    fn happen(&mut self) {
        let Some(name) = self.any() else { return self.start() };
        match self.random.below(8) {
            0 => self.start(),
            1 => self.restart_control_plane(),
            2 => {
                // A clean end: the entry goes first.
                self.alive.remove(&name);
                self.store.remove(&name);
                self.news.insert(name);
            }
            3 => drop(self.alive.remove(&name)),
            4 => {
                let away = self.random.below(RECONNECT);
                self.alive.entry(name).and_modify(|w| w.away = Some(away));
            }
            // Its owner says how it is; not if the entry was lost to it.
            _ if self.store.contains_key(&name) => {
                let ready = self.random.chance(2, 3);
                self.alive.entry(name.clone()).and_modify(|w| w.ready = ready);
                self.put(&name, if ready { Health::Ready } else { Health::Unready });
            }
            _ => {}
        }
    }

    fn start(&mut self) {
        let name = NamespacedName::new("default", format!("w{}", self.next));
        let away = Some(self.random.below(RECONNECT));
        self.alive.insert(name.clone(), Workload { ready: false, away });
        self.put(&name, Health::Unready);
    }

    fn restart_control_plane(&mut self) {
        self.started = self.now;
        self.machine = Ephemeral::new(GRACE);
        self.news = self.store.keys().cloned().collect();
        for workload in self.alive.values_mut() {
            workload.away = Some(self.random.below(RECONNECT));
        }
    }

    fn pass_time(&mut self) {
        self.now += STEP;
        for workload in self.alive.values_mut() {
            workload.away = workload.away.and_then(|steps| steps.checked_sub(1));
        }
        let late = !self.random.chance(1, 3);
        for name in std::mem::take(&mut self.news) {
            match self.store.get(&name) {
                _ if late && self.random.chance(1, 4) => drop(self.news.insert(name)),
                Some(stored) => {
                    let entry = Entry {
                        account: "a".into(),
                        health: stored.health,
                        version: stored.version.to_string(),
                    };
                    self.machine.observe(name, entry, self.now);
                }
                None => self.machine.forget(&name),
            }
        }
        let alive = &self.alive;
        let connected = |name: &NamespacedName, account: &str| {
            account == "a" && alive.get(name).is_some_and(|w| w.away.is_none())
        };
        for order in self.machine.judge(connected, self.now) {
            self.carry_out(&order);
        }
    }

    fn carry_out(&mut self, order: &Order) {
        let Some(stored) = self.store.get(&order.name).cloned() else { return };
        // The store is full, or somebody else was faster.
        if self.random.chance(1, 10) || stored.version.to_string() != order.version {
            return;
        }
        self.writes += 1;
        let connected = self.alive.get(&order.name).is_some_and(|w| w.away.is_none());
        match order.action {
            Action::Remove => {
                assert!(!self.alive.contains_key(&order.name), "{} lives and is removed", order.name);
                assert!(self.now >= self.started + GRACE, "removed within the grace after a restart");
                self.store.remove(&order.name);
                self.news.insert(order.name.clone());
            }
            Action::MarkLost => {
                assert_eq!((stored.health, connected), (Health::Ready, false), "{}", order.name);
                self.put(&order.name, Health::Lost);
            }
            Action::MarkReady => {
                assert_eq!((stored.health, connected), (Health::Lost, true), "{}", order.name);
                self.put(&order.name, Health::Ready);
            }
        }
    }

    fn quiet(&mut self, steps: u32) {
        for _ in 0..steps {
            self.pass_time();
        }
    }
}

#[test]
fn the_dead_go_the_living_stay_and_quiet_writes_nothing() {
    for seed in 0..300 {
        let mut world = World::new(seed);
        for _ in 0..400 {
            world.happen();
            let steps = world.random.below(12) as u32;
            world.quiet(steps);
        }
        world.quiet(400);
        let stored: Vec<_> = world.store.keys().collect();
        assert_eq!(
            stored,
            world.alive.keys().collect::<Vec<_>>(),
            "seed {seed}: exactly the living are known"
        );
        for (name, workload) in &world.alive {
            let expected = if workload.ready { Health::Ready } else { Health::Unready };
            assert_eq!(world.store[name].health, expected, "seed {seed}: {name} is as its owner says");
        }
        let before = world.writes;
        world.quiet(400);
        assert_eq!(world.writes, before, "seed {seed}: a quiet mesh writes nothing");
        assert_eq!(world.machine.due(world.now), None, "seed {seed}: nor does it wake up");
    }
}

#[test]
fn a_proxy_counts_only_with_its_own_account() {
    let (mut machine, now) = (Ephemeral::new(GRACE), Instant::now());
    let name = NamespacedName::new("default", "reviews-v1-abcde");
    let entry = Entry { account: "reviews".into(), health: Health::Lost, version: "7".into() };
    machine.observe(name.clone(), entry, now);
    assert_eq!(machine.judge(|_, account| account == "ratings", now), []);
    let order = Order { name, version: "7".into(), action: Action::MarkReady };
    assert_eq!(machine.judge(|_, account| account == "reviews", now), [order]);
}

#[test]
fn what_is_lost_is_unready_at_once_and_removed_after_the_grace() {
    let (mut machine, start) = (Ephemeral::new(GRACE), Instant::now());
    let name = NamespacedName::new("default", "reviews-v1-abcde");
    let observe = |machine: &mut Ephemeral, health, version: &str, now| {
        let entry = Entry { account: "reviews".into(), health, version: version.into() };
        machine.observe(name.clone(), entry, now);
    };
    let order = |action, version: &str| vec![Order { name: name.clone(), version: version.into(), action }];
    observe(&mut machine, Health::Ready, "1", start);
    assert_eq!(machine.judge(|_, _| true, start), []);
    let lost = start + Duration::from_secs(100);
    assert_eq!(machine.judge(|_, _| false, lost), order(Action::MarkLost, "1"));
    observe(&mut machine, Health::Lost, "2", lost);
    assert_eq!(machine.due(lost), Some(lost + GRACE));
    assert_eq!(machine.judge(|_, _| false, lost + GRACE / 2), []);
    assert_eq!(machine.judge(|_, _| false, lost + GRACE), order(Action::Remove, "2"));
}
