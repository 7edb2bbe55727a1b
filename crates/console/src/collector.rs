//! Keeps the last minutes of every proxy's counters, so that the graph needs no Prometheus.
//!
//! Counters are compared proxy by proxy: one that leaves takes its counts with it, and must not look like a fall of the
//! others'.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use crate::traces::Splitter;
use crate::traffic::{Edge, Totals};

/// Asks every proxy for its counters: who it is, and one text in Prometheus' format, for each that answered.
pub type Scrape = Arc<dyn Fn() -> BoxFuture<'static, Vec<(String, String)>> + Send + Sync>;

const INTERVAL: Duration = Duration::from_secs(2);
/// Younger moments are all kept.
const DENSE: Duration = Duration::from_secs(60);
/// Of the older ones, one in so long.
const SPARSE: Duration = Duration::from_secs(10);
const KEPT: Duration = Duration::from_secs(600);
/// Proxies that are first seen so long after the start are new; those seen before may have counted for ever.
const GATHERING: Duration = Duration::from_secs(20);
/// An edge stays in the picture so long after its last request.
const REMEMBERED: Duration = Duration::from_secs(300);

/// Shared by the task that collects and whoever asks.
#[derive(Clone, Default)]
pub struct Collector(Arc<Mutex<VecDeque<Moment>>>, Arc<std::sync::OnceLock<Instant>>);

#[derive(Clone)]
struct Moment {
    at: Instant,
    proxies: BTreeMap<String, Arc<Totals>>,
}

/// Over how long the counters are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    Last(Duration),
    /// From when the proxies began to count.
    All,
}

/// Some time, and what flowed in it.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Span {
    /// How long ago it ended, in seconds.
    pub ago: f64,
    /// How long it was, in seconds.
    pub seconds: f64,
    pub edges: Vec<Edge>,
}

impl Collector {
    /// Collects for ever.
    pub async fn run(self, scrape: Scrape) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let proxies = scrape().await.into_iter().map(|(proxy, text)| {
                let mut totals = Totals::default();
                totals.add(&text);
                (proxy, Arc::new(totals))
            });
            let proxies = proxies.collect();
            self.put(Moment { at: Instant::now(), proxies });
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Moment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, moment: Moment) {
        let now = moment.at;
        self.1.get_or_init(|| now);
        let mut kept = self.lock();
        kept.push_back(moment);
        let mut last: Option<Instant> = None;
        kept.retain(|moment| {
            let age = now.duration_since(moment.at);
            let keep = age <= DENSE
                || age <= KEPT && last.is_none_or(|last| moment.at.duration_since(last) >= SPARSE);
            if keep {
                last = Some(moment.at);
            }
            keep
        });
    }

    /// What flowed, and as idle edges what flowed not long before.
    pub fn edges(&self, window: Window) -> Span {
        let kept = self.lock();
        let Some(last) = kept.back() else { return Span::default() };
        let started = self.1.get().copied().unwrap_or(last.at);
        let from = |window: Duration| kept.iter().position(|m| last.at.duration_since(m.at) <= window);
        let mut span = match window {
            Window::All => {
                Span { ago: 0.0, seconds: last.at.duration_since(started).as_secs_f64(), edges: all(last) }
            }
            Window::Last(window) => between(&kept, from(window).unwrap_or(0), kept.len() - 1, started),
        };
        let known: BTreeSet<_> = span.edges.iter().map(|edge| edge.key.clone()).collect();
        let remembered = between(&kept, from(REMEMBERED).unwrap_or(0), kept.len() - 1, started);
        let idle = remembered.edges.into_iter().filter(|edge| !known.contains(&edge.key)).map(Edge::idle);
        span.edges.extend(idle);
        span.ago = last.at.elapsed().as_secs_f64();
        span
    }

    /// Who split traces in the last `window`.
    pub fn splitters(&self, window: Duration) -> Vec<Splitter> {
        let kept = self.lock();
        let Some(last) = kept.back() else { return Vec::new() };
        let from = kept.iter().position(|moment| last.at.duration_since(moment.at) <= window).unwrap_or(0);
        let started = self.1.get().copied().unwrap_or(last.at);
        sum_between(&kept, from, kept.len() - 1, started).splitters()
    }

    /// What flowed on some edges in each step of the last minutes, oldest first.
    pub fn series(&self, wanted: impl Fn(&Edge) -> bool) -> Vec<Span> {
        let kept = self.lock();
        let (Some(last), Some(started)) = (kept.back(), self.1.get()) else { return Vec::new() };
        let mut steps: Vec<usize> = Vec::new();
        for (at, moment) in kept.iter().enumerate() {
            let is_apart = |step: &usize| moment.at.duration_since(kept[*step].at) + INTERVAL / 2 >= SPARSE;
            if steps.last().is_none_or(is_apart) {
                steps.push(at);
            }
        }
        let span = |pair: &[usize]| {
            let mut span = between(&kept, pair[0], pair[1], *started);
            span.edges.retain(&wanted);
            span.ago =
                last.at.duration_since(kept[pair[1]].at).as_secs_f64() + last.at.elapsed().as_secs_f64();
            span
        };
        steps.windows(2).map(span).collect()
    }
}

fn all(moment: &Moment) -> Vec<Edge> {
    let mut sum = Totals::default();
    moment.proxies.values().for_each(|totals| sum.merge(totals));
    sum.edges()
}

fn between(kept: &VecDeque<Moment>, from: usize, to: usize, started: Instant) -> Span {
    let seconds = kept[to].at.duration_since(kept[from].at).as_secs_f64();
    Span { ago: 0.0, seconds, edges: sum_between(kept, from, to, started).edges() }
}

/// What all proxies counted between two of the moments.
fn sum_between(kept: &VecDeque<Moment>, from: usize, to: usize, started: Instant) -> Totals {
    let mut sum = Totals::default();
    let inside = || kept.range(from + 1..=to);
    let proxies: BTreeSet<&String> = inside().flat_map(|moment| moment.proxies.keys()).collect();
    for proxy in proxies {
        let Some(now) = inside().rev().find_map(|moment| moment.proxies.get(proxy)) else { continue };
        let before = kept.range(..=from).rev().find_map(|moment| moment.proxies.get(proxy));
        let first = || inside().find_map(|moment| Some((moment.at, moment.proxies.get(proxy)?)));
        match before
            .or_else(|| first().filter(|(at, _)| at.duration_since(started) < GATHERING).map(|(_, t)| t))
        {
            Some(before) => sum.merge(&now.since(before)),
            None => sum.merge(now),
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(start: Instant, second: u64, proxies: &[(&str, u32)]) -> Moment {
        let totals = |count: u32| {
            let mut totals = Totals::default();
            totals
                .add(&format!("istio_requests_total{{reporter=\"source\",response_code=\"200\"}} {count}\n"));
            Arc::new(totals)
        };
        let proxies = proxies.iter().map(|(proxy, count)| ((*proxy).to_owned(), totals(*count))).collect();
        Moment { at: start + Duration::from_secs(second), proxies }
    }

    fn requests(collector: &Collector, window: Window) -> f64 {
        collector.edges(window).edges.iter().flat_map(|edge| edge.requests.values()).sum()
    }

    fn last(seconds: u64) -> Window {
        Window::Last(Duration::from_secs(seconds))
    }

    #[test]
    fn a_window_compares_with_the_oldest_moment_inside_it() {
        let (collector, start) = (Collector::default(), Instant::now());
        for (second, count) in [(0, 10), (10, 100), (20, 400)] {
            collector.put(moment(start, second, &[("a", count)]));
        }
        assert_eq!(requests(&collector, last(15)), 300.0);
        assert_eq!(requests(&collector, last(60)), 390.0);
        assert_eq!(requests(&collector, Window::All), 400.0);
    }

    #[test]
    fn a_proxy_that_leaves_or_comes_late_or_pauses_makes_no_jump() {
        let (collector, start) = (Collector::default(), Instant::now());
        // `b` is met when all proxies are first met; `c` is new; `a` leaves.
        collector.put(moment(start, 0, &[("a", 1000)]));
        collector.put(moment(start, 2, &[("a", 1001), ("b", 500)]));
        collector.put(moment(start, 4, &[("b", 502)]));
        assert_eq!(requests(&collector, last(10)), 1.0 + 2.0);
        collector.put(moment(start, 40, &[("b", 502), ("c", 7)]));
        assert_eq!(requests(&collector, last(36)), 7.0);
        collector.put(moment(start, 42, &[("b", 502)]));
        collector.put(moment(start, 44, &[("b", 502), ("c", 9)]));
        assert_eq!(requests(&collector, last(2)), 2.0);
    }

    #[test]
    fn old_moments_are_thinned_and_at_last_forgotten() {
        let (collector, start) = (Collector::default(), Instant::now());
        for second in (0..1200).step_by(2) {
            collector.put(moment(start, second, &[("a", u32::try_from(second).unwrap_or(0))]));
        }
        let kept = collector.lock().len();
        assert!((80..=90).contains(&kept), "{kept}");
        let series = collector.series(|_| true);
        assert!(series.len() >= 58 && series.iter().all(|span| span.seconds >= 10.0), "{}", series.len());
        assert!(series.iter().all(|span| span.edges[0].requests["200"] == span.seconds));
    }

    #[test]
    fn an_edge_that_fell_silent_stays_for_a_while() {
        let (collector, start) = (Collector::default(), Instant::now());
        for (second, count) in [(0, 1), (30, 5), (90, 5)] {
            collector.put(moment(start, second, &[("a", count)]));
        }
        let edges = collector.edges(last(30)).edges;
        assert_eq!((edges.len(), edges[0].requests.len()), (1, 0));
    }
}
